"""mypy --strict and pyright find the mistakes of a caller, and only those; --stubs --check."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import redis
from added import shipped_only
from support import ROOT, Process, run

EXAMPLE = ROOT / "examples" / "typed_calls"
FILES = ["right.py", "caller.py", "wrong.py", "shop_typed.py"]
TASKS = '''
from datetime import date
from enum import Enum
from typing import Literal


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


def total(prices: list[float], *, tax: float = 0.2) -> float:
    """Return the sum of the prices with tax."""
    return round(sum(prices) * (1 + tax), 2)


def report(day: date, format: Literal["pdf", "html"] = "pdf") -> str:
    return f"{day}.{format}"


def resize(picture: str, size: Size = Size.SMALL) -> None:
    pass


def export(day: date, *rows: int, options: dict[str, str], connection: str = "") -> list[int]:
    return [*rows]


def anything(*args, **kwargs):
    return args


TASKS = {
    "total": "shop_tasks.total",
    "daily-report": "shop_tasks.report",
    "resize": "shop_tasks.resize",
    "export": "shop_tasks.export",
    "anything": "shop_tasks.anything",
}
'''
RIGHT = """
from datetime import date
from typing import assert_never, assert_type

import shop_typed
import werk

total = shop_typed.total([10.0, 20.5], tax=0.1)
assert_type(total.result(timeout=60), float)
assert_type(shop_typed.total(prices=[1]).result(), float)
assert_type(shop_typed.daily_report(date(2026, 1, 31), "html").result(), str)
assert_type(shop_typed.daily_report(date(2026, 1, 31), format="pdf").id, str)
shop_typed.resize("cat.jpg", options=werk.Options(queue="low", delay=5))
shop_typed.resize("cat.jpg", "large")
export = shop_typed.export(
    date(2026, 1, 31), 1, 2, options={"a": "b"}, options_=werk.Options(job_id="a")
)
assert_type(export.result(), list[int])
shop_typed.anything(1, "two", three=3).result().whatever()
handle: werk.Handle = werk.enqueue("total", [1.0])
handles: list[werk.Handle[float]] = [total]


def shown(job: werk.Handle[float]) -> str:
    match job.status():
        case "created" | "queued" | "deferred" | "scheduled" | "rate_limited" | "ready_to_enqueue":
            return "waits"
        case "started":
            return "runs"
        case "finished" | "failed" | "stopped" | "canceled" as ended:
            return ended
        case other:
            assert_never(other)
"""
WRONG = """
from datetime import date

import shop_typed
import werk

shop_typed.totl([1.0])  # an unknown task
shop_typed.total("ten")  # a text for a list
shop_typed.total()  # a missing argument
shop_typed.total([1.0], taxes=0.1)  # an unknown parameter
shop_typed.total([1.0], 0.1)  # by position what goes by name only
shop_typed.resize("cat.jpg", "huge")  # no value of the Enum
shop_typed.daily_report("2026-01-31")  # a text for a date
label: str = shop_typed.total([1.0]).result()  # a result of another type
shop_typed.export(date(2026, 1, 31), options=werk.Options())  # the task's own options
werk.enqeue("total", [1.0])  # an unknown function
job = shop_typed.resize("cat.jpg", options=werk.Options(queue="low"))
"""
CHECK = ("werk", "tasks", "--stubs", "--check")
MISTAKES = [number for number, line in enumerate(WRONG.splitlines(), 1) if "  # " in line]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks, the module made from them, and two callers."""
    folder = tmp_path_factory.mktemp("shop")
    for name, text in (("shop_tasks", TASKS), ("right", RIGHT), ("wrong", WRONG)):
        (folder / f"{name}.py").write_text(text)
    shutil.copy(EXAMPLE / "caller.py", folder)
    (folder / "shop_typed.py").write_text(stubs(folder))
    return folder


def at(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(folder), "WERK_REGISTRY": "shop_tasks:TASKS"}


def stubs(folder: Path) -> str:
    done = run("werk", "tasks", "--stubs", env=at(folder))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def mypy(folder: Path) -> dict[str, list[int]]:
    """Return the lines with a finding, by file."""
    env = {"MYPYPATH": str(folder)}
    cache = f"--cache-dir={folder / 'cache'}"
    files = [folder / name for name in FILES]
    config = "--config-file="  # none: what werk's own says does not count
    done = run("mypy", config, "--strict", "--hide-error-context", cache, *files, env=env)
    assert done.returncode in (0, 1), done.stderr
    found = re.findall(r"^(\S+?):(\d+): error:", done.stdout, re.MULTILINE)
    return by_file((Path(file), int(line)) for file, line in found)


def pyright(folder: Path) -> dict[str, list[int]]:
    env = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # such as: there is a newer version
    (folder / "pyrightconfig.json").write_text(json.dumps({"include": FILES}))
    words = ("--outputjson", "--project", folder, "--pythonpath", sys.executable)
    done = run("pyright", *words, env=env)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return by_file((Path(own["file"]), own["range"]["start"]["line"] + 1) for own in found)


def by_file(found: Iterable[tuple[Path, int]]) -> dict[str, list[int]]:
    lines: dict[str, list[int]] = {}
    for path, line in found:
        lines.setdefault(path.name, []).append(line)
    return lines


def test_mypy_finds_every_mistake_and_no_other(shop: Path) -> None:
    assert len(MISTAKES) == 10
    assert mypy(shop) == {"wrong.py": MISTAKES}


@pytest.mark.skipif(not shutil.which("node"), reason="pyright needs node; install Node.js")
def test_pyright_finds_every_mistake_and_no_other(shop: Path) -> None:
    assert pyright(shop) == {"wrong.py": MISTAKES}


def test_the_module_passes_ruff_and_says_who_made_it(shop: Path) -> None:
    done = run("ruff", "check", "--isolated", "--ignore-noqa", shop / "shop_typed.py")
    assert done.returncode == 0, done.stdout
    ours = run("ruff", "check", "--config", ROOT / "ruff.toml", shop / "shop_typed.py")
    assert ours.returncode == 0, ours.stdout
    done = run("ruff", "format", "--isolated", "--check", shop / "shop_typed.py")
    assert done.returncode == 0, done.stdout
    assert (shop / "shop_typed.py").read_text().startswith("# Made by `werk tasks --stubs`")


@shipped_only
def test_the_example_works(connection: redis.Redis, spawn: Callable[..., Process]) -> None:
    done = run(*CHECK, EXAMPLE / "shop_typed.py", env=at(EXAMPLE))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    spawn("werk", "worker", "default", env=at(EXAMPLE))
    lines = "import caller; print(caller.order([10, 20.5])); caller.nightly(caller.date.today())"
    done = run("python", "-W", "ignore", "-c", lines, env=at(EXAMPLE))
    assert (done.returncode, done.stdout, done.stderr) == (0, "33.55\n", "")


def test_a_task_with_parameters_of_enqueues_names(
    shop: Path, connection: redis.Redis, spawn: Callable[..., Process]
) -> None:
    spawn("werk", "worker", "low", env=at(shop))
    lines = (
        "import datetime, shop_typed, werk",
        "options = werk.Options(queue='low', job_id='own')",
        "rest = {'options': {'a': 'b'}, 'connection': 'c', 'options_': options}",
        "job = shop_typed.export(datetime.date.today(), 1, 2, **rest)",
        "print(job.id, job.queue, job.result(timeout=60), job.status())",
    )
    done = run("python", "-W", "ignore", "-c", "\n".join(lines), env=at(shop))
    assert (done.returncode, done.stdout, done.stderr) == (0, "own low [1, 2] finished\n", "")


def test_check_notices_a_changed_parameter(shop: Path, tmp_path: Path) -> None:
    file = shop / "shop_typed.py"
    done = run(*CHECK, file, env=at(shop))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (tmp_path / "shop_tasks.py").write_text(TASKS.replace("tax: float", "tax: int"))
    done = run(*CHECK, file, env=at(tmp_path))
    why = f"{file} is out of date (total); run: werk tasks --stubs > {file}"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"werk: {why}\n")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--stubs", "--check"), "--stubs --check requires FILE"),
        (("--stubs", "file.py"), "FILE is only for --stubs --check, got 'file.py'"),
        (("file.py",), "FILE is only for --stubs --check, got 'file.py'; how to call a task: "),
        (("--stubs", "--json"), "--json cannot be combined with --stubs"),
        (("--stubs", "--check", "/nowhere/a.py"), "/nowhere/a.py: No such file or directory"),
    ],
)
def test_wrong_usage(shop: Path, words: tuple[str, ...], problem: str) -> None:
    done = run("werk", "tasks", *words, env=at(shop))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"werk: {problem}") and done.stderr.count("\n") == 1


def test_a_table_that_cannot_be_loaded(shop: Path) -> None:
    done = run("werk", "tasks", "--stubs", env={"WERK_REGISTRY": "nowhere:TASKS"})
    assert (done.returncode, done.stdout) == (78, "")
