"""What `bin/chaos` goes by and what it does to processes. Its verdict: test_chaos_verdict.py."""

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
from chaos.gates import Cut, Gates
from chaos.mutant_runs import copied
from chaos.mutants import MUTANTS
from chaos.outputs import Outputs
from chaos.places import count_open, read_contents
from chaos.prober import Prober, Uptime
from chaos.records import read_call_log, read_traces
from chaos.sentinel import Cluster
from support import PYTHONPATH, TESTS, descendants, is_gone, wait_until


def test_a_spell_can_be_taken_out_of_the_uptime():
    uptime = Uptime([(0.0, 1.0, True), (1.0, 2.0, True), (2.0, 3.0, True)])
    assert uptime.without([(0.5, 1.5)]).between(0, 3) == 2


def test_sentinels_promote_the_replica_of_a_killed_master(tmp_path: Path):
    cluster = Cluster(tmp_path / "cluster")
    try:
        cluster.start()
        old = cluster.master()
        old.signal(signal.SIGKILL)
        wait_until(lambda: cluster.look() != old.port, timeout=60)
        old.start(cluster.port)
        with cluster.master().client() as client:
            wait_until(lambda: client.info("replication")["connected_slaves"] == 1, timeout=60)
    finally:
        cluster.kill()


def test_traces_and_call_logs_are_read_as_they_are_written(tmp_path: Path):
    traces, call_log = tmp_path / "traces", tmp_path / "call_log"
    traces.write_text(
        "c0-1-failing 5.1 start 10.0 5 4\n"
        "c0-1-failing 5.1 raise 11.0 5 4\n"
        "c0-1-blamed 5.2 on_failure 11.5 5 4\n"
    )
    seen = read_traces(traces)
    assert [(each.end, each.raised) for each in seen.executions] == [(11.0, True)]
    assert seen.callbacks == {("c0-1-blamed", "on_failure"): 1}
    call_log.write_text(
        '{"what": "try", "token": "c0-1-plain", "at": 1, "queue": "low", "value": "v"}\n'
        '{"what": "try", "token": "c0-2-plain", "at": 2, "queue": "low", "value": "v"}\n'
        '{"what": "accepted", "token": "c0-1-plain", "at": 3}\n'
        '{"what": "wrong", "token": "c0-1-plain", "at": 3}\n'
    )
    known = read_call_log(call_log)
    assert [own.answer for own in known.calls.values()] == ["accepted", "unknown"]
    assert len(known.impossible) == 1


def test_places_are_read_from_raw_keys(connection):
    for number, place in enumerate(("queue:low", "queue:low:intermediate")):
        connection.hset(f"rq:job:{number}", "status", "queued")
        connection.rpush(f"rq:{place}", number, number)  # an id twice is in one place
    for number, place in enumerate(("wip:low", "ready:low", "rl:a:rate_limited"), 2):
        connection.hset(f"rq:job:{number}", "status", "started")
        connection.zadd(f"rq:{place}", {f"{number}:e" if number == 2 else number: 1})
    connection.hset("rq:job:5", "status", "queued")
    connection.rpush("rq:werk:hand:worker0.1:low", "5")
    connection.rpush("rq:queue:low", "stray")
    seen = read_contents(connection, 0.0)
    places = {own.id: own.places for own in seen.jobs.values()}
    assert places["0"] == {"queue"}
    assert places["1"] == {"intermediate"}
    assert places["2"] == {"wip"}
    assert places["3"] == {"ready"}
    assert places["4"] == {"rate_limited"}
    assert places["5"] == {"hand"}
    assert seen.strays == {"stray": {"queue"}}
    assert count_open(connection) == 8


def test_uptime_stands_still_while_redis_does_not_answer():
    uptime = Uptime([(10.0, 11.0, True), (11.0, 19.0, False), (19.0, 20.0, True)])
    assert uptime.between(10, 20) == 2
    assert uptime.between(10.5, 15) == 0.5
    assert uptime.between(12, 13) == 0
    assert uptime.between(0, 10) == 0


def test_a_prober_sees_a_server_that_is_stopped(server, redis_url, connection):
    connection.rpush("rq:queue:low", "1")
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    prober = Prober(lambda: port)
    try:
        wait_until(lambda: prober.uptime().between(0, 1e12) > 0.2 and prober.samples)
        os.kill(server.pid, signal.SIGSTOP)
        stopped = len(prober.probes)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    wait_until(lambda: len(prober.probes) > stopped + 3)
    prober.stop()
    assert prober.samples[-1].claimable == 1


def test_an_output_that_nobody_reads_is_full_until_it_is_read_again(tmp_path: Path):
    outputs = Outputs()
    output = outputs.add(tmp_path / "log")
    outputs.hold(output)
    writer = threading.Thread(target=os.write, args=(output.write_end, b"late\n"))
    writer.start()
    writer.join(0.2)
    assert writer.is_alive()
    outputs.release(output)
    writer.join(10)
    assert not writer.is_alive()
    wait_until(lambda: output.log.read_text().endswith("late\n"))
    outputs.close()


def test_a_shifted_clock_is_what_werk_and_rq_read():
    code = (
        "import time; from datetime import datetime, timezone\n"
        "from rq.utils import current_timestamp, now\n"
        "from werk.store.keys import clock\n"
        "real = time.clock_gettime(time.CLOCK_REALTIME)\n"
        "seen = time.time(), current_timestamp(), now().timestamp(), clock()[0]\n"
        "print(*(round((each - real) / 100) for each in seen))"
    )
    skew = TESTS / "chaos" / "skew"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(skew), "CHAOS_CLOCK_S": "3600"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["36"] * 4


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_can_be_made_of_werk_as_it_is(name, tmp_path: Path):
    copied(MUTANTS[name], tmp_path)


def test_a_mutant_whose_text_is_not_there_once_is_refused(tmp_path: Path):
    mutant = MUTANTS["early"]._replace(edits=(("store/lua/tick.lua", "call(", "try("),))
    with pytest.raises(ValueError, match="instead of once"):
        copied(mutant, tmp_path)


# --- gates


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
        [sys.executable, "-m", "chaos", "--worker", "rq"],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
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
