"""`bin/release` refuses what does not fit together, and its dry run builds a wheel that works."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support import ROOT

from werk import __version__

CHANGELOG = "# Changelog\n\n## 1.2.3 - 2026-11-28\n"
GIT = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER")
       for what in ("NAME", "EMAIL")}  # fmt: skip


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository that fits together. Its bin/setup ends a release after the checks."""
    for name, value in GIT.items():
        monkeypatch.setenv(name, value)
    clone = tmp_path / "clone"
    for folder in ("bin", "werk"):
        (clone / folder).mkdir(parents=True)
    shutil.copy(ROOT / "bin" / "release", clone / "bin" / "release")
    (clone / "bin" / "setup").write_text("#!/bin/sh\necho the checks are passed\nexit 3\n")
    (clone / "bin" / "setup").chmod(0o755)
    (clone / "werk" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (clone / "CHANGELOG.md").write_text(CHANGELOG)
    git(clone, "init", "--quiet")
    commit(clone)
    git(clone, "tag", "v1.2.3")
    return clone


def git(clone: Path, *words: str) -> None:
    subprocess.run(["git", "-C", clone, *words], check=True)


def commit(clone: Path) -> None:
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "Any")


def release(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [folder / "bin" / "release", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_what_fits_together_is_built(clone: Path) -> None:
    done = release(clone)
    assert (done.returncode, done.stdout, done.stderr) == (3, "the checks are passed\n", "")


def refused(clone: Path) -> str:
    """Return the one line that a release prints, without its beginning."""
    done = release(clone)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    return line.removeprefix("bin/release: ")


def test_a_change_that_is_not_committed(clone: Path) -> None:
    (clone / "new").touch()
    assert refused(clone) == "the tree has changes (new); commit or stash them"


def test_a_tag_of_another_version(clone: Path) -> None:
    git(clone, "tag", "v1.2.4")
    git(clone, "tag", "--delete", "v1.2.3")
    assert refused(clone) == (
        "version 1.2.3 differs from this commit's tag v1.2.4; "
        "change __version__ in werk/__init__.py or the tag"
    )


def test_no_tag(clone: Path) -> None:
    git(clone, "tag", "--delete", "v1.2.3")
    assert refused(clone) == "this commit has no tag; run: git tag v1.2.3"


def test_a_version_that_was_released_before(clone: Path) -> None:
    (clone / "new").touch()
    commit(clone)
    assert refused(clone) == (
        "version 1.2.3 is tagged at another commit; raise __version__ in werk/__init__.py"
    )


@pytest.mark.parametrize("heading", ["## Unreleased", "## 1.2.2 - 2026-11-01", "## 1.2.3", "no"])
def test_a_changelog_without_its_heading(clone: Path, heading: str) -> None:
    (clone / "CHANGELOG.md").write_text(CHANGELOG.replace("## 1.2.3 - 2026-11-28", heading))
    git(clone, "tag", "--delete", "v1.2.3")
    commit(clone)
    git(clone, "tag", "v1.2.3")
    found = "no heading" if heading == "no" else heading
    assert refused(clone).startswith(
        f"CHANGELOG.md begins with '{found}'; its first heading must be '## 1.2.3 - 20"
    )


def test_no_version(clone: Path) -> None:
    (clone / "werk" / "__init__.py").write_text("")
    assert refused(clone).startswith("werk/__init__.py has no version; add a line")


def test_a_dry_run_notes_what_a_release_would_refuse(clone: Path) -> None:
    (clone / "new").touch()
    done = release(clone, "--dry-run")
    assert (done.returncode, done.stdout) == (3, "the checks are passed\n")
    assert "the tree has changes (new)" in done.stderr


def test_another_argument() -> None:
    done = release(ROOT, "--upload")
    assert (done.returncode, done.stderr) == (
        2,
        "bin/release: unknown arguments '--upload'; usage: bin/release [--dry-run]\n",
    )


def test_a_dry_run_builds_a_wheel_that_works() -> None:
    done = release(ROOT, "--dry-run")
    assert done.returncode == 0, done.stderr
    usage, built, kept = done.stdout.splitlines()
    assert usage == "Usage: werk-enqueue [OPTIONS] TASK [ARGS]..."
    assert built.startswith("built and tried: werk-")
    assert kept == "a dry run: nothing is kept"


def test_a_release_names_the_files_to_upload(clone: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    git(clone, "clone", "--quiet", str(ROOT), str(own))
    shutil.copy(ROOT / "bin" / "release", own / "bin" / "release")
    (own / "bin" / "setup").write_text("#!/bin/sh\n")
    (own / ".venv").symlink_to(ROOT / ".venv")
    (own / ".git" / "info" / "exclude").write_text(".venv\n")
    (own / "CHANGELOG.md").write_text(f"## {__version__} - 2026-11-28\n")
    commit(own)
    git(own, "tag", "--force", f"v{__version__}")
    done = release(own)
    assert done.returncode == 0, done.stderr
    files = [f"dist/werk-{__version__}{end}" for end in (".tar.gz", "-py3-none-any.whl")]
    upload = f"git push origin v{__version__} && twine upload {' '.join(files)}"
    assert done.stdout.splitlines()[-1] == f"next: {upload}"
    assert {f"dist/{file.name}" for file in (own / "dist").iterdir()} == {*files}
