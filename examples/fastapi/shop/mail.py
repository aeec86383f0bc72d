"""Mail. A real shop would send it; this one keeps it."""

outbox: list[tuple[str, str]] = []


def send(address: str, text: str) -> None:
    """Send a text to an address. Raises ValueError if it is not an address."""
    if "@" not in address:
        raise ValueError(f"{address!r} is not an address")
    outbox.append((address, text))
