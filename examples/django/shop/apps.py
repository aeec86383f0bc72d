"""The application's start: Django calls ready() before the first request, and in every command."""

from django.apps import AppConfig
from django.conf import settings

import werk


class Shop(AppConfig):
    name = "shop"

    def ready(self) -> None:
        werk.configure(**settings.WERK)
