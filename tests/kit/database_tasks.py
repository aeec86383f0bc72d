"""Tasks that use Django's database."""

from __future__ import annotations

import os

import database
from django.db import connection

database.set_up()


def ask(question: str) -> list[object]:
    """Return this process, and the database's answer."""
    with connection.cursor() as cursor:
        cursor.execute(question)
        return [os.getpid(), cursor.fetchone()[0]]


def leave_open(question: str) -> None:
    """Fail in a transaction that is not ended."""
    connection.set_autocommit(False)
    ask(question)
    raise LookupError("in the middle")
