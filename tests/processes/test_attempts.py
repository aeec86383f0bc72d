"""Attempts: failed executions whose job runs again, as RQ's results of type RETRIED."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from any_values import VALUES
from rq.results import Result
from support import run, wait_until
from workers import Start, begun, ended

import werk
from werk.client.result import Waiting
from werk.ops import job_view
from werk.ops.job_record import RESULT_FIELDS
from werk.store.connection import link_over

LONGEST = 4096  # bytes of a traceback
YEAR_S = 365 * 24 * 3600
RETRIED, FAILED, SUCCESSFUL = Result.Type.RETRIED, Result.Type.FAILED, Result.Type.SUCCESSFUL
EXCEEDED = Result.Type.MAX_RETRIES_EXCEEDED


def results(job: werk.Handle) -> list[Result]:
    """Return what plain RQ reads, the first one first."""
    return [*reversed(job.job.results())]


@pytest.mark.parametrize("kind", ["fast_worker.Worker", "patched_classes.Around"])
def test_five_attempts_are_kept_in_order(
    work: Start, connection: redis.Redis, tmp_path: Path, kind: str
) -> None:
    """Two fail, a horse and a worker are killed, and the caller waits all the time."""
    env = {"RQ_WORKER_CLASS": kind}
    job = werk.enqueue("fare", str(tmp_path))
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(job.result, 120)
        first = work(env=env)
        begun(tmp_path, 3)
        first.kill()
        work(env=env)
        assert waiting.result() == "done"
    found = results(job)
    assert [own.type for own in found] == [RETRIED] * 4 + [SUCCESSFUL]
    assert found[-1].return_value == "done"
    traces = [own.exc_string or "" for own in found[:4]]
    assert [len(trace.encode()) <= LONGEST for trace in traces] == [True] * 4
    for number in (1, 4):
        assert traces[number - 1].startswith("...")
        assert traces[number - 1].endswith(f" in attempt {number}")
    assert traces[1].startswith("Work-horse terminated unexpectedly; waitpid returned 9 (signal 9)")
    assert traces[2] == "Its worker or host died"
    names = {own.worker_name for own in found}
    assert found[2].worker_name != found[3].worker_name and len(names) == 2
    assert len({own.execution_id for own in found}) == 5
    for own in found:
        assert own.execution_started_at <= own.execution_ended_at
    assert 0 < connection.ttl(f"rq:results:{job.id}") <= 3600
    shows_them(job)


def shows_them(job: werk.Handle) -> None:
    shown = json.loads(run("werk", "show", job.id, "--json").stdout)["attempts"]
    assert [own["attempt"] for own in shown] == [1, 2, 3, 4, 5]
    assert [own["outcome"] for own in shown] == ["retried"] * 4 + ["finished"]
    assert shown[2]["error"] == shown[2]["exception"] == "Its worker or host died"
    assert shown[3]["exception"].endswith(" in attempt 4")
    assert all(own["duration"] is not None and own["worker"] for own in shown)
    text = run("werk", "show", job.id, env={"COLUMNS": "200"}).stdout
    assert text.count(" retried after ") == 4
    assert f" on {shown[2]['worker']}: Its worker or host died\n" in text


def test_ten_results_are_kept_with_the_outcome(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """The task fails thirteen times."""
    job = werk.enqueue("fail_often", str(tmp_path))
    work()
    ended(job, "failed")
    assert [own.type for own in results(job)] == [RETRIED] * 9 + [FAILED]
    shown = json.loads(run("werk", "show", job.id, "--json").stdout)["attempts"]
    assert [own["attempt"] for own in shown] == [*range(4, 14)]
    assert {own["error"] for own in shown} == {"ValueError: as asked"}


def test_a_returned_retry_is_an_attempt(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("again", str(tmp_path))
    assert work("default", "--burst").wait(60) == 0
    assert [own.type for own in results(job)] == [RETRIED, EXCEEDED]
    shown = json.loads(run("werk", "show", job.id, "--json").stdout)
    facts = [(own["attempt"], own["outcome"], own["error"]) for own in shown["attempts"]]
    asked = "the task returned a Retry"
    assert facts == [(1, "retried", asked), (2, "failed", asked)]
    assert shown["result"] is None


def test_attempts_are_kept_as_long_as_a_job_that_waits(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    own = {"failure_ttl": 1}  # this begins when the job has failed
    scheduled = werk.enqueue("fail", str(tmp_path), options=werk.Options(retry=1, **own))
    queued = werk.enqueue("fail_often", str(tmp_path), options=werk.Options(ttl=900))
    assert work("default", "--max-jobs", "2").wait(60) == 0
    assert [scheduled.status(), queued.status()] == ["scheduled", "queued"]
    assert connection.ttl(f"rq:results:{scheduled.id}") > YEAR_S - 600
    assert connection.ttl(f"rq:job:{scheduled.id}") == -1
    for kind in ("job", "results"):
        assert 300 < connection.ttl(f"rq:{kind}:{queued.id}") <= 900


def test_plain_rq_is_not_fooled(work: Start, connection: redis.Redis, tmp_path: Path) -> None:
    """Its readers see the attempts; those of results and tracebacks leave them out."""
    job = werk.enqueue("fail", str(tmp_path), options=werk.Options(retry=1))
    work()
    record = wait_until(lambda: (own := job.job).results() and own)
    assert record.latest_result().type is RETRIED
    assert record.return_value() is None
    with pytest.warns(DeprecationWarning, match="exc_info"):
        assert record.exc_info is None


class Replies:
    """A link that gives these replies."""

    where, budget_s = "nowhere", 2.0

    def __init__(self, *replies: object) -> None:
        self.replies = [*replies]

    def calls(self, commands: object) -> object:
        return self.replies.pop(0)

    def call(self, *command: object) -> object:
        return self.replies.pop(0)


def test_a_wait_takes_no_attempt_for_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job was tried again and ended between the two commands of a look."""
    attempt = (b"1-0", [b"type", b"4", b"exc_string", b"x"])
    outcome = (b"2-0", [b"type", b"1", b"return_value", b"MQ=="])  # 1, as JSON in base64
    link = Replies(
        [[[b"rq:results:a", [attempt]]], [b"scheduled", b"500"]],
        [[[b"rq:results:a", [attempt]]], [b"finished", b"500"]],
        [outcome],
    )
    monkeypatch.setattr("werk.client.result.link_of", lambda _: link)
    waiting = Waiting("a", is_ours=True)
    assert waiting.look(1.0) is None
    assert waiting.look(1.0) == (1,)
    assert link.replies == []


def test_entries_with_any_value_can_be_shown(connection: redis.Redis) -> None:
    """Other programs may write results."""
    dice = random.Random(5)
    connection.hset("rq:job:any", mapping={"status": "scheduled", "werk_attempt": "x"})
    for _ in range(300):
        connection.delete("rq:results:any")
        for _ in range(dice.randint(1, 12)):
            names = dice.sample([*RESULT_FIELDS, "odd"], dice.randint(1, 6))
            entry = {name: dice.choice([*VALUES, b"4", b"5"]) for name in names}
            connection.xadd("rq:results:any", entry)
        shown = job_view.show("any", link_over(connection))
        assert 1 <= len(shown["attempts"]) <= 10
        json.dumps([shown, job_view.page(link_over(connection), "any")])
        for attempt in shown["attempts"]:
            assert str(attempt["ended_at"]) in job_view.attempt_line(attempt)
