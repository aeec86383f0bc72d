"""The first contact of a worker with Redis: wait until it answers, unless waiting does not help."""

from __future__ import annotations

import logging
import resource
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from redis import Redis

from werk import registry
from werk.errors import EXIT_OK, ConfigError
from werk.insistence import insisting
from werk.printable import near, shell_words
from werk.store import keys
from werk.store.connection import Link
from werk.store.replies import cluster_error, is_cluster
from werk.store.scripts import Script
from werk.store.startup import wait_for_answer

AGAIN_S = 1  # between two tries to leave
ATTEMPT_S = 1.0  # signals are handled between attempts
DESCRIPTORS = 64  # of a process, besides those for queues or slots


def wait_for_redis(link: Link) -> None:
    """Return when Redis answers. Until then a signal to stop ends the process, with 0.

    Raises ConfigError if waiting does not help: a wrong password, no permission, Redis Cluster.
    """

    def contact() -> None:
        link.run(_HELLO, [keys.key("suspended")], [])
        refuse_cluster(link)

    with stoppable():
        wait_for_answer(contact, logging.getLogger("rq.worker"))
    link.close()


def refuse_cluster(link: Link) -> None:
    """Raise ConfigError for a node of Redis Cluster, which does answer commands for one key."""
    try:
        info = link.call("INFO", "cluster")
    except ConfigError:  # INFO is not permitted: the first script with keys of two slots fails
        return
    if is_cluster(info):
        raise cluster_error(link.where)


def refuse_commas(queues: Sequence[str]) -> None:
    """Raise ConfigError for a name of several: RQ writes the queues of a worker with commas."""
    for name in queues:
        if "," in name:
            use = f"to serve several queues: werk worker {shell_words(*name.split(','))}"
            raise ConfigError(f"queue {name!r} is not a queue name, it has a comma; {use}")


def refuse_more_than_descriptors(*, queues: int, slots: int) -> None:
    """Raise ConfigError if a process may not have enough descriptors for these queues or slots.

    A horse has a connection for each queue, and the supervisor two pipes to each slot.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    for count, what, each in ((queues, "queues", 1), (slots, "slots", 2)):
        needed = count * each + DESCRIPTORS
        if limit != resource.RLIM_INFINITY and limit < needed:
            raise ConfigError(
                f"{count} {what} need {needed} file descriptors, and a process may have {limit}"
                f" here: raise the limit (ulimit -n {needed}, or LimitNOFILE={needed} in a systemd"
                f" unit), or use fewer {what}"
            )


def unused_queues(connection: Redis, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield those of the queues that nobody has used, each with a hint to add to a warning.

    No job was ever enqueued there, no other worker serves it, and it is the queue of no task here.
    """
    pipeline = connection.pipeline(transaction=False)
    pipeline.smembers(keys.key("queues"))
    for name in names:
        pipeline.exists(keys.key("workers", name))
    found, *are_served = pipeline.execute(raise_on_error=False)
    if not isinstance(found, set):  # the key has another type
        return
    start = keys.key("queue", "")
    used = {keys.text(key).removeprefix(start) for key in found}
    used |= {task.queue for task in registry.tasks().values()}
    for name, is_served in zip(names, are_served, strict=True):
        if name not in used and is_served == 0:
            yield name, near(name, used, "")


_HELLO = Script("return redis.call('EXISTS', KEYS[1])")  # we need scripts, and keys in them


@contextmanager
def stoppable() -> Iterator[None]:
    """Have SIGTERM and SIGINT end the process with 0, until the block installs other handlers."""

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    leaving = SystemExit(EXIT_OK)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    ours = insisting(leaving, AGAIN_S)
    signal.signal(signal.SIGTERM, ours)
    signal.signal(signal.SIGINT, ours)
    try:
        yield
    finally:
        is_leaving = signal.getsignal(signal.SIGALRM) is ours  # until then it is not our alarm
        if is_leaving:
            signal.alarm(0)
        for number, handler in before.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, handler)
        if is_leaving:
            raise leaving
