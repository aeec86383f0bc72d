"""Short ids: the beginning of a UUID names a job if no other known UUID begins like it.

An id that a caller chose must be whole: where `order-1234` has expired, `order-12345` is not meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import chain

from werk.errors import ArgumentError
from werk.ops.job_places import Pace, hands, pages
from werk.ops.queues import queue_names
from werk.printable import listed
from werk.store import keys
from werk.store.connection import Link

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BEGINNING = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,27}")  # of a UUID, which has 36 characters
ALL = ("wip", "scheduled", "deferred")  # places in which all jobs are searched
NEWEST = ("queue", "failed", "finished", "canceled")  # only the newest 1,000 are searched


def resolve(link: Link, text: str) -> str:
    """Return the id of the job that has this id, or of the only one whose UUID begins with it.

    Searches all jobs that run, are scheduled or deferred, and the newest ones of NEWEST. Returns
    the text if no job is found. Raises ArgumentError if there are several, RedisUnavailable,
    ConfigError.
    """
    if not BEGINNING.fullmatch(text) or link.call("EXISTS", keys.key("job", text)):
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
            yield from (entry.id for entry in page.entries if UUID.fullmatch(entry.id))
