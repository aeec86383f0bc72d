"""Keeps what an import has begun, as frameworks do: it cannot be begun a second time."""

begun = False
