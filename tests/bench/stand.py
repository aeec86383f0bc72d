"""What `bin/bench` measures on: a server without persistence, workers beside it, pinned or not."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from support import PYTHONPATH, command, descendants, wait_until

import werk
from werk.dev.process import die_with
from werk.dev.server import Server, free_port

PLAIN = ["rq", "worker", "--quiet"]
COMMANDS = {
    "werk": [*PLAIN, "--worker-class", "werk.worker.Worker"],
    "rq": PLAIN,
    "pool": ["rq", "worker-pool", "--quiet"],
}
ONE_CORE = {0}
DRAIN_S = 300.0  # the longest drain
POLL_S = 0.005
CHUNK = 50_000


class Stand:
    """One server and what is run against it. When pinned, all of that shares one core."""

    def __init__(self, is_quick: bool) -> None:
        self.is_quick = is_quick
        self.folder = Path(tempfile.mkdtemp(prefix="werk-bench-"))
        self.server = Server(self.folder / "server", free_port())
        self.cores = os.sched_getaffinity(0)

    def start(self) -> None:
        """Start the server, and have this process and its children use it."""
        self.server.start()
        self.errors = (self.folder / "stderr").open("w+")
        os.environ |= {
            "RQ_REDIS_URL": self.server.url,
            "WERK_REGISTRY": "bench.tasks:TASKS",
            "PYTHONPATH": PYTHONPATH,
        }
        self.client = redis.Redis.from_url(self.server.url, socket_timeout=120)
        self.client.config_set("appendonly", "no")
        self.pin(True)

    def stop(self) -> None:
        """Stop what is left."""
        self.server.kill()
        for pid in descendants(os.getpid()):
            os.kill(pid, 9)
        shutil.rmtree(self.folder)

    def pin(self, is_pinned: bool) -> None:
        """Have the server, and all that is started from now on, share one core, or have them all.

        A round trip costs several times as much when both ends are on different cores, so only
        figures from one core can be compared. We ourselves stay out of the way if we can.
        """
        self.pinned = ONE_CORE if is_pinned else self.cores
        for thread in Path(f"/proc/{self.server.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), self.pinned)
        others = self.cores - ONE_CORE if is_pinned else self.cores
        os.sched_setaffinity(0, others or self.cores)

    def runs(self, many: int) -> int:
        """Return how often to measure: once in a quick run."""
        return 1 if self.is_quick else many

    def jobs(self, many: int) -> int:
        """Return how many jobs to take: few in a quick run."""
        return max(many // 20, 20) if self.is_quick else many

    def fill(self, count: int) -> None:
        """Empty the database and enqueue no-ops."""
        with redis.Redis.from_url(os.environ["RQ_REDIS_URL"], socket_timeout=120) as client:
            client.flushdb()
        for start in range(0, count, CHUNK):
            werk.enqueue_many("noop", [(n,) for n in range(start, min(count, start + CHUNK))])

    @contextmanager
    def database(self, number: int) -> Iterator[redis.Redis]:
        """Use another database of the server for a while."""
        url = self.server.url
        os.environ["RQ_REDIS_URL"] = f"{url.rpartition('/')[0]}/{number}"
        try:
            with redis.Redis.from_url(os.environ["RQ_REDIS_URL"]) as client:
                yield client
        finally:
            os.environ["RQ_REDIS_URL"] = url

    def spawn(self, arguments: Sequence[object], **environ: str) -> subprocess.Popen[str]:
        """Start a process that ends with us; its output can be read."""
        parent, cores = os.getpid(), self.pinned

        def in_child() -> None:
            die_with(parent)
            os.sched_setaffinity(0, cores)

        return subprocess.Popen(
            command(*arguments),
            env=os.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=self.folder,
            preexec_fn=in_child,
        )

    @contextmanager
    def workers(
        self, kind: str, count: int = 1, *words: str, **environ: str
    ) -> Iterator[list[int]]:
        """Run workers of a kind; yields their pids. They may not have begun yet."""
        line = [*COMMANDS[kind], *words, "default"]
        processes = [self.spawn(line, **environ) for _ in range(count)]
        try:
            yield [process.pid for process in processes]
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.communicate()

    @contextmanager
    def idle_worker(self, kind: str, **environ: str) -> Iterator[int]:
        """Run a worker on an empty database and wait until it waits; yields its pid."""
        self.client.flushall()
        with self.workers(kind, **environ) as (pid,):
            werk.enqueue("noop", 0).result(30)
            yield pid

    def idle(self) -> int:
        """Return how many workers of RQ's, or slots, are idle."""
        states = (self.client.hget(key, "state") for key in self.client.smembers("rq:workers"))
        return sum(state == b"idle" for state in states)

    def redis_cpu(self) -> float:
        """Return the CPU seconds that the server has used so far."""
        used = self.client.info("cpu")
        return float(used["used_cpu_sys"] + used["used_cpu_user"])

    def load(self, name: str, count: int, **environ: str) -> Any:
        """Run a function of bench.load in a process of its own; return what it returns."""
        with self.spawn(["python", "-m", "bench.load", name, count], **environ) as process:
            return json.loads(process.communicate()[0])

    def drained(self, length: Callable[[], int], count: int) -> float:
        """Return jobs/s of the second half of a queue: by then all workers are at it."""
        wait_until(lambda: length() <= count / 2, DRAIN_S, POLL_S)
        left, begin = length(), time.perf_counter()
        wait_until(lambda: length() == 0, DRAIN_S, POLL_S)
        return left / (time.perf_counter() - begin)

    def cpu_of(self, *arguments: object) -> float:
        """Return the CPU seconds of a command, from its start to its end."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with self.spawn(arguments) as process:
            process.communicate()
        assert process.returncode == 0, arguments
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peers_python(package: str) -> str | None:
    """Return the Python of a venv with another library in it, made now; None if it cannot be."""
    folder = Path(sys.prefix) / f"peer-{package}"
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-qq", package, "redis", "hiredis"]
    try:
        if not (folder / "made").exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
            subprocess.run(install, check=True, timeout=300)
            (folder / "made").touch()
    except (subprocess.SubprocessError, OSError):
        return None
    return str(python)


def pair_of(pid: int) -> list[int]:
    """Return a worker's process and all its children."""
    return [pid, *descendants(pid)]


def pss_mib(pids: Sequence[int]) -> float:
    """Return the memory of some processes; what they share is counted once."""
    kib = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        kib += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return kib / 1024


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return what some processes have used so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
