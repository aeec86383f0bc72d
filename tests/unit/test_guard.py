"""The dashboard's password: who gave a wrong one is logged, and soon not listened to any more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http.client import HTTPConnection

import pytest
from dashboards import HERE
from flask.testing import FlaskClient
from support import Process

from werk.errors import ConfigError
from werk.web import guard
from werk.web.guard import Attempts

Browse = Callable[..., FlaskClient]
RIGHT, WRONG = ("ops", "s3cret"), ("ops", "hunter2")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ask(browse: Browse) -> Callable[..., tuple[int, str]]:
    """Ask for a page from an address: ask("10.0.0.1", ("ops", "s3cret")). Returns code and wait."""
    client = browse(*RIGHT)

    def ask(
        peer: str, auth: tuple[str, str] | str | None = None, path: str = "/0/data/queues.json"
    ) -> tuple[int, str]:
        headers = {"Authorization": auth} if isinstance(auth, str) else {}
        answer = client.get(
            path,
            base_url=HERE,
            headers=headers,
            auth=auth if isinstance(auth, tuple) else None,
            environ_overrides={"REMOTE_ADDR": peer},
        )
        return answer.status_code, answer.headers.get("Retry-After", "")

    return ask


@pytest.mark.parametrize("credentials", [("ops", "caff\udce9"), ("caff\udce9", "s3cret")])
def test_a_password_that_is_not_utf8_is_refused_at_the_start(
    browse: Browse, credentials: tuple[str, str]
) -> None:
    with pytest.raises(ConfigError, match="RQ_DASHBOARD_PASSWORD have to be valid UTF-8"):
        browse(*credentials)


def test_each_401_is_a_line_with_the_peer_and_nothing_that_was_given(
    ask: Callable[..., tuple[int, str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ask("10.0.0.1")
    ask("10.0.0.1", WRONG)
    ask("2001:db8::7", "Bearer hunter2")
    ask("10.0.0.2\n\x1b[31m forged=yes", ("hunter2", "hunter2\n"))
    ask("10.0.0.3", RIGHT)
    assert [record.getMessage() for record in caplog.records] == [
        "event=unauthorized peer=10.0.0.1 password=none",
        "event=unauthorized peer=10.0.0.1 password=wrong",
        "event=unauthorized peer=2001:db8::7 password=wrong",
        "event=unauthorized peer=10.0.0.2???31m?forged?yes password=wrong",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("wrong", [WRONG, ("", ""), "Basic !", "Basic bm9uZQ==", "Digest a=b"])
def test_the_sixth_wrong_password_is_not_looked_at(
    ask: Callable[..., tuple[int, str]],
    caplog: pytest.LogCaptureFixture,
    wrong: tuple[str, str] | str,
) -> None:
    assert [ask("10.0.0.1", wrong)[0] for _ in range(5)] == [401] * 5
    assert caplog.text.count("event=passwords-refused peer=10.0.0.1") == 1
    before = len(caplog.records)
    for auth in (wrong, RIGHT):  # or it would go on guessing
        code, wait_s = ask("10.0.0.1", auth)
        assert (code, 50 <= int(wait_s) <= 60) == (429, True)
    assert len(caplog.records) == before
    assert ask("10.0.0.2", RIGHT)[0] == 200
    assert ask("10.0.0.2", wrong)[0] == 401
    assert ask("10.0.0.1")[0] == 401  # a browser is asked for one
    assert ask("10.0.0.1", path="/healthz")[0] == 200


def test_who_gives_none_or_the_right_one_is_not_counted(
    ask: Callable[..., tuple[int, str]],
) -> None:
    for _ in range(10):
        assert ask("10.0.0.1")[0] == 401
        assert ask("10.0.0.1", RIGHT)[0] == 200


def test_a_minute_after_the_first_wrong_one_there_is_another_try(
    ask: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(4):
        assert attempts.note("10.0.0.1", False) == 0
    clock.now += 30
    assert attempts.note("10.0.0.1", False) == 0
    assert attempts.note("10.0.0.1", False) == 30
    clock.now += 29.5
    assert attempts.note("10.0.0.1", True) == 1  # never 0 while it is refused
    clock.now += 0.5
    for _ in range(4):
        assert attempts.note("10.0.0.1", False) == 0
    assert attempts.note("10.0.0.1", False) == 30


def test_a_network_of_ipv6_is_one_peer() -> None:
    attempts = Attempts(Clock())
    for last in range(5):
        assert attempts.note(f"2001:db8:0:1::{last}", False) == 0
    assert attempts.note("2001:db8:0:1:ffff::1", True) == 60
    assert attempts.note("2001:db8:0:2::1", True) == 0
    for _ in range(5):
        attempts.note("fe80::1%eth0", False)
    assert attempts.note("fe80::1%eth0", True) == 60


def test_many_peers_take_little_memory_and_the_last_ones_are_known() -> None:
    attempts = Attempts(Clock())
    for number in range(50_000):
        attempts.note(f"10.0.{number // 256}.{number % 256}", False)
        attempts.note(f"192.0.2.{number % 256}", True)
    assert len(attempts) == guard.MOST_PEERS
    last = "10.0.195.79"
    for _ in range(4):
        assert attempts.note(last, False) == 0
    assert attempts.note(last, True) == 60


def test_threads_that_ask_at_once_get_no_more_tries(
    serving: Callable[..., tuple[Process, str]],
) -> None:
    process, address = serving(RQ_DASHBOARD_USERNAME="ops", RQ_DASHBOARD_PASSWORD="pw")
    port = int(address.rpartition(":")[2])
    codes: list[int] = []
    together = threading.Barrier(40)

    def guess() -> None:
        own = HTTPConnection("127.0.0.1", port, timeout=60)
        own.connect()
        together.wait()
        own.request("GET", "/", headers={"Authorization": "Basic b3BzOmh1bnRlcjI="})
        codes.append(own.getresponse().status)
        own.close()

    threads = [threading.Thread(target=guess) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(codes) == [401] * 5 + [429] * 35
    assert process.output().count("event=unauthorized peer=127.0.0.1 password=wrong") == 5
    assert "event=passwords-refused peer=127.0.0.1" in process.output()
    assert "hunter2" not in process.output()
