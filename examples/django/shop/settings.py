"""Django's settings, and in WERK those that shop/apps.py passes to werk.configure()."""

import os
from pathlib import Path

SECRET_KEY = "only-for-this-example"
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = ["shop"]
MIDDLEWARE = ["shop.views.Unavailable"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DB", Path(__file__).parent.parent / "shop.sqlite3"),
    }
}
USE_TZ = True

WERK = {"registry": "shop.table:TASKS", "budget_s": 1.0}
