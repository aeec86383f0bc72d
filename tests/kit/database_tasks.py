"""Tasks that use Django's database."""

from __future__ import annotations

import os

import database
from django.db import connection, transaction

database.set_up()


def ask(question: str) -> list[object]:
    """Return this process, and the database's answer."""
    with connection.cursor() as cursor:
        cursor.execute(question)
        return [os.getpid(), cursor.fetchone()[0]]


def leave_open(question: str) -> None:
    """Fail in a transaction that is not ended."""
    connection.set_autocommit(False)
    ask(question)
    raise LookupError("in the middle")


def leave_atomic(question: str, is_closed: bool) -> None:
    """Fail in an atomic block whose end does not run, or not completely: a time limit can do it."""
    transaction.atomic().__enter__()
    ask(question)
    if is_closed:
        connection.close()
        connection.in_atomic_block = False
    raise LookupError("in the middle")
