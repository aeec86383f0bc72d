"""Background jobs by name, on RQ and Redis."""
