"""The commands as a shell sees them: what goes to stdout, what to stderr, and the exit code."""

from __future__ import annotations

import json
import os
import pickle
import pty
import signal
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import redis
from faults import listening, losing_replies, say_nothing
from support import Newcomers, Process, command, environment, nowhere, run, wait_until

from werk import __version__
from werk.dev.server import free_port

Spawn = Callable[..., Process]

UNHEARD = "no worker listens on queue default; start one: werk worker default"


@pytest.fixture
def worker(spawn: Spawn, connection: redis.Redis) -> Process:
    """A plain RQ worker, as its users start it; it listens."""
    process = spawn("rq", "worker", "default")
    wait_until(lambda: connection.exists("rq:workers:default"))
    return process


def refused(done: CompletedProcess[str], code: int, *words: str) -> None:
    """One line, on stderr, that says what to do."""
    assert done.returncode == code, done
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def waiting(connection: redis.Redis) -> int:
    return connection.llen("rq:queue:default")


# --- enqueue


def test_the_id_alone_on_stdout(connection: redis.Redis) -> None:
    done = run("werk-enqueue", "sleep", "1")
    assert (done.returncode, done.stderr) == (0, f"{UNHEARD}\n")
    assert connection.lrange("rq:queue:default", 0, -1) == [done.stdout.strip().encode()]


def test_werk_enqueue_is_the_same(connection: redis.Redis) -> None:
    assert run("werk", "enqueue", "sleep", "1").returncode == 0
    assert waiting(connection) == 1


@pytest.mark.usefixtures("worker")
def test_waiting_for_a_result() -> None:
    done = run("werk-enqueue", "--wait", "hello", "Ada")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello Ada\n", "")
    done = run("werk-enqueue", "--wait", "--json", "sleep", "0")
    assert json.loads(done.stdout)["result"] is True


@pytest.mark.usefixtures("worker")
def test_waiting_for_a_failure() -> None:
    done = run("werk-enqueue", "--wait", "panic")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].endswith("failed: RuntimeError: panic! as asked")
    done = run("werk-enqueue", "--wait", "--json", "panic")
    assert done.returncode == 1
    assert "RuntimeError" in json.loads(done.stdout)["error"]


@pytest.mark.usefixtures("worker")
def test_waiting_no_longer_than_told() -> None:
    begun = time.monotonic()
    done = run("werk-enqueue", "--wait", "--timeout", "0.5", "sleep", "60")
    assert time.monotonic() - begun < 30  # the job takes 60 s
    refused(done, 124, "after 0.5 s", "werk result")


@pytest.mark.usefixtures("redis_url")
@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["sleep", "abc"], ["seconds", "'abc'"]),
        (["slep", "1"], ["did you mean 'sleep'?"]),
        (["sleep"], ["SECONDS"]),
        (["sleep", "1", "2"], ["2 given"]),
        (["sleep", "1", "--wait"], ["put --wait before sleep"]),
        (["sleep", "1", "--nope", "x"], ["--nope"]),
        (["--wiat", "sleep", "1"], ["--wait"]),
        (["--delay", "soon", "sleep", "1"], ["'soon'"]),
        (["--delay", "nan", "sleep", "1"], ["'nan'"]),
        (["--at", "noon", "sleep", "1"], ["'noon'"]),
        (["--delay", "1", "--at", "2030-01-01", "sleep", "1"], ["cannot be combined"]),
        (["--timeout", "1", "sleep", "1"], ["--job-timeout"]),
        (["--job-timeout", "0", "sleep", "1"], ["timeout"]),
        (["--job-timeout", "x", "sleep", "1"], ["'--job-timeout': got 'x'; use -1 to"]),
        (["--job-id", "a b", "sleep", "1"], ["job_id"]),
        (["--meta", "[1]", "sleep", "1"], ["--meta", "JSON must be an object"]),
        (["--retry", "x", "sleep", "1"], ["'x'"]),
        (["--once-per", "5 minutes", "sleep", "1"], ["--once-per", "'5 minutes'", "5m"]),
        (["--once-per", "0", "sleep", "1"], ["--once-per", "1 to"]),
        (["--once-per", "-5m", "sleep", "1"], ["--once-per", "1 to"]),
        (["--expires", "0.5", "sleep", "1"], ["--expires", "1 to", "'0.5'"]),
        (["--once-per", "99999999d", "sleep", "1"], ["--once-per", "1 to 1000000000"]),
        (["sleep", "1", "--timeout", "5"], ["--timeout is an option", "put --timeout before"]),
        (["--slot", "noon", "sleep", "1"], ["--slot"]),
        (["sleep", "1", "--once-per", "5m"], ["put --once-per before sleep"]),
    ],
)
def test_wrong_usage_enqueues_nothing(
    connection: redis.Redis, words: list[str], hints: list[str]
) -> None:
    refused(run("werk-enqueue", *words), 2, *hints)
    assert connection.dbsize() == 0


def test_no_words_at_all_bring_the_help() -> None:
    for name in ("werk", "werk-enqueue"):
        done = run(name)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Usage: ")


@pytest.mark.usefixtures("worker")
def test_a_negative_number_is_a_number() -> None:
    queued = run("werk-enqueue", "sleep", "-1")
    assert queued.returncode == 0
    done = run("werk", "result", queued.stdout.strip())
    assert done.returncode == 1
    assert "ValueError" in done.stderr


def test_an_id_stands_for_one_call(connection: redis.Redis) -> None:
    def enqueue(*words: str) -> subprocess.CompletedProcess[str]:
        return run("werk-enqueue", "--job-id", "mine", *words)

    assert enqueue("--meta", '{"tenant": 7}', "hello", "Ada").returncode == 0
    again = enqueue("--delay", "1h30m", "hello", "Ada")
    assert (again.returncode, again.stdout) == (0, "mine\n")
    assert again.stderr == "job mine exists already; nothing was enqueued\n"
    said = "job_id 'mine' belongs to another call, hello('Ada'); use another id"
    refused(enqueue("hello", "Eve"), 2, said)
    assert waiting(connection) == 1
    assert '{"tenant": 7}' in run("werk", "show", "mine").stdout


def test_options_of_the_job(connection: redis.Redis) -> None:
    def fields(*options: str) -> dict[bytes, bytes]:
        done = run("werk-enqueue", *options, "hello", "Ada")
        assert done.returncode == 0, done.stderr
        return connection.hgetall(f"rq:job:{done.stdout.strip()}")

    limits = fields(
        "--job-timeout", "-1", "--result-ttl", "7", "--failure-ttl", "-1", "--ttl", "60"
    )
    assert limits[b"timeout"] == b"-1"
    assert (limits[b"result_ttl"], limits[b"failure_ttl"]) == (b"7", b"-1")
    assert limits[b"ttl"] == b"60"
    assert fields("--queue", "low", "--retry", "2")[b"retries_left"] == b"2"
    assert fields("--delay", "60")[b"status"] == b"scheduled"
    assert fields("--at", "2030-01-01T00:00+01:00")[b"status"] == b"scheduled"
    assert fields("--front")[b"status"] == b"queued"
    assert connection.zcard("rq:scheduled:default") == 2


def test_json_quiet_and_dry_run(connection: redis.Redis) -> None:
    done = run("werk-enqueue", "--json", "--job-id", "one", "sleep", "1")
    wanted = {"id": "one", "queue": "default", "task": "sleep", "duplicate": False}
    assert json.loads(done.stdout) == {**wanted, "warnings": [UNHEARD]}
    again = run("werk-enqueue", "--job-id", "one", "sleep", "1")
    assert (again.returncode, again.stdout) == (0, "one\n")
    assert "nothing was enqueued" in again.stderr
    quiet = run("werk-enqueue", "--quiet", "--job-id", "one", "sleep", "1")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert waiting(connection) == 1
    dry = run("werk-enqueue", "--dry-run", "sleep", "1", env={"RQ_REDIS_URL": "redis://no.invalid"})
    assert (dry.returncode, dry.stdout) == (0, "sleep(1.0) would go to queue default\n")
    dry = run("werk-enqueue", "--dry-run", "--json", "--delay", "5", "sleep", "1")
    found = json.loads(dry.stdout)
    assert (found["call"], found["due"][-1:]) == ("sleep(1.0)", "Z")
    assert waiting(connection) == 1


@pytest.mark.parametrize(
    ("period", "seconds"), [("90", 90), ("5m", 300), ("1h", 3600), ("1d", 86400), ("1h30m", 5400)]
)
def test_once_per(connection: redis.Redis, period: str, seconds: int) -> None:
    first = run("werk-enqueue", "--once-per", period, "sleep", "1").stdout
    [key] = connection.keys("rq:werk:period:*")
    assert 0.9 * seconds - 15 < connection.ttl(key) <= 0.9 * seconds
    again = run("werk-enqueue", "--once-per", period, "sleep", "1")
    assert (again.returncode, again.stdout) == (0, first)
    wanted = f"job {first.strip()} was already enqueued in this period; nothing was enqueued\n"
    assert again.stderr == wanted
    again = run("werk-enqueue", "--once-per", period, "--json", "sleep", "1")
    said = json.loads(again.stdout)
    assert (again.returncode, said["id"], said["duplicate"]) == (0, first.strip(), True)
    quiet = run("werk-enqueue", "--once-per", period, "--quiet", "sleep", "1")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert waiting(connection) == 1


@pytest.mark.parametrize("text", ['["Ada"]', '{"name": "Ada"}'])
def test_arguments_as_json(connection: redis.Redis, tmp_path: Path, text: str) -> None:
    file = tmp_path / "arguments"
    file.write_text(text)
    for source in (text, f"@{file}", "-"):
        done = run("werk-enqueue", "--dry-run", "--args-json", source, "hello", input=text)
        assert "Ada" in done.stdout, done
        assert done.stdout.endswith("would go to queue default\n")
    assert run("werk-enqueue", "--args-json", text, "hello").returncode == 0
    assert waiting(connection) == 1


@pytest.mark.parametrize(
    ("source", "task", "hints"),
    [
        ("[1", "sleep", ["JSON"]),
        ("1", "sleep", ["array", "object"]),
        ('["abc"]', "sleep", ["seconds", "'abc'"]),
        ("[]", "sleep", ["SECONDS"]),
        ("@/no/such/file", "sleep", ["/no/such/file", "No such file"]),
        ("-", "sleep", ["JSON"]),  # nothing on stdin
    ],
)
def test_wrong_json(redis_url: str, source: str, task: str, hints: list[str]) -> None:
    refused(run("werk-enqueue", "--args-json", source, task), 2, *hints)


def test_json_and_words(redis_url: str) -> None:
    refused(run("werk-enqueue", "--args-json", "[1]", "sleep", "1"), 2, "--args-json")


def test_expires_and_ping(connection: redis.Redis) -> None:
    words = ["--expires", "10m", "--ping", "https://x.org/1", "sleep", "1"]
    job = f"rq:job:{run('werk-enqueue', *words).stdout.strip()}"
    assert 590 <= connection.ttl(job) <= 600
    assert b"https://x.org/1" in (connection.hget(job, "webhooks") or b"")


def test_unless_active(connection: redis.Redis) -> None:
    assert run("werk-enqueue", "--unless-active", "--quiet", "sleep", "1").stderr == ""
    again = run("werk-enqueue", "--unless-active", "sleep", "1")
    assert "nothing was enqueued" in again.stderr
    assert waiting(connection) == 1
    connection.expire(connection.keys("rq:werk:last:*")[0], 29 * 86400 - 1)
    done = run("werk-enqueue", "--unless-active", "--quiet", "sleep", "1")
    assert (done.returncode, done.stdout) == (0, "")
    assert len(done.stderr.splitlines()) == 1
    assert "queued for more than a day" in done.stderr


@pytest.mark.usefixtures("worker")
def test_a_duplicate_waits_for_the_job_that_stands() -> None:
    once = ["--once-per", "1h", "--wait", "hello", "Ada"]
    first, again = run("werk-enqueue", *once), run("werk-enqueue", *once)
    assert (first.stdout, first.stderr) == ("Hello Ada\n", "")
    assert again.stdout == "Hello Ada\n"
    assert "was already enqueued in this period; nothing was enqueued" in again.stderr


def test_redis_is_away_or_silent_or_refuses(redis_url: str, connection: redis.Redis) -> None:
    def attempt(url: str) -> tuple[CompletedProcess[str], float]:
        begun = time.monotonic()
        done = run("werk-enqueue", "sleep", "1", env={"RQ_REDIS_URL": url})
        return done, time.monotonic() - begun

    with (
        listening(say_nothing) as port,
        losing_replies(redis_url, 10**9) as losing,
        ThreadPoolExecutor() as pool,
    ):
        ports = (free_port(), port)
        urls = [*(f"redis://:pw@127.0.0.1:{port}" for port in ports), losing]
        for url, (done, took_s) in zip(urls, pool.map(attempt, urls), strict=True):
            refused(done, 75, "not reached within 10 s")
            assert took_s < 60
            assert "pw" not in done.stderr
            assert ("may be queued" in done.stderr) == (url == losing)
    [job_id] = connection.lrange("rq:queue:default", 0, -1)
    assert f"; job {job_id.decode()} may be queued: werk show {job_id.decode()}\n" in done.stderr
    connection.config_set("requirepass", "sesame")
    connection.execute_command("AUTH", "sesame")
    kwargs = connection.connection_pool.connection_kwargs
    done, took_s = attempt(f"redis://:wrong-one@{kwargs['host']}:{kwargs['port']}")
    connection.config_set("requirepass", "")
    refused(done, 78, "credentials")
    assert took_s < 8  # and did not try again for 10 s
    assert "wrong-one" not in done.stderr
    refused(attempt("http://x")[0], 78, "RQ_REDIS_URL")


def test_after_two_dashes_all_is_the_tasks(connection: redis.Redis) -> None:
    done = run("werk-enqueue", "--dry-run", "hello", "--", "--wait")
    assert done.stdout.startswith("hello('--wait') ")


@pytest.mark.parametrize(
    ("redirection", "code"),
    [(">&-", 0), ("2>&-", 0), (">/dev/full", 1), (">&- 2>&-", 0)],
)
def test_nowhere_to_print(redis_url: str, redirection: str, code: int) -> None:
    line = f"{' '.join(command('werk-enqueue', 'sleep', '0'))} {redirection}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    line = line.replace("sleep 0", "slep").replace(">/dev/full", "2>/dev/full")
    assert subprocess.run(line, shell=True, capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("is_full", [True, False])
def test_an_id_that_cannot_be_printed(connection: redis.Redis, is_full: bool) -> None:
    output, words = nowhere(is_full), ("werk-enqueue", "sleep", "0")
    done = subprocess.run(
        command(*words),
        env=environment(*words),
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(output)
    assert done.returncode == 1
    [job_id] = connection.lrange("rq:queue:default", 0, -1)
    told = f"job {job_id.decode()} is enqueued: werk result {job_id.decode()}"
    assert told in done.stderr.splitlines()


@pytest.mark.usefixtures("redis_url")
@pytest.mark.parametrize("option", ["--batch", "--args-json"])
def test_stdin_that_is_closed(option: str) -> None:
    line = f"{' '.join(command('werk-enqueue', option, '-', 'sleep'))} <&-"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    refused(done, 2, f"'{option}': ", "stdin is closed; name a file")


def test_a_broken_registry(redis_url: str) -> None:
    refused(run("werk-enqueue", "sleep", "1", env={"WERK_REGISTRY": "nope:X"}), 78, "nope:X")
    refused(run("werk-enqueue", "sleep", "1", env={"RQ_KEY_PREFIX": "a b"}), 78, "RQ_KEY_PREFIX")


def test_what_cron_gives_it(redis_url: str, connection: redis.Redis) -> None:
    done = subprocess.run(
        [
            "env",
            "-i",
            f"RQ_REDIS_URL={redis_url}",
            *command("werk-enqueue", "--quiet", "sleep", "0"),
        ],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert waiting(connection) == 1


@pytest.mark.usefixtures("connection")
def test_help_and_version_and_completion() -> None:
    text = run("werk-enqueue", "--help").stdout
    for wanted in ("--wait", "sleep", "Sleep for SECONDS.", "75"):
        assert wanted in text
    assert "SECONDS" in run("werk-enqueue", "sleep", "--help").stdout
    for name in ("werk", "werk-enqueue"):
        assert run(name, "--version").stdout == f"werk {__version__}\n"
    assert metadata.version("werk") == __version__  # setup.cfg reads it
    env = {
        "_WERK_ENQUEUE_COMPLETE": "bash_complete",
        "COMP_WORDS": "werk-enqueue sl",
        "COMP_CWORD": "1",
    }
    assert run("werk-enqueue", env=env).stdout == "plain,sleep\n"


def test_a_caller_is_light(redis_url: str) -> None:
    """Importing redis-py or RQ costs more than all the rest of an enqueue."""
    code = (
        "import atexit, sys; sys.argv = ['werk-enqueue', 'sleep', '0']\n"
        "from werk.cli.enqueue import enqueue_main\n"
        "heavy = {'redis', 'rq', 'asyncio', 'ssl', 'werk.jobs', 'werk.dev', 'prometheus_client'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))))\n"
        "enqueue_main()"
    )
    done = run("python", "-c", code)
    assert (done.returncode, done.stderr) == (0, f"{UNHEARD}\n")
    assert done.stdout.splitlines()[1:] == ["[]"], done


@pytest.mark.parametrize("name", ["cli.enqueue", "client", "store", "tasks"])
def test_a_caller_loads_nothing_heavy(name: str) -> None:
    """What import-linter cannot tell: imports inside functions are not made at load."""
    code = (
        "import pkgutil, sys\n"
        "from importlib import import_module\n"
        f"own = import_module('werk.{name}')\n"
        "for found in pkgutil.iter_modules(getattr(own, '__path__', ()), f'{own.__name__}.'):\n"
        "    import_module(found.name)\n"
        "heavy = {'redis', 'rq', 'flask', 'rq_dashboard', 'asyncio', 'ssl', 'werk.worker'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run("python", "-c", code).stdout == "[]\n"


def test_an_interrupted_wait(spawn: Spawn, redis_url: str, connection: redis.Redis) -> None:
    newcomers = Newcomers(connection)
    process = spawn("werk-enqueue", "--quiet", "--wait", "sleep", "1")
    wait_until(lambda: "xread" in newcomers.sent())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "interrupted; job " in process.output()  # and it goes on, or may
    assert len(process.output().splitlines()) == 1


def test_a_wait_that_loses_redis(
    spawn: Spawn, redis_url: str, connection: redis.Redis, tmp_path: Path
) -> None:
    file = tmp_path / "lines"
    file.write_text("[60]\n")
    newcomers = Newcomers(connection)
    with losing_replies(redis_url, 0) as url:
        env = {"RQ_REDIS_URL": url}
        one = spawn("werk-enqueue", "--quiet", "--json", "--wait", "sleep", "60", env=env)
        words = ("--quiet", "--wait", "--batch", file, "sleep")
        many = spawn("werk-enqueue", *words, env=env)
        wait_until(lambda: {"xread", "hget"} <= newcomers.sent())
    assert (one.wait(60), many.wait(60)) == (124, 124)
    jobs = {job_id.decode() for job_id in connection.lrange("rq:queue:default", 0, -1)}
    [own] = [job_id for job_id in jobs if job_id in one.output()]
    for process, told in (
        (one, f"job {own} is enqueued and continues: werk result {own}"),
        (many, "the jobs of the batch are enqueued and continue: werk result ID"),
    ):
        [line] = process.output().splitlines()
        assert "was not reached within 10 s" in line
        assert line.endswith(f"; {told}")


def test_a_wait_that_redis_refuses(connection: redis.Redis) -> None:
    connection.set("rq:results:mine", "x")
    done = run("werk-enqueue", "--quiet", "--job-id", "mine", "--wait", "sleep", "1")
    refused(done, 78, "WRONGTYPE", "; job mine is enqueued and continues: werk result mine")


def test_a_reader_that_leaves(redis_url: str) -> None:
    line = f"{' '.join(command('werk', 'tasks'))} | true"
    env = environment("werk", "tasks")
    done = subprocess.run(line, shell=True, env=env, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr


# --- results and jobs


def test_result_prints_text_json_or_repr(connection: redis.Redis, worker: Process) -> None:
    job = run("werk-enqueue", "hello", "Grüße").stdout.strip()
    done = run("werk", "result", job, env={"LANG": "C"})
    assert (done.returncode, done.stdout) == (0, "Hello Grüße\n")
    job = run("werk-enqueue", "sleep", "0").stdout.strip()
    assert run("werk", "result", job).stdout == "true\n"
    assert json.loads(run("werk", "result", "--json", job).stdout) == {"id": job, "result": True}


@pytest.mark.usefixtures("redis_url")
def test_no_such_job() -> None:
    refused(run("werk", "result", "nope"), 66, "nope")
    refused(run("werk", "show", "nope"), 66, "nope")


def test_show(connection: redis.Redis, worker: Process) -> None:
    job = run("werk-enqueue", "panic", "ouch").stdout.strip()
    run("werk", "result", job)
    text = run("werk", "show", job).stdout
    assert "panic('ouch')" in text
    assert "RuntimeError: ouch" in text
    assert json.loads(run("werk", "show", "--json", job).stdout)["status"] == "failed"


def test_a_number_that_is_too_long_to_print(connection: redis.Redis) -> None:
    number = b64encode(pickle.dumps(10**5000))
    connection.hset("rq:job:x", mapping={"status": "finished", "timeout": "9" * 5000})
    connection.xadd("rq:results:x", {"type": 1, "return_value": number})
    for verb in ("result", "show"):
        assert "4300 digits" in run("werk", verb, "x").stdout
        refused(run("werk", verb, "--json", "x"), 1, "4300 digits")


def test_show_runs_nothing_of_what_it_reads(connection: redis.Redis, tmp_path: Path) -> None:
    evil = b"cposix\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR."
    connection.hset("rq:job:x", mapping={"data": evil, "status": "queued", "meta": evil})
    done = run("werk", "show", "x")
    assert done.returncode == 0
    assert "unreadable" in done.stdout
    assert not (tmp_path / "ran").exists()


def test_nothing_steers_a_terminal(connection: redis.Redis) -> None:
    connection.hset(
        "rq:job:x", mapping={"description": "a\x1b[2Jb", "werk_task": "t", "status": "queued"}
    )
    near, far = pty.openpty()
    words = ("werk", "show", "x")
    subprocess.run(command(*words), env=environment(*words), stdout=far, check=True)
    os.close(far)
    output = os.read(near, 65536)
    os.close(near)
    assert b"\\x1b" in output
    assert b"\x1b" not in output


# --- tasks


@pytest.mark.usefixtures("redis_url")
def test_tasks() -> None:
    done = run("werk", "tasks")
    assert "sleep SECONDS" in done.stdout
    assert json.loads(run("werk", "tasks", "--json").stdout)["hello"]["path"] == "werk.jobs.hello"
    done = run("werk", "tasks", "--check")
    assert (done.returncode, done.stdout) == (0, "")


def test_tasks_check_finds_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "shop_tables.py").write_text(
        'TASKS = {"gone": "shop_tables.gone", "away": "no.such.module", "odd": "shop_tables.odd"}\n'
        "def odd(x: complex, options=1): pass\n"
    )
    env = {"WERK_REGISTRY": "shop_tables:TASKS", "PYTHONPATH": str(tmp_path)}
    done = run("werk", "tasks", "--check", env=env)
    assert done.returncode == 78
    for name in ("gone: ", "away: ", "odd: "):
        assert name in done.stdout
    assert "options" in done.stdout


def test_tasks_check_strict_finds_what_no_caller_can_pass(tmp_path: Path) -> None:
    (tmp_path / "shop_models.py").write_text("class Order: ...\n")
    (tmp_path / "shop_tables.py").write_text(
        'TASKS = {"pay": "shop_tables.pay", "run": "shop_tables.Shop.run"}\n'
        "from shop_models import Order\n"
        "def pay(order: Order): pass\n"
        "class Shop:\n  def run(self): pass\n"
    )
    env = {"WERK_REGISTRY": "shop_tables:TASKS", "PYTHONPATH": str(tmp_path)}
    checked, strict = (
        run("werk", "tasks", "--check", *more, env=env) for more in ((), ["--strict"])
    )
    assert (checked.returncode, strict.returncode) == (0, 78)
    assert checked.stdout == strict.stdout
    assert strict.stdout.splitlines() == [
        f"pay: {tmp_path}/shop_tables.py:3: parameter order: Order is not plain data;"
        " pass its fields, or a dict, and build it in the task",
        f"run: {tmp_path}/shop_tables.py:5: Shop.run is an instance method; make it a staticmethod",
    ]
    as_json = json.loads(run("werk", "tasks", "--check", "--json", env=env).stdout)
    assert "Order is not plain data" in as_json["pay"]["notes"][0]
    (tmp_path / "shop_tables.py").write_text(
        'TASKS = {"pay": "shop_tables.pay"}\ndef pay(order: complex): pass\n'
    )
    assert run("werk", "tasks", "--strict", env=env).returncode == 0  # a note as others


# --- workers


def test_werk_worker_is_rq_worker(connection: redis.Redis) -> None:
    job = run("werk-enqueue", "hello", "Ada").stdout.strip()
    done = run("werk", "worker", "--burst", "default")
    assert done.returncode == 0, done.stderr
    assert run("werk", "result", job).stdout == "Hello Ada\n"
    text = run("werk", "worker", "--help").stdout
    assert "Run a worker that takes jobs" in text and "--burst" in text and "stratey" not in text


def test_python_sees_the_folder_it_is_called_in(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text('TASKS = {"x": "here.x"}\ndef x(n: int): pass\n')
    done = subprocess.run(
        command("werk-enqueue", "x", "1"),
        cwd=tmp_path,
        env={**os.environ, "WERK_REGISTRY": "here:TASKS"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("stat", "unknown command 'stat'; did you mean 'status'?"),
        ("xyz", "unknown command 'xyz'; see werk --help"),
        ("purge", "unknown command 'purge'; did you mean 'discard'?"),
    ],
)
def test_a_command_that_is_none_has_a_near_one(typed: str, hint: str) -> None:
    done = run("werk", typed)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"werk: {hint}\n")


def test_a_result_of_ordinary_text_is_printed_as_it_is(redis_url: str) -> None:
    text = "10\u202f000\u00a0€\u3000👩\u200d💻"
    [job_id] = run("werk-enqueue", "hello", f"{text}\u202e").stdout.split()
    assert run("werk", "worker", "--burst", "default").returncode == 0
    assert run("werk", "result", job_id).stdout == f"Hello {text}\\u202e\n"
