"""A Redis-compatible server of werk's own: its configuration, its data, its start and stop."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import redis

from werk.dev.binary import Binary, find_binary, version_of
from werk.dev.process import spawn
from werk.errors import ConfigError, RedisUnavailable
from werk.printable import shell_word
from werk.settings import Settings
from werk.store import redis_py
from werk.store.address import parse_url, shown

LONGEST_SOCKET_PATH = 107  # bytes: sun_path of unix(7)
START_S = 60.0  # loading a large file can take long; a server that dies is noticed at once
STOP_S = 10.0


class Server:
    """A Redis-compatible server on the loopback, with an append-only file and no eviction.

    Its data belongs to one server program and to one running server: a marker beside the data names
    the program, and a lock, which the server inherits, is held as long as the server runs.
    """

    def __init__(
        self, state_dir: Path, port: int = 0, *, url: str = "", binary: Binary | None = None
    ) -> None:
        """Serve at `url`, else at redis://127.0.0.1:PORT/0, with the data in `state_dir`."""
        self.url = url or f"redis://127.0.0.1:{port}/0"
        self.binary = binary or find_binary(Settings.read())
        self.state_dir = state_dir.absolute()
        self.data = self.state_dir / "data"
        self.log = self.state_dir / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the process id of the server that was started last."""
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        """Return whether it was started and has not exited."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers. Raises ConfigError or RedisUnavailable."""
        config = _config(self.url)
        with self._locked() as lock:
            self._mark()
            has_data = any(self.data.iterdir())
            self._process = self._launch(config, lock)
        try:
            self._await_answer()
            if has_data:
                # Otherwise Redis 7.0 would run a truncated last command at its next start. Redis
                # refuses this while it rewrites the file anyway.
                with client_of(self.url) as client, suppress(redis.ResponseError):
                    client.bgrewriteaof()
        except BaseException:  # Ctrl-C too
            self.kill()
            raise

    def stop(self) -> None:
        """Let the server write its data and exit; kill it if that takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the server, as a crash would. `start` reads the acknowledged data from its file."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """Return the end of its log: why it did not start, or why it exited."""
        lines = self.log.read_text(errors="replace").splitlines() or ["its log is empty"]
        warnings = [line.split(" # ")[1] for line in lines if " # " in line]
        return " ".join(warnings[-2:] or lines[-2:])

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Make the folders, and hold their lock."""
        with _writing(self.state_dir):
            for folder in (self.state_dir, self.data):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _refuse_shared(folder)
            file = (self.state_dir / "lock").open("w")
        with file:  # the server keeps its own copy
            for _ in range(50):  # a server killed during a rewrite leaves a child for a moment
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.02)
            else:
                raise ConfigError(
                    f"another server is running on {self.data}: "
                    "stop it, or set WERK_STATE_DIR to another folder"
                )
            yield file.fileno()

    def _mark(self) -> None:
        """Refuse data of another program or a newer version: the server might see no data in it."""
        marker = self.state_dir / "server"
        theirs = marker.read_text("utf-8", "replace").strip() if marker.exists() else ""
        if theirs:
            name, _, version = theirs.partition(" ")
            if name != self.binary.name or version_of(version) > self.binary.version:
                raise ConfigError(
                    f"{self.data} was written by {theirs}, but the server here is {self.binary}: "
                    f"set WERK_SERVER to the path of {theirs} or newer, or WERK_STATE_DIR to"
                    " another folder"
                )
        elif any(self.data.iterdir()):
            fix = "set WERK_STATE_DIR to another folder"
            if not marker.exists():
                raise ConfigError(f"{self.data} has files not written by werk: {fix}")
            # werk 0.2.0 could leave it empty. The server here may be another than then.
            mark = f"echo {shell_word(str(self.binary))} > {shell_word(str(marker))}"
            what = f"{marker} is empty, so it is unknown which server wrote {self.data}"
            raise ConfigError(f"{what}: if it was {self.binary} or older, run {mark}, or {fix}")
        if theirs != str(self.binary):
            with _writing(marker):
                _replace(marker, f"{self.binary}\n")

    def _launch(self, config: str, lock: int) -> subprocess.Popen[bytes]:
        """Start the program. Its configuration goes to stdin, to keep a password out of `ps`."""
        with _writing(self.log):
            output = self.log.open("wb")
        with output:
            process = spawn(
                [self.binary.path, "-"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self.data,
                pass_fds=(lock,),
            )
        stdin: IO[bytes] = process.stdin  # type: ignore[assignment]
        with stdin:
            stdin.write(config.encode())
        return process

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_S
        while self.is_running():
            with suppress(redis.ConnectionError, redis.TimeoutError):  # not yet, or still loading
                if _facts_of(self.url, timeout_s=0.2)["process_id"] == self.pid:
                    return
            if time.monotonic() > deadline:
                late = f"the server did not answer in {START_S:g} s; see {self.log}"
                raise RedisUnavailable(late)
            time.sleep(0.005)
        raise RedisUnavailable(f"the server did not start: {self.last_words()}")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Report an error of the disk as one of the folder's setting."""
    try:
        yield
    except OSError as error:
        where = error.filename or path  # a write does not name its file
        raise ConfigError(f"WERK_STATE_DIR: {error.strerror}: {where}") from error


def _replace(file: Path, text: str) -> None:
    """Write a file as a whole: a full disk or a crash leaves the old one."""
    new = file.with_suffix(".new")
    with new.open("w") as output:
        output.write(text)
        output.flush()
        os.fsync(output.fileno())
    new.replace(file)


def _refuse_shared(folder: Path) -> None:
    """Raise ConfigError for a folder that other users can open: they could read or replace jobs.

    A link is followed, unless another user owns it and could change it at any moment.
    """
    own, found = os.geteuid(), os.stat(folder)
    for owner in (found.st_uid, os.lstat(folder).st_uid or own):  # root may have made the link
        if owner != own:
            raise ConfigError(
                f"{folder} belongs to user {owner}, not to {own}, who runs this: "
                "set WERK_STATE_DIR to a folder of your own"
            )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode) & 0o777
        raise ConfigError(f"{folder} is open to other users (mode {mode:04o}): chmod 700 {folder}")


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def who_answers(url: str) -> str | None:
    """Return name and version of the server there; None if nothing listens.

    Raises ConfigError, RedisUnavailable.
    """
    try:
        info = _facts_of(url)
        version = info.get("valkey_version") or info["redis_version"]
        return f"{info.get('server_name', 'redis')} {version}"
    except redis.AuthenticationError as error:
        raise ConfigError(f"{shown(url)} refuses the user or the password") from error
    except redis.BusyLoadingError as error:
        raise RedisUnavailable(f"{shown(url)} is loading its data; try again") from error
    except redis.TimeoutError as error:
        raise RedisUnavailable(f"{shown(url)} does not answer; try again") from error
    except redis.ConnectionError:
        return None
    except redis.RedisError as error:
        why = f"{shown(url)} answers, but not as a Redis that werk can use: {error}"
        raise ConfigError(why) from error


def _facts_of(url: str, timeout_s: float = 2.0) -> dict[str, Any]:
    with client_of(url, timeout_s) as client:
        client.ping()  # INFO is answered while it is loading
        facts: dict[str, Any] = client.info("server")
        return facts


def _config(url: str) -> str:
    """Return the configuration of a server that serves this address. Raises ConfigError."""
    client = client_of(url)
    if client.connection_pool.connection_class is redis.SSLConnection:
        raise ConfigError(f"werk starts no server with TLS: start one at {shown(url)} yourself")
    place = {"port": 6379, "db": 0, **client.get_connection_kwargs()}
    lines = ["appendonly yes", "appendfsync everysec", 'save ""', "maxmemory-policy noeviction"]
    lines += ["stream-node-max-bytes 512"]  # a job's result: RQ keeps each in a stream of its own
    lines += ["hash-max-ziplist-value 1024"]  # a job, in one piece; Redis 6.2 knows no listpack
    lines += [f"databases {max(16, place['db'] + 1)}", "bind 127.0.0.1 -::1"]  # -: if there is IPv6
    if "path" not in place:
        lines += [f"port {place['port']}"]
    elif len(place["path"].encode()) > LONGEST_SOCKET_PATH:
        size = len(place["path"].encode())
        what = f"RQ_REDIS_URL: a socket's path has at most {LONGEST_SOCKET_PATH} bytes"
        raise ConfigError(f"{what}, got {size}")
    else:
        lines += ["port 0", f"unixsocket {_quoted(place['path'])}", "unixsocketperm 700"]
    user, password = place.get("username", ""), place.get("password", "")
    if user not in ("", "default"):
        rule = f"user {_quoted(user)} on {_quoted('>' + password)} ~* &* +@all"
        lines += [rule, "user default off"]
    elif password:
        lines += [f"requirepass {_quoted(password)}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return any text as a word of the server's configuration."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def client_of(url: str, timeout_s: float = 2.0) -> redis.Redis:
    """Return a redis-py client that does not retry. Raises ConfigError for an invalid URL."""
    parse_url(url)  # redis-py would use database 0 for an invalid number
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    return redis_py.client_of(url, **timeouts, retry=None)
