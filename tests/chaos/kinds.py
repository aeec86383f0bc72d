"""The kinds of jobs: how often each is enqueued, and how it has to end."""

from __future__ import annotations

from typing import NamedTuple

QUEUES = ("high", "default", "low")
RESULT_TTL_S = 7200  # longer than any run
FAILURE_TTL_S = 10800
RETRY_DELAY_S = 1  # before the first retry; doubled each time (Task.delays)


class Kind(NamedTuple):
    """A kind of job."""

    task: str
    ends: str = "finished"
    is_prompt: bool = True  # callers wait for the result
    share: float = 0.0  # of what callers enqueue; 0: a fault, or enqueued beside another


KINDS = {
    "plain": Kind("work", share=0.56),
    "failing": Kind("fail", "failed", share=0.08),
    "retried": Kind("falter", is_prompt=False, share=0.08),
    "delayed": Kind("work", is_prompt=False, share=0.08),
    "fragile": Kind("once", is_prompt=False, share=0.02),  # a crash is the end of it
    "parent": Kind("work", share=0.04),
    "dependent": Kind("work"),
    "called": Kind("work", share=0.03),  # back, by on_success
    "blamed": Kind("fail", "failed", share=0.03),  # by on_failure
    "pinging": Kind("work", share=0.04),
    "single": Kind("work", share=0.04),  # enqueued twice under one id, or while it is active
    "twin": Kind("work"),  # the second call of the latter
    "forking": Kind("fork"),
    "leaking": Kind("leak", "failed"),
    "flooding": Kind("flood"),
    "leaving": Kind("leave"),
}
