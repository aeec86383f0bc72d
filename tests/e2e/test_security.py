"""docs/security.md: its users can do what their role needs and no more, and its commands work.

That a role can do what it needs is what the other tests show: in all of them each process is the
user of its role (roles.py), and conftest.py fails a test in which Redis refused one a command.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import roles
from faults import speaking_tls
from servers import Node
from support import ROOT, Process, run

import werk
from werk.dev.binary import find_binary
from werk.dev.server import free_port
from werk.errors import EXIT_CONFIG
from werk.settings import Settings

[OF_USERS, OF_CERTIFICATES, OF_CLIENTS] = [
    [command.strip() for command in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    for text in re.findall(r"```console\n(.*?)```", roles.PAGE, re.DOTALL)
]
[TLS_CONFIG] = re.findall(r"```\n(port 0\n.*?)```", roles.PAGE, re.DOTALL)
HAS_USERS = find_binary(Settings.read()).version >= roles.OLDEST

pytestmark = pytest.mark.skipif(not HAS_USERS, reason="this server has no keys for reading only")

REFUSAL = r"(?i)no permissions|ACL failure|user executing the script can't"

# For every role: settings, users, all keys at once, keys of other applications.
FORBIDDEN = """
    ACL SETUSER other on nopass ~* +@all
    ACL LIST
    BGREWRITEAOF
    CLIENT KILL TYPE normal
    CONFIG SET maxmemory 1
    CONFIG REWRITE
    EVAL "return redis.call('FLUSHALL')" 0
    EVAL "return redis.call('GET', 'other')" 0
    FLUSHALL
    FLUSHDB
    FUNCTION FLUSH
    GET other
    HGETALL session:1
    KEYS *
    MODULE LIST
    MONITOR
    REPLICAOF localhost 1
    SAVE
    SCRIPT FLUSH
    SELECT 1
    SHUTDOWN NOSAVE
    SET other x
    SUBSCRIBE other
    SWAPDB 0 1
    UNLINK other
"""
ALSO_FORBIDDEN = {
    "caller": """
        CONFIG GET requirepass
        DEL rq:job:x
        EVAL "return redis.call('DEL', KEYS[1])" 1 rq:job:x
        EXPIRE rq:queue:default 0
        EVAL "return redis.call('HSET', KEYS[1], 'x', 'y')" 1 rq:werk:catalog
        HSET rq:werk:catalog x y
        HSET rq:worker:x pid 1
        HGETALL rq:werk:tallies
        INFO
        LPOP rq:queue:default
        PUBLISH rq:pubsub:x {}
        SCAN 0
        SET rq:job:x y
        SET rq:queue:default x
        SET rq:suspended 1
        UNLINK rq:job:x
        XADD rq:results:x * type 1
        ZADD rq:werk:serves:default 1 x
        ZRANGEBYSCORE rq:scheduled:default -inf +inf
    """,
    "reader": """
        DEL rq:job:x
        EVAL "return redis.call('SET', KEYS[1], 'x')" 1 rq:job:x
        EXPIRE rq:job:x 1
        HSET rq:job:x data y
        LPOP rq:queue:default
        PUBLISH rq:pubsub:x {}
        RPUSH rq:queue:default x
        SCAN 0
        SET rq:suspended 1
        SUBSCRIBE rq:pubsub:x
    """,
    "operator": """
        BLMOVE rq:queue:default rq:queue:default LEFT LEFT 1
        LPOP rq:queue:default
        SCAN 0
        SUBSCRIBE rq:pubsub:x
        XADD rq:results:x * type 1
    """,
    "worker": """
        CLIENT KILL ID 1
        CONFIG GET requirepass
        PUBLISH other {}
        SCAN 0
    """,
    "admin": """
        LPOP rq:queue:default
        SUBSCRIBE rq:pubsub:x
        XADD rq:results:x * type 1
    """,
}


def lines(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.strip().splitlines()]


@pytest.mark.parametrize("role", roles.ROLES)
def test_what_is_outside_a_role_is_refused(
    role: str, redis_url: str, connection: redis.Redis
) -> None:
    connection.set("other", "kept")
    with redis.Redis.from_url(roles.url(redis_url, role)) as client:
        for words in [*lines(FORBIDDEN), *lines(ALSO_FORBIDDEN[role])]:
            with pytest.raises(redis.ResponseError, match=REFUSAL):
                client.execute_command(*words)
        assert client.ping()
    assert connection.keys() == [b"other"]
    connection.acl_log_reset()  # or conftest.py would complain


def test_nobody_is_a_user_until_the_digests_are_put_in() -> None:
    assert {*roles.LINES} == {*roles.ROLES}
    for line in roles.LINES.values():
        assert re.search(r" on #[A-Z]+-SHA256 ", line)
        assert "nopass" not in line and " >" not in line


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("caller", ("werk-enqueue", "hello", "Ada")),
        ("reader", ("werk", "status", "--json")),
        ("operator", ("werk", "pause", "default")),
        ("worker", ("werk", "worker", "--burst", "default")),
        ("admin", ("werk", "repair", "--dry-run")),
    ],
)
def test_a_process_is_the_user_of_its_role(
    role: str, words: tuple[str, ...], redis_url: str, connection: redis.Redis
) -> None:
    werk.enqueue("hello", "Ada")
    assert run(*words).returncode == 0
    connection.acl_setuser(f"werk-{role}", enabled=False, reset=False)
    try:
        done = run(*words)
    finally:
        connection.acl_setuser(f"werk-{role}", enabled=True, reset=False)
        connection.acl_log_reset()
    assert done.returncode == EXIT_CONFIG
    assert roles.password(role) not in done.stdout + done.stderr


def test_a_script_of_a_caller_may_declare_the_catalog(redis_url: str) -> None:
    """Redis takes each key that a script declares for one that it writes to."""
    with redis.Redis.from_url(roles.url(redis_url, "caller")) as client:
        assert client.eval("return redis.call('HKEYS', KEYS[1])", 1, "rq:werk:catalog") == []


def shell(commands: list[str], folder: Path, **settings: str) -> str:
    """Run commands as somebody would type them, in a folder; return what they print."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["/bin/bash", "-euc", "\n".join(commands)],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="there is no redis-cli here")
def test_the_users_are_made_as_the_page_says(spawn: Callable[..., Process], tmp_path: Path) -> None:
    file = tmp_path / "users.acl"
    file.touch()
    node = Node(spawn, tmp_path / "node", "--aclfile", file)
    *make, load, check = OF_USERS
    digest = shell(make, tmp_path).split()[0]
    password = (tmp_path / "caller.password").read_text().strip()
    ask = [command.replace("redis-cli", f"redis-cli -p {node.port}") for command in (load, check)]
    file.write_text("\n".join(roles.LINES.values()))
    assert "ERR" in shell(ask[:1], tmp_path)
    assert node.client.acl_users() == ["default"]
    texts = [roles.line(role) for role in roles.ROLES if role != "caller"]
    file.write_text("\n".join([*texts, roles.LINES["caller"].replace("CALLER-SHA256", digest)]))
    said = shell(ask, tmp_path).splitlines()
    assert said[0] == "OK"
    assert "no permissions to run the 'flushall' command" in said[1]
    with redis.Redis(port=node.port, username="werk-caller", password=password) as client:
        assert client.ping()


def has_tls(path: str | None) -> bool:
    return path is not None and b"libssl" in Path(path).read_bytes()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Make the certificates as the page says, for localhost."""
    folder = tmp_path / "tls"
    folder.mkdir()
    for command in OF_CERTIFICATES:
        shell([command.replace("redis.example.com", "localhost")], folder)
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}
    return folder


@pytest.fixture(params=["a server", "a proxy"])
def tls_port(
    request: pytest.FixtureRequest,
    spawn: Callable[..., Process],
    certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[int]:
    """A port with the page's users and TLS; every password is PASSWORD."""
    monkeypatch.setattr(roles, "password", lambda role: "PASSWORD")
    config, port = "\n".join(map(roles.line, roles.ROLES)), free_port()
    is_server = request.param == "a server"
    if is_server:
        path = next(filter(has_tls, map(shutil.which, ("redis-server", "valkey-server"))), None)
        if not path:
            pytest.skip("there is no server with TLS here; the proxy says the same")
        monkeypatch.setenv("WERK_SERVER", path)
        tls = TLS_CONFIG.replace("/etc/redis/", f"{certificates}/").replace("6380", str(port))
        config = f"{tls}\n{config}"
    node = Node(spawn, certificates / "node", config=config)
    node.client.execute_command("ACL", "SETUSER", "default", "resetpass", ">PASSWORD")
    if is_server:
        yield port
        return
    words = [str(certificates / name) for name in ("redis.crt", "redis.key", "ca.crt")]
    with speaking_tls(node.url, *words) as port:
        yield port


def test_tls_with_client_certificates(certificates: Path, tls_port: int) -> None:
    def here(text: str) -> str:
        text = text.replace("redis.example.com", "localhost").replace("6380", str(tls_port))
        return text.replace("/etc/werk/", f"{certificates}/")

    [url] = re.findall(r"'(rediss://.*)'", OF_CLIENTS[0])
    both = shell(list(map(here, OF_CLIENTS)), certificates)
    assert both.count(f" at localhost:{tls_port}/0") == 2
    as_caller = {"RQ_REDIS_URL": here(url.replace("werk-reader", "werk-caller"))}
    as_worker = {"RQ_REDIS_URL": here(url.replace("werk-reader", "werk-worker"))}
    job = run("werk-enqueue", "hello", "Ada", env=as_caller).stdout.strip()
    assert run("werk", "worker", "--burst", "default", env=as_worker).returncode == 0
    assert run("werk", "result", job, env=as_caller).stdout == "Hello Ada\n"
    wrong = {
        "no certificate": re.sub("&ssl_certfile.*", "", here(url)),
        "another authority": here(url).replace("/ca.crt", "/web1.crt"),
        "a password that is not this user's": here(url).replace(":PASSWORD@", ":another@"),
    }
    for what, bad in wrong.items():
        done = run("werk", "status", env={"RQ_REDIS_URL": bad})
        assert done.returncode == EXIT_CONFIG, (what, done.stderr)
        assert "PASSWORD" not in done.stderr and "another" not in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("page", ["README.md", "SECURITY.md"])
def test_the_page_is_found(page: str) -> None:
    assert "(docs/security.md)" in (ROOT / page).read_text()
