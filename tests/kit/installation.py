"""A stranger's installation: an empty folder beside a clone, with an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

FOR_PIP = re.compile(r"PIP_|https?_proxy$|no_proxy$|SSL_CERT_|REQUESTS_CA_", re.IGNORECASE)
NO_NETWORK = "Temporary failure in name|NewConnectionError"


def a_clone(folder: Path) -> None:
    """Put into a folder what an installation from a clone needs. (pip builds in it.)"""
    shutil.copytree(ROOT / "werk", folder / "werk", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)


class Terminal:
    """Somebody who types commands in an empty folder beside a clone."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        kept = {name: own for name, own in os.environ.items() if FOR_PIP.match(name)}
        path = f"{sys.base_prefix}/bin:/usr/bin:/bin"
        self.env = {**kept, "PATH": path, "HOME": str(Path.home()), "RQ_REDIS_URL": redis_url}
        self.folder = folder
        folder.mkdir()

    def type(self, *lines: str) -> subprocess.CompletedProcess[str]:
        words = ["/bin/bash", "-c", "\n".join(lines)]
        return subprocess.run(
            words, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=300
        )

    def install(self, *lines: str) -> None:
        """Type commands of pip; skip the test if there is no network."""
        made = self.type("set -e", *lines)
        if re.search(NO_NETWORK, made.stderr):
            pytest.skip("there is no package index within reach")
        assert made.returncode == 0, made.stderr
