"""A task whose module sets up logging when a job imports it, as django.setup() does."""

from __future__ import annotations

import logging

from log_tasks import say

logging.basicConfig(force=True, format="12:00:00 late %(name)s %(message)s")

__all__ = ["say"]
