"""README and docs/ as the tests read them: their pages, their shell commands, their links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from support import ROOT

OBSERVABILITY = ROOT / "docs" / "observability.md"
SCALING = ROOT / "docs" / "scaling.md"
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
ALL = [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def section(page: Path, title: str) -> str:
    """Return what stands below a heading of the second level, up to the next one."""
    return page.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def consoles(page: Path) -> list[str]:
    """Return the blocks of a page that show a terminal."""
    return re.findall(r"^```console\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[tuple[str, str]]:
    """Return the commands of a page, each with the output under it."""
    parts = [part for text in consoles(page) for part in re.split(r"^\$ ", text, flags=re.M)[1:]]
    return [_in_two(part) for part in parts]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", FENCE.sub("", page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        number = sum(own == anchor or own.startswith(f"{anchor}-") for own in found)
        found.add(f"{anchor}-{number}" if anchor in found else anchor)
    return found


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the target of each link to a file, and its anchor, '' for none."""
    yield from LINK.findall(FENCE.sub("", page.read_text()))


def _in_two(part: str) -> tuple[str, str]:
    """Return a command and its output; a command goes on after a backslash."""
    lines = part.splitlines(keepends=True)
    end = next(at for at, line in enumerate(lines, 1) if not line.endswith("\\\n"))
    return "".join(lines[:end]).rstrip("\n"), "".join(lines[end:])
