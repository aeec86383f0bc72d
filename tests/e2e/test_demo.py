"""`bin/demo` runs the tasks that werk brings, whatever is exported, and says why it fails."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from support import ROOT, run

LISTENS = "try: werk-enqueue   Ctrl-C stops all"
UP = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print(*sys.argv[1:], sep="\\n", flush=True)
signal.sigwait([signal.SIGTERM])
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with bin/demo, and commands that do nothing in place of werk's."""
    clone = tmp_path / "clone"
    for folder in ("bin", ".venv/bin"):
        (clone / folder).mkdir(parents=True)
    shutil.copy(ROOT / "bin" / "demo", clone / "bin" / "demo")
    write(clone / "bin" / "setup", "true")
    write(clone / ".venv" / "bin" / "python", f'exec {sys.executable} "$@"')
    write(clone / ".venv" / "bin" / "werk-enqueue", "echo an-id")
    (clone / "up.py").write_text(UP)
    return clone


def write(script: Path, text: str) -> None:
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)


def prints(*lines: str) -> str:
    """Return a command that prints these lines, and ends when it is asked to stop."""
    return " ".join(["exec python up.py", *(f"'{line}'" for line in lines)])


def failed(clone: Path, *, up: str, status: int = 0) -> list[str]:
    """Return the lines of the error if `werk up` is this command, and `werk status` exits so."""
    werk = f"case $1 in up) {up} ;; status) exit {status} ;; result) exit 3 ;; esac"
    write(clone / ".venv" / "bin" / "werk", werk)
    done = run(clone / "bin" / "demo", timeout=60)
    assert done.returncode != 0
    assert "Everything has been stopped" not in done.stdout
    return done.stderr.splitlines()


def test_no_module_of_the_environment_is_imported() -> None:
    names = ("REGISTRY", "PRELOAD", "MIDDLEWARE", "ENQUEUE_MIDDLEWARE", "ON_GIVE_UP")
    env = {f"WERK_{name}": "no_module.name" for name in names}
    done = run(ROOT / "bin" / "demo", env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Hello Ada" in done.stdout


def test_a_worker_that_refuses_a_setting_ends_it(clone: Path) -> None:
    refused = "worker    | exited (exit code 78), see above"
    assert failed(clone, up=prints(LISTENS, refused), status=2) == [
        "bin/demo: the worker did not start; the output of werk up:",
        LISTENS,
        refused,
    ]


def test_a_worker_that_never_starts_ends_it(clone: Path) -> None:
    demo = clone / "bin" / "demo"
    demo.write_text(demo.read_text().replace("SECONDS + 30", "SECONDS"))
    first, *_ = failed(clone, up=prints(LISTENS), status=2)
    assert first == "bin/demo: the worker did not start; the output of werk up:"


def test_the_end_of_what_it_starts_ends_it(clone: Path) -> None:
    assert failed(clone, up="echo 'werk: no server'; exit 78") == [
        "bin/demo: the worker did not start; the output of werk up:",
        "werk: no server",
    ]


def test_another_outcome_of_a_job_ends_it(clone: Path) -> None:
    assert failed(clone, up=prints(LISTENS)) == [
        "bin/demo: the demo was not completed; the output of werk up:",
        LISTENS,
    ]
