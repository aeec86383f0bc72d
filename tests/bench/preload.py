"""A module that keeps 60 MiB, for WERK_PRELOAD."""

DATA = b"x" * (60 << 20)
