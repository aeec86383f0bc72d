"""A job for each line of a file: any number of lines, the bad ones named, the others enqueued."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from support import (
    PYTHONPATH,
    Newcomers,
    Process,
    command,
    environment,
    is_asleep,
    nowhere,
    run,
    wait_until,
)

Spawn = Callable[..., Process]
UNHEARD = "no worker listens on queue default; start one: werk worker default"


def batch(*words: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    """Run werk-enqueue with streams of the test's own."""
    words = ("werk-enqueue", "--batch", "-", *words)
    env = environment(*words)
    return subprocess.run(command(*words), env=env, stderr=subprocess.PIPE, check=False, **streams)


def queued(connection: redis.Redis) -> list[str]:
    return [job_id.decode() for job_id in connection.lrange("rq:queue:default", 0, -1)]


def test_three_bad_lines_among_ten_thousand(connection: redis.Redis) -> None:
    lines = ["[1]"] * 10_000
    lines[0], lines[4_999], lines[9_999] = '["abc"]', "[1", '{"second": 1}'
    done = run("werk-enqueue", "--batch", "-", "sleep", input="\n".join(lines), timeout=120)
    assert done.returncode == 65
    assert done.stdout.split() == queued(connection)
    assert len(queued(connection)) == 9_997
    said = done.stderr.splitlines()
    said.remove(UNHEARD)  # once for all of them
    first, second, third, summary = said
    assert first.startswith("line 1: sleep: seconds: 'abc' is not a number")
    assert second.startswith("line 5000: sleep: '[1' is not JSON")
    assert third.startswith("line 10000: sleep: takes no second; did you mean seconds?")
    assert summary == "9,997 enqueued, 3 bad lines"


def test_arrays_objects_and_empty_lines(connection: redis.Redis, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b'["Ada"]\r\n\n  \n{"name": "Bob"}\n["\xff"]\n["Eve"]')
    done = run("werk-enqueue", "--batch", file, "--json", "hello")
    assert done.returncode == 65
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["line"] for line in said] == [1, 4, 5, 6]
    assert said[2]["error"] == "not valid UTF-8"
    assert [line["id"] for line in said if "id" in line] == queued(connection)
    calls = [connection.hget(f"rq:job:{job_id}", "description") for job_id in queued(connection)]
    assert calls == [b"hello('Ada')", b"hello(name='Bob')", b"hello('Eve')"]


def test_quiet_and_dry_run(connection: redis.Redis) -> None:
    done = run("werk-enqueue", "--batch", "-", "--quiet", "sleep", input="[1]\n[2]\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(queued(connection)) == 2
    done = run("werk-enqueue", "--batch", "-", "--dry-run", "sleep", input="[1]\n[]\n")
    assert (done.returncode, done.stdout) == (65, "sleep(1.0) would go to queue default\n")
    assert done.stderr.endswith("1 good, 1 bad line\n")
    assert len(queued(connection)) == 2


def test_options_hold_for_each_line(connection: redis.Redis) -> None:
    words = ["--batch", "-", "--once-per", "1h", "--queue", "low", "--retry", "2", "sleep"]
    done = run("werk-enqueue", *words, input="[1]\n[2]\n[1]\n")
    assert (done.returncode, done.stderr) == (
        0,
        "no worker listens on queue low; start one: werk worker low\n2 enqueued, 1 duplicate\n",
    )
    first, second, third = done.stdout.split()
    assert (first, second) != (third, third)
    assert first == third
    assert connection.llen("rq:queue:low") == 2
    assert connection.hget(f"rq:job:{second}", "retries_left") == b"2"


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["--batch", "-", "sleep", "1"], ["--batch", "no others"]),
        (["--batch", "-", "--job-id", "x", "sleep"], ["--batch", "--job-id"]),
        (["--batch", "-", "--args-json", "[1]", "sleep"], ["--batch", "--args-json"]),
        (["--batch", "/no/such/file", "sleep"], ["/no/such/file", "No such file"]),
        (["--batch", "-", "--retry", "-1", "sleep"], ["retry"]),
    ],
)
def test_wrong_usage(connection: redis.Redis, words: list[str], hints: list[str]) -> None:
    done = run("werk-enqueue", *words, input="[1]\n")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert all(hint in done.stderr for hint in hints), done.stderr
    assert connection.dbsize() == 0


def test_redis_that_refuses_says_how_far_it_came(connection: redis.Redis) -> None:
    connection.set("rq:queues", "x")
    done = run("werk-enqueue", "--batch", "-", "sleep", input="[1]\n")
    assert done.returncode == 78
    assert "rq:queues is a string" in done.stderr
    assert "lines up to 0 are done" in done.stderr
    done = run("werk-enqueue", "--batch", "-", "sleep", input="\n" * 600 + "[1]\n")
    assert "lines up to 500 are done; some of the next 250 may have been" in done.stderr


@pytest.mark.parametrize("is_full", [True, False])
def test_what_was_sent_is_said_if_the_ids_cannot_be_printed(
    connection: redis.Redis, is_full: bool
) -> None:
    output = nowhere(is_full)
    done = batch("sleep", input=b"[1]\n" * 600, stdout=output)
    os.close(output)
    assert done.returncode == 1
    assert len(queued(connection)) == 250
    told = b"the good lines up to 250 are enqueued; the outcome of some was not printed"
    assert done.stderr.splitlines()[1] == told


def test_a_check_that_cannot_be_printed_enqueues_nothing(connection: redis.Redis) -> None:
    output = nowhere(is_full=True)
    done = batch("--dry-run", "sleep", input=b"[1]\n", stdout=output)
    os.close(output)
    assert done.returncode == 1
    assert b"lines up to 0 are checked; nothing was enqueued" in done.stderr
    assert queued(connection) == []


def test_a_file_that_cannot_be_read_to_its_end(connection: redis.Redis) -> None:
    lines, far = pty.openpty()
    os.write(far, b"[1]\n" * 251)
    os.close(far)  # what reads the other end gets all of it, and then an error
    done = batch("sleep", stdin=lines, stdout=subprocess.PIPE)
    os.close(lines)
    assert done.returncode == 1
    told = b"werk-enqueue: cannot read <stdin>: Input/output error; lines up to 250 are done"
    assert done.stderr.splitlines()[1].startswith(told)
    assert len(queued(connection)) == 250


def test_waiting_for_all(connection: redis.Redis, spawn: Spawn) -> None:
    spawn("werk", "worker", "default")
    wait_until(lambda: connection.exists("rq:werk:serves:default"))
    lines = "[0]\n" * 300 + "[-1]\n" * 2
    done = run("werk-enqueue", "--batch", "-", "--wait", "sleep", input=lines, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["302 enqueued", "2 failed, 300 finished"]
    words = ["--batch", "-", "--wait", "--result-ttl", "0", "sleep"]
    assert run("werk-enqueue", *words, input="[0]\n").returncode == 0
    words = ["--batch", "-", "--wait", "--timeout", "0.2", "sleep"]
    done = run("werk-enqueue", *words, input="[60]\n")
    assert done.returncode == 124
    assert "1 job has not ended within 0.2 s" in done.stderr


def test_waiting_for_jobs_whose_task_keeps_no_result(connection: redis.Redis, spawn: Spawn) -> None:
    env = {"WERK_REGISTRY": "recorded_tasks:TASKS", "PYTHONPATH": PYTHONPATH}
    spawn("werk", "worker", "default", env=env)
    wait_until(lambda: connection.exists("rq:werk:serves:default"))
    words = ["--batch", "-", "--wait", "forgotten"]
    done = run("werk-enqueue", *words, input="[0]\n[1]\n", env=env)
    assert (done.returncode, done.stderr) == (0, "2 enqueued\n2 gone\n")


def test_an_interrupted_wait(connection: redis.Redis, spawn: Spawn, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text("[60]\n")
    newcomers = Newcomers(connection)
    process = spawn("werk-enqueue", "--batch", file, "--wait", "sleep")
    wait_until(lambda: "hget" in newcomers.sent())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    told = "interrupted; the jobs of the batch are enqueued and continue: werk result ID\n"
    assert process.output().endswith(told)
    assert len(process.output().splitlines()) == 4


def test_interrupted(redis_url: str, connection: redis.Redis) -> None:
    process = subprocess.Popen(
        command("werk-enqueue", "--batch", "-", "sleep"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"[1]\n" * 251)
        process.stdin.flush()
        assert all(process.stdout.readline() for _ in range(250))
        wait_until(lambda: is_asleep(process.pid))  # reading: Python sees to a signal afterwards
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr
        assert b"interrupted: lines up to 250 are done" in process.stderr.read()
    assert len(queued(connection)) == 250


@pytest.mark.parametrize("is_piped", [True, False])
def test_a_terminal_shows_how_far_it_is(
    connection: redis.Redis, tmp_path: Path, is_piped: bool
) -> None:
    file = tmp_path / "lines"
    file.write_text("[1]\n" * 999 + "[]\n")
    source = f"cat {file} |" if is_piped else ""
    batch = " ".join(command("werk-enqueue", "--batch", "-" if is_piped else file, "sleep"))
    terminal, end = pty.openpty()
    with subprocess.Popen(
        ["/bin/sh", "-c", f"{source} {batch}"], stdout=end, stderr=end
    ) as process:
        os.close(end)
        shown = b""
        try:
            while data := os.read(terminal, 65536):
                shown += data
        except OSError:  # Linux: the other end is closed
            pass
    os.close(terminal)
    assert process.returncode == 65
    assert (b"1000" if is_piped else b"100%") in shown
    assert b"line 1000: sleep: missing argument seconds" in shown
    assert b"999 enqueued, 1 bad line\r\n" in shown
    assert queued(connection)[0].encode() not in shown


def peak_kib(lines: int) -> int:
    """Return the memory of a run over so many lines, half of them bad."""
    process = subprocess.Popen(
        command("werk-enqueue", "--batch", "-", "--dry-run", "--quiet", "sleep"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin
    for _ in range(lines // 1000):
        process.stdin.write(b'[1]\n["x"]\n' * 500)
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 65
    return usage.ru_maxrss


@pytest.mark.performance
def test_memory_does_not_grow_with_the_lines() -> None:
    assert peak_kib(60_000) < peak_kib(2_000) + 2_000
