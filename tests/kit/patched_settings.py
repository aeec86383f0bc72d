"""Settings of RQ (`-c`) that patch it: Sentry's own page has its users do that."""

from __future__ import annotations

import os

import patches

REDIS_URL = os.environ["RQ_REDIS_URL"]
patches.apply("settings")
