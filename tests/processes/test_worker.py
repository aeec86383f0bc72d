"""The worker, whole: real processes, a real server, real signals. Its lease here is 1 s."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest
import redis
import roles
from rq import Callback, Queue
from rq.command import send_kill_horse_command, send_shutdown_command, send_stop_job_command
from rq.job import Job, JobStatus
from rq.results import Result
from rq.suspension import resume, suspend
from support import PYTHONPATH, is_gone, run, wait_until
from workers import (
    ENV,
    PATIENT,
    Start,
    begun,
    crash_count,
    ended,
    finished,
    go,
    horse,
    outcomes,
    own_key,
    places,
    reason,
    runs,
)

import werk
from werk.store import payload

# --- what is recorded


def test_a_job_runs_and_is_recorded_as_rq_does(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    worker = work("default", "--burst")
    assert worker.wait(60) == 0
    record = job.job
    assert record.return_value() == "ran"
    assert record.is_finished
    assert record.started_at
    assert record.ended_at
    assert record.worker_name
    result = record.latest_result()
    assert result.type is Result.Type.SUCCESSFUL
    assert result.execution_id
    assert result.execution_started_at <= result.execution_ended_at
    assert places(connection, job.id) == ["finished"]
    assert 0 < connection.ttl(f"rq:job:{job.id}") <= 3600
    assert not connection.keys("rq:execution*")
    assert not connection.keys("rq:wip:*")


def test_what_runs_stands_in_a_small_sorted_set(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    werk.enqueue("block", str(tmp_path))
    work()
    begun(tmp_path)
    assert connection.object("encoding", "rq:wip:default") in (b"listpack", b"ziplist")
    go(tmp_path)


def test_a_failure_a_stored_retry_and_what_is_not_plain(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    failing = werk.enqueue("fail", str(tmp_path))
    again = werk.enqueue("again", str(tmp_path))
    odd = werk.enqueue("odd")
    leaving = werk.enqueue("leave", str(tmp_path))
    worker = work("default", "--burst")
    assert worker.wait(60) == 0
    assert "ValueError: as asked" in reason(failing.job)
    assert again.job.latest_result().type is Result.Type.MAX_RETRIES_EXCEEDED
    assert odd.job.return_value() == "Unserializable return value"
    assert "is an object" in connection.hget(odd.job.key, "werk_not_kept").decode()
    assert "SystemExit" in reason(leaving.job)


def test_a_retried_job_keeps_the_meta_of_its_task(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("retried_meta", str(tmp_path))
    work()
    ended(job, "failed")
    assert job.job.meta == {"own": 1}
    assert places(connection, job.id) == ["failed"]


def test_dependents_and_callbacks_go_rqs_way(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    queue = Queue(connection=connection)
    first = queue.enqueue("worker_tasks.note", str(tmp_path))
    second = queue.enqueue("worker_tasks.note", str(tmp_path), depends_on=first)
    called = queue.enqueue(
        "worker_tasks.note", folder=str(tmp_path), on_success=Callback("worker_tasks.saw")
    )
    broken = queue.enqueue(
        "worker_tasks.fail", folder=str(tmp_path), on_failure=Callback("worker_tasks.saw")
    )
    gone = queue.enqueue("worker_tasks.note", str(tmp_path), result_ttl=0)
    kept = queue.enqueue("worker_tasks.note", str(tmp_path), result_ttl=-1)
    assert work("default", "--burst").wait(60) == 0
    assert broken.get_status() == JobStatus.FAILED
    for job in (first, second, called, kept):
        assert job.get_status() == JobStatus.FINISHED
    assert (tmp_path / "callbacks").read_text().split() == [called.id, broken.id]
    assert not connection.exists(gone.key)
    assert connection.ttl(kept.key) == -1


def test_logs_and_the_current_job(work: Start, tmp_path: Path) -> None:
    jobs = [werk.enqueue("keep", str(tmp_path)), werk.enqueue("fail", str(tmp_path))]
    worker = work("default", "--burst")
    assert worker.wait(60) == 0
    good, bad = (job.id for job in jobs)
    assert jobs[0].job.return_value()["own"] == 1
    out = worker.output()
    assert f"job={good} task=keep a word of the task's own" in out
    assert f"event=started job={good} task=keep queue=default attempt=1" in out
    assert f"event=failed job={bad} task=fail queue=default attempt=1 error=ValueError" in out
    first = out.splitlines()[0]
    for fact in ("server=", "db=0", "prefix=rq", "queues=default", "tasks=", "rq=3."):
        assert fact in first
    assert str(tmp_path) not in out  # arguments are never logged


def test_a_job_and_its_children_find_its_id_in_the_environment(work: Start) -> None:
    jobs = [werk.enqueue("surroundings") for _ in range(2)]
    assert work("default", "--burst", "--name", "w1").wait(60) == 0
    for job in jobs:
        assert job.result(0) == [job.id, "w1", job.id, "w1"]


# --- crashes


def test_a_horse_killed_in_a_job_runs_it_again_at_once(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    worker = work()
    begun(tmp_path)
    os.kill(horse(worker), signal.SIGKILL)
    begun(tmp_path, 2)
    assert crash_count(connection, job) == 1
    go(tmp_path)
    finished(job)
    assert worker.poll() is None
    assert len(runs(tmp_path, "ends")) == 1


def test_a_horse_that_leaves_writes_what_it_has_counted(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    facts, counters = counts_of_a_run(work, connection, tmp_path, deaths=0)
    assert facts[b"successful_job_count"] == b"122"
    assert b"failed_job_count" not in facts
    assert float(counters[b"note|done"]) == 122
    took = pytest.approx(float(counters[b"took/default/note/seconds"]), abs=0.5)
    assert float(facts[b"total_working_time"]) == took


def test_a_killed_horse_loses_what_it_has_not_written_and_counts_nothing_twice(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    facts, counters = counts_of_a_run(work, connection, tmp_path, deaths=4)
    assert int(facts[b"successful_job_count"]) <= 122
    assert facts[b"failed_job_count"] == b"4"
    assert float(counters.get(b"note|done", 0)) <= 122
    assert float(counters[b"poison|failed"]) == 4


def counts_of_a_run(
    work: Start, connection: redis.Redis, folder: Path, deaths: int
) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Run 122 jobs and, between them, some that kill the horse. Return what has been counted."""
    worker = work()
    name = own_key(connection)
    wait_until(lambda: connection.hget(name, "state") == b"idle")
    suspend(connection)
    for number in range(4):
        werk.enqueue_many("note", [(str(folder),)] * 30)
        if number < deaths:
            werk.enqueue("poison", str(folder))
    parent = werk.enqueue("note", str(folder))
    Queue(connection=connection).enqueue("worker_tasks.note", str(folder), depends_on=parent.id)
    resume(connection)
    wait_until(lambda: connection.zcard("rq:failed:default") == deaths)
    wait_until(lambda: connection.zcard("rq:finished:default") == 122)
    worker.terminate()
    assert worker.wait(60) == 0
    return connection.hgetall(name), connection.hgetall("rq:werk:tallies")


def test_redis_shows_whether_a_worker_is_busy(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """Not at each job, but whenever one runs, and soon after the last, whatever became of it."""

    def state() -> bytes:
        return connection.hget(own_key(connection), "state")

    work()
    wait_until(lambda: state() == b"idle")
    for _ in range(3):  # what is idle since a moment ago, and since longer
        finished(werk.enqueue("note", str(tmp_path)))
        job = werk.enqueue("block", str(tmp_path))
        wait_until(lambda: job.status() == "started")  # noqa: B023  called before the next
        assert state() == b"busy"
        go(tmp_path)
        wait_until(lambda: state() == b"idle", 30)  # sooner than an idle wait ends
        (tmp_path / "go").unlink()
    with connection.pipeline() as pipeline:  # not known here: deferred
        unknown = Queue(connection=connection).enqueue("worker_tasks.note", pipeline=pipeline)
        pipeline.hset(unknown.key, "werk_task", "unheard_of")
        pipeline.execute()
    wait_until(lambda: unknown.get_status() == "scheduled")
    wait_until(lambda: state() == b"idle", 30)  # sooner than an idle wait ends


def test_a_job_that_kills_its_worker_fails_and_a_requeue_starts_at_zero(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("poison", str(tmp_path))
    after = werk.enqueue("note", str(tmp_path), "after")
    worker = work()
    record = ended(job, "failed")
    assert len(runs(tmp_path, "ran")) == 3
    assert "killed its worker 3 times" in reason(record)
    assert "out of memory?" in reason(record)
    assert places(connection, job.id) == ["failed"]
    finished(after)
    Job.fetch(record.id, connection=connection).requeue()
    wait_until(lambda: len(runs(tmp_path, "ran")) == 6)
    ended(job, "failed")
    assert worker.poll() is None


def test_a_crash_of_a_job_that_plain_rq_enqueued_fails_it(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = Queue(connection=connection).enqueue("worker_tasks.poison", str(tmp_path))
    work()
    wait_until(lambda: job.get_status() == "failed")
    assert len(runs(tmp_path)) == 1
    assert "Work-horse terminated unexpectedly" in reason(job)


@pytest.mark.parametrize("queues", [("default",), ("high", "default", "low")])
@pytest.mark.parametrize("both", [False, True])
def test_a_killed_supervisor_takes_its_horse_along_and_another_worker_takes_over(
    work: Start, connection: redis.Redis, tmp_path: Path, both: bool, queues: tuple[str, ...]
) -> None:
    job = werk.enqueue("block", str(tmp_path), options=werk.Options(queue=queues[-1]))
    first = work(*queues)
    begun(tmp_path)
    pid = horse(first)
    first.kill()
    if both:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid))
    second = work(*queues)
    begun(tmp_path, 2)
    assert crash_count(connection, job) == 1
    go(tmp_path)
    assert finished(job).worker_name.split(":")[1] == str(second.pid)
    assert places(connection, job.id, queues[-1]) == ["finished"]


@pytest.mark.parametrize("module", ["fast_worker", "other_worker"])
def test_a_horse_and_the_children_of_its_job_die_with_it(
    work: Start, tmp_path: Path, module: str
) -> None:
    werk.enqueue("forever", str(tmp_path))
    worker = work(env={"RQ_WORKER_CLASS": f"{module}.Worker"})
    [[_, pid, _, child]] = wait_until(lambda: runs(tmp_path))
    assert not is_gone(int(child))
    worker.kill()
    wait_until(lambda: is_gone(int(pid)) and is_gone(int(child)))


def test_a_horse_that_holds_too_much_memory_is_replaced_after_a_job(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = work(env={"WERK_HORSE_MB": "1"})
    first = horse(worker)
    wait_until(lambda: connection.hget(own_key(connection), "state") == b"idle")
    finished(werk.enqueue("note", str(tmp_path)))
    assert runs(tmp_path)[0][1] == str(first)  # one that has done nothing stays
    wait_until(lambda: horse(worker) not in (0, first))
    finished(werk.enqueue("note", str(tmp_path)))
    assert runs(tmp_path)[1][1] != str(first)
    assert "event=back" not in worker.output()
    assert worker.poll() is None


# --- stopping


def test_sigterm_finishes_the_job_and_takes_no_other(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job, other = werk.enqueue("block", str(tmp_path)), werk.enqueue("note", str(tmp_path))
    worker = work()
    begun(tmp_path)
    os.kill(horse(worker), signal.SIGTERM)  # as systemd does
    worker.terminate()
    wait_until(lambda: connection.keys("rq:worker:*") and "warm shut down" in worker.output())
    go(tmp_path)
    assert worker.wait(60) == 0
    assert job.status() == "finished"
    assert places(connection, other.id) == ["queue"]
    assert not connection.smembers("rq:workers")
    assert not connection.zcard("rq:werk:leases")


def test_two_signals_at_once_are_one(work: Start, tmp_path: Path) -> None:
    job = werk.enqueue("block", str(tmp_path))
    worker = work(env={"RQ_WORKER_CLASS": "fast_worker.Twice"})
    begun(tmp_path)
    worker.terminate()
    wait_until(lambda: "warm shut down" in worker.output())
    go(tmp_path)
    assert worker.wait(60) == 0, worker.output()
    assert job.status() == "finished"


def test_sigterm_ends_an_idle_worker(work: Start) -> None:
    worker = work()
    worker.terminate()
    assert worker.wait(60) == 0


def test_a_second_sigterm_puts_the_job_back_uncounted(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    worker = work()
    begun(tmp_path)
    worker.terminate()
    wait_until(lambda: "warm shut down" in worker.output())
    since = time.monotonic()
    wait_until(lambda: time.monotonic() > since + 2)  # a second within 1 s counts as the first
    worker.terminate()
    worker.wait(60)
    assert worker.returncode == 0
    assert places(connection, job.id) == ["queue"]
    assert job.status() == "queued"
    assert crash_count(connection, job) == 0
    go(tmp_path)
    work()
    finished(job)


# --- RQ's own finish


def enqueue_with_callback(connection: redis.Redis, folder: Path) -> Job:
    """Its time limit is RQ's own: 60 s."""
    return Queue(connection=connection).enqueue(
        "worker_tasks.note", folder=str(folder), on_success=Callback("worker_tasks.saw_and_waits")
    )


def test_a_worker_killed_in_a_callback_is_rescued_as_any_other(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = enqueue_with_callback(connection, tmp_path)
    connection.hset(job.key, "werk_max_crashes", 1)
    first = work()
    begun(tmp_path)
    first.kill()
    work()
    begun(tmp_path, 2)
    go(tmp_path)
    wait_until(lambda: job.get_status() == "finished")
    assert places(connection, job.id) == ["finished"]


def test_a_callback_that_outlasts_a_rescue_records_nothing(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = enqueue_with_callback(connection, tmp_path)
    connection.hset(job.key, "werk_max_crashes", 1)
    workers = [work(), work()]
    pid = int(begun(tmp_path)[0][1])
    frozen, other = workers if horse(workers[0]) == pid else workers[::-1]
    os.kill(frozen.pid, signal.SIGSTOP)
    begun(tmp_path, 2)
    go(tmp_path)
    wait_until(lambda: len(runs(tmp_path, "ends")) == 2)
    wait_until(lambda: "event=late" in frozen.output())
    os.kill(frozen.pid, signal.SIGCONT)
    wait_until(lambda: job.get_status() == "finished")
    assert outcomes(job) == ["SUCCESSFUL"]
    assert job.fetch(job.id, connection).worker_name.split(":")[1] == str(other.pid)


def test_a_callback_has_its_time_whatever_the_supervisor_hears(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """The supervisor's own commands are no progress of the horse, and set no limit for it."""
    job = enqueue_with_callback(connection, tmp_path)
    worker = work()
    begun(tmp_path)
    [name] = connection.smembers("rq:workers")
    connection.publish(f"rq:pubsub:{name.decode().removeprefix('rq:worker:')}", "no command")
    wait_until(lambda: "event=bad-command" in worker.output())
    seconds_pass(4)  # grace_s of this worker is 2
    go(tmp_path)
    wait_until(lambda: job.get_status() == "finished" or "event=kill" in worker.output())
    assert "event=kill" not in worker.output()
    assert len(runs(tmp_path, "begins")) == 1


# --- freezing


def test_a_frozen_horse_keeps_its_job(work: Start, tmp_path: Path) -> None:
    job = werk.enqueue("block", str(tmp_path))
    worker = work()
    work()
    begun(tmp_path)
    pid = int(begun(tmp_path)[0][1])
    os.kill(pid, signal.SIGSTOP)
    seen = seconds_pass(2)  # two leases
    os.kill(pid, signal.SIGCONT)
    go(tmp_path)
    finished(job)
    assert seen
    assert len(runs(tmp_path, "begins")) == 1
    assert worker.poll() is None


def seconds_pass(count: int) -> bool:
    """Let so many seconds pass, as Redis counts them."""
    client = redis.Redis.from_url(roles.url(os.environ["RQ_REDIS_URL"], None))
    with client:
        since = client.time()[0]
        return wait_until(lambda: client.time()[0] > since + count)


@pytest.mark.parametrize("both", [False, True])
def test_a_frozen_supervisor_loses_its_job_and_the_late_finish_is_dropped(
    work: Start, connection: redis.Redis, tmp_path: Path, both: bool
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    workers = [work(), work()]
    pid = int(begun(tmp_path)[0][1])
    frozen, other = workers if horse(workers[0]) == pid else workers[::-1]
    os.kill(frozen.pid, signal.SIGSTOP)
    if both:
        os.kill(pid, signal.SIGSTOP)
    begun(tmp_path, 2)
    go(tmp_path)
    record = finished(job)
    if both:
        os.kill(pid, signal.SIGCONT)
    os.kill(frozen.pid, signal.SIGCONT)
    after = werk.enqueue("note", str(tmp_path))
    finished(after)
    assert record.worker_name.split(":")[1] == str(other.pid)
    assert outcomes(job.job) == ["SUCCESSFUL"]
    assert places(connection, job.id) == ["finished"]
    other.terminate()
    assert other.wait(60) == 0
    finished(werk.enqueue("note", str(tmp_path)))  # the frozen one works on


# --- time limits and commands


def test_a_supervisor_sleeps_while_its_killed_horse_has_not_ended(
    work: Start, tmp_path: Path
) -> None:
    job = werk.enqueue("swallow", str(tmp_path))
    worker = work(env={"RQ_WORKER_CLASS": "fast_worker.Lingering"})
    ended(job, "failed")
    found = re.search(r"(\d+) turns", worker.output())
    assert found
    assert int(found[1]) <= 3 * 10  # ten ticks


def test_a_swallowed_timeout_is_one_all_the_same(work: Start, tmp_path: Path) -> None:
    job = werk.enqueue("swallow", str(tmp_path))
    after = werk.enqueue("note", str(tmp_path), "after")
    work()
    record = ended(job, "failed")
    assert "JobTimeoutException" in reason(record)
    finished(after)
    assert len(runs(tmp_path, "ran")) == 1
    assert (record.ended_at - record.started_at).total_seconds() < 60  # it would sleep on


def test_a_time_limit_that_ends_the_reading_of_the_own_job_costs_no_retry(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    work(env=PATIENT)
    job = werk.enqueue("read_own", str(tmp_path))
    begun(tmp_path)
    connection.execute_command("CLIENT", "PAUSE", 4000, "ALL")  # for longer than the limit of 2 s
    go(tmp_path)
    record = ended(job, "scheduled")
    assert "JobTimeoutException" in reason(record)
    assert record.retries_left == 0


def test_alarms_are_a_tasks_own_and_its_limit_is_kept(work: Start, tmp_path: Path) -> None:
    job = werk.enqueue("use_alarms", str(tmp_path), options=werk.Options(timeout=4))
    work("default", "--burst", env=PATIENT).wait(60)
    assert "JobTimeoutException" in reason(ended(job, "failed"))
    [(_, _, _, *cut)] = runs(tmp_path, "cut")
    assert 0.5 < float(cut[-1]) < 25  # it was told, and not killed


def test_an_alarm_does_not_outlive_its_job(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    werk.enqueue("leave_an_alarm", 1)
    job = werk.enqueue("doze", str(tmp_path), 1.5)
    work("default", "--burst").wait(60)
    finished(job)
    assert crash_count(connection, job) == 0
    assert len(runs(tmp_path, "ran")) == 1


def test_stop_job_and_kill_horse(work: Start, connection: redis.Redis, tmp_path: Path) -> None:
    job = werk.enqueue("block", str(tmp_path))
    worker = work()
    begun(tmp_path)
    send_stop_job_command(connection, job.id)
    assert "stopped by user" in reason(ended(job, "stopped"))
    assert places(connection, job.id) == ["failed"]
    other = werk.enqueue("block", str(tmp_path))
    begun(tmp_path, 2)
    assert f"event=stopped job={job.id}" in worker.output()
    assert "out of memory?" not in worker.output()
    name = other.job.worker_name
    send_kill_horse_command(connection, name)
    assert "Work-horse terminated unexpectedly" in reason(ended(other, "failed"))
    assert crash_count(connection, other) == 0
    assert "out of memory?" not in worker.output() + reason(other.job)  # it was us
    send_shutdown_command(connection, name)
    assert worker.wait(60) == 0


@pytest.mark.parametrize("command", ["stop", "kill"])
def test_a_job_is_stopped_whose_process_no_other_signal_reaches(
    work: Start, connection: redis.Redis, tmp_path: Path, command: str
) -> None:
    job = werk.enqueue("hang_in_the_kernel", str(tmp_path))
    work()
    begun(tmp_path)
    wait_until(lambda: (tmp_path / "pipe").exists())
    if command == "stop":
        send_stop_job_command(connection, job.id)
    else:
        send_kill_horse_command(connection, job.job.worker_name)
    ended(job, "stopped" if command == "stop" else "failed")
    finished(werk.enqueue("note", str(tmp_path)))


def test_a_worker_that_is_asked_to_leave_fails_a_job_as_it_has_to(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """The horse that does it is not idle, not even while it imports."""
    worker = work(env={"WERK_PRELOAD": "slow_module"})
    job = werk.enqueue("swallow", str(tmp_path))
    wait_until(lambda: runs(tmp_path))
    worker.terminate()
    assert worker.wait(60) == 0
    assert "took no notice" in reason(ended(job, "failed"))
    assert "reason=cold" not in worker.output()


def test_an_import_that_fails_does_not_spoil_later_jobs(work: Start, tmp_path: Path) -> None:
    """What a failed import has changed elsewhere ends with its horse."""
    work(env={"FRAGILE": str(tmp_path)})
    assert "it is down" in reason(ended(werk.enqueue("fragile"), "failed"))
    (tmp_path / "up").touch()

    def runs_again() -> bool:
        job = werk.enqueue("fragile")
        wait_until(lambda: job.status() in ("finished", "failed"))
        return job.status() == "finished"

    wait_until(runs_again)


def test_a_job_cancelled_while_it_runs_is_kept_alive_and_recorded(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    worker = work()
    (_, pid, *_), *_ = begun(tmp_path)
    Job.fetch(job.id, connection=connection).cancel()
    (execution,) = connection.keys(f"rq:execution:{job.id}:*")
    for key in (execution, f"rq:executions:{job.id}"):
        connection.expire(key, 5)
    wait_until(lambda: connection.ttl(execution) > 60)
    assert connection.ttl(f"rq:executions:{job.id}") > 60
    go(tmp_path)
    wait_until(lambda: job.status() == "finished")
    assert job.job.return_value() == "ends"
    assert horse(worker) == int(pid)


def test_stop_commands_for_other_jobs_harm_none(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    jobs = [werk.enqueue("note", str(tmp_path)) for _ in range(200)]
    worker = work()
    for job in jobs[:100]:
        if name := job.job.worker_name:
            connection.publish(
                f"rq:pubsub:{name}", json.dumps({"command": "stop-job", "job_id": job.id})
            )
    connection.publish(f"rq:pubsub:{name or ''}", json.dumps({"command": "stop-job"}))
    connection.publish(f"rq:pubsub:{name or ''}", "no json")
    for job in jobs:
        wait_until(lambda job=job: job.status() in ("finished", "stopped"))
    assert worker.poll() is None


def test_suspend_and_pause(work: Start, connection: redis.Redis, tmp_path: Path) -> None:
    work("high", "default")
    suspend(connection)
    held = werk.enqueue("note", str(tmp_path))
    paused = werk.enqueue("note", str(tmp_path), options=werk.Options(queue="high"))
    wait_until(
        lambda: (
            b"suspended"
            in [connection.hget(key, "state") for key in connection.smembers("rq:workers")]
        )
    )
    connection.sadd("rq:werk:paused", "high")
    assert places(connection, held.id) == ["queue"]
    resume(connection)
    finished(held)
    assert places(connection, paused.id, "high") == ["queue"]
    connection.srem("rq:werk:paused", "high")
    finished(paused)


def test_burst_max_jobs_and_max_idle_time(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    for _ in range(5):
        werk.enqueue("note", str(tmp_path))
    assert work("default", "--max-jobs", "2").wait(60) == 0
    assert len(runs(tmp_path)) == 2
    assert work("default", "--max-idle-time", "1").wait(60) == 0
    assert len(runs(tmp_path)) == 5
    late = werk.enqueue("note", str(tmp_path), options=werk.Options(delay=0.001))
    assert work("default", "--burst").wait(60) == 0
    assert late.status() == "scheduled"
    assert work("default", "--burst", "--with-scheduler").wait(60) == 0
    assert late.status() == "finished"


# --- the tick


def test_due_jobs_are_moved_unless_a_plain_rq_scheduler_does_it(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    connection.set("rq:scheduler-lock:low", "somebody")
    work("default", "low")
    job = werk.enqueue("note", str(tmp_path), options=werk.Options(delay=0.3))
    theirs = werk.enqueue("note", str(tmp_path), options=werk.Options(delay=0.1, queue="low"))
    finished(job)
    assert theirs.status() == "scheduled"
    assert connection.get("rq:scheduler-lock:low") == b"somebody"
    connection.delete("rq:scheduler-lock:low")
    finished(theirs)


def test_the_catalog_names_what_is_served(work: Start, connection: redis.Redis) -> None:
    work("default", "low")
    page = json.loads(wait_until(lambda: connection.hget("rq:werk:catalog", "sleep")))
    assert page["path"] == "werk.jobs.sleep"
    assert page["parameters"][0]["name"] == "seconds"
    members = connection.zrange("rq:werk:serves:low", 0, -1)
    assert f"sleep {page['fingerprint']}".encode() in members


def test_a_worker_forgotten_by_redis_registers_again(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    work()
    begun(tmp_path)
    connection.flushall()
    wait_until(lambda: connection.smembers("rq:workers"))
    go(tmp_path)
    finished(werk.enqueue("note", str(tmp_path)))
    assert not connection.exists(f"rq:job:{job.id}")  # a late finish recreates nothing


# --- what may run


def test_a_task_that_this_worker_does_not_know_is_put_off(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    connection.hset(f"rq:job:{job.id}", "werk_task", "newer")
    assert work("default", "--burst").wait(60) == 0
    assert places(connection, job.id) == ["scheduled"]
    assert job.status() == "scheduled"
    said = run("werk", "show", job.id).stdout
    since = float(connection.hget(f"rq:job:{job.id}", "werk_unknown_since"))
    assert re.search(r"^deferred     worker \S+: this worker has no task 'newer'$", said, re.M)
    moment = datetime.fromtimestamp(int(since + 600)).astimezone().isoformat()
    assert f"\nfails_at     {moment}\n" in said
    assert "attempt" not in said  # nothing was tried
    status = run("werk", "status", env={"COLUMNS": "300"}).stdout
    assert "warning: queue default: jobs of newer are deferred: worker " in status
    assert (
        ": this worker has no task 'newer': restart the workers whose table is older or, " in status
    )
    assert re.search(r"the first job fails in [0-9]+[sm]$", status, re.M)
    connection.zadd("rq:scheduled:default", {job.id: 0})
    connection.hset(f"rq:job:{job.id}", "werk_unknown_since", time.time() - 601)
    assert work("default", "--burst", "--with-scheduler").wait(60) == 0
    assert "Unknown" in reason(job.job)
    assert "newer" in reason(job.job)
    assert not runs(tmp_path)


def test_a_horse_that_dies_at_an_unknown_task_begins_no_new_ten_minutes(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    connection.hset(f"rq:job:{job.id}", "werk_task", "newer")
    connection.hset(f"rq:job:{job.id}", "werk_unknown_since", time.time() - 601)
    work("default", env={"RQ_WORKER_CLASS": "fast_worker.Dying"})
    wait_until(lambda: connection.exists(f"rq:died:{job.id}"))
    ended(job, "failed")
    assert "this worker has no task 'newer'" in reason(job.job)


@pytest.mark.parametrize("recorded_by", ["werk", "rq"])
def test_a_retry_has_the_full_ten_minutes_after_any_failure(
    work: Start, connection: redis.Redis, tmp_path: Path, recorded_by: str
) -> None:
    job = werk.enqueue("fail", folder=str(tmp_path))
    key = f"rq:job:{job.id}"
    connection.hset(key, "werk_unknown_since", time.time() - 601)  # deferred before a deploy
    if recorded_by == "rq":
        connection.hset(key, "failure_callback_name", "worker_tasks.saw")
    assert work("default", "--burst").wait(60) == 0
    assert job.status() == "failed"
    connection.hset(key, "werk_task", "newer")
    Job.fetch(job.id, connection=connection).requeue()
    assert work("default", "--burst").wait(60) == 0
    assert job.status() == "scheduled"
    assert float(connection.hget(key, "werk_unknown_since")) > time.time() - 300


def test_arguments_of_another_version_are_put_off(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    newer = payload.write_call("worker_tasks.note", (str(tmp_path), "ran", "newer"), {})
    connection.hset(f"rq:job:{job.id}", "data", newer)
    assert work("default", "--burst").wait(60) == 0
    assert places(connection, job.id) == ["scheduled"]
    facts = json.loads(run("werk", "show", "--json", job.id).stdout)
    assert ": this worker has another version of the task: note: takes" in facts["deferred"]
    assert facts["attempt"] is None
    connection.zadd("rq:scheduled:default", {job.id: 0})
    connection.hset(f"rq:job:{job.id}", "werk_unknown_since", time.time() - 601)
    assert work("default", "--burst", "--with-scheduler").wait(60) == 0
    assert "of the task: note: takes 1 to 2 arguments (folder, word), 3 given" in reason(job.job)
    assert not runs(tmp_path)


def test_a_retry_after_a_deferral_is_no_deferral(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """And the error of an earlier attempt is not shown once the job has ended."""
    job = werk.enqueue("fail", str(tmp_path), options=werk.Options(retry=1))
    connection.hset(f"rq:job:{job.id}", "werk_task", "newer")
    assert work("default", "--burst").wait(60) == 0
    connection.hset(f"rq:job:{job.id}", "werk_task", "fail")
    connection.zadd("rq:scheduled:default", {job.id: 0})
    assert work("default", "--burst", "--with-scheduler").wait(60) == 0
    facts = json.loads(run("werk", "show", "--json", job.id).stdout)
    shown = {name: facts[name] for name in ("status", "attempt", "deferred", "fails_at")}
    assert shown == {"status": "scheduled", "attempt": 1, "deferred": None, "fails_at": None}
    assert facts["last_error"] == "ValueError: as asked"
    assert "deferred" not in run("werk", "status").stdout
    connection.hset(f"rq:job:{job.id}", "werk_task", "note")
    connection.zadd("rq:scheduled:default", {job.id: 0})
    assert work("default", "--burst", "--with-scheduler").wait(60) == 0
    facts = json.loads(run("werk", "show", "--json", job.id).stdout)
    assert (facts["status"], facts["attempt"], facts["last_error"]) == ("finished", 2, None)


def test_an_error_in_the_call_is_no_other_version(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    wrong = werk.enqueue("mistaken")
    unread = werk.enqueue("unread", 1, 2, 3)
    assert work("default", "--burst").wait(60) == 0
    for job in (wrong, unread):
        assert job.status() == "failed"
        assert "TypeError" in reason(job.job)


def test_a_known_name_runs_our_own_path(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = Queue(connection=connection).enqueue("os.mkdir", str(tmp_path))
    connection.hset(job.key, "werk_task", "note")
    assert work("default", "--burst").wait(60) == 0
    assert job.return_value() == "ran"


def test_a_function_of_no_name_fails_its_job_alone_where_all_are_allowed(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    connection.hset(f"rq:job:{job.id}", "data", pickle.dumps(([], None, (), {})))
    assert work("default", "--burst", env={"WERK_ALLOW_UNREGISTERED": "yes"}).wait(60) == 0
    assert job.status() == "failed"
    assert connection.hget(f"rq:job:{job.id}", "werk_crashes") is None


EVIL = b"cposix\nsystem\n(S'touch %s'\ntR."


@pytest.mark.parametrize(
    "path", ["os.getcwd", "exec", "worker_tasks.subprocess.run", "no.such.module"]
)
def test_what_is_not_registered_fails_at_once(
    work: Start, connection: redis.Redis, path: str, tmp_path: Path
) -> None:
    job = Queue(connection=connection).enqueue(path, str(tmp_path))
    assert work("default", "--burst").wait(60) == 0
    assert job.get_status() == "failed"
    assert "not registered" in reason(job)


def test_a_callback_that_is_not_registered_refuses_the_job(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = Queue(connection=connection).enqueue(
        "worker_tasks.note", str(tmp_path), on_failure=Callback("os.getcwd")
    )
    assert work("default", "--burst").wait(60) == 0
    assert "os.getcwd" in reason(job)
    assert not runs(tmp_path)


def test_a_stop_whose_callback_kills_the_horse_is_a_stop(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """RQ's code is not tried again: the worker records the outcome by itself."""
    queue = Queue(connection=connection)
    job = queue.enqueue(
        "worker_tasks.block",
        folder=str(tmp_path),
        failure_ttl=7200,
        on_stopped=Callback("worker_tasks.perish"),
    )
    work()
    begun(tmp_path)
    send_stop_job_command(connection, job.id)
    wait_until(lambda: job.get_status() == JobStatus.STOPPED)
    assert places(connection, job.id) == ["failed"]
    assert 7000 < connection.ttl(job.key) <= 7200
    finished(werk.enqueue("note", str(tmp_path)))


def test_a_callback_of_what_plain_rq_workers_left_does_nothing_to_the_horse(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """RQ's clean-up calls it, and it kills the process that it is in."""
    left = Queue(connection=connection).enqueue(
        "worker_tasks.note", folder=str(tmp_path), on_failure=Callback("worker_tasks.perish")
    )
    connection.delete("rq:queue:default")
    connection.hset(left.key, "status", "started")
    connection.zadd("rq:wip:default", {f"{left.id}:other": 1})
    job = werk.enqueue("note", str(tmp_path))
    assert work("default", "--burst").wait(60) == 0
    (ran,) = runs(tmp_path, "ran")
    assert ran[0] == job.id
    assert runs(tmp_path, f"in:{ran[1]}")  # in a child of the horse


FIELDS = (
    "data status timeout result_ttl origin created_at enqueued_at meta retries_left repeats_left"
    " failure_ttl success_callback_name webhooks rate_limit_key dependency_ids ttl"
    " werk_crashes".split()
)


@pytest.mark.parametrize("value", [b"\xff\xfe rubbish", EVIL, b""])
def test_hostile_fields_fail_their_job_and_nobody_else(
    work: Start, connection: redis.Redis, tmp_path: Path, value: bytes
) -> None:
    if b"%s" in value:
        value %= str(tmp_path / "owned").encode()
    hostile = [werk.enqueue("note", str(tmp_path)) for _ in FIELDS]
    for job, field in zip(hostile, FIELDS, strict=True):
        connection.hset(f"rq:job:{job.id}", field, value)
    good = werk.enqueue("note", str(tmp_path), "good")
    worker = work("default", "--burst")
    assert worker.wait(60) == 0
    assert good.status() == "finished", worker.output()
    assert not (tmp_path / "owned").exists()
    left = {job.id: field for job, field in zip(hostile, FIELDS, strict=True)}
    for job_id, field in left.items():
        status = connection.hget(f"rq:job:{job_id}", "status")
        assert status in (b"finished", b"failed"), (field, status, worker.output())
    assert not connection.zcard("rq:wip:default")


KEYS = (
    "rq:job:{} rq:executions:{} rq:results:{} rq:job:{}:dependents rq:finished:default"
    " rq:failed:default rq:wip:default rq:scheduled:default rq:queue:low".split()
)


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_another_type_stop_nothing(
    work: Start, connection: redis.Redis, tmp_path: Path, key: str
) -> None:
    hostile = [werk.enqueue(name, str(tmp_path)) for name in ("note", "fail")]
    for job in hostile:
        connection.delete(key.format(job.id))
        connection.set(key.format(job.id), "something else's")
    good = werk.enqueue("note", str(tmp_path), "good", options=werk.Options(queue="other"))
    worker = work("default", "low", "other")
    assert finished(good)
    if key == "rq:wip:default":  # no job of this queue can be claimed until it is removed
        assert connection.llen("rq:queue:default") == len(hostile)
        connection.delete(key)
    wait_until(lambda: not connection.llen("rq:queue:default"))
    worker.terminate()
    assert worker.wait(60) == 0, worker.output()


# --- beside plain RQ workers


def test_a_plain_rq_worker_and_a_pool_beside_ours(
    work: Start, spawn: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    jobs = [werk.enqueue("note", str(tmp_path), str(n)) for n in range(60)]
    delayed = [
        werk.enqueue("note", str(tmp_path), options=werk.Options(delay=0.5)) for n in range(20)
    ]
    spawn("rq", "worker", "default", "--with-scheduler", env={"PYTHONPATH": PYTHONPATH})
    spawn("rq", "worker-pool", "default", "-n", "2", env=ENV)
    for job in jobs + delayed:
        finished(job)
    ran = [line[0] for line in runs(tmp_path)]
    assert len(ran) == len(set(ran)) == 80


def test_all_keys_stand_under_the_prefix(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    env = {**ENV, "RQ_KEY_PREFIX": "shop"}
    sent = run("werk-enqueue", "note", tmp_path, env=env)
    assert sent.returncode == 0, sent.stderr
    assert work("default", "--burst", env=env).wait(60) == 0
    assert connection.zrange("shop:finished:default", 0, -1) == [sent.stdout.strip().encode()]
    assert all(key.startswith(b"shop:") for key in connection.scan_iter())
