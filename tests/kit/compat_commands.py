"""Commands and options, one after the other, on one class of worker. Prints what was seen, as JSON.

    python tests/kit/compat_commands.py rq.worker.Worker

Like compat_run.py, and with its helpers: a process of its own, for the sake of RQ_KEY_PREFIX.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import suppress
from typing import Any

import redis
import roles
from compat_run import FOLDER, WORKER, adder, begun, let_go, ran, start
from rq import Queue
from rq.command import (
    PUBSUB_CHANNEL_TEMPLATE,
    send_kill_horse_command,
    send_shutdown_command,
    send_stop_execution_command,
    send_stop_job_command,
)
from rq.exceptions import InvalidJobOperation
from rq.job import Job
from rq.worker import Worker
from support import run, wait_until

Seen = dict[str, Any]
HELPERS = ("leaves", "works", "hash", "state", "of")


class Commands:
    def __init__(self, worker_class: str, connection: redis.Redis) -> None:
        self.worker_class, self.connection = worker_class, connection
        self.queue = Queue(connection=connection)
        self.add = adder(self.queue)

    def options(self) -> Seen:
        """--burst, --results-ttl, --pid and exception handlers; one of them lets none follow."""
        self.add("a", "echo")
        self.add("b", "echo", result_ttl=50)
        self.add("c", "fail")
        handlers = [
            word
            for name in ("handle", "handle_at_last", "handle")
            for word in ("--exception-handler", f"compat_tasks.{name}")
        ]
        code = self.leaves("--burst", "--results-ttl", 70, "--pid", FOLDER / "pid", *handlers)
        ttls = [-(-self.connection.ttl(Job.key_for(name)) // 10) * 10 for name in "abc"]
        called = (FOLDER / "callbacks").read_text().splitlines()
        return {"exit": code, "ran": ran(), "ttls": ttls, "called": called} | self.of("c")

    def no_default_handler(self) -> Seen:
        self.add("a", "fail")
        self.add("b", "echo")
        code = self.leaves("--burst", "--disable-default-exception-handler")
        results = len(Job.fetch("a", self.connection).results())
        failed = self.queue.failed_job_registry.get_job_ids()
        return {"exit": code, "results": results, "failed": failed} | self.of("a")

    def round_robin(self) -> Seen:
        for name in ("one", "two", "three"):
            for number in range(3):
                adder(Queue(name, connection=self.connection))(f"{name}-{number}", "echo")
        strategy = ("--dequeue-strategy", "round_robin")
        worker = start(self.worker_class, "one", "two", "three", "--burst", *strategy)
        return {"exit": worker.wait(60), "ran": ran()}

    def max_jobs(self) -> Seen:
        self.add("a", "fail")
        self.add("b", "die", 9)
        self.add("c", "echo")
        return {"exit": self.leaves("--max-jobs", 2), "ran": ran(), "left": self.queue.job_ids}

    def max_idle_time(self) -> Seen:
        self.add("a", "echo")
        since = time.monotonic()
        code = self.leaves("--max-idle-time", 1)
        return {"exit": code, "ran": ran(), "waited": time.monotonic() > since + 1}

    def name_clash_and_kill_horse_idle_and_shutdown_idle(self) -> Seen:
        worker = self.works()
        clash = self.leaves("--burst")
        send_kill_horse_command(self.connection, WORKER)
        wait_until(lambda: "ignored" in (FOLDER / "log").read_text())
        self.add("a", "echo")
        wait_until(lambda: self.of("a")["status"] == "finished")
        wait_until(lambda: self.state() == "idle")
        send_shutdown_command(self.connection, WORKER)
        code = worker.wait(60)
        return {"exit": [clash, code], "workers": len(Worker.all(self.connection))} | self.of("a")

    def suspended_at_start_and_in_a_job(self) -> Seen:
        worker = self.works("block")
        self.add("next", "echo")
        rq("suspend")
        let_go("block")
        wait_until(lambda: self.state() == "suspended")
        before = [ran(), self.queue.job_ids]
        at_start = start(self.worker_class, "default", "--burst", "--name", "second").wait(60)
        rq("resume")
        begun("next")
        worker.terminate()
        return {"before": before, "exit": [at_start, worker.wait(60)], "after": ran()}

    def shutdown_in_a_job(self) -> Seen:
        worker = self.works("block")
        self.add("next", "echo")
        send_shutdown_command(self.connection, WORKER)
        wait_until(lambda: self.hash("shutdown_requested_date"))
        let_go("block")
        return {"exit": worker.wait(60), "ran": ran(), "left": self.queue.job_ids} | self.of(
            "block"
        )

    def info_and_stop(self) -> Seen:
        worker = self.works("block")
        with suppress(InvalidJobOperation):
            send_stop_job_command(self.connection, self.add("next", "echo").id)
            raise AssertionError("it is not running")
        info = re.sub(r" \(.*?\)", "", rq("info", "--raw").replace(WORKER, "the worker"))
        [execution] = Job.fetch("block", self.connection).get_executions()
        send_stop_execution_command(self.connection, "block", execution.id)
        wait_until(lambda: self.of("next")["status"] == "finished")
        wait_until(lambda: self.state() == "idle")  # before that, RQ's worker may miss the signal
        worker.terminate()
        return {"exit": worker.wait(60), "info": info} | self.of("block")

    def requeue(self) -> Seen:
        for name in "abc":
            self.add(name, "flaky", 1)
        codes = [self.leaves("--burst")]
        rq("requeue", "--queue", "default", "b")
        rq("requeue", "--queue", "default", "--all")
        return {"exit": [*codes, self.leaves("--burst")], "ran": ran()} | self.of("a")

    # --- helpers

    def leaves(self, *options: object) -> int:
        """Run a worker until it leaves of its own accord."""
        return start(self.worker_class, "default", *map(str, options)).wait(60)

    def works(self, block: str = "", *options: object) -> Any:
        """Start a worker, and wait until it is at that job, or idle."""
        if block:
            self.add(block, "block")
        worker = start(self.worker_class, "default", *map(str, options))
        if block:
            begun(block)
        wait_until(lambda: self.state() == ("busy" if block else "idle"))
        channel = PUBSUB_CHANNEL_TEMPLATE % WORKER
        wait_until(lambda: self.connection.pubsub_numsub(channel)[0][1])
        return worker

    def hash(self, field: str) -> bytes | None:
        return self.connection.hget(Worker.redis_worker_namespace_prefix + WORKER, field)

    def state(self) -> str:
        return (self.hash("state") or b"").decode()

    def of(self, job_id: str) -> Seen:
        return {"status": Job.fetch(job_id, self.connection).get_status().value}


def rq(*words: object) -> str:
    """Run one of RQ's own commands."""
    done = run("rq", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


ATTEMPTS = [name for name in vars(Commands) if name[0] != "_" and name not in HELPERS]


def main(worker_class: str, *only: str) -> None:
    connection = redis.Redis.from_url(roles.url(os.environ["RQ_REDIS_URL"], None))
    seen = {}
    for name in only or ATTEMPTS:
        connection.flushdb()
        for file in FOLDER.glob("*"):
            if file.name != "log":
                file.unlink()
        (FOLDER / "runs").touch()
        seen[name] = getattr(Commands(worker_class, connection), name)()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
