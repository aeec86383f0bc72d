"""The pytest plugin in a project of its own: its fixtures, and sessions that do not use it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from support import run, wait_until

TABLE = """\
from werk import Task

TASKS = {"double": Task("own_tasks.double", queue="own"), "where": "own_tasks.where"}
"""
TASKS = """\
import os

def double(number: int) -> int:
    return 2 * number

def where() -> str:
    return os.environ["RQ_REDIS_URL"]
"""
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table of tasks, which is the current one."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "own_table.py").write_text(TABLE)
    (folder / "own_tasks.py").write_text(TASKS)
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    monkeypatch.chdir(folder)
    return folder


def pytest_run(project: Path, text: str, *options: str, **env: str) -> Done:
    (project / "test_own.py").write_text(text)
    words = ["-p", "no:cacheprovider", "-W", "error", "-rA", f"--basetemp={project}/tmp"]
    if "PYTEST_DISABLE_PLUGIN_AUTOLOAD" not in env:  # other plugins take most of the time
        env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        words += ["-p", "werk"]
    return run("pytest", *words, *options, env={"WERK_REGISTRY": "own_table:TASKS", **env})


@pytest.fixture
def _nothing_left(project: Path) -> Iterator[None]:
    """Wait until no process runs in the project: neither a server nor a worker."""
    yield
    wait_until(lambda: not any(folder.startswith(str(project)) for folder in _folders()))


def _folders() -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name in ("self", "thread-self", str(os.getpid())):
            continue
        with suppress(OSError):  # it has ended, or belongs to another user
            yield os.readlink(entry / "cwd")


def test_werk_jobs_records(project: Path, redis_url: str, connection: redis.Redis) -> None:
    done = pytest_run(
        project,
        "import werk\n"
        "def test_one(werk_jobs):\n"
        "    job = werk.enqueue('double', 4)\n"
        "    werk_jobs.run()\n"
        "    assert job.result() == 8\n"
        "def test_another(werk_jobs):\n"
        "    assert werk_jobs == []\n",
        RQ_REDIS_URL=redis_url,
    )
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout
    assert connection.keys("*") == []


def test_werk_jobs_records_in_async_tests(project: Path) -> None:
    """A fixture of the module keeps anyio's task, which began before werk_jobs."""
    done = pytest_run(
        project,
        "import pytest, werk\n"
        "@pytest.fixture(scope='module')\n"
        "def anyio_backend(): return 'asyncio'\n"
        "@pytest.fixture(scope='module')\n"
        "async def older(anyio_backend): yield\n"
        "@pytest.mark.anyio\n"
        "async def test_one(older, werk_jobs):\n"
        "    werk.enqueue('double', 4)\n"
        "    assert [job.args for job in werk_jobs] == [(4,)]\n"
        "@pytest.mark.anyio\n"
        "async def test_another(older, werk_jobs):\n"
        "    assert werk_jobs == []\n",
        "-p",
        "anyio",
        RQ_REDIS_URL="redis://127.0.0.1:1/0",
    )
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout


def test_an_async_test_that_runs_again_records_into_a_new_list(project: Path) -> None:
    """As pytest-rerunfailures does it: the same item, set up and called once more."""
    (project / "conftest.py").write_text(
        "from _pytest.runner import runtestprotocol\n"
        "def pytest_runtest_protocol(item, nextitem):\n"
        "    runtestprotocol(item, nextitem=nextitem, log=False)\n"
        "    item._initrequest()\n"
    )
    done = pytest_run(
        project,
        "import pytest, werk\n"
        "@pytest.fixture\n"
        "def anyio_backend(): return 'asyncio'\n"
        "@pytest.mark.anyio\n"
        "async def test_one(werk_jobs):\n"
        "    werk.enqueue('double', 4)\n"
        "    assert [job.args for job in werk_jobs] == [(4,)]\n",
        "-p",
        "anyio",
        RQ_REDIS_URL="redis://127.0.0.1:1/0",
    )
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 1), done.stdout


def test_werk_jobs_records_in_every_kind_of_test_case(project: Path) -> None:
    """IsolatedAsyncioTestCase runs tests in a context that is older than werk_jobs."""
    body = (
        "    def setUp(self): werk.enqueue('double', 1)\n"
        "    def test_sync(self):\n"
        "        werk.enqueue('double', 2)\n"
        "        assert [job.args for job in self.jobs] == [(1,), (2,)]\n"
    )
    done = pytest_run(
        project,
        "import pytest, threading, unittest, werk\n"
        "from werk.testing import recorded\n"
        "@pytest.fixture(autouse=True)\n"
        "def jobs(request, werk_jobs):\n"
        "    if request.instance: request.instance.jobs = werk_jobs\n"
        "    return werk_jobs\n"
        f"class TestPlain(unittest.TestCase):\n{body}"
        f"class TestAsync(unittest.IsolatedAsyncioTestCase):\n{body}"
        "    async def test_async(self):\n"
        "        await werk.aio.enqueue('double', 3)\n"
        "        with recorded() as inner: werk.enqueue('double', 4)\n"
        "        assert [job.args for job in self.jobs] == [(1,), (3,)]\n"
        "        assert [job.args for job in inner] == [(4,)]\n"
        "def test_a_thread(jobs):\n"
        "    thread = threading.Thread(target=werk.enqueue, args=('double', 5))\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "    assert [job.args for job in jobs] == [(5,)]\n",
        RQ_REDIS_URL="redis://127.0.0.1:1/0",
    )
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 4), done.stdout


def test_werk_jobs_ends_with_the_test(project: Path) -> None:
    done = pytest_run(
        project,
        "import pytest, werk\n"
        "def test_one(werk_jobs): werk.enqueue('double', 4)\n"
        "def test_another():\n"
        "    with pytest.raises(werk.RedisUnavailable): werk.enqueue('double', 4)\n",
        RQ_REDIS_URL="redis://127.0.0.1:1/0",
    )
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout


@pytest.mark.usefixtures("_nothing_left")
def test_werk_worker_runs_jobs(project: Path, redis_url: str, connection: redis.Redis) -> None:
    """One server and one worker for the session, and nothing in the developer's own Redis."""
    done = pytest_run(
        project,
        "import os, pytest, werk\n"
        "def test_one(werk_worker):\n"
        "    assert werk.enqueue('double', 4).result(timeout=60) == 8\n"
        "    assert werk.enqueue('where').result(timeout=60) == werk_worker\n"
        "def test_another(werk_worker, werk_jobs):\n"
        "    assert os.environ['RQ_REDIS_URL'] == werk_worker\n"
        "    assert werk.enqueue('double', 4).result(timeout=60) == 8\n"
        "    assert werk_jobs == []\n"
        "def test_without(werk_jobs):\n"
        "    werk.enqueue('double', 4)\n"
        "    assert len(werk_jobs) == 1\n"
        "def test_late(werk_jobs, request):\n"
        "    werk.enqueue('double', 4)\n"
        "    request.getfixturevalue('werk_worker')\n"
        "    assert werk.enqueue('double', 5).result(timeout=60) == 10\n"
        "    assert [job.args for job in werk_jobs] == [(4,)]\n"
        "@pytest.fixture\n"
        "def anyio_backend(): return 'asyncio'\n"
        "@pytest.mark.anyio\n"
        "async def test_late_and_async(late, werk_jobs):\n"
        "    job = await werk.aio.enqueue('double', 6)\n"
        "    assert await werk.aio.result(job.id, timeout=60) == 12\n"
        "    assert werk_jobs == []\n"
        "@pytest.fixture\n"
        "def late(request): return request.getfixturevalue('werk_worker')\n",
        "-p",
        "anyio",
        RQ_REDIS_URL=redis_url,
    )
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 5), done.stdout
    assert connection.keys("*") == []
    assert "event=begins" in (project / "tmp" / "werk0" / "worker.log").read_text()


@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize("is_early", [True, False])
def test_werk_worker_wins_over_a_url_in_code(
    project: Path, redis_url: str, connection: redis.Redis, is_early: bool
) -> None:
    """Nothing is written to the Redis of the application, and it may name that late."""
    (project / "own_app.py").write_text(f"import werk\nwerk.configure(url={redis_url!r})\n")
    with (project / "own_tasks.py").open("a") as file:
        file.write("import own_app, werk\ndef outer(): return werk.enqueue('double', 1).id\n")
    with (project / "own_table.py").open("a") as file:
        file.write("TASKS['outer'] = 'own_tasks.outer'\n")
    done = pytest_run(
        project,
        f"import pytest, werk\n{'import own_app' * is_early}\n"
        "def test_one(werk_worker):\n"
        "    assert werk.enqueue('double', 4).result(timeout=60) == 8\n"
        "    import own_app\n"
        "    assert werk.enqueue('where').result(timeout=60) == werk_worker\n"
        "    inner = werk.enqueue('outer').result(timeout=60)\n"
        "    assert werk.result(inner, timeout=60) == 2\n"
        "    with pytest.raises(werk.ConfigError, match='not the URL'):\n"
        "        werk.configure(url='http://')\n",
    )
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 1), done.stdout
    assert connection.keys("*") == []


@pytest.mark.usefixtures("_nothing_left")
def test_a_session_that_does_not_end_well_leaves_nothing(project: Path) -> None:
    done = pytest_run(project, "import os\ndef test(werk_worker):\n    os._exit(3)\n")
    assert done.returncode == 3


def test_a_missing_server_is_explained(project: Path) -> None:
    text = "def test_one(werk_worker): pass\n"
    done = pytest_run(project, text, WERK_SERVER="/nowhere/redis-server")
    assert done.returncode == 1
    assert "werk_worker: WERK_SERVER=/nowhere/redis-server: use Valkey or Redis" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.usefixtures("_nothing_left")
def test_a_worker_that_does_not_start_is_explained(project: Path) -> None:
    text = "def test_one(werk_worker): pass\n"
    table = "import sys\nassert 'pytest' in sys.modules, 'not in a worker'\n"
    (project / "own_table.py").write_text(table + TABLE)
    done = pytest_run(project, text)
    assert done.returncode == 1
    assert "werk_worker: the worker did not start:" in done.stdout
    assert "cannot load own_table:TASKS: AssertionError: not in a worker" in done.stdout


def test_a_bad_setting_is_explained(project: Path) -> None:
    done = pytest_run(project, "def test_one(werk_worker): pass\n", WERK_HORSE_JOBS="many")
    assert done.returncode == 1
    assert "werk_worker: WERK_HORSE_JOBS='many': use a whole number" in done.stdout


def test_a_bad_table_is_explained(project: Path) -> None:
    text = "def test_one(werk_worker): pass\n"
    done = pytest_run(project, text, WERK_REGISTRY="own_table:NONE")
    assert done.returncode == 1
    assert "WERK_REGISTRY: cannot load own_table:NONE" in done.stdout


def test_a_session_without_the_fixtures_loads_nothing_of_werk(project: Path) -> None:
    done = pytest_run(
        project,
        "import sys\n"
        "def test_one():\n"
        "    found = {name for name in sys.modules if name.startswith('werk')}\n"
        "    assert found == {'werk', 'werk.dev', 'werk.dev.pytest_plugin'}\n"
        "    assert not {'redis', 'rq', 'hiredis', 'flask'} & set(sys.modules)\n",
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="",
    )
    assert done.returncode == 0, done.stdout


def test_the_fixtures_are_explained(project: Path) -> None:
    done = pytest_run(project, "", "--fixtures")
    assert "werk_jobs -- " in done.stdout
    assert "werk_worker [session scope] -- " in done.stdout
