"""The mixed run of test_compat.py: all that RQ can do with a job, done once by one class of worker.

    python tests/kit/compat_run.py rq.worker.Worker

A process of its own, because RQ reads its key prefix when imported. It enqueues with RQ alone.
Part one: a worker on two queues, --burst. Part two: one on a single queue, with a scheduler, until
SIGTERM.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import redis
import roles
from rq import Callback, Queue, Repeat, Retry, Webhook
from rq.command import send_kill_horse_command, send_stop_job_command
from rq.defaults import RQ_KEY_PREFIX
from rq.group import Group
from rq.job import Dependency, Job
from rq.rate_limit import RateLimit
from rq.registry import FailedJobRegistry
from support import command, wait_until

ENDED = {b"finished", b"failed", b"stopped", b"canceled", b"deferred"}
FOLDER = Path(os.environ["COMPAT_FOLDER"])
WORKER = "the-worker-" + FOLDER.name


def main(worker_class: str) -> None:
    connection = redis.Redis.from_url(roles.url(os.environ["RQ_REDIS_URL"], None))
    with site() as url:
        high, default = Queue("high", connection=connection), Queue(connection=connection)
        part_one(high, default, url)
        assert start(worker_class, "high", "default", "--burst").wait(200) == 0
        (FOLDER / "runs").rename(FOLDER / "runs-in-order")
        (FOLDER / "runs").touch()
        part_two(default, url)
        worker = start(worker_class, "default", "--with-scheduler")
        interfere(default)
        quiet(connection)
        default.enqueue("compat_tasks.echo", job_id="last")
        wait_until(lambda: Job.fetch("last", connection).is_finished)
        quiet(connection)  # what the run before the last did after its record
        worker.terminate()
        assert worker.wait(60) == 0


def part_one(high: Queue, default: Queue, url: str) -> None:
    """All that needs no scheduler, in an order that both must keep."""
    add = adder(default)
    add("plain", "echo", 1)
    add("nothing", "echo")
    add("text", "echo", "größer\n" * 100)
    add("nested", "echo", value={"a": [1, (2.5, b"\0"), {3}], "b": None})
    add("async", "echo_later", "later")
    add("ttl-0", "echo", 1, result_ttl=0)
    add("ttl-for-ever", "echo", 1, result_ttl=-1)
    add("ttl-60", "echo", 1, result_ttl=60)
    add("front", "echo", at_front=True)
    add("front-of-front", "echo", at_front=True)
    adder(high)("in-high", "echo", "high")
    add("expiring", "echo", ttl=100, result_ttl=200)
    add("expired", "echo", ttl=1)
    wait_until(lambda: not high.connection.exists(Job.key_for("expired")))
    failures(add)
    relations(add, adder(high))
    callbacks(add)
    again(add)
    add("hook-finished", "echo", webhooks=hooks(url))
    add("hook-failed", "fail", webhooks=hooks(url))
    add("hook-retried", "flaky", 1, webhooks=hooks(url), retry=Retry(max=1))
    for number in range(4):
        add(f"limited-{number}", "echo", rate_limit=RateLimit("one", 1))
    add("limited-failing", "fail", rate_limit=RateLimit("two", 1), retry=Retry(max=1))
    add("limited-after", "echo", rate_limit=RateLimit("two", 1))
    datas = [
        Queue.prepare_data(f"compat_tasks.{name}", job_id=f"group-{name}")
        for name in ("echo", "fail")
    ]
    Group.create(default.connection, "group").enqueue_many(default, datas)
    add("keep", "keep", meta={"mark": "x"})
    add("keep-failing", "keep", True, meta={"mark": "y"}, retry=Retry(max=1))
    add("enqueues", "enqueue", "enqueued")
    add("cancelled", "echo").cancel()
    add("deleted", "echo").delete()
    add("described", "echo", description="as described", result_ttl=60, failure_ttl=70, timeout=80)


def failures(add: Any) -> None:
    add("fails", "fail")
    add("fails-ttl-60", "fail", failure_ttl=60)
    add("fails-for-ever", "fail", failure_ttl=-1)
    add("odd-keyword", "fail", odd=1)
    add("timeout", "nap", timeout=1)
    add("exits", "leave")
    add("odd", "odd")
    add("killed-9", "die", 9)
    add("killed-15-exit", "die", -15)


def relations(add: Any, add_high: Any) -> None:
    parent = add("parent", "echo", "parent")
    add("child", "echo", depends_on=parent)
    add_high("child-in-high", "echo", depends_on=parent)
    add("child-in-front", "echo", depends_on=Dependency(jobs=[parent], enqueue_at_front=True))
    add("grandchild", "echo", depends_on=["child", "child-in-high"])
    failing = add("failing-parent", "fail")
    add("child-of-failing", "echo", depends_on=failing)
    add(
        "child-that-allows",
        "echo",
        depends_on=Dependency(jobs=[failing, parent], allow_failure=True),
    )
    dying = add("dying-parent", "die", 9)
    add("child-of-dying", "echo", depends_on=Dependency(jobs=[dying], allow_failure=True))
    short = add("short-lived-parent", "echo", result_ttl=0)
    add("child-of-short-lived", "echo", depends_on=short)
    cancelled = add("cancelled-parent", "echo")
    add("child-of-cancelled", "echo", depends_on=Dependency(jobs=[cancelled], allow_failure=True))
    cancelled.cancel(enqueue_dependents=True)


def callbacks(add: Any) -> None:
    both = {"on_success": call("succeeded"), "on_failure": call("failed")}
    add("called-success", "echo", [1], **both)
    add("called-failure", "fail", "why", **both)
    add("called-timeout", "nap", timeout=1, **both)
    add("called-retried", "flaky", 1, retry=Retry(max=2), **both)
    add("broken-success", "echo", on_success=call("broken"), on_failure=call("failed"))
    add("broken-failure", "fail", on_failure=call("broken"))
    add("called-killed", "die", 9, **both)
    add("called-parent", "echo", result_ttl=60, **both)
    add("called-child", "echo", depends_on="called-parent", **both)
    add("called-ttl-0", "echo", result_ttl=0, **both)
    add("never-stopped", "echo", on_stopped=call("stopped"))


def again(add: Any) -> None:
    both = {"on_success": call("succeeded"), "on_failure": call("failed")}
    add("retried", "flaky", 2, retry=Retry(max=3))
    add("retried-in-vain", "fail", retry=Retry(max=2))
    add("retried-at-front", "flaky", 1, retry=Retry(max=1, enqueue_at_front=True))
    add("retried-killed", "die", 9, retry=Retry(max=1))
    add("asks-again", "again", 2)
    add("asks-again-at-front", "again", 1, 0, True)
    add("asks-until", "again_until", 3, [0, 0], **both)
    add("child-of-asks-until", "echo", depends_on="asks-until")
    add("asks-in-vain", "again", 1, **both, failure_ttl=60)
    add(
        "child-of-asks-in-vain",
        "echo",
        depends_on=Dependency(jobs=["asks-in-vain"], allow_failure=True),
    )
    add("asks-and-retried", "again_until", 2, [0], retry=Retry(max=2, interval=5))
    add("repeated", "echo", repeat=Repeat(times=2))
    add(
        "repeated-called",
        "keep",
        meta={"mark": "r"},
        repeat=Repeat(times=1),
        on_success=call("succeeded"),
    )
    add("repeated-parent", "echo", repeat=Repeat(times=1))
    add("child-of-repeated", "echo", depends_on="repeated-parent")
    add("repeated-failing", "fail", repeat=Repeat(times=1))


def part_two(queue: Queue, url: str) -> None:
    """What needs a scheduler, and some that a test stands in the way of."""
    add = adder(queue)
    both = {
        "on_success": call("succeeded"),
        "on_failure": call("failed"),
        "on_stopped": call("stopped"),
    }
    add("delayed-retry", "flaky", 1, retry=Retry(max=2, interval=[1, 5]), webhooks=hooks(url))
    add(
        "delayed-retry-in-vain",
        "keep",
        True,
        meta={"mark": "z"},
        retry=Retry(max=1, interval=1),
        **both,
    )
    add("delayed-retry-at-front", "flaky", 1, retry=Retry(max=1, interval=1, enqueue_at_front=True))
    add("delayed-repeat", "echo", repeat=Repeat(times=2, interval=[1, 1]))
    add("asks-again-later", "again", 1, 1)
    add("asks-until-later", "again_until", 3, [1, 0], webhooks=hooks(url))
    add("asks-limited", "again_until", 2, [0], rate_limit=RateLimit("five", 1))
    add(
        "limited-retry",
        "flaky",
        1,
        rate_limit=RateLimit("three", 1),
        retry=Retry(max=1, interval=1),
    )
    in_a_second = timedelta(seconds=1)
    queue.enqueue_in(in_a_second, "compat_tasks.echo", 1, job_id="scheduled", result_ttl=60)
    queue.enqueue_in(
        in_a_second, "compat_tasks.echo", job_id="scheduled-front", at_front=True, ttl=90
    )
    queue.enqueue_in(
        in_a_second,
        "compat_tasks.echo",
        job_id="scheduled-limited",
        rate_limit=RateLimit("four", 1),
    )
    queue.enqueue_in(timedelta(hours=1), "compat_tasks.echo", job_id="never").cancel()
    for name in BLOCKS:
        add(name, "block", **(both if "called" in name else {}), **BLOCKS[name])
    add("child-of-stopped", "echo", depends_on="stopped-parent")
    add(
        "child-of-stopped-allowed",
        "echo",
        depends_on=Dependency(jobs=["stopped-parent"], allow_failure=True),
    )


BLOCKS: dict[str, dict[str, Any]] = {
    "gets-a-child": {},
    "cancelled-running": {},
    "cancelled-running-called": {},
    "stopped": {},
    "stopped-called": {"retry": Retry(max=3)},
    "stopped-parent": {},
    "horse-killed": {},
    "horse-killed-retried": {"retry": Retry(max=1), "failure_ttl": 60},
}


def interfere(queue: Queue) -> None:
    connection = queue.connection
    for name in BLOCKS:
        begun(name)
        if name == "gets-a-child":
            adder(queue)("late-child", "echo", depends_on=name)
        elif name.startswith("cancelled"):
            Job.fetch(name, connection).cancel()
        elif name.startswith("stopped"):
            send_stop_job_command(connection, name)
            wait_until(lambda name=name: Job.fetch(name, connection).is_stopped)
        else:
            send_kill_horse_command(connection, WORKER)
            if "retried" in name:
                begun(name, 2)
            else:
                wait_until(lambda name=name: Job.fetch(name, connection).is_failed)
        let_go(name)
    for name in ("fails", "retried-in-vain", "exits"):
        FailedJobRegistry(queue=queue).requeue(name)
    Job.fetch("odd-keyword", connection).requeue(at_front=True)


def adder(queue: Queue) -> Any:
    def add(job_id: str, task: str, *args: Any, **options: Any) -> Job:
        return queue.enqueue(f"compat_tasks.{task}", *args, job_id=job_id, **options)

    return add


def call(name: str) -> Callback:
    return Callback(f"compat_tasks.{name}", timeout=20)


def hooks(url: str) -> list[Webhook]:
    return [
        Webhook(f"{url}/finished", "finished"),
        Webhook(f"{url}/failed", "failed", method="POST", headers={"X-Shop": "1"}),
        Webhook(f"{url}/done", "finished", method="POST"),
        Webhook("http://127.0.0.1:9/nobody", "finished", timeout=1),
    ]


@contextmanager
def site() -> Iterator[str]:
    """A web server that notes each request in the folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            line = [self.command, self.path, self.headers.get("X-Shop"), json.loads(body or "null")]
            with (FOLDER / "requests").open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.send_response(200)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def start(worker_class: str, *arguments: str) -> subprocess.Popen[bytes]:
    name = ("--worker-class", worker_class, *(() if "--name" in arguments else ("--name", WORKER)))
    with (FOLDER / "log").open("ab") as log:
        return subprocess.Popen(command("rq", "worker", *arguments, *name), stdout=log, stderr=log)


def ran() -> list[str]:
    return (FOLDER / "runs").read_text().split()


def begun(job_id: str, count: int = 1) -> None:
    wait_until(lambda: ran().count(job_id) >= count)


def let_go(job_id: str) -> None:
    for count in (1, 2):
        (FOLDER / f"go-{job_id}-{count}").touch()


def all_jobs(connection: redis.Redis) -> dict[str, bytes | None]:
    start = f"{RQ_KEY_PREFIX}:job:"
    keys = [key for key in connection.keys(f"{start}*") if connection.type(key) == b"hash"]
    return {key.decode().removeprefix(start): connection.hget(key, "status") for key in keys}


def quiet(connection: redis.Redis) -> None:
    wait_until(lambda: set(all_jobs(connection).values()) - {None} <= ENDED)


if __name__ == "__main__":
    main(sys.argv[1])
