"""The size of the source: DESIGN's budgets for files, functions, classes, lines and packages.

ruff checks complexity and the lines of Python files (ruff.toml).
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "werk"
PYTHON, LUA = sorted(SOURCE.rglob("*.py")), sorted(SOURCE.rglob("*.lua"))

README, FILE, FUNCTION, ATTRIBUTES, LINE = 200, 300, 40, 15, 100
PACKAGES = {  # lines of code: without blank lines, comments and docstrings
    "werk": 598,
    "cli": 840,
    "client": 430,
    "dev": 340,
    "lua": 960,
    "ops": 1200,
    "store": 760,
    "tasks": 800,
    "testing": 252,
    "web": 592,
    "worker": 2050,
}

# What is over its budget. Entries shrink and go; the commit that adds or raises one names the
# feature.
OVER = {
    "package cli": 961,
    "package client": 656,
    "package dev": 597,
    "package lua": 1138,
    "package ops": 1681,
    "package store": 945,
    "package tasks": 973,
    "package worker": 3361,
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_nothing_is_over_its_budget() -> None:
    limits = [(name, size, max(most, OVER.get(name, 0))) for name, size, most in _sizes()]
    assert [(name, size, most) for name, size, most in limits if size > most] == []


def test_what_is_listed_is_over_its_budget() -> None:
    """An entry that is no longer needed has to go, so that nothing grows back."""
    assert OVER.keys() - {name for name, size, most in _sizes() if size > most} == set()


def _sizes() -> Iterator[tuple[str, int, int]]:
    """Yield everything that has a budget: name, size and budget."""
    yield "README.md", len((ROOT / "README.md").read_text().splitlines()), README
    for path in [*PYTHON, *LUA]:
        yield _name(path), len(path.read_text().splitlines()), FILE
    for path in LUA:
        yield f"lines in {_name(path)}", max(map(len, path.read_text().splitlines())), LINE
    for path in PYTHON:
        for name, function in _functions(ast.parse(path.read_text()), f"{_name(path)}:"):
            yield name, (function.end_lineno or 0) - function.lineno + 1, FUNCTION
            if function.name == "__init__":  # a record has none
                assigned = len(set(_assigned(function)))
                yield f"attributes of {name.removesuffix('.__init__')}", assigned, ATTRIBUTES
    found = Counter(dict.fromkeys(PACKAGES, 0))
    for path in [*PYTHON, *LUA]:
        found[path.parent.name] += _lines_of_code(path)
    for package, count in found.items():
        yield f"package {package}", count, PACKAGES[package]


def _name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Yield each function in a node, and its name: worker/horse.py:Horse.loop."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield f"{prefix}{child.name}", child
        is_named = isinstance(child, Function | ast.ClassDef)
        yield from _functions(child, f"{prefix}{child.name}." if is_named else prefix)


def _assigned(function: Function) -> Iterator[str]:
    """Yield the attributes of self that a function assigns."""
    for node in ast.walk(function):
        is_assigned = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if is_assigned and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


def _lines_of_code(path: Path) -> int:
    """Return how many lines of a file hold code."""
    text = path.read_text()
    if path.suffix == ".lua":
        lines = map(str.strip, text.splitlines())
        return sum(bool(line) and not line.startswith("--") for line in lines)
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT and token.string.strip():
            found.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node):
            found.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(found)
