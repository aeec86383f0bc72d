"""The connection: where it goes, how long it takes, what it says when it fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hiredis
import pytest
import redis
from faults import listening, losing_replies, say_nothing, speak_http, speaking_tls
from rq.cli.helpers import get_redis_from_config
from rq.job import Job, JobStatus
from rq.results import Result
from support import Process, wait_until

import werk
from werk.dev.server import Server, free_port
from werk.errors import ConfigError, RedisUnavailable, WerkError
from werk.settings import Settings
from werk.store.address import Address, parse_url, shown
from werk.store.connection import Link, link, link_over
from werk.store.replies import TryAgain, error_of
from werk.store.scripts import Script


def to(url: str, budget_s: float = 60) -> Link:
    return link(Settings.read({"RQ_REDIS_URL": url}), budget_s)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address()),
        ("redis://h:1/2", Address("h", 1, db=2)),
        ("redis://a.b-c:65535/", Address("a.b-c", 65535)),
        ("redis://h:0", Address("h")),
        ("redis://h?db=3", Address("h", db=3)),
        ("redis://:p%40ss@h", Address("h", password="p@ss")),
        ("redis://ann:p@h", Address("h", username="ann", password="p")),
        ("redis://ann:@h", Address("h", username="ann")),
        ("redis://:@h", Address("h")),
        ("unix:///run/r.sock?db=1", Address(path="/run/r.sock", db=1)),
        ("unix://:p@/run/r%20.sock", Address(path="/run/r .sock", password="p")),
        ("redis://h?username=ann&password=p", None),
        ("redis://[::1]:7/0", None),
        ("rediss://:p@h", Address("h", password="p", has_tls=True)),
        ("rediss://h?ssl_cert_reqs=none", None),
        ("redis://h?socket_timeout=3", None),
    ],
)
def test_a_url_is_read_as_redis_py_reads_it(url: str, address: Address | None) -> None:
    assert parse_url(url) == address
    own = redis.Redis.from_url(url).connection_pool.connection_kwargs
    host, port, db = own.get("host", "localhost"), own.get("port", 6379), own.get("db", 0)
    if address is None:
        assert to(url).where == str(Address(host, port, db=db))
    else:
        found = Address(host, port, own.get("path"), db, own.get("username"), own.get("password"))
        assert found == address._replace(has_tls=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "localhost:6379",
        "redis://h:port",
        "redis://h:65536",
        "redis://h/x",
        f"redis://h/{'9' * 5000}",
        f"unix:///s?db={'9' * 5000}",
        "unix://",
        "unix://:p@?db=1",
        "unix://ann@?socket_timeout=3",
        "redis://:caff\udce9@h/0",
        "redis://caff\udce9:1/0",
    ],
)
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(ConfigError, match="RQ_REDIS_URL"):
        to(url)


def test_an_option_of_a_url_that_redis_py_does_not_know() -> None:
    with pytest.raises(ConfigError, match=r"redis-py has no option 'socket_time'$"):
        to("redis://:secret@h:1/0?socket_timeout=3&socket_time=secret")


@pytest.mark.parametrize("port", ["x", "9" * 5000])
def test_a_port_that_is_no_number(port: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_HOST, REDIS_PORT: cannot be used: ValueError"):
        link(Settings.read({"REDIS_HOST": "h", "REDIS_PORT": port}))


def test_no_password_is_shown() -> None:
    for url in (
        "redis://ann:secret@h:1/0",
        "redis://h:1/0?password=secret",
        "unix:///s?password=secret",
    ):
        assert "secret" not in shown(url)
        address = parse_url(url)
        assert "secret" not in f"{address} {address!r} {to(url).where}"
    with pytest.raises(ConfigError) as refusal:
        to("redis://:sec/ret@h:1/0")
    assert "sec" not in str(refusal.value)
    assert "secret" not in repr(Settings.read({"RQ_REDIS_URL": "redis://:secret@h"}))


def test_settings_find_redis_as_rq_does() -> None:
    def read(**env: str) -> Settings:
        return Settings.read(env)

    assert read(RQ_REDIS_URL="redis://a", REDIS_URL="redis://b").redis_url == "redis://a"
    assert read(REDIS_URL="redis://b").redis_url == "redis://b"
    assert read(REDIS_URL="redis://b", RQ_CONFIG="m").redis_url is None
    assert read(REDIS_HOST="h").rq_redis == {"REDIS_HOST": "h"}
    assert read(RQ_REDIS_URL="redis://a", REDIS_HOST="h").rq_redis == {}


def test_commands_and_scripts(redis_url: str, connection: redis.Redis) -> None:
    near = to(redis_url)
    near.call("SET", "k", b"\x00")
    assert near.call("GET", "k") == b"\x00"
    text = "return {KEYS[1], ARGV[1]}"
    script = Script(text)
    near.run(script, ["a"], ["1"])
    connection.script_flush()
    assert near.run(script, ["b"], ["2"]) == [b"b", b"2"]
    near.close()


@pytest.mark.parametrize("user", ["ann:", "ann"])
def test_a_user_without_a_password_is_used(
    redis_url: str, connection: redis.Redis, user: str
) -> None:
    connection.acl_setuser("ann", enabled=True, nopass=True, categories=["+@all"], keys="*")
    near = to(redis_url.replace("://", f"://{user}@"))
    assert near.call("ACL", "WHOAMI") == b"ann"
    near.close()
    connection.acl_deluser("ann")


def test_the_database_of_the_url_is_used(redis_url: str, connection: redis.Redis) -> None:
    near = to(redis_url.replace("/0", "/3"))
    near.call("SET", "k", "v")
    assert not connection.exists("k")
    near.close()


def test_a_unix_socket(tmp_path: Path) -> None:
    server = Server(tmp_path, url=f"unix://{tmp_path}/s.sock")
    server.start()
    near = to(server.url)
    assert near.call("PING") in (b"PONG", "PONG")
    near.close()
    server.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = str(folder / "key.pem"), str(folder / "cert.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    return certificate, key


def test_tls(redis_url: str, certificate: tuple[str, str]) -> None:
    with speaking_tls(redis_url, *certificate) as port:
        good = to(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate[0]}")
        assert good.call("ECHO", "x" * 1000) == b"x" * 1000
        good.close()
        lax = to(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none")
        assert lax.call("ECHO", "x") == b"x"
        lax.close()
        for url in (
            f"rediss://localhost:{port}",
            f"rediss://localhost:{port}?ssl_ca_certs=/no/file",
        ):
            begun = time.monotonic()
            with pytest.raises(ConfigError):
                to(url).call("PING")
            assert time.monotonic() - begun < 30


@pytest.mark.parametrize("options", ["", "?ssl_cert_reqs=none"])
def test_a_server_that_ends_while_tls_begins_may_be_back(options: str) -> None:
    def leave(client: socket.socket) -> None:
        client.recv(1)

    with listening(leave) as port, pytest.raises(RedisUnavailable):
        to(f"rediss://localhost:{port}{options}", budget_s=0.5).call("PING")


def test_tls_with_a_server_that_has_none(redis_url: str) -> None:
    with pytest.raises(WerkError):
        to(redis_url.replace("redis:", "rediss:"), budget_s=0.5).call("PING")


def test_a_client_of_the_callers_own(redis_url: str, connection: redis.Redis) -> None:
    near = link_over(connection)
    assert near.call("ECHO", "x") == b"x"
    assert near.where.endswith("/0")
    near.close()
    with pytest.raises(ConfigError, match="decode_responses"):
        link_over(redis.Redis.from_url(redis_url, decode_responses=True))
    with pytest.raises(ConfigError, match=r"redis\.Redis"):
        link_over(object())  # type: ignore[arg-type]


def test_options_that_only_redis_py_knows(redis_url: str) -> None:
    near = to(f"{redis_url}?health_check_interval=3")
    assert near.call("ECHO", "x") == b"x"
    near.close()


def test_rq_config_and_redis_host(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf_of_rq.py").write_text(f"REDIS_URL = {redis_url!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    near = link(Settings.read({"RQ_CONFIG": "conf_of_rq"}))
    assert near.call("ECHO", "x") == b"x"
    near.close()
    port = redis_url.split(":")[2].split("/")[0]
    near = link(Settings.read({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": port}))
    assert near.call("ECHO", "x") == b"x"
    near.close()
    with pytest.raises(ConfigError, match="RQ_CONFIG=no_such_module"):
        link(Settings.read({"RQ_CONFIG": "no_such_module"}))


@pytest.mark.parametrize(
    ("text", "error", "part"),
    [
        ("WRONGTYPE rq:queue:AUTHORS is a string", ConfigError, "answered: WRONGTYPE"),
        ("ERR Error: @user_script: 1: WRONGTYPE queue BUSY", ConfigError, "answered: ERR"),
        ("ERR Error: @user_script: 1: -BUSY a script runs", TryAgain, "BUSY"),
        ("ERR AUTH <password> called without any password", ConfigError, "the credentials"),
        ("ERR Client sent AUTH, but no password is set", ConfigError, "the credentials"),
        ("NOPERM this user has no permissions", ConfigError, "the credentials"),
        ("ERR The user executing the script can't run it", ConfigError, "the credentials"),
    ],
)
def test_a_name_in_an_error_of_redis_is_no_code(
    text: str, error: type[WerkError], part: str
) -> None:
    found = error_of(hiredis.ReplyError(text), "here")
    assert type(found) is error
    assert part in str(found)


@pytest.fixture
def password(connection: redis.Redis) -> Iterator[str]:
    connection.config_set("requirepass", "sesame")
    connection.execute_command("AUTH", "sesame")
    yield "sesame"
    connection.config_set("requirepass", "")


def test_passwords(redis_url: str, password: str) -> None:
    host = redis_url.removeprefix("redis://")
    near = to(f"redis://:{password}@{host}")
    assert near.call("ECHO", "x") == b"x"
    near.close()
    for url in (f"redis://:open%20secret@{host}", f"redis://{host}", f"redis://x:open@{host}"):
        begun = time.monotonic()
        own = redis.Redis.from_url(url)  # a link does not keep it
        for near in (to(url), link_over(own, 60)):
            with pytest.raises(ConfigError) as refusal:
                near.call("PING")
            near.close()
            assert "open" not in str(refusal.value)
            assert "\n" not in str(refusal.value)
        assert time.monotonic() - begun < 30


def test_a_password_where_none_is_wanted(redis_url: str) -> None:
    with pytest.raises(ConfigError, match="credentials"):
        to(redis_url.replace("//", "//:sesame@")).call("PING")


def test_no_permission(redis_url: str, connection: redis.Redis) -> None:
    connection.execute_command("ACL", "SETUSER", "guest", "on", ">pw", "+ping")
    near = to(redis_url.replace("//", "//guest:pw@"))
    with pytest.raises(ConfigError, match="NOPERM"):
        near.call("SET", "k", "v")
    near.close()
    connection.execute_command("ACL", "DELUSER", "guest")


def test_nobody_answers() -> None:
    with listening(say_nothing) as port:
        for url in (f"redis://127.0.0.1:{port}", f"redis://127.0.0.1:{free_port()}"):
            own = redis.Redis.from_url(url)  # a link does not keep it
            for near in (to(url, 0.5), link_over(own, 0.5)):
                begun = time.monotonic()
                with pytest.raises(RedisUnavailable, match=r"not reached within 0\.5 s"):
                    near.call("PING")
                assert time.monotonic() - begun < 30


def test_no_such_host() -> None:
    with pytest.raises(RedisUnavailable, match=r"host\.invalid:6379"):
        to("redis://host.invalid", 0.3).call("PING")


def test_something_else_answers() -> None:
    with listening(speak_http) as port, pytest.raises(ConfigError, match="is not Redis"):
        to(f"redis://127.0.0.1:{port}").call("PING")


def test_a_lost_reply_is_asked_for_again(redis_url: str) -> None:
    with losing_replies(redis_url, 3) as url:
        near = to(url)
        assert near.call("ECHO", "x") == b"x"
        near.close()


def test_an_interrupted_call_leaves_no_reply_behind(redis_url: str) -> None:
    near = to(redis_url)
    near.call("ECHO", "first")
    with pytest.raises(TypeError):
        near.calls([("ECHO", "second"), ("ECHO", object())])
    assert near.call("ECHO", "third") == b"third"
    near.close()


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Set what a signal handler does a moment later: alarm(function)."""

    def start(function: Callable[[], None]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: function())
        signal.setitimer(signal.ITIMER_REAL, 0.2)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


Alarm = Callable[[Callable[[], None]], None]


def test_a_signal_handler_enqueues_while_its_thread_waits_for_a_result(
    connection: redis.Redis, alarm: Alarm
) -> None:
    job, jobs = werk.enqueue("sleep", 0), list[werk.Handle]()

    def handle() -> None:
        jobs.extend(werk.enqueue("sleep", seconds) for seconds in (1, 2))
        own = Job.fetch(job.id, connection=connection)
        Result.create(own, Result.Type.SUCCESSFUL, ttl=60, return_value=7)
        own.set_status(JobStatus.FINISHED)

    alarm(handle)
    assert job.result(timeout=60) == 7
    found = [Job.fetch(inner.id, connection=connection).args for inner in jobs]
    assert found == [(1,), (2,)]


def test_a_call_inside_a_call_leaves_the_outer_connection_alone(
    redis_url: str, connection: redis.Redis, alarm: Alarm
) -> None:
    near, inner = to(redis_url), list[object]()
    before = {own["id"] for own in connection.client_list()}
    number = str(near.call("CLIENT", "ID"))

    def handle() -> None:
        inner.append(near.call("ECHO", "inner"))
        with pytest.raises(TypeError):
            near.call("ECHO", object())
        with pytest.raises(ConfigError, match="unknown command"):
            near.call("NO-SUCH-COMMAND")
        connection.rpush("list", "outer")

    alarm(handle)
    assert near.call("BLPOP", "list", 60) == [b"list", b"outer"]
    assert inner == [b"inner"]
    assert near.opened == 1
    wait_until(lambda: {own["id"] for own in connection.client_list()} - before == {number})
    near.close()


def test_the_server_restarts(server: Server, redis_url: str) -> None:
    near = to(redis_url)
    near.call("ECHO", "x")
    server.kill()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(near.call, "ECHO", "y")
        wait_until(answer.running)
        server.start()
        assert answer.result(60) == b"y"
    near.close()


def test_a_replica_that_becomes_the_master(redis_url: str, connection: redis.Redis) -> None:
    connection.replicaof("127.0.0.1", free_port())
    promote = threading.Timer(0.3, lambda: connection.replicaof("no", "one"))
    promote.start()
    near = to(redis_url)
    assert near.call("SET", "k", "v") in ("OK", b"OK")
    promote.join()
    near.close()


def test_memory_is_full(redis_url: str, connection: redis.Redis) -> None:
    connection.config_set("maxmemory", 1)
    near = to(redis_url)
    begun = time.monotonic()
    with pytest.raises(RedisUnavailable, match="takes no more data: OOM"):
        near.call("SET", "k", "v")
    assert time.monotonic() - begun < 30
    connection.config_set("maxmemory", 0)
    near.close()


def test_a_link_is_not_shared_with_a_forked_child(redis_url: str) -> None:
    near = to(redis_url)
    number = near.call("CLIENT", "ID")
    child = os.fork()
    if child == 0:
        os._exit(0 if near.call("CLIENT", "ID") != number else 1)
    assert wait_until(lambda: os.waitpid(child, os.WNOHANG)[0])
    assert near.call("CLIENT", "ID") == number
    near.close()


def test_a_silent_address_leaves_time_for_the_next(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(redis_url.split(":")[2].split("/")[0])
    with listening(say_nothing) as silent, socket.socket() as full:
        full.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        places = [("127.0.0.1", full.getsockname()[1]), ("127.0.0.1", port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in places]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
        near = to(f"redis://many.invalid:{silent}")
        assert near.call("ECHO", "x") == b"x"
        near.close()


@pytest.fixture
def sentinel(
    server: Server, redis_url: str, spawn: Callable[..., Process], tmp_path: Path
) -> tuple[str, int]:
    """The address of a Sentinel that knows the server as mymaster."""
    port, master_port = free_port(), redis_url.split(":")[2].split("/")[0]
    conf = tmp_path / "sentinel.conf"
    conf.write_text(f"port {port}\nsentinel monitor mymaster 127.0.0.1 {master_port} 1\n")
    spawn(server.binary.path, conf, "--sentinel")
    return "127.0.0.1", port


def through(*sentinels: tuple[str, int], budget_s: float = 60) -> Link:
    config = {"INSTANCES": sentinels, "MASTER_NAME": "mymaster"}
    client = get_redis_from_config({"SENTINEL": config})
    near = link_over(client, budget_s)
    near.client = client
    return near


def test_sentinel(
    sentinel: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf_with_sentinel.py").write_text(
        f"SENTINEL = {{'INSTANCES': [{sentinel!r}], 'MASTER_NAME': 'mymaster'}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    near = link(Settings.read({"RQ_CONFIG": "conf_with_sentinel"}), 60)
    assert near.call("ECHO", "x") == b"x"
    near.close()


def test_a_sentinel_that_does_not_answer_takes_no_more_than_the_budget() -> None:
    with listening(say_nothing) as port:
        near, begun = through(("127.0.0.1", port), budget_s=0.5), time.monotonic()
        with pytest.raises(RedisUnavailable, match=r"not reached within 0\.5 s"):
            near.call("PING")
        assert time.monotonic() - begun < 15  # redis-py alone takes a minute


def test_a_sentinel_that_does_not_answer_leaves_time_for_the_next(
    sentinel: tuple[str, int],
) -> None:
    asked: list[socket.socket] = []

    def say_nothing_and_count(client: socket.socket) -> None:
        asked.append(client)
        say_nothing(client)

    with listening(say_nothing_and_count) as port:
        near = through(("127.0.0.1", port), sentinel, budget_s=12)
        for _ in range(2):
            assert near.call("ECHO", "x") == b"x"
            near.close()
        assert len(asked) == 1  # the one that answered is asked first from then on
