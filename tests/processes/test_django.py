"""werk.contrib.django: with a PostgreSQL server that restarts, and with transactions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from database import Postgres
from database import made as made
from database import postgres as postgres
from support import KIT, run
from workers import ENV, PATIENT, Start, ended

import werk

TASKS = {"WERK_REGISTRY": "database_table:TASKS", "PYTHONPATH": ENV["PYTHONPATH"]}
Work = Callable[..., Callable[[str], str]]


@pytest.fixture
def asking(work: Start, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Start a worker with some settings. Return a function that runs a job and returns its end."""

    def start(**env: str) -> Callable[[str], str]:
        worker = {
            **TASKS,
            **PATIENT,
            "WERK_PRELOAD": "database_tasks",
            "POSTGRES": str(postgres.port),
            **env,
        }
        work("default", env=worker)
        monkeypatch.setenv("WERK_REGISTRY", TASKS["WERK_REGISTRY"])

        def ask(question: str) -> str:
            job = werk.enqueue("ask", question)
            try:
                process, answer = job.result(60)
            except werk.JobFailed as error:
                return str(error).rpartition("\n")[2]
            horses.add(process)
            assert len(horses) == 1  # all this happens in one horse
            return str(answer)

        return ask

    horses: set[int] = set()
    return start


MIDDLEWARE = {"WERK_MIDDLEWARE": "werk.contrib.django.execute"}


@pytest.mark.parametrize(
    ("env", "failures"),
    [
        (MIDDLEWARE, 0),
        ({**MIDDLEWARE, "MAX_AGE": "600"}, 1),
        ({**MIDDLEWARE, "MAX_AGE": "600", "CHECKS": "1"}, 0),
        ({}, 5),
    ],
    ids=["a connection per job", "kept", "kept and checked", "no middleware"],
)
def test_jobs_after_a_restart_of_the_database(
    asking: Work, postgres: Postgres, env: dict[str, str], failures: int
) -> None:
    ask = asking(**env)
    assert [ask("SELECT 1") for _ in range(3)] == ["1"] * 3
    postgres.restart()
    after = [ask("SELECT 2") for _ in range(5)]
    assert after[failures:] == ["2"] * (5 - failures), after
    assert all("Error" in answer for answer in after[:failures]), after


def test_a_job_that_its_time_limit_ended_in_a_query_leaves_no_broken_connection(
    asking: Work,
) -> None:
    ask = asking(**MIDDLEWARE, MAX_AGE="600")
    backend = ask("SELECT pg_backend_pid()")
    assert ask("SELECT pg_backend_pid()") == backend
    assert "JobTimeoutException" in ask("SELECT pg_sleep(60)")
    assert ask("SELECT 1") == "1"
    assert "division by zero" in ask("SELECT 1 / 0")
    backend = ask("SELECT pg_backend_pid()")
    assert ask("SELECT pg_backend_pid()") == backend


def test_a_job_that_leaves_a_transaction_open_does_not_affect_the_next(asking: Work) -> None:
    ask = asking(**MIDDLEWARE, MAX_AGE="600")
    backend = ask("SELECT pg_backend_pid()")
    assert ask("SELECT pg_backend_pid()") == backend
    ended(werk.enqueue("leave_open", "SELECT 1"), "failed")
    assert ask("SELECT pg_backend_pid()") not in ("", backend)


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_job_that_leaves_an_atomic_block_does_not_affect_the_next(
    asking: Work, postgres: Postgres, is_closed: bool
) -> None:
    ask = asking(**MIDDLEWARE, MAX_AGE="600")
    backend = ask("SELECT pg_backend_pid()")
    ended(werk.enqueue("leave_atomic", "SELECT 1", is_closed), "failed")
    assert int(ask("SELECT pg_backend_pid()")) != int(backend)
    backend = ask("SELECT pg_backend_pid()")
    assert ask("SELECT pg_backend_pid()") == backend
    postgres.restart()
    ask("SELECT 1")
    assert ask("SELECT 2") == "2"


# --- enqueue_on_commit


def test_a_job_is_enqueued_when_the_transaction_commits(redis_url: str, tmp_path: Path) -> None:
    env = {**TASKS, **MIDDLEWARE, "SQLITE": str(tmp_path / "database")}
    done = run("python", KIT / "on_commit.py", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "autocommit": True,
        "rolled back": True,
        "before the commit": True,
        "committed": True,
        "a duplicate": True,
        "asks {}": "UnknownTask",
        "ask {'question': 1}": "ArgumentError",
        "ask {}": "ArgumentError",
        "ask {'options': {'delay': 1}}": "ArgumentError",
        "nothing else": True,
        "run in a transaction": "finished",
    }
