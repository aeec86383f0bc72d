"""`bin/chaos` must not see what is not there, nor excuse what it should not."""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from chaos.causes import LEASE_S, Causes
from chaos.gates import Cut, Gates
from chaos.monkey import KINDS, Fault
from chaos.records import Diary, Execution, Job
from chaos.verdict import Verdict
from support import descendants, is_gone, wait_until

HORSE, SUPERVISOR = 11, 10
OTHERS = (21, 20)


def run(
    start: float,
    end: float | None = None,
    last: float | None = None,
    *,
    by=(HORSE, SUPERVISOR),
    token="c0-1",
):
    """An execution, by the worker that the faults here hit unless said otherwise."""
    return Execution(token, f"{by}{start}", *by, start=start, last=last or end or start, end=end)


def fault(kind: str, begin: float, end: float | None = None, target: str = "worker0"):
    """A fault of the worker, written down as monkey.py does."""
    hits_horse = "supervisor" not in kind
    hits_supervisor = "horse" not in kind
    return Fault(
        kind,
        target,
        begin,
        begin if end is None else end,
        supervisor=SUPERVISOR if hits_supervisor and target != "server" else None,
        horse=HORSE if hits_horse and target != "server" else None,
    )


def cause(faults, *runs):
    """What explains the last of these executions of one job."""
    return Causes(faults, runs).of_reruns(sorted(runs, key=lambda each: each.start))[-1][1]


@pytest.mark.parametrize(
    "kind", ["kill -9 horse", "kill -9 supervisor", "kill -9 both", "TERM twice"]
)
def test_a_crash_explains_one_more_run_of_what_it_interrupted(kind):
    crash = fault(kind, 101)
    assert cause([crash], run(100, last=101), run(102, 103, by=OTHERS)) is crash
    assert cause([crash], run(100, last=101), run(102, 103), run(104, 105)) is None
    assert cause([crash], run(100, 100.5, by=OTHERS), run(102, 103)) is None  # was not hit
    assert cause([crash], run(102, 103), run(104, 105)) is None  # nor was this


def test_a_horse_may_begin_one_more_job_in_the_moment_that_it_outlives_its_supervisor():
    killed = fault("kill -9 supervisor", 1)
    again = run(18, 19, by=OTHERS)
    assert cause([killed], run(1.01, last=1.01), again) is killed
    assert cause([killed], run(1.5, last=1.5), again) is None
    assert cause([killed], run(0.5, 1.0), run(1.01, last=1.01), run(18, 19, by=OTHERS)) is killed


def test_a_crash_explains_nothing_that_was_long_recorded():
    crash = fault("kill -9 both", 110)
    assert cause([crash], run(100, 101), run(111, 112, by=OTHERS)) is None
    assert cause([crash], run(100, 109.9), run(111, 112, by=OTHERS)) is crash
    pause = fault("pause Redis, long", 100, 109.5, target="server")  # it could not be recorded
    assert cause([crash, pause], run(100, 101), run(111, 112, by=OTHERS)) is crash
    later = run(102, 103, token="c0-2")  # the horse went on, so it was
    known = Causes([crash, pause], [run(100, 101), later])
    assert known.cause(run(100, 101), run(111, 112, by=OTHERS)) is None


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("freeze horse, short", "worker0"),
        ("freeze horse, long", "worker0"),
        ("freeze supervisor, short", "worker0"),
        ("freeze both, short", "worker0"),
        ("TERM supervisor", "worker0"),
        ("cut a worker's reply", "worker0"),
        ("cut a worker's request", "worker0"),
        ("kill -9 server", "server"),
        ("pause Redis, long", "server"),
    ],
)
def test_what_must_not_cause_a_run_explains_none(kind, target):
    assert (
        cause([fault(kind, 101, 120, target)], run(100, last=101), run(117, 118, by=OTHERS)) is None
    )


@pytest.mark.parametrize(
    "kind", ["freeze supervisor, long", "freeze both, long", "cut off from Redis, long"]
)
def test_absence_for_longer_than_a_lease_explains_a_run_and_an_overlap(kind):
    absence = fault(kind, 101, 120)
    first, again = run(100, 121), run(101 + LEASE_S, 118, by=OTHERS)
    causes = Causes([absence], [first, again])
    assert causes.of_reruns([first, again]) == [(again, absence)]
    assert causes.of_overlaps([first, again]) == [(first, again, absence)]


def test_absence_explains_nothing_before_the_lease_is_over():
    absence = fault("freeze both, long", 101, 120)
    assert cause([absence], run(100, 121), run(110, 111, by=OTHERS)) is None


@pytest.mark.parametrize(
    ("kind", "target", "explains"),
    [
        ("freeze supervisor, short", "worker0", True),
        ("kill -9 server", "server", True),
        ("freeze horse, short", "worker0", False),  # its supervisor ticks
        ("cut a worker's reply", "worker0", False),  # and ticks again
    ],
)
def test_absences_that_follow_each_other_are_one(kind, target, explains):
    faults = [fault("cut off from Redis, long", 101, 120), fault(kind, 98, 100.5, target)]
    first, again = run(99, 100.9), run(98 + LEASE_S, 114, by=OTHERS)
    assert cause(faults, first, again) is (faults[0] if explains else None)
    gap = [faults[0], fault(kind, 94, 97, target)]
    assert cause(gap, first, again) is None


def test_a_claim_that_was_held_back_explains_a_late_start():
    absence = fault("cut off from Redis, long", 101, 120)
    assert cause([absence], run(117, 118, by=OTHERS), run(120.1, 121)) is absence
    assert cause([absence], run(117, 118, by=OTHERS), run(130, 131)) is None
    assert cause([absence], run(110, 111, by=OTHERS), run(120.1, 121)) is None  # not rescued


def verdict(*, jobs=(), runs=(), faults=(), **diary):
    return Verdict(Diary(**diary), runs, jobs, faults, surprises=[], gave_up=0, doubles=set())


def test_each_end_of_a_job_is_told_apart():
    found = verdict(
        accepted={f"c0-{number}": str(number) for number in range(1, 8)},
        results={"c0-1", "c0-3"},
        runs=[run(100, 101, token=f"c0-{number}") for number in (1, 3, 7)],
        jobs=[
            Job("1", "c0-1", "finished", ["finished"]),
            Job("2", "c0-2", "finished", ["finished"]),  # says who? it never ran
            Job("3", "c0-3", "started", ["started"]),  # its caller has the result already
            Job("4", "c0-4", "queued", []),
            Job("5", "c0-5", "failed", ["failed"]),
            Job("7", "c0-7", "finished", ["finished", "queued"]),
            Job("8", "c0-7", "finished", ["finished"]),  # the same call
        ],
    )
    assert [line.split()[0] for line in found.lost] == ["c0-2", "c0-4", "c0-3:", "c0-6"]
    assert [line.split()[0] for line in found.stuck] == ["c0-3"]
    assert [line.split()[0] for line in found.failed] == ["c0-5"]
    assert [line.split()[0] for line in found.twice] == ["c0-7:", "c0-7"]


def test_overlapping_runs_of_a_worker_that_was_not_away_are_wrong():
    crash = fault("kill -9 supervisor", 101)
    found = verdict(runs=[run(100, 110), run(105, 106, by=OTHERS)], faults=[crash])
    assert found.unexplained == []
    assert len(found.overlaps) == 1
    assert found.absent_overlaps == 0


def test_all_is_well_only_after_enough_of_everything():
    runs = [run(number, number + 0.5, token=f"c0-{number}") for number in range(1000)]
    faults = [fault(kind, 100) for kind in KINDS]
    assert verdict(runs=runs, faults=faults).wrong == []
    assert verdict(runs=runs[1:], faults=faults).wrong == ["only 999 jobs ran"]
    assert verdict(runs=runs, faults=faults[1:]).wrong == ["never injected: kill -9 horse"]


@pytest.fixture
def gate():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as echo:
        threading.Thread(target=echo.serve_forever, args=[0.05], daemon=True).start()
        gates = Gates(echo.server_address[1])
        yield gates.add()
        gates.close()
        echo.shutdown()


def test_a_gate_cuts_after_byte_n_and_only_once(gate):
    cut = Cut("reply", 0.5)
    gate.cut(cut)
    assert _say(gate, b"12345678") == b"1234"
    assert cut.note == "after byte 4 of 8"
    assert _say(gate, b"12345678") == b"12345678"
    gate.cut(Cut("request", 0.25))
    assert _say(gate, b"12345678") in (b"", b"12")


def test_a_gate_holds_back_and_lets_through_late(gate):
    with socket.create_connection(("127.0.0.1", gate.port)) as client:
        gate.hold()
        client.sendall(b"hello")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(10)
        gate.release()
        client.settimeout(60)
        assert client.recv(10) == b"hello"


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "chaos", "--worker", "stock"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: len(descendants(process.pid)) >= 9)  # server, workers, callers
    started = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "interrupted\n"
    assert process.returncode == 130
    assert [pid for pid in started if not is_gone(pid)] == []


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(100):
                self.request.sendall(data)
        except ConnectionError:
            pass  # it was cut


def _say(gate, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", gate.port)) as client:
        client.settimeout(60)
        client.sendall(text)
        heard = b""
        while len(heard) < len(text) and (data := client.recv(100)):
            heard += data
        return heard
