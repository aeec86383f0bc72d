"""Still RQ: after the same jobs every key is what its own worker leaves; commands do the same."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis
import roles
from rq import Queue, Retry
from snapshot import Form, differences, reason, snapshot
from support import KIT, PYTHONPATH, Process, wait_until

Start = Callable[..., Process]
Both = Callable[..., Iterator[tuple[Path, str, Process]]]

OURS, PLAIN = "werk.worker.Worker", "rq.worker.Worker"
FRAMED = "patched_classes.Around"  # each job goes through RQ's perform_job
TOLERANCE_S = 2.5


@pytest.fixture
def worker_role(connection: redis.Redis) -> Iterator[str | None]:
    """The role of the workers here, if the server has users; it may do what these tasks do, too."""
    if not roles.environment("worker"):
        yield None
        return
    user = ("ACL", "SETUSER", "werk-worker")
    connection.execute_command(*user, "+select", "+incrby", "~shop:*")
    yield "worker"
    connection.execute_command(*user, "reset", *roles.line("worker").split()[2:])


@pytest.fixture
def both(spawn: Start, worker_role: str | None, redis_url: str, tmp_path: Path) -> Both:
    """Do the same with our class and with RQ's own, each in a database and a folder of its own."""

    def run(script: str, prefix: str, ours: str = OURS) -> Iterator[tuple[Path, str, Process]]:
        runs = []
        for number, worker in enumerate((ours, PLAIN)):
            folder, url = tmp_path / f"run-{number}", re.sub(r"/0$", f"/{number}", redis_url)
            folder.mkdir()
            own = roles.url(url, worker_role if prefix == "rq" else None)
            env = environment(folder) | {"RQ_REDIS_URL": own, "RQ_KEY_PREFIX": prefix}
            runs.append((folder, url, spawn("python", KIT / script, worker, env=env)))
        for folder, url, process in runs:
            assert process.wait(300) == 0, process.output()[-2000:]
            yield folder, url, process

    return run


def environment(folder: Path) -> dict[str, str]:
    return {
        "WERK_REGISTRY": "compat_tasks:TASKS",
        "COMPAT_FOLDER": str(folder),
        "PYTHONPATH": PYTHONPATH,
    }


@pytest.mark.parametrize(("prefix", "worker"), [("rq", OURS), ("shop.{1}", OURS), ("rq", FRAMED)])
def test_every_key_after_a_mixed_run_is_what_plain_rq_leaves(
    both: Both, prefix: str, worker: str
) -> None:
    keys, seen, counts = [], [], []
    for folder, url, _ in both("compat_run.py", prefix, worker):
        with redis.Redis.from_url(url) as client:
            name = f"the-worker-{folder.name}"
            keys.append(snapshot(client, prefix, name))
            counts.append(
                client.hmget(f"{prefix}:worker:{name}", "successful_job_count", "failed_job_count")
            )
        seen.append(seen_outside(folder))
    assert len(keys[0]) > 200
    lines = differences(*keys, TOLERANCE_S) + differences(*seen, TOLERANCE_S)
    assert not lines, "\n".join(lines)
    (done, failed), (plain_done, plain_failed) = counts
    assert failed == plain_failed
    # A horse that is killed, as several are here, loses what it counted in the last half second.
    assert 10 < int(done) <= int(plain_done)


def seen_outside(folder: Path) -> Form:
    """What a user sees without Redis. Only part one has an order."""
    requests = [json.loads(line) for line in (folder / "requests").read_text().splitlines()]
    for *_, body in requests:
        for name in ("enqueued_at", "ended_at"):
            assert body is None or body.pop(name)
        if body and "exc_info" in body:
            body["exc_info"] = reason(body["exc_info"])
    return {
        "in order": (folder / "runs-in-order").read_text().splitlines(),
        "runs": sorted((folder / "runs").read_text().splitlines()),
        "callbacks": sorted((folder / "callbacks").read_text().splitlines()),
        "requests": sorted(map(json.dumps, requests)),
    }


def test_commands_and_options_do_what_they_do_with_plain_rq(both: Both) -> None:
    ours, plain = (
        json.loads(process.output()) for *_, process in both("compat_commands.py", "shop")
    )
    lines = differences(ours, plain, TOLERANCE_S)
    assert not lines, "\n".join(lines)
    assert len(ours) >= 10


def test_plain_rq_workers_a_scheduler_and_a_pool_beside_ours_lose_and_repeat_nothing(
    spawn: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / "runs").touch()
    queues = Queue(connection=connection), Queue("high", connection=connection)
    env, names = environment(tmp_path), [queue.name for queue in queues]
    for number in range(200):
        queues[number % 2].enqueue("compat_tasks.echo", job_id=f"now-{number}")
    for number in range(100):
        soon = timedelta(seconds=1 + number / 100)
        queues[number % 2].enqueue_in(soon, "compat_tasks.echo", job_id=f"soon-{number}")
        queues[number % 2].enqueue(
            "compat_tasks.flaky",
            1,
            job_id=f"retried-{number}",
            retry=Retry(max=1, interval=number % 2),
        )
    plain = spawn("rq", "worker", *names, "--with-scheduler", env=env)
    wait_until(lambda: len(ran(tmp_path)) > 5)
    ours = [spawn("rq", "worker", *names, "-w", OURS, env=env) for _ in range(2)]
    pool = spawn("rq", "worker-pool", *names, "-n", "1", "-w", OURS, env=env)
    wait_until(lambda: len(ran(tmp_path)) > 100)
    ours[0].terminate()  # ours lose nothing by it; plain RQ might
    assert ours[0].wait(60) == 0
    for number in range(200, 300):
        queues[number % 2].enqueue("compat_tasks.echo", job_id=f"now-{number}")
    wait_until(lambda: sum(queue.finished_job_registry.count for queue in queues) == 500)
    for process in (*ours[1:], pool, plain):
        process.terminate()
        assert process.wait(60) == 0, process.output()
    counts = Counter(ran(tmp_path))
    assert counts == {
        job_id: 2 if job_id.startswith("retried") else 1
        for queue in queues
        for job_id in queue.finished_job_registry.get_job_ids()
    }
    assert not any(connection.exists(f"rq:wip:{name}", f"rq:queue:{name}") for name in names)


def ran(folder: Path) -> list[str]:
    return (folder / "runs").read_text().split()
