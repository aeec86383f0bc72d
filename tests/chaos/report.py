"""The verdict as people read it: Markdown, and the first lines of what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.verdict import Verdict

DETAILS = 5  # lines of each category


def table(verdict: Verdict) -> str:
    """Return the figures as Markdown."""
    counts = [(kind, verdict.injected[kind]) for kind in verdict.kinds]
    outcomes = _table("outcome", verdict.rows())
    return "\n".join([*outcomes, "", *_table("faults injected", counts)])


def details(wrong: Sequence[str]) -> str:
    """Return what is wrong, a few lines of each category."""
    lines: list[str] = []
    counted: dict[str, int] = {}
    for line in wrong:
        category = line.partition(":")[0]
        counted[category] = counted.get(category, 0) + 1
        if counted[category] <= DETAILS:
            lines.append(line)
    more = [
        f"{category}: ... and {count - DETAILS} more"
        for category, count in counted.items()
        if count > DETAILS
    ]
    return "\n".join([*lines, *more])


def _table(head: str, rows: Sequence[tuple[str, object]]) -> list[str]:
    return [f"| {head} | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in rows)]
