"""A request that the horse packs itself is what hiredis would pack."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from werk.store.limits import LISTED_S, OWNED_S
from werk.worker.outcome import Outcome
from werk.worker.scripts import STEP_WORDS
from werk.worker.step import Steps

outcomes = st.builds(
    Outcome,
    job=st.binary(),
    queue=st.binary(),
    execution=st.text(st.characters(exclude_categories=["Cs"])),
    status=st.sampled_from(["finished", "failed", "failed refused", "scheduled"]),
    keep_s=st.integers(-1, 10**9),
    until=st.just(b"1764434010"),
    value=st.binary(),
    claimed_at=st.just(b"1764434010.123456"),
    failure=st.text(),
)


class Socket:
    """Takes what a horse sends, and answers with an empty reply."""

    def __init__(self) -> None:
        self.data = b""

    def send(self, *commands: object, last: bytes) -> None:
        self.data += last

    def receive(self) -> list[object]:
        return [b"none", b"empty", None, None]


@given(
    st.none() | outcomes,
    st.lists(st.text(min_size=1), min_size=1, max_size=120),
    st.text(),
    st.booleans(),
    st.booleans(),
)
def test_the_words_of_a_request(
    outcome: Outcome | None, queues: list[str], counts: str, wants_job: bool, is_resent: bool
) -> None:
    counters = SimpleNamespace(text=lambda: counts, clear=lambda: None)
    worker: Any = SimpleNamespace(
        name="häns",
        server_version=lambda: (7, 0),
        connection=None,
        ordered_queue_keys=lambda: queues,
    )
    shared, idle = SimpleNamespace(offset=0.0, request=0), SimpleNamespace(open=())
    worker.connection = SimpleNamespace(connection_pool=None)
    steps = Steps(worker, cast(Any, shared), "g" * 11, cast(Any, counters), cast(Any, idle))
    steps.channel = socket = cast(Any, Socket())
    steps.step(outcome, wants_job)
    if is_resent:
        first, socket.data = socket.data, b""
        words = first[len(steps.beginnings[False][outcome is not None]) :]
        steps.ask(words, outcome, is_resent)
    reader = hiredis.Reader()
    reader.feed(socket.data)
    sent = cast(list[bytes], reader.gets())
    assert not reader.has_data()
    head = ["EVALSHA", steps.script.sha, str(len(queues)), *queues]
    assert sent[: len(head)] == [_bytes(word) for word in head]
    named = dict(zip(STEP_WORDS, sent[len(head) :], strict=False))
    assert named["WORKER"] == "häns".encode()
    assert named["GENERATION"] == b"g" * 11
    assert named["RESENT"] == (b"1" if is_resent else b"0")
    assert named["EXECUTION"] == steps.execution.encode()
    assert named["NOW"] == steps.asked_at
    assert int(named["LISTED_UNTIL"]) - int(named["OWNED_UNTIL"]) == LISTED_S - OWNED_S
    assert named["WANTS_JOB"] == (b"1" if wants_job else b"0")
    assert named["COUNTS"] == _bytes(counts)
    rest = sent[len(head) + len(STEP_WORDS) :]
    assert rest == [_bytes(word) for word in outcome or ()]


def _bytes(word: object) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode("utf-8", "backslashreplace")
