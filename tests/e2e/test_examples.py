"""examples/flask/ and examples/django/: their tests pass without Redis, and a worker runs them."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from doc_pages import OBSERVABILITY, section
from support import ROOT, Process, run

from werk.client.result import status

FLASK, DJANGO = (ROOT / "examples" / name for name in ("flask", "django"))
PAGE = (ROOT / "docs" / "applications.md").read_text()
SECTION = section(OBSERVABILITY, "Django")
QUIET = {"PYTHONDONTWRITEBYTECODE": "1"}
GALLERY = {**QUIET, "PYTHONPATH": str(FLASK), "WERK_REGISTRY": "gallery.table:TASKS"}
SHOP = {**QUIET, "PYTHONPATH": str(DJANGO), "DJANGO_SETTINGS_MODULE": "shop.settings"}
WORKER = {  # as in docs/applications.md
    "WERK_REGISTRY": "shop.table:TASKS",
    "WERK_PRELOAD": "shop.worker",
    "WERK_MIDDLEWARE": "werk.contrib.django.execute",
}
ORDER = """
import json, sys, django
django.setup()
from django.test import Client
import werk
job = Client().post("/orders", {"email": sys.argv[1]}, headers={"host": "localhost"}).json()["job"]
answer = {"job": job, "result": werk.result(job, timeout=60)}
again = Client().get(f"/jobs/{job}", headers={"host": "localhost"})
print(json.dumps({**answer, "status": again.status_code}))
"""
UNAVAILABLE = """
import django
django.setup()
from django.test import Client
from shop.models import Order
post = Client().post("/orders", {"email": "ada@shop.example"}, headers={"host": "localhost"})
get = Client().get("/jobs/any", headers={"host": "localhost"})
print(post.status_code, post["Retry-After"], get.status_code, Order.objects.count())
"""
THUMBNAIL = """
from gallery.app import app
import werk
client = app.test_client()
job = client.post("/pictures/cat.jpg/thumbnail", json={"width": 64}).json["job"]
werk.result(job, timeout=60)
answer = client.get(f"/jobs/{job}")
print(answer.status_code, answer.json["result"])
"""


def database(file: Path) -> dict[str, str]:
    """Make a database for the shop. Return the variable that names it."""
    env = {"SHOP_DB": str(file)}
    done = run("python", DJANGO / "manage.py", "migrate", env={**SHOP, **env})
    assert done.returncode == 0, done.stderr
    return env


def test_the_tests_of_the_gallery_pass(nobody: socket.socket) -> None:
    where = [f"--rootdir={FLASK}", f"--config-file={FLASK}/pytest.ini", FLASK / "tests"]
    options = ["-p", "no:cacheprovider", "-W", "error", "-rA"]
    done = run("python", "-m", "pytest", *options, *where, env={**QUIET, "PYTHONPATH": str(FLASK)})
    assert done.returncode == 0 and done.stdout.count("PASSED") == 9, done.stdout
    with pytest.raises(BlockingIOError):
        nobody.accept()


def test_the_tests_of_the_shop_pass(nobody: socket.socket) -> None:
    command = ["python", "-W", "error", DJANGO / "manage.py", "test", "shop"]
    done = run(*command, env={**SHOP, **WORKER, "SHOP_DB": ":memory:"})
    assert done.returncode == 0 and "Ran 7 tests" in done.stderr, done.stderr
    with pytest.raises(BlockingIOError):
        nobody.accept()


def test_the_migrations_of_the_shop_are_complete() -> None:
    command = ["python", DJANGO / "manage.py", "makemigrations", "--check", "--dry-run"]
    done = run(*command, env={**SHOP, "SHOP_DB": ":memory:"})
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("env", [GALLERY, {**SHOP, **WORKER}], ids=["gallery", "shop"])
def test_their_tables_are_correct(env: dict[str, str]) -> None:
    done = run("werk", "tasks", "--check", "--strict", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_worker_runs_the_task_of_the_gallery(
    redis_url: str, spawn: Callable[..., Process]
) -> None:
    spawn("werk", "worker", "default", env={**GALLERY, "WERK_PRELOAD": "gallery.app"})
    done = run("python", "-W", "ignore", "-c", THUMBNAIL, env=GALLERY)
    assert done.stdout == "200 /thumbnails/64/cat.jpg\n", done.stderr


def test_a_worker_of_the_shop_opens_the_database_again(
    redis_url: str, spawn: Callable[..., Process], tmp_path: Path
) -> None:
    """The second order is in another file of the same name, as after a restart of a database."""
    shop = {**SHOP, **database(tmp_path / "shop.sqlite3")}
    worker = spawn("werk", "worker", "default", env={**shop, **WORKER})
    assert order(shop, "ada@shop.example")["status"] == 200, worker.output()
    new = tmp_path / "new.sqlite3"
    shutil.copy(tmp_path / "shop.sqlite3", new)
    new.rename(tmp_path / "shop.sqlite3")
    answer = order(shop, "grace@shop.example")
    assert answer == {"job": "receipt-2", "result": "grace@shop.example", "status": 200}


def test_the_page_shows_the_code_of_the_examples() -> None:
    sources = "\n".join(file.read_text() for file in (ROOT / "examples").rglob("*.py"))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 11 and [block for block in blocks if block not in sources] == []


def test_the_page_has_the_variables_of_a_worker_of_the_shop() -> None:
    [block] = re.findall(r"^```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert dict(line.split("=") for line in block.splitlines()) == {
        "DJANGO_SETTINGS_MODULE": SHOP["DJANGO_SETTINGS_MODULE"],
        **WORKER,
    }


def test_the_section_on_django_has_code_that_works(redis_url: str, tmp_path: Path) -> None:
    [block] = re.findall(r"^```python\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
    code = f"import django\ndjango.setup()\n{block}\nprint(order('ada@shop.example'))"
    env = {**SHOP, **database(tmp_path / "shop.sqlite3")}
    done = run("python", "-W", "ignore", "-c", code, env=env)
    assert done.returncode == 0, done.stderr
    assert status(done.stdout.strip()) == "queued"


def order(env: dict[str, str], email: str) -> dict[str, object]:
    """Order in the shop, and return the job, its result and the status of its page."""
    done = run("python", "-W", "ignore", "-c", ORDER, email, env=env)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_the_shop_answers_503_without_redis(nobody: socket.socket, tmp_path: Path) -> None:
    """The order is committed before the enqueue: docs/applications.md says what to do."""
    done = run("python", "-c", UNAVAILABLE, env={**SHOP, **database(tmp_path / "shop.sqlite3")})
    assert done.stdout == "503 5 503 1\n", done.stderr
