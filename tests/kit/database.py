"""A PostgreSQL server of a test, and Django's settings for it (or for SQLite, without POSTGRES)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
from django.conf import settings
from support import wait_until

from werk.dev.server import free_port

PLACES = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]


class Postgres:
    """Listens on a port of the loopback; restart() ends all its connections."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder, self.port = programs, folder, free_port()
        self.user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
        if self.user:
            shutil.chown(folder, self.user)
        make = ["initdb", "--auth=trust", "--username=shop", "--no-sync", "--locale=C"]
        assert self.launch(*make, "--encoding=UTF8", folder / "data").wait(60) == 0

    def launch(self, program: str, *args: object) -> subprocess.Popen[bytes]:
        log = (self.folder / "log").open("a")
        words = [str(self.programs / program), *map(str, args)]
        with log:
            return subprocess.Popen(words, cwd="/", user=self.user, stdout=log, stderr=log)

    def start(self) -> None:
        where = ["-h", "127.0.0.1", "-p", self.port, "-k", self.folder]
        self.process = self.launch("postgres", "-D", self.folder / "data", *where, "-F")
        ready = ["pg_isready", "-q", "-h", "127.0.0.1", "-p", self.port]
        wait_until(lambda: self.launch(*ready).wait(60) == 0)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)  # a fast shutdown: connections end at once
        self.process.wait(60)

    def restart(self) -> None:
        self.stop()
        self.start()


@pytest.fixture(scope="module")
def made() -> Iterator[Postgres]:
    """A database for a module of tests."""
    programs = next((place for place in PLACES if (place / "postgres").exists()), None)
    if not programs:
        pytest.skip("no PostgreSQL in /usr/lib/postgresql; install the package postgresql")
    with tempfile.TemporaryDirectory(prefix="werk-pg-") as folder:
        yield Postgres(programs, Path(folder))


@pytest.fixture
def postgres(made: Postgres) -> Iterator[Postgres]:
    """The database's server, running."""
    made.start()
    try:
        yield made
    finally:
        made.stop()


def set_up() -> None:
    """Set Django up, in a process that the test has started."""
    if settings.configured:
        return
    port = os.environ.get("POSTGRES")
    # A file: Django does not close a connection to a database in memory.
    engine, name = ("postgresql", "postgres") if port else ("sqlite3", os.environ["SQLITE"])
    own = {"ENGINE": f"django.db.backends.{engine}", "NAME": name}
    if port:
        own |= {"HOST": "127.0.0.1", "PORT": port, "USER": "shop"}
    own["CONN_MAX_AGE"] = int(os.environ.get("MAX_AGE", "0"))
    own["CONN_HEALTH_CHECKS"] = "CHECKS" in os.environ
    settings.configure(DATABASES={"default": own})
    django.setup()
