"""Steps: the horse's requests to step.lua, which records an outcome and claims the next job."""

from __future__ import annotations

import logging
import time
from typing import Any

import hiredis

from werk.store import keys, replies
from werk.store.limits import LISTED_S, OWNED_S
from werk.store.outage import Outage
from werk.store.packing import WORD, as_bytes, first_words
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

# Words of a request as Redis reads them. hiredis takes a fifth of a horse's instructions for a job.
_CLAIMING = WORD * 3 + b"%b$1\r\n%d\r\n" + WORD
_ENDED = WORD * len(Outcome._fields)


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
        self.execution, self.asked_at = "", b""  # of the last request
        self.asked = 0.0  # the same time on the monotonic clock
        self.owned_until = 0, b""  # a second on Redis's clock, and the words of its requests
        self.flushed_at = 0.0
        self.shows_busy = False  # in Redis
        self.outage = Outage(logging.getLogger("rq.worker"))

    def serve(self, keys: list[str]) -> None:
        """Claim from these queues, in this order."""
        self.keys = keys
        first = ("EVALSHA", self.script.sha, len(keys), *keys, self.name, self.generation)
        claims = len(first) + len(STEP_WORDS) - 2  # words: the worker and its generation are there
        records = claims + len(Outcome._fields)
        # By whether a request is sent again, and whether it has an outcome.
        self.beginnings = [
            [first_words((*first, is_resent), count) for count in (claims, records)]
            for is_resent in ("0", "1")
        ]

    def step(self, outcome: Outcome | None, wants_job: bool) -> Any:
        """Record an outcome and claim the next job in one round trip. Return step.lua's reply.

        The arguments are those of STEP_WORDS, followed by the fields of the outcome.
        """
        _, asked_at, now_text = keys.clock()
        self.asked = clock = time.monotonic()
        self.count += 1
        self.execution = f"{self.generation}{self.count}"
        self.asked_at = at = asked_at.encode()
        flush = not self.shows_busy or clock > self.flushed_at + FLUSH_S
        counts = as_bytes(self.counters.text()) if flush else b""
        if (second := int(clock + self.shared.offset)) != self.owned_until[0]:
            self.owned_until = second, _until(second)
        words = _CLAIMING % (
            len(self.execution), self.execution.encode(), len(now_text), now_text.encode(),
            len(at), at, self.owned_until[1], wants_job, len(counts), counts,
        )  # fmt: skip
        if outcome is not None:
            words += _ended(*outcome)
        reply = self.ask(words, outcome)
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

    def ask(self, words: bytes, outcome: Outcome | None, is_resent: bool = False) -> Any:
        """Send a request until it is answered. It ends the waits that may fill our hand.

        `words` are those after RESENT. A request that may have arrived before is marked as resent;
        its execution id identifies it.
        """
        pause_s = 0.0  # first without a pause: perhaps only this connection has ended
        shared, idle = self.shared, self.idle
        while True:
            try:
                shared.request = self.count
                ends = idle.ends() if idle.open else ()
                beginning = self.beginnings[is_resent][outcome is not None]
                self.channel.send(*ends, last=beginning + words)
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
                is_resent = True
                if shared.stop and not outcome:
                    shared.request = 0
                    return [b"none", b"", None, None]  # as if nothing had changed in Redis
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
        reply = self.channel.receive()
        if isinstance(reply, hiredis.ReplyError):
            if replies.passes(str(reply)):
                raise ConnectionError(str(reply))
            raise Unusable(f"Redis refused the horse's script: {reply}")


def _ended(
    job: bytes,
    queue: bytes,
    execution: str,
    status: str,
    keep_s: int,
    until: bytes,
    value: bytes,
    claimed_at: bytes,
    failure: str,
) -> bytes:
    """Return the fields of an outcome as words of a request."""
    run, how, keep = execution.encode(), status.encode(), b"%d" % keep_s
    counted = as_bytes(failure) if failure else b""
    return _ENDED % (
        len(job), job, len(queue), queue, len(run), run, len(how), how, len(keep), keep,
        len(until), until, len(value), value, len(claimed_at), claimed_at, len(counted), counted,
    )  # fmt: skip


def _until(now: int) -> bytes:
    """Return OWNED_UNTIL and LISTED_UNTIL as words; they are the same for a second."""
    owned, listed = b"%d" % (now + OWNED_S), b"%d" % (now + LISTED_S)
    return WORD * 2 % (len(owned), owned, len(listed), listed)
