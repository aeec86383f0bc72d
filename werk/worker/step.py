"""Steps: the horse's requests to step.lua, which records an outcome and claims the next job."""

from __future__ import annotations

import logging
import time
from typing import Any

from werk.store import keys, replies
from werk.store.limits import LISTED_S, OWNED_S
from werk.store.outage import Outage
from werk.worker.counters import Counters
from werk.worker.idle import Idle
from werk.worker.outcome import Outcome
from werk.worker.redis_side import AWAY, LONGEST_PAUSE_S, Channel, Unusable
from werk.worker.rq_side import RQSide
from werk.worker.scripts import STEP_WORDS, script
from werk.worker.shared_state import SharedState

FLUSH_S = 0.5  # between two writes of the worker's state and counters while it is shown as busy
# An idle horse writes them in a request of its own, unless it claims a job before that.
IDLE_FLUSH_S = 1.0
BEFORE_FIRST = 10**9  # so all request numbers have ten digits, and their text order is right


class Steps:
    """Sends one request at a time, until it is answered."""

    def __init__(
        self,
        worker: RQSide,
        shared: SharedState,
        generation: str,
        counters: Counters,
        idle: Idle,
    ) -> None:
        self.name, self.shared, self.generation = worker.name, shared, generation
        self.counters, self.idle = counters, idle
        self.script = script("step", worker.server_version())
        self.channel = Channel(worker.connection)
        self.serve(worker.ordered_queue_keys())
        self.count = BEFORE_FIRST  # of requests; the execution ids end with it
        self.execution = self.asked_at = ""  # of the last request
        self.asked = 0.0  # the same time on the monotonic clock
        self.flushed_at = 0.0
        self.shows_busy = False  # in Redis
        self.outage = Outage(logging.getLogger("rq.worker"))

    def serve(self, keys: list[str]) -> None:
        """Claim from these queues, in this order."""
        self.keys = keys
        before = ("EVALSHA", self.script.sha, len(keys), *keys)
        self.head = (*before, self.name, self.generation)  # of each request
        self.resent_at = len(before) + STEP_WORDS.index("RESENT")

    def step(self, outcome: Outcome | None, wants_job: bool) -> Any:
        """Record an outcome and claim the next job in one round trip. Return step.lua's reply.

        The arguments are those of STEP_WORDS, followed by the fields of the outcome.
        """
        _, asked_at, now_iso = keys.clock()
        self.asked = clock = time.monotonic()
        now = int(clock + self.shared.offset)
        self.count += 1
        self.asked_at, self.execution = asked_at, f"{self.generation}{self.count}"
        flush = not self.shows_busy or clock > self.flushed_at + FLUSH_S
        request = (
            *self.head, self.execution, now_iso, asked_at, now + OWNED_S, now + LISTED_S,
            "1" if wants_job else "0", "0", self.counters.text() if flush else "",
            *(outcome or ()),
        )  # fmt: skip
        reply = self.ask(request, outcome)
        if flush and reply[1] != b"":
            self.flushed_at, self.shows_busy = time.monotonic(), type(reply[1]) is list
            self.counters.clear()
        return reply

    def flush_in_s(self) -> float | None:
        """Return in how many seconds an idle horse has to write; None if there is nothing to."""
        if not self.counters and not self.shows_busy:
            return None
        return max(0.0, self.flushed_at + IDLE_FLUSH_S - time.monotonic())

    def write_counts(self) -> None:
        """Write the counts that are left, before the horse leaves."""
        if self.counters:
            self.flushed_at = 0.0
            self.step(None, wants_job=False)

    def ask(self, request: tuple[Any, ...], outcome: Outcome | None) -> Any:
        """Send a request until it is answered. It ends the waits that may fill our hand.

        A request that may have arrived before is marked as resent; its execution id identifies it.
        """
        pause_s = 0.0  # first without a pause: perhaps only this connection has ended
        shared, idle = self.shared, self.idle
        while True:
            try:
                shared.request = self.count
                ends = idle.ends() if idle.open else ()
                self.channel.send(*ends, request)
                if ends:
                    idle.have_ended([self.channel.receive() for _ in ends])
                reply = self.channel.receive()
                if type(reply) is list:
                    shared.request = 0
                    if pause_s:
                        self.outage.end(worker=self.name)
                    return reply
                self._read_refusal(str(reply))
            except AWAY as error:
                self.channel.close()
                request = (*request[: self.resent_at], "1", *request[self.resent_at + 1 :])
                if shared.stop and not outcome:
                    shared.request = 0
                    return [b"none", b"unasked", None, None]
                if pause_s:
                    self.outage.note(error, worker=self.name)
                time.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2 or 0.05)

    def _read_refusal(self, text: str) -> None:
        """Act on an error reply. Raises Unusable if sending again would not help."""
        if replies.passes(text):  # LOADING, READONLY, ...: another connection may do better
            raise ConnectionError(text)
        if not text.startswith("NOSCRIPT"):
            raise Unusable(f"Redis refused the horse's request: {text}")
        self.channel.send(("SCRIPT", "LOAD", self.script.text))
        self.channel.receive()
