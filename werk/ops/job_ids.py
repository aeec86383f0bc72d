"""Short ids: the beginning of an id names a job if no other known id begins like it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain

from werk.errors import ArgumentError
from werk.ops.job_places import Pace, hands, pages
from werk.ops.queues import queue_names
from werk.printable import listed
from werk.store import keys
from werk.store.connection import Link

SHORTEST = 8  # characters
WHOLE = 36  # of a UUID
ALL = ("wip", "scheduled", "deferred")  # places in which all jobs are searched
NEWEST = ("queue", "failed", "finished", "canceled")  # only the newest 1,000 are searched


def resolve(link: Link, text: str) -> str:
    """Return the id of the job that has this id, or of the only one whose id begins with it.

    Searches all jobs that run, are scheduled or deferred, and the newest ones of NEWEST. Returns
    the text if no job is found. Raises ArgumentError if there are several, RedisUnavailable,
    ConfigError.
    """
    if not SHORTEST <= len(text) < WHOLE or link.call("EXISTS", keys.key("job", text)):
        return text
    found = sorted({*_beginning_with(link, text)})
    if len(found) > 1:
        raise ArgumentError(f"several jobs have an id that begins with {text}: {listed(found)}")
    return found[0] if found else text


def _beginning_with(link: Link, start: str) -> Iterator[str]:
    pace = Pace(link)
    for queue in queue_names(link):
        read = partial(pages, link, queue=queue, pace=pace, start=start)
        found = [read(place) for place in ALL]
        found += [read(place, is_short=True) for place in NEWEST]
        found += [read("queue", key=hand) for hand in hands(link, queue)]
        for page in chain.from_iterable(found):
            yield from (entry.id for entry in page.entries)
