"""CONTRIBUTING.md, the workflow of CI and the hooks name what is there, and agree with bin/lint."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from support import ROOT, command

GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
LINT = (ROOT / "bin" / "lint").read_text().splitlines()
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
SCHEMAS = ["vendor.github-workflows", "custom.github-workflows-require-timeout"]


def loaded(path: Path) -> Any:
    return YAML(typ="safe").load(path)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_workflow_follows_the_schema(schema: str) -> None:
    words = command("check-jsonschema", "--builtin-schema", schema, WORKFLOW)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_workflow_has_every_version_that_is_promised() -> None:
    matrix = loaded(WORKFLOW)["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    servers = [f"{server['name']} {server['version']}" for server in matrix["server"]]
    starts = ["redis 6.2.", "redis 7.", "redis 8.", "valkey 9."]
    assert [own[: len(start)] for own, start in zip(servers, starts, strict=True)] == starts


def test_the_workflow_runs_what_people_run_on_the_server_of_the_matrix() -> None:
    jobs = loaded(WORKFLOW)["jobs"]
    scripts = {name: [step.get("run", "") for step in jobs[name]["steps"]] for name in jobs}
    assert scripts["lint"][-2:] == ["bin/lint", "bin/release --dry-run"]
    assert scripts["test"][-1] == "bin/test"
    assert any("WERK_SERVER=" in script for script in scripts["test"])


def test_the_hooks_are_commands_of_lint() -> None:
    [repository] = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        tool, *rest = shlex.split(hook["entry"].removeprefix(".venv/bin/"))
        assert any(line.startswith(tool) and set(rest) <= set(line.split()) for line in LINT), hook


def test_the_guide_is_short() -> None:
    assert len(GUIDE.splitlines()) <= 120


def test_what_the_guide_names_is_there() -> None:
    names = {
        *re.findall(r"\]\((?!https?:)([^)#]+)\)", GUIDE),
        *re.findall(r"(?<![\w/])(?:bin|tests|werk|docs|\.github)/[\w./-]*\w", GUIDE),
    }
    assert len(names) > 20
    assert [name for name in names if not (ROOT / name).exists()] == []
    helpers = re.findall(r"`(test_\w+\.py)`", GUIDE)
    assert [name for name in helpers if not list(ROOT.glob(f"tests/*/{name}"))] == []


def test_the_guide_names_every_script_that_contributors_run() -> None:
    scripts = {path.name for path in (ROOT / "bin").iterdir()} - {"demo", "e2e-compose"}
    assert scripts <= set(re.findall(r"\bbin/(\w+)", GUIDE))
