"""What a worker's horse imports before its first job (WERK_PRELOAD), and its hooks."""

import django
from django.db import close_old_connections

django.setup()


def close(job: object, outcome: object = None) -> None:
    """Close database connections that are old or broken, as Django does around a request."""
    close_old_connections()
