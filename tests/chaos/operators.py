"""Operators at work during the faults: they pause, resume, retry, cancel and stop.

Each act is written down with its reply, so that the verdict knows which ends it allows. Draining a
worker ends a process, so that it is the monkey's to do.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from chaos.kinds import QUEUES
from chaos.records import LATE, REFUSED, Act, kind_of
from werk.errors import RedisUnavailable, ResultTimeout, WerkError
from werk.ops import actions, jobs
from werk.settings import Settings
from werk.store.connection import Link, link

EVERY_S = (0.5, 2.0)  # between two acts
PAUSE_S = 3.0  # that a queue is paused
BUDGET_S = 5.0  # of one act: some come while Redis is unreachable
STOP_S = 5.0  # for a worker to stop its job
AT_ONCE = 5  # failed jobs to retry
CANCELLED_KINDS = ("plain", "delayed")  # nothing waits for these, and nobody is pinged


class Operators:
    """One thread that acts until it is stopped."""

    def __init__(self, settings: Mapping[str, str], seed: int) -> None:
        self.acts: list[Act] = []
        self.chance = random.Random(f"{seed} operators")
        self.link: Link = link(Settings.read(settings), BUDGET_S)
        self.surprises: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin_stop(self) -> None:
        """Ask for the end: the act under way is the last one."""
        self._stopping.set()

    def is_at_work(self) -> bool:
        """Return whether the last act is not over, or a queue is still paused."""
        return self._thread.is_alive()

    def _run(self) -> None:
        ways: list[Callable[[], None]] = [self._pause, self._retry, self._cancel, self._stop]
        while not self._stopping.wait(self.chance.uniform(*EVERY_S)):
            try:
                self.chance.choice(ways)()
            except WerkError:
                pass  # nothing was asked for yet: it only looked
            except Exception as error:
                self.surprises.append(f"an operator was told {error!r}")
        self.link.close()

    def _act(self, what: str, target: str, do: Callable[[], str]) -> Act:
        begin = time.monotonic()
        act = Act(what, target, begin, begin)
        self.acts.append(act)
        try:
            act.reply = do()
        finally:
            act.end = time.monotonic()
        return act

    def _pause(self) -> None:
        queue = self.chance.choice(QUEUES)
        try:
            act = self._act("pause", queue, partial(self._by_script, "pause", queue))
            self._stopping.wait(PAUSE_S)
        finally:
            self._resume(queue)
        act.end = time.monotonic()

    def _resume(self, queue: str) -> None:
        """A queue must not stay paused because Redis is unreachable."""
        while True:
            try:
                self._by_script("resume", queue)
                return
            except WerkError:
                pass

    def _retry(self) -> None:
        page = next(jobs.walk(self.link, jobs.Query(("failed",))), [])
        ids = [job.id for job in page if kind_of(job.id) == "failing"]
        for job_id in self.chance.sample(ids, min(AT_ONCE, len(ids))):
            self._act("retry", job_id, partial(self._by_script, "retry", job_id))

    def _cancel(self) -> None:
        queue = self.chance.choice(QUEUES)
        key = (f"rq:queue:{queue}", f"rq:scheduled:{queue}")[self.chance.random() < 0.3]
        command = "LRANGE" if ":queue:" in key else "ZRANGE"
        found = [each.decode() for each in self.link.call(command, key, 0, 50)]
        ids = [each for each in found if kind_of(each) in CANCELLED_KINDS]
        if ids:
            job_id = self.chance.choice(ids)
            self._act("cancel", job_id, partial(self._by_script, "cancel", job_id))

    def _stop(self) -> None:
        queue = self.chance.choice(QUEUES)
        found = [each.decode() for each in self.link.call("ZRANGE", f"rq:wip:{queue}", 0, -1)]
        ids = [each.partition(":")[0] for each in found]
        ids = [each for each in ids if kind_of(each) == "plain"]
        if ids:
            job_id = self.chance.choice(ids)
            self._act("stop", job_id, partial(self._stop_job, job_id))

    def _by_script(self, what: str, name: str) -> str:
        [(_, reply)] = actions.act(self.link, what, [name])
        return reply

    def _stop_job(self, job_id: str) -> str:
        try:
            return actions.stop(self.link, job_id, STOP_S)
        except ResultTimeout as error:
            return f"{LATE}: {error}"  # the worker was asked, and may still do it
        except RedisUnavailable:
            raise
        except WerkError as error:
            return f"{REFUSED}: {error}"
