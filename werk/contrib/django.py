"""Django: database connections of workers, and jobs that are enqueued after a commit.

WERK_MIDDLEWARE=werk.contrib.django.execute
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

from django.db import connections, transaction

from werk.client.enqueue import checked, find, prepare, send, warn
from werk.client.options import Options
from werk.client.result import Handle


def execute(job: object, call_next: Callable[[], Any]) -> Any:
    """Run a job as Django runs a request: before and after, close connections past their age.

    After a job that failed, close the connections that it left broken.
    """
    # The connections of a TestCase that runs a job are in its transaction and stay open.
    used = {own.alias for own in connections.all(initialized_only=True) if own.in_atomic_block}
    _close_old(used)
    failed = True
    try:
        result = call_next()
        failed = False
        return result
    finally:
        _drop_left(used)
        _close_old(used, failed)


def enqueue_on_commit(
    name: str | Callable[..., object],
    /,
    *args: object,
    options: Options | None = None,
    **kwargs: object,
) -> str:
    """Enqueue a task when the transaction of the default database commits; at once without one.

    The arguments are checked and kept now. Return the id that the job gets when the transaction
    commits. No job has this id after a rollback, nor if the enqueue is a duplicate then; pass
    `job_id` to know the id in advance. Without a transaction, return the id that the handle of
    `werk.enqueue` has. Raises UnknownTask and ArgumentError now, and RedisUnavailable or
    ConfigError if the task has to be looked up in the catalog. What `werk.enqueue` raises when it
    sends comes from the end of the `atomic` block, and the commit stands.
    """
    job = prepare(find(name), args, kwargs, checked(options))
    sent: list[Handle] = []

    def commit() -> None:
        sent.extend(send([job]))
        warn(sent)

    transaction.on_commit(commit)
    return sent[0].id if sent else job.id


def _drop_left(used: Set[str]) -> None:
    """Drop each connection whose `atomic` block the job did not end: Django would not reopen it."""
    for connection in connections.all(initialized_only=True):
        is_left = connection.in_atomic_block or connection.closed_in_transaction
        if is_left and connection.alias not in used:
            del connections[connection.alias]
            connection.close()


def _close_old(used: Set[str], failed: bool = False) -> None:
    """Do what close_old_connections() does, except for connections that are in use."""
    for connection in connections.all(initialized_only=True):
        if connection.alias not in used:
            if failed:  # a time limit is not a database error, and can interrupt a query
                connection.errors_occurred = True
            connection.close_if_unusable_or_obsolete()
