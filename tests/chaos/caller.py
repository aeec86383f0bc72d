"""A caller of `bin/chaos`: enqueues all the time and writes down at once what it was told.

python -m chaos.caller NAME SEED, until SIGTERM.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import deque
from itertools import count

import werk

QUEUES = ("high", "default", "low")
WINDOW = 100  # jobs that it has under way before it waits for the oldest
WAIT_S = 1.0  # for the oldest; then it goes on without


class Caller:
    """One caller; `told` is its diary: what it was about to do, then what it heard."""

    def __init__(self, name: str, seed: str) -> None:
        self.name = name
        self.chance = random.Random(f"{seed} {name}")
        self.diary = os.open(os.environ["CHAOS_DIARY"], os.O_WRONLY | os.O_APPEND)
        self.handles: deque[tuple[str, werk.Handle]] = deque()
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def run(self) -> None:
        """Enqueue until asked to stop."""
        for number in count():
            if self.stopping:
                return
            self._enqueue(f"{self.name}-{number}")
            if len(self.handles) > WINDOW:
                self._await(*self.handles.popleft())

    def _enqueue(self, token: str) -> None:
        self._write("try", token)
        options = werk.Options(queue=self.chance.choice(QUEUES))
        try:
            handle = werk.enqueue("work", token, some_seconds(self.chance), options=options)
        except werk.RedisUnavailable:
            self._write("unreachable", token)
            return
        self._write("duplicate" if handle.duplicate else "accepted", token, handle.id)
        self.handles.append((token, handle))

    def _await(self, token: str, handle: werk.Handle) -> None:
        try:
            value = handle.result(timeout=WAIT_S)
        except (werk.ResultTimeout, werk.RedisUnavailable):
            return
        except werk.WerkError as error:
            self._write("failed", token, f"{type(error).__name__}: {error}")
            return
        self._write("result" if value == token else "wrong", token, repr(value))

    def _write(self, what: str, token: str, more: str = "") -> None:
        line = f"{what} {token} {' '.join(more.split())}\n"
        os.write(self.diary, line.encode())

    def _stop(self, *_: object) -> None:
        self.stopping = True


def some_seconds(chance: random.Random) -> float:
    """Return how long a job takes: most are short, few are long enough to be stopped twice in."""
    dice = chance.random()
    if dice < 0.85:
        return chance.uniform(0, 0.01)
    return chance.uniform(0.05, 0.3) if dice < 0.98 else chance.uniform(1, 4)


if __name__ == "__main__":
    Caller(*sys.argv[1:]).run()
