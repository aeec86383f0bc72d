"""The tasks, which workers run."""

import asyncio
from datetime import date
from decimal import Decimal

import werk
from shop import mail


def receipt(order: int, total: Decimal, *, email: str) -> None:
    """Send the receipt of an order."""
    mail.send(email, f"Order {order}: {total} EUR")


def newsletter(address: str, *, subject: str) -> None:
    """Send a newsletter to one address."""
    mail.send(address, subject)


def report(month: date) -> dict[str, object]:
    """Return the sales of a month, and have them sent to the owner."""
    werk.enqueue("newsletter", "owner@shop.example", subject=f"Sales of {month:%B %Y}")
    return {"month": month, "orders": 12}


def refund(order: int, amount: Decimal, *, card: str) -> str:
    """Pay an amount back."""
    if amount <= 0:
        raise ValueError(f"cannot refund {amount}")
    return f"{amount} EUR to card {card[-4:]}"


async def prices(*names: str) -> dict[str, int]:
    """Ask for all prices at once."""

    async def price(name: str) -> int:
        await asyncio.sleep(0)
        return len(name)

    return dict(zip(names, await asyncio.gather(*map(price, names)), strict=True))
