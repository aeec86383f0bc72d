"""`werk up`: server, worker, dashboard and cron in one foreground process.

For a first run and for development. A server that already answers is used and never stopped.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from werk import registry
from werk.dev.binary import find_binary
from werk.dev.process import spawn
from werk.dev.restarts import Restarts
from werk.dev.server import Server, client_of, who_answers
from werk.errors import EXIT_CONFIG, ConfigError, RedisUnavailable
from werk.printable import storable
from werk.settings import DASHBOARD_PORT, Settings
from werk.store.address import shown
from werk.store.connection import link
from werk.tasks.signature import source

DEFAULT_URL = "redis://localhost:6379/0"  # RQ's own
CRONTAB = "crontab"  # in the current folder
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MOST_WATCHED = 1000  # Python files, and folders: looking at them takes 1 % of a core
NOT_WATCHED = frozenset(("__pycache__", "node_modules", "site-packages"))
PIPE_SIZE = 65536  # one read takes all that a pipe holds
PAUSE_S = 0.2  # how soon Ctrl-C, the end of a child or a change of a file is noticed


def up(settings: Settings, *, port: int = DASHBOARD_PORT) -> int:
    """Run worker, dashboard and, if none answers, a server, until Ctrl-C. Return the exit code.

    If there is a ./crontab, run `werk cron` as well. Raises ArgumentError (a bad line in it),
    ConfigError or RedisUnavailable before anything is left running.
    """
    _check_port(port)
    if settings.redis_url is None and (settings.rq_config or settings.rq_redis):
        raise ConfigError("`werk up` reads neither RQ_CONFIG nor REDIS_HOST: set RQ_REDIS_URL")
    url = settings.redis_url or DEFAULT_URL
    queues = sorted({task.queue for task in registry.tasks().values()} - {"default"})
    worker = ["worker", "default", *queues]
    answering = who_answers(url)
    server = None if answering else _start_server(url, settings)
    front = _Front(server, url)
    try:
        commands = [worker, ["dashboard", "--port", str(port)]]
        if os.path.exists(CRONTAB):
            from werk.ops import crontab  # nothing else here needs croniter

            # Read it here first: a bad line is then reported before anything starts.
            crontab.read(CRONTAB, link(settings._replace(redis_url=url)))
            commands.append(["cron", CRONTAB])
        for words in commands:
            front.start(*words)
        where = f"{answering} already answers at {shown(url)}; `werk up` will not stop it"
        if server:
            where = f"{server.binary} at {shown(url)}, data in {server.data}"
        front.say("server", where)
        front.say("worker", f"werk {' '.join(worker)}")
        front.say("dashboard", f"http://127.0.0.1:{port}")
        elsewhere = "" if url == DEFAULT_URL else ", with the same RQ_REDIS_URL"
        front.say("", f"try{elsewhere}: {_example()}   Ctrl-C stops all")
        return front.watch(worker)
    finally:
        front.stop()


def _example() -> str:
    """Return a command that works with the tasks that are served."""
    if registry.is_as_shipped():
        return "werk-enqueue --wait hello Ada"
    return " ".join(["werk-enqueue", *sorted(registry.tasks())[:1], "--help"])


def _check_port(port: int) -> None:
    """Raise ConfigError if the dashboard cannot listen on this port."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise ConfigError(f"dashboard: port {port}: {why}; choose one with --port") from error


class _Front:
    """The foreground: prints what the children write, and stops them in order."""

    def __init__(self, server: Server | None, url: str) -> None:
        self.server, self.url = server, url
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.stops_asked = 0
        self.restarts = Restarts()  # of the worker
        self._unfinished: dict[int, bytes] = {}  # by pipe: lines that children have begun to write
        self._selector = selectors.DefaultSelector()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)

    def _ask_to_stop(self, *_: object) -> None:
        self.stops_asked += 1

    def start(self, *words: str) -> None:
        """Start a child: a command of `werk`, and its options."""
        # The address is in its environment: passwords do not show in `ps`.
        environ = os.environ | {"RQ_REDIS_URL": self.url, "PYTHONUNBUFFERED": "1"}  # handed on
        process = self.children[words[0]] = spawn(
            # -P: with -m alone, ./types.py would replace Python's own
            [sys.executable, "-P", "-m", "werk", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
        )
        assert process.stdout
        self._selector.register(process.stdout, selectors.EVENT_READ, words[0])

    def say(self, name: str, line: str) -> None:
        """Print a line of a child. A reader that has exited (`werk up | head`) stops all."""
        line = storable(re.sub(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", "?", line))
        try:
            sys.stdout.buffer.write(f"{name:<9} | {line}\n".encode())
            sys.stdout.buffer.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.stops_asked += 1

    def watch(self, worker: Sequence[str]) -> int:
        """Pass on what the children write until asked to stop (0) or one ends by itself (1).

        A worker that ends is started again, unless it ends again and again.
        """
        files = _watched()
        before = _times_of(files)
        while not self.stops_asked:
            if (now := before | _times_of(files)) != before:
                changed = next(file for file in now if now[file] != before.get(file))
                files = _watched()  # a changed module may import a new one
                before = now | _times_of(files)
                self.say("worker", f"{os.path.relpath(changed)} has changed: restarting")
                if "worker" in self.children:
                    self._end("worker")
                self.restarts.deaths = 0
                self._start_worker(worker)  # it reads all modules again
            elif self.restarts.is_due():
                self._start_worker(worker)
            if any(not self._goes_on(name) for name in [*self.children]):
                return 1
            if self.server and not self.server.is_running():
                self.say("server", f"exited: {self.server.last_words()}; stopping all")
                return 1
            self._pass_on()
        return 0

    def _start_worker(self, worker: Sequence[str]) -> None:
        if not self.stops_asked:
            self.start(*worker)
            self.restarts.note_start()

    def _goes_on(self, name: str) -> bool:
        """Return False if a child has ended by itself and nothing starts it again."""
        if (code := self.children[name].poll()) is None:
            return True
        self._drain()
        what = f"exited unexpectedly (exit code {code})"
        if name != "worker":
            self.say(name, f"{what}: stopping all")
            return False
        del self.children[name]
        if code == EXIT_CONFIG:  # a table that is half written, or a wrong setting
            why = f"exited (exit code {code}), see above"
            self.say(name, f"{why}: starts again when a Python file changes")
            return True
        goes_on = self.restarts.note_death()
        times = f", {self.restarts.deaths} times in a row soon after its start: stopping all"
        self.say(name, f"{what}: restarting" if goes_on else f"{what}{times}")
        return goes_on

    def stop(self) -> None:
        """Stop cron, the dashboard, the worker (which finishes its job) and last the server."""
        for name in reversed(self.children):
            self._end(name)
        if self.server:
            self.server.stop()
            self.say("server", "stopped")

    def _end(self, name: str) -> None:
        """Ask a child to stop. Each further request to stop asks again, and then kills it."""
        process = self.children[name]
        steps = [process.terminate, process.terminate, process.kill]
        if self.server and not self.server.is_running():
            steps = [process.kill]  # the child would only wait for Redis
        for step in steps:
            asked = self.stops_asked
            step()
            while process.poll() is None and self.stops_asked == asked:
                self._pass_on()
        process.wait()
        self._drain()
        self.say(name, "stopped")

    def _drain(self) -> None:
        """Print what a child that has ended wrote. A process that its job left may write on."""
        for _ in range(2):  # what the pipe holds, and its end
            self._pass_on(0)

    def _pass_on(self, timeout_s: float = PAUSE_S) -> None:
        """Print the whole lines that the children have written."""
        for key, _ in self._selector.select(timeout_s):
            data = os.read(key.fd, PIPE_SIZE)
            *lines, rest = (self._unfinished.get(key.fd, b"") + data).split(b"\n")
            if rest and (not data or len(rest) > PIPE_SIZE):
                lines, rest = [*lines, rest], b""
            self._unfinished[key.fd] = rest
            for line in lines:
                self.say(key.data, line.decode(errors="replace"))
            if not data:
                self._selector.unregister(key.fileobj)


def _watched() -> list[str]:
    """Return the files that a worker may have read: it keeps the versions that it read.

    These are the files of tasks and tables, and the modules of the application.
    """
    return [*_sources(), *_modules(".")]


def _modules(top: str) -> list[str]:
    """Return the Python files below a folder, at most MOST_WATCHED, the nearest first.

    Hidden folders, environments and links to folders are left out.
    """
    found: list[str] = []
    folders = [top]
    for folder in folders:  # grows meanwhile
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        if folder != top and any(entry.name == "pyvenv.cfg" for entry in entries):
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in NOT_WATCHED:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders += [entry.path] if len(folders) < MOST_WATCHED else []
            elif entry.name.endswith(".py"):
                found.append(entry.path)
        if len(found) >= MOST_WATCHED:
            break
    return found[:MOST_WATCHED]


def _sources() -> list[str]:
    """Return the files of tasks and tables: a running worker keeps the versions that it read.

    They include the modules of WERK_PRELOAD and WERK_ON_GIVE_UP.
    """
    settings = Settings.read()
    tables = ("werk.registry", *(place.partition(":")[0] for place in settings.registry))
    files = [getattr(sys.modules.get(name), "__file__", None) for name in tables]
    files += [source(task.path) for task in registry.tasks().values()]
    files += [source(f"{module}.any") for module in settings.preload]
    files += [source(settings.on_give_up)] if settings.on_give_up else []
    return [file for file in files if file]


def _times_of(files: Sequence[str]) -> dict[str, float]:
    """Return when each file was last changed. A file that an editor is replacing is left out."""
    times = {}
    for file in files:
        with suppress(OSError):
            times[file] = os.stat(file).st_mtime
    return times


def _start_server(url: str, settings: Settings) -> Server:
    place = client_of(url).get_connection_kwargs()
    if "path" not in place and place.get("host", LOOPBACK[0]) not in LOOPBACK:
        where = f"nothing answers at {shown(url)}, which is not on this machine"
        raise RedisUnavailable(f"{where}: start Redis there, or change RQ_REDIS_URL")
    try:
        binary = find_binary(settings)
    except ConfigError as error:
        why = f"no server answers at {shown(url)}, and {error}; or set RQ_REDIS_URL"
        raise ConfigError(why) from None
    server = Server(Path(settings.state_dir), url=url, binary=binary)
    server.start()
    return server
