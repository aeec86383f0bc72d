"""What a worker's horse imports before its first job (WERK_PRELOAD)."""

import django

django.setup()
