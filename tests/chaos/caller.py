"""A caller of `bin/chaos`: enqueues all the time and writes down at once what it was told.

python -m chaos.caller NAME SEED, until SIGTERM.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import redis
from rq import Callback, Queue

import werk
from chaos.kinds import FAILURE_TTL_S, KINDS, QUEUES, RESULT_TTL_S
from chaos.tasks import CRASHES
from werk.settings import Settings
from werk.store.redis_py import redis_client

WINDOW = 60  # prompt jobs that a caller has under way before it waits for the oldest
WAIT_S = 1.0  # for the oldest; then the caller goes on without
# Half of the time all callers enqueue slowly, so that horses are idle and each job wakes one.
LULL_S, LULL_EVERY_S, LULL_PAUSE_S = 5.0, 10.0, 0.2
REFUSED_S = 0.2  # between a call that was refused, or not answered, and the next
DEPENDENTS = 2
DELAY_S = (1.0, 3.0)
FRAGILE_S = (0.3, 1.0)  # long enough to be hit now and then
UNREACHED = (werk.RedisUnavailable, redis.exceptions.RedisError, OSError)


class CallLogWriter:
    """Appends a line for each call and each answer, so that a kill loses at most the last one."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND)

    def write(self, what: str, token: str, **more: object) -> None:
        entry = {"what": what, "token": token, "at": time.monotonic(), **more}
        os.write(self._file, (json.dumps(entry) + "\n").encode())

    @contextmanager
    def trying(self, token: str, queue: str, **more: object) -> Iterator[None]:
        """Write down a call; an answer that is lost leaves the job unknown."""
        self.write("try", token, **{"queue": queue, "value": token, **more})
        try:
            yield
        except UNREACHED:
            self.write("unknown", token)
            time.sleep(REFUSED_S)  # or a caller would be refused a thousand times a second


class Caller:
    """One caller."""

    def __init__(self, name: str, seed: str) -> None:
        self.name = name
        self.chance = random.Random(f"{seed} {name}")
        self.call_log = CallLogWriter(Path(os.environ["CHAOS_CALL_LOG"]))
        self.pings = os.environ["CHAOS_PINGS"]
        self.handles: deque[tuple[str, werk.Handle]] = deque()
        self.client = redis_client(Settings.read())
        self.client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 0))
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def run(self) -> None:
        """Enqueue until asked to stop."""
        kinds = [name for name, kind in KINDS.items() if kind.share]
        shares = [KINDS[name].share for name in kinds]
        for number in count():
            if self.stopping:
                return
            kind = self.chance.choices(kinds, shares)[0]
            self.queue = self.chance.choice(QUEUES)
            self.seconds = some_seconds(self.chance)
            WAYS[kind](self, f"{self.name}-{number}-{kind}")
            is_lull = time.time() % LULL_EVERY_S < LULL_S
            is_answered = True  # otherwise go on: what is enqueued during an outage matters most
            while is_answered and len(self.handles) > (0 if is_lull else WINDOW):
                is_answered = self._await(*self.handles.popleft()) and not self.stopping
            if is_lull:
                time.sleep(LULL_PAUSE_S)  # few jobs at a time, so that workers are idle as well

    # --- the kinds

    def plain(self, token: str) -> None:
        self._enqueue(token)

    def retried(self, token: str) -> None:
        failures = self.chance.choice((1, 2))
        self._enqueue(token, arguments=(failures,), options=werk.Options(retry=failures))

    def delayed(self, token: str) -> None:
        delay = round(self.chance.uniform(*DELAY_S), 3)
        self._enqueue(token, delay=delay, options=werk.Options(delay=delay))

    def fragile(self, token: str) -> None:
        self.seconds = self.chance.uniform(*FRAGILE_S)
        self._enqueue(token)

    def pinging(self, token: str) -> None:
        self._enqueue(token, options=werk.Options(ping=f"{self.pings}/{token}"))

    def parent(self, token: str) -> None:
        """A job, and others by RQ's own enqueue that wait for it."""
        self.seconds += 0.05
        if not self._enqueue(token):
            return
        for number in range(DEPENDENTS):
            own = f"{token.rpartition('-')[0]}-{number}-dependent"
            self._enqueue_by_rq(own, parent=token, depends_on=[token])

    def single(self, token: str) -> None:
        """Enqueue twice: under the same id, or not while the first is active."""
        if self.chance.random() < 0.5:
            self._enqueue(token)
            self._enqueue(token)
            return
        options = werk.Options(unless_active=True)
        self._enqueue(token, options=options)
        twin = f"{token.rpartition('-')[0]}-twin"
        self._enqueue(twin, value=token, twin=token, options=options)

    def called(self, token: str) -> None:
        self._enqueue_by_rq(token, on_success=Callback("chaos.tasks.on_success"))

    def blamed(self, token: str) -> None:
        self._enqueue_by_rq(token, on_failure=Callback("chaos.tasks.on_failure"))

    # --- how they are enqueued

    def _enqueue(
        self,
        token: str,
        *,
        arguments: tuple[object, ...] = (),
        options: werk.Options | None = None,
        **more: object,
    ) -> bool:
        options = (options or werk.Options())._replace(queue=self.queue, job_id=token)
        task = KINDS[token.rpartition("-")[2]].task
        value = str(more.get("value", token))
        with self.call_log.trying(token, self.queue, **more):
            handle = werk.enqueue(task, value, self.seconds, *arguments, options=options)
            is_new = not handle.duplicate
            self.call_log.write("accepted" if is_new else "duplicate", token)
            if is_new and KINDS[token.rpartition("-")[2]].is_prompt:
                self.handles.append((token, handle))
            elif handle.id not in (token, more.get("twin")):
                self.call_log.write("wrong", token, value=handle.id)
            return is_new
        return False

    def _enqueue_by_rq(self, token: str, parent: str = "", **options: object) -> None:
        function = f"chaos.tasks.{KINDS[token.rpartition('-')[2]].task}"
        with self.call_log.trying(token, self.queue, parent=parent):
            call = (function, (token, self.seconds), token)
            enqueue_by_rq(self.client, self.queue, *call, **options)
            self.call_log.write("accepted", token)

    def _await(self, token: str, handle: werk.Handle) -> bool:
        """Write down the result of a job. Return False if there was no answer in time."""
        try:
            value = handle.result(timeout=WAIT_S)
        except (werk.ResultTimeout, werk.RedisUnavailable):
            return False
        except werk.JobCancelled:
            return True
        except werk.WerkError as error:
            self.call_log.write("failed", token, value=f"{type(error).__name__}: {error}")
            return True
        self.call_log.write("result", token, value=str(value))
        return True

    def _stop(self, *_: object) -> None:
        self.stopping = True


def enqueue_by_rq(
    client: redis.Redis,
    queue: str,
    function: str,
    arguments: tuple[object, ...],
    token: str,
    **options: object,
) -> None:
    """Enqueue as plain RQ does, but for the crashes that the job survives."""
    ttls = {"timeout": 180, "result_ttl": RESULT_TTL_S, "failure_ttl": FAILURE_TTL_S}
    while True:
        pipeline = client.pipeline()
        try:
            job = Queue(queue, connection=client).enqueue_call(
                function, arguments, job_id=token, pipeline=pipeline, **ttls, **options
            )
            pipeline.hset(job.key, "werk_max_crashes", CRASHES)
            pipeline.execute()
            return
        except redis.WatchError:
            continue  # the parent's status changed in between: RQ looks again


def some_seconds(chance: random.Random) -> float:
    """Return how long a job takes: most are short, few are long enough to be stopped twice in."""
    dice = chance.random()
    if dice < 0.85:
        return chance.uniform(0, 0.01)
    return chance.uniform(0.05, 0.3) if dice < 0.98 else chance.uniform(1, 4)


WAYS: dict[str, Callable[[Caller, str], None]] = {
    "plain": Caller.plain,
    "failing": Caller.plain,
    "retried": Caller.retried,
    "delayed": Caller.delayed,
    "fragile": Caller.fragile,
    "parent": Caller.parent,
    "called": Caller.called,
    "blamed": Caller.blamed,
    "pinging": Caller.pinging,
    "single": Caller.single,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore", werk.WerkWarning)
    Caller(*sys.argv[1:]).run()
