"""Log lines that nobody reads: a worker drops and counts them, and works on."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import pty
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TextIO

import pytest
import redis
from rq.logutils import ColorizingStreamHandler
from support import KIT, Process, command, is_asleep, run, wait_until
from workers import ENV, Start, finished, go

import werk
from werk.worker import log_stream
from werk.worker.log_stream import LogStream
from werk.worker.shared_state import SharedState


@pytest.fixture
def unread(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe that is open for reading, and its reader's descriptor."""
    path = tmp_path / "unread"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


def fill(path: Path) -> None:
    """Write into a pipe until nothing fits any more."""
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        try:
            while True:
                os.write(writer, b"-" * size)
        except BlockingIOError:
            pass
    os.close(writer)


def read_all(reader: int) -> str:
    data = b""
    try:
        while piece := os.read(reader, 65536):
            data += piece
    except BlockingIOError:
        pass
    return data.decode()


# --- a worker


@pytest.fixture(autouse=True)
def _tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WERK_REGISTRY", ENV["WERK_REGISTRY"])
    monkeypatch.syspath_prepend(KIT)


def start(spawn: Start, output: Path, *options: str) -> Process:
    """Start `werk worker` with both of its outputs in a file."""
    words = [*command("werk"), "worker", "default", "--name", "unread", *options]
    line = f'exec "$0" "$@" >{output} 2>&1'
    return spawn("/bin/sh", "-c", line, *words, env={**ENV, "PYTHONUNBUFFERED": ""})


@pytest.mark.parametrize("is_full", [False, True])
def test_nobody_reads_what_a_worker_logs(
    spawn: Start, connection: redis.Redis, unread: tuple[Path, int], is_full: bool
) -> None:
    path, reader = unread
    if is_full:
        fill(path)
    worker = start(spawn, path)
    werk.enqueue_many("hello", [("Ada",)] * 800)
    wait_until(lambda: connection.zcard("rq:finished:default") == 800)
    shown = wait_until(
        lambda: (text := run("werk", "status").stdout) and "dropped" in text and text
    )
    assert "worker unread: " in shown
    assert " log lines dropped: nobody reads its output" in shown
    assert f"process {worker.pid} on" in shown
    worker.terminate()
    assert worker.wait(60) == 0
    assert "event=begins" in read_all(reader) or is_full


def test_what_is_read_again_names_the_gap(
    spawn: Start, connection: redis.Redis, unread: tuple[Path, int]
) -> None:
    path, reader = unread
    worker = start(spawn, path)
    werk.enqueue_many("hello", [("Ada",)] * 800)
    wait_until(lambda: connection.zcard("rq:finished:default") == 800)
    lines = read_all(reader).splitlines()
    assert "event=begins" in lines[0]
    last = werk.enqueue("hello", "Bob")
    wait_until(lambda: last.status() == "finished")
    gap, *after = (wait_until(lambda: read_all(reader))).splitlines()
    assert " WARNING rq.worker event=log-lines-dropped count=" in gap
    assert int(gap.partition("count=")[2].split()[0]) > 500
    assert f"event=started job={last.id}" in after[0]
    worker.terminate()
    assert worker.wait(60) == 0


def test_a_number_that_no_longer_grows_is_no_problem(
    connection: redis.Redis,
) -> None:
    facts = {"birth": "2026-01-01T00:00:00.000000Z", "werk_lease": 15, "queues": "default"}
    connection.hset("rq:worker:w", mapping={**facts, "werk_horse": "h", "werk_moved": time.time()})
    connection.zadd("rq:werk:leases", {"w": time.time() + 15})
    connection.sadd("rq:workers", "rq:worker:w")
    for text, is_shown in ((f"7|{time.time() - 30}", True), (f"7|{time.time() - 90}", False),
                           ("", False), ("x|y", False), ("9" * 400, False)):  # fmt: skip
        connection.hset("rq:worker:w", "werk_lines_dropped", text)
        problems = json.loads(run("werk", "status", "--json").stdout)["problems"]
        found = [own["what"] for own in problems if "dropped" in own["what"]]
        assert found == ["worker w: 7 log lines dropped: nobody reads its output"] * is_shown


@pytest.mark.parametrize("is_quiet", [True, False])
def test_what_a_task_prints_appears_line_by_line_and_in_order(
    spawn: Start, connection: redis.Redis, tmp_path: Path, is_quiet: bool
) -> None:
    path = tmp_path / "read"
    worker = start(spawn, path, *["--quiet"] * is_quiet)
    job = werk.enqueue("prints", str(tmp_path))
    wait_until(lambda: path.exists() and "a line of a task" in path.read_text())
    assert job.status() == "started"
    go(tmp_path)
    finished(job)
    worker.terminate()
    assert worker.wait(60) == 0
    text = path.read_text()
    assert "a part of a line" in text
    assert "\x1b" not in text
    if not is_quiet:
        marks = ["event=started", "a line of a task", "event=done", "a part of a line"]
        assert sorted(marks, key=text.index) == marks


def test_a_worker_ends_with_a_part_of_a_line_that_nobody_reads(
    spawn: Start, connection: redis.Redis, unread: tuple[Path, int]
) -> None:
    path, _ = unread
    fill(path)
    worker = start(spawn, path)
    finished(werk.enqueue("mutters"))
    worker.terminate()
    assert worker.wait(60) == 0


def test_a_part_of_a_line_is_read_when_its_worker_ends(
    spawn: Start, connection: redis.Redis, unread: tuple[Path, int]
) -> None:
    path, reader = unread
    worker = start(spawn, path)
    finished(werk.enqueue("mutters"))
    worker.terminate()
    assert worker.wait(60) == 0
    assert read_all(reader).count("a part of a line") == 1


# --- one line


@pytest.fixture
def shared() -> SharedState:
    return SharedState()


@pytest.fixture
def stream(unread: tuple[Path, int], shared: SharedState) -> Iterator[LogStream]:
    with open(unread[0], "w") as file:
        yield LogStream(file, shared, logging.Formatter().format)


def test_a_line_that_does_not_fit_is_cut_and_the_next_one_begins_a_new_line(
    stream: LogStream, shared: SharedState, unread: tuple[Path, int]
) -> None:
    stream.write("x" * 100_000 + "\n")
    stream.write("lost\n")
    assert shared.dropped == 2
    assert set(read_all(unread[1])) == {"x"}
    stream.write("next\n")
    stream.write("last\n")
    assert read_all(unread[1]) == "\nevent=log-lines-dropped count=2\nnext\nlast\n"
    assert shared.dropped == 2


def test_only_the_first_of_many_lines_waits(
    stream: LogStream, shared: SharedState, unread: tuple[Path, int]
) -> None:
    fill(unread[0])
    begun = time.monotonic()
    for _ in range(1000):  # 200 s, if each waited
        stream.write("lost\n")
    assert log_stream.WAIT_S * 0.9 < time.monotonic() - begun < 60
    assert shared.dropped == 1000


def test_a_reader_that_is_only_slow_gets_every_line(
    stream: LogStream,
    shared: SharedState,
    unread: tuple[Path, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_stream, "WAIT_S", 60)
    fill(unread[0])
    late = threading.Timer(0.02, lambda: os.read(unread[1], 1 << 20))
    late.start()
    stream.write("a line\n")
    late.join()
    assert (read_all(unread[1]), shared.dropped) == ("a line\n", 0)


def test_a_reader_that_has_left_is_no_error(shared: SharedState) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as file:
        LogStream(file, shared, logging.Formatter().format).write("lost\n")
    assert shared.dropped == 1


def test_a_stopped_terminal_holds_nobody_up(shared: SharedState) -> None:
    main, side = pty.openpty()
    with open(main, "rb", buffering=0) as main_end, open(side, "w") as terminal:
        stream = LogStream(terminal, shared, logging.Formatter().format)
        assert stream.isatty()
        stream.write("a line\n")
        assert main_end.read(100) == b"a line\r\n"
        while not shared.dropped:  # nobody reads the other end
            stream.write("x" * 1000 + "\n")


# --- one line of several processes

SLOTS, RECORDS = 3, 100
_fork = multiprocessing.get_context("fork")


def record(slot: int, number: int, size: int = 9000) -> str:
    return json.dumps({"slot": slot, "number": number, "text": "x" * size})


def in_json(line: logging.LogRecord) -> str:
    return json.dumps({"message": line.getMessage()})


def slots(stream: LogStream, act: Callable[[LogStream, int], None]) -> list[SharedState]:
    """Have processes act, each with a stream to the same place. Return what they share with us."""
    states = []
    for slot in range(SLOTS):
        states.append(stream.shared)
        _fork.Process(target=act, args=(stream, slot), daemon=True).start()
        stream.shared = SharedState()
    return states


def log_all(stream: LogStream, slot: int) -> None:
    for number in range(RECORDS):
        stream.write(f"{record(slot, number)}\n")


def until_closed(reader: int, size: int) -> str:
    """Read small pieces until all writers have closed their end: the pipe is always full."""
    data = bytearray()
    with suppress(OSError):  # as a terminal reports it
        while piece := os.read(reader, size):
            data += piece
    return data.decode()


def output(kind: str, path: Path, stack: ExitStack) -> tuple[TextIO, int]:
    """Return a place to write to, and a descriptor to read from it."""
    if kind == "file":
        file = stack.enter_context(path.open("w"))
        return file, os.open(path, os.O_RDONLY)
    if kind == "pipe":
        reader, writer = os.pipe()
    elif kind == "terminal":
        reader, writer = pty.openpty()
    else:
        ends = socket.socketpair()
        reader, writer = (end.detach() for end in ends)
    return stack.enter_context(open(writer, "w")), reader


@pytest.mark.parametrize("has_nowait", [True, False])
@pytest.mark.parametrize("kind", ["file", "pipe", "socket", "terminal"])
def test_large_records_of_several_processes_stay_whole(
    kind: str, has_nowait: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "WAIT_S", 60)
    if not has_nowait:
        monkeypatch.delattr(os, "RWF_NOWAIT")
    with ExitStack() as stack:
        file, reader = output(kind, tmp_path / "log", stack)
        stream = LogStream(file, SharedState(), in_json)
        states = slots(stream, log_all)
        if kind == "file":
            for process in _fork.active_children():
                process.join()
        file.close()
    try:
        text = until_closed(reader, 1000)
    finally:
        os.close(reader)
    written = sorted(record(slot, number) for slot in range(SLOTS) for number in range(RECORDS))
    assert sorted(text.splitlines()) == written
    assert [state.dropped for state in states] == [0] * SLOTS


def test_each_line_is_whole_or_counted(
    unread: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "WAIT_S", 0)  # many lines are cut off
    path, reader = unread
    with path.open("w") as file:
        stream = LogStream(file, SharedState(), in_json)
        stream.write(f"{record(0, RECORDS, 100_000)}\n")
        states = [stream.shared]
        stream.shared = SharedState()
        states += slots(stream, log_all)
    os.set_blocking(reader, True)
    _, *lines = until_closed(reader, 1000).splitlines()
    whole = [line for line in lines if is_whole(line)]
    dropped = sum(state.dropped for state in states)
    assert len(set(whole)) == len(whole) >= SLOTS * RECORDS + 1 - dropped
    assert len(lines) - len(whole) <= 2 * dropped  # gaps, and what is left of lines


def is_whole(line: str) -> bool:
    """Return whether this is a record. If not, it is a gap, or the beginning of one record."""
    try:
        facts = json.loads(line)
    except ValueError:
        assert line.count("{") <= 1
        return False
    return "slot" in facts and line == record(facts["slot"], facts["number"])


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_line_that_another_process_has_cut_off_is_ended(
    stream: LogStream, unread: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    monkeypatch.setattr(log_stream, "WAIT_S", 60 if is_killed else 0)
    other = _fork.Process(target=stream.write, args=("x" * 100_000 + "\n",), daemon=True)
    other.start()
    if is_killed:
        wait_until(lambda: is_readable(unread[1]) and is_asleep(other.pid or 0))
        other.kill()
    other.join()
    assert set(read_all(unread[1])) == {"x"}
    stream.write("a line\n")
    assert read_all(unread[1]) == "\na line\n"


def is_readable(reader: int) -> bool:
    return bool(select.select([reader], [], [], 0)[0])


def test_only_the_handlers_of_stdout_and_stderr_are_changed(
    shared: SharedState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("shop.own")
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        file = logging.FileHandler(tmp_path / "log", errors="replace")
        others = [file, logging.StreamHandler(io.StringIO())]
        ours = [logging.StreamHandler(out), ColorizingStreamHandler(stream=err)]
        before = [handler.stream for handler in others]
        for handler in others + ours:
            log.addHandler(handler)
        print("first", end="", file=out)
        log_stream.bound_logs(shared)
        log.warning("ä\N{SNOWMAN}\udc80")
        for handler in others + ours:
            log.removeHandler(handler)
            handler.flush()
        assert [handler.stream for handler in others] == before
        assert all(isinstance(handler.stream, LogStream) for handler in ours)
        file.close()
    assert (tmp_path / "out").read_text() == "firstä\N{SNOWMAN}\\udc80\n"
    assert (tmp_path / "err").read_text() == "ä\N{SNOWMAN}\\udc80\n"


class Tee:
    """What stands for stdout in some applications: it has little of a stream."""

    def __init__(self, out: TextIO) -> None:
        self.write, self.fileno = out.write, out.fileno


def test_a_handler_may_write_to_what_has_little_of_a_stream(
    shared: SharedState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("shop.tee")
    with open(tmp_path / "out", "w") as out:
        monkeypatch.setattr(sys, "stdout", Tee(out))
        handler = logging.StreamHandler(sys.stdout)
        log.addHandler(handler)
        log_stream.bound_logs(shared)
        log.warning("ä")
        log.removeHandler(handler)
        log_stream.flush_all()
    assert (tmp_path / "out").read_text() == "ä\n"


@pytest.mark.parametrize("is_full", [False, True])
def test_emptying_a_buffer_does_not_block(
    unread: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    path, reader = unread
    if is_full:
        fill(path)
    with open(path, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        print("x" * 8000, end="")
        descriptors = os.listdir("/proc/self/fd")
        log_stream.flush_all()
        assert os.listdir("/proc/self/fd") == descriptors
        assert os.path.samestat(os.fstat(out.fileno()), os.stat(path))
        assert set(read_all(reader)) == set("-" if is_full else "x")
    assert read_all(reader) == ""  # nothing was left in the buffer


def test_streams_that_cannot_be_emptied_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = open(os.devnull, "w")  # noqa: SIM115
    closed.close()
    for stream in (None, closed, io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        log_stream.flush_all()
