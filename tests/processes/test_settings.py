"""What is set in code instead of the environment, and what a worker imports before its jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import redis
from support import Process, children, run, wait_until
from workers import finished

import werk

SHOP = """
import os
from pathlib import Path

def seen(word: str) -> str:
    return f"{word} {os.environ.get('SHOP')}"

TASKS = {"seen": "shop.seen"}
"""
ELSEWHERE = "redis://nowhere.invalid:1/0"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an application in it, which is on the path of processes."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def python(*lines: str, env: dict[str, str] | None = None) -> CompletedProcess[str]:
    return run(sys.executable, "-c", "\n".join(("import werk", *lines)), env=env)


def test_code_wins_over_the_environment(
    connection: redis.Redis, redis_url: str, shop: Path
) -> None:
    done = python(
        f"werk.configure(url={redis_url!r}, registry=['shop:TASKS'])",
        "print(werk.enqueue('seen', 'x').id)",
        f"werk.configure(url={redis_url!r}, registry='shop:TASKS')  # changes nothing",
        env={"RQ_REDIS_URL": ELSEWHERE, "WERK_REGISTRY": "no_such_table"},
    )
    assert connection.lrange("rq:queue:default", 0, -1) == [done.stdout.strip().encode()]


@pytest.mark.parametrize("name", ["WERK_HORSE_JOBS", "WERK_HORSE_MB", "WERK_CONCURRENCY"])
@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_with_too_many_digits(name: str, digits: int) -> None:
    done = run("werk", "status", env={name: "9" * digits})
    assert (done.returncode, done.stdout) == (78, "")
    told = f"werk: {name}='9999999999999999999999999999999999999...': "
    assert done.stderr == f"{told}use a whole number of at most 15 digits\n"


def test_the_budget_of_calls(shop: Path) -> None:
    done = python(
        "import time",
        "werk.configure(url='redis://127.0.0.1:1', budget_s=0.2)",
        "begin = time.monotonic()",
        "try: werk.enqueue('sleep', 1)",
        "except werk.RedisUnavailable as error: print(time.monotonic() - begin < 30, error)",
    )
    assert done.stdout.startswith("True Redis at 127.0.0.1:1/0 was not reached within 0.2 s"), done


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (f"url={ELSEWHERE!r}", "a connection to Redis was made"),
        ("budget_s=1", "a connection to Redis was made"),
        ("registry='shop:TASKS'", "the table of tasks was read"),
    ],
)
def test_what_comes_too_late_names_the_first_use(
    connection: redis.Redis, shop: Path, given: str, what: str
) -> None:
    (shop / "views.py").write_text("import werk\n\nwerk.enqueue('sleep', 1)\n")
    done = python("import views", f"werk.configure({given})")
    line = done.stderr.splitlines()[-1]
    setting = given.partition("=")[0]
    assert line.startswith(f"werk.errors.ConfigError: werk.configure({setting}=...) came too late")
    assert f"{what} before, by {shop}/views.py:3" in line


@pytest.mark.parametrize(
    "given",
    [
        *("url='redis//localhost'", "url='http://localhost:6379'", "url='redis://h:port/0'"),
        *("url='redis://user:hidden@h:99999'", "url='redis://h/zero'", "url='unix://'"),
        *("url=''", "url=1", "registry={'a': 'b.c'}", "registry=[1]"),
        *("budget_s=0", "budget_s='2'", "budget_s=1e10", "budget_s=10**400", "budget_s=True"),
    ],
)
def test_a_value_that_cannot_be_is_refused(given: str) -> None:
    done = python(f"werk.configure({given})")
    assert "werk.errors.ConfigError: werk.configure(" in done.stderr
    assert "hidden" not in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "url",
    ["redis://:p%40ss@[::1]:6379", "rediss://h/3?ssl_cert_reqs=none", "unix:///a/b.sock?db=2"],
)
def test_the_url_of_a_server_is_taken(url: str) -> None:
    assert python(f"werk.configure(url={url!r})").stderr == ""


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"RQ_REDIS_URL": "redis://127.0.0.1:1"}, "RQ_REDIS_URL"),
        ({"REDIS_URL": "redis://127.0.0.1:1"}, "REDIS_URL"),
        ({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": "1"}, "REDIS_HOST"),
    ],
)
def test_errors_name_the_variable_that_names_the_server(
    settings: dict[str, str], named: str
) -> None:
    env = {"RQ_REDIS_URL": "", **settings}
    done = run("werk-enqueue", "sleep", "1", env=env)
    assert done.stderr.endswith(f"; is it running, and is {named} right?\n")
    given = "werk.result('any', connection=redis.Redis(port=1))"
    assert python(f"import redis; {given}", env=env).stderr.endswith("; is it running?\n")


def test_a_wrong_setting_is_named() -> None:
    env = {"RQ_REDIS_URL": "", "REDIS_HOST": "127.0.0.1", "REDIS_SSL": "maybe"}
    done = run("werk-enqueue", "sleep", "1", env=env)
    assert done.returncode == 78
    assert done.stderr.startswith("werk-enqueue: REDIS_HOST, REDIS_SSL: cannot be used: ")


@pytest.mark.usefixtures("connection")
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    done = run("werk", "worker", "--pid", tmp_path / "none" / "pid", "default")
    assert done.returncode == 1
    assert f"cannot open {tmp_path / 'none' / 'pid'}: No such file" in done.stderr


def test_errors_name_what_set_the_value(shop: Path) -> None:
    done = python(
        "werk.configure(url='unix:///nowhere', registry='no_such', budget_s=0.1)",
        "def caught(call):",
        "    try: call()",
        "    except werk.WerkError as error: print(error)",
        "caught(lambda: werk.result('any'))",
        "caught(lambda: werk.enqueue('sleep', 1))",
    )
    redis, table = done.stdout.splitlines()
    assert redis.endswith("; is it running, and is werk.configure(url=...) right?")
    assert table == "werk.configure(registry=...): cannot load no_such: " + (
        f"no module no_such in the current folder ({Path.cwd()}) or on sys.path; set PYTHONPATH to "
        "its folder; a caller needs no table, because workers publish theirs"
    )


def test_a_worker_whose_table_names_another_redis_does_not_start(
    redis_url: str, shop: Path
) -> None:
    """Otherwise its tasks would enqueue where it does not work."""
    with (shop / "shop.py").open("a") as file:
        file.write(f"import werk\nwerk.configure(url={ELSEWHERE!r})\n")
    done = run("werk", "worker", "--burst", "default", env={"WERK_REGISTRY": "shop:TASKS"})
    assert done.returncode == 78
    [line] = done.stderr.splitlines()
    assert "cannot load shop:TASKS: ConfigError: werk.configure(url=...) came too late" in line


def test_an_application_with_a_hello_of_its_own(connection: redis.Redis, shop: Path) -> None:
    (shop / "shop.py").write_text(
        "TASKS = {'hello': 'shop.hello'}\ndef hello(who: str) -> str: return f'Moin {who}'\n"
    )
    env = {"WERK_REGISTRY": "shop:TASKS"}
    job = run("werk-enqueue", "hello", "Ada", env=env).stdout.strip()
    assert run("werk", "worker", "--burst", "default", env=env).returncode == 0
    assert run("werk", "result", job, env=env).stdout == "Moin Ada\n"
    refused = run("werk-enqueue", "panic", env=env)
    assert (refused.returncode, "unknown task 'panic'" in refused.stderr) == (2, True)


# --- WERK_PRELOAD


def preload(shop: Path, text: str) -> dict[str, str]:
    (shop / "shop_setup.py").write_text(text)
    return {"WERK_REGISTRY": "shop:TASKS", "WERK_PRELOAD": "shop,shop_setup"}


def test_the_horse_imports_what_is_named_before_its_first_job(
    connection: redis.Redis, shop: Path, spawn: Callable[..., Process]
) -> None:
    env = preload(shop, "import os\nos.environ['SHOP'] = f'prepared by {os.getpid()}'")
    job = run("werk-enqueue", "seen", "all", env=env).stdout.strip()
    worker = spawn("werk", "worker", "default", env=env)
    done = run("werk", "result", job, env=env).stdout
    assert done.startswith("all prepared by ")
    assert int(done.rpartition(" ")[2]) in children(worker.pid)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('one\\ntwo')", r"RuntimeError: one\ntwo"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
@pytest.mark.parametrize("command", [("werk", "worker"), ("rq", "worker")])
def test_a_worker_that_cannot_import_it_does_not_start(
    connection: redis.Redis, shop: Path, text: str, why: str, command: tuple[str, str]
) -> None:
    env = {**preload(shop, text), "RQ_WORKER_CLASS": "werk.worker.Worker"}
    job = run("werk-enqueue", "seen", "all", env=env).stdout.strip()
    done = run(*command, "default", env=env)
    assert done.returncode == 78
    lines = [line for line in done.stderr.splitlines() if "WERK_PRELOAD" in line]
    assert len(lines) == 1
    assert f"WERK_PRELOAD: cannot import shop_setup: {why}" in lines[0]
    assert "Traceback" not in done.stderr
    assert connection.lrange("rq:queue:default", 0, -1) == [job.encode()]
    assert not connection.exists("rq:workers")


def test_a_later_horse_that_cannot_import_it_leaves_the_jobs_alone(
    connection: redis.Redis,
    shop: Path,
    spawn: Callable[..., Process],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "import pathlib\nif pathlib.Path(__file__).with_name('broken').exists(): oops\n"
    env = preload(shop, text)
    worker = spawn("werk", "worker", "default", env={**env, "WERK_HORSE_JOBS": "1"})
    monkeypatch.setenv("WERK_REGISTRY", "shop:TASKS")
    monkeypatch.syspath_prepend(shop)
    finished(werk.enqueue("seen", "first"))
    (shop / "broken").touch()
    jobs = [werk.enqueue("seen", "x") for _ in range(3)]
    wait_until(lambda: worker.output().count("cannot import shop_setup: NameError") >= 2)
    assert worker.poll() is None
    (shop / "broken").unlink()
    assert [job.result(60) for job in jobs] == ["x None"] * 3
    worker.terminate()
    assert worker.wait(60) == 0
