"""The table and the chart of docs/benchmarks.md, drawn from what `bin/bench --json` prints."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import benchmarks
import pytest

SVG = "{http://www.w3.org/2000/svg}"
PLACE = f"# Title\n\n{benchmarks.BEGIN.format('a')}\nold\n{benchmarks.END}\n\nprose\n"


def row(name: str = "drain", **fields: Any) -> dict[str, Any]:
    figures: dict[str, list[float]] = {"werk": [], "other": [], "ratios": []}
    named = {"name": name, "unit": "jobs/s", "compared_with": "", "target": ">= 2 x"}
    return {**named, **figures, "is_met": True, **fields}


def document(*rows: dict[str, Any], is_quick: bool = False) -> dict[str, Any]:
    head = {"command": "bin/bench", "date": "2026-01-02", "is_quick": is_quick, "note": "Note."}
    machine, versions = {"cpu": "A & B", "cores": 2}, {"RQ": "3.0.0", "server": "valkey 9.1.2"}
    return {**head, "machine": machine, "versions": versions, "rows": list(rows)}


def drawn(*rows: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return the class, the left end and the width of each bar."""
    root = ElementTree.fromstring(benchmarks.chart(document(*rows)))
    bars = [one for one in root.iter(f"{SVG}rect") if one.get("class") != "page"]
    return [(str(b.get("class")), float(b.get("x", 0)), float(b.get("width", 0))) for b in bars]


@pytest.mark.parametrize(
    ("figure", "shown"), [(10684, "10,700"), (92.46, "92.5"), (0.7, "0.7"), (99.96, "100")]
)
def test_a_figure_has_three_digits(figure: float, shown: str) -> None:
    assert benchmarks.number(figure) == shown


def test_the_page_names_command_date_machine_and_versions() -> None:
    page = benchmarks.page(PLACE, document(row()), "a")
    assert "`bin/bench` on 2026-01-02, 2 cores of A & B; RQ 3.0.0, valkey 9.1.2 without" in page
    assert page.startswith("# Title\n")
    assert page.endswith("\n\nprose\n")
    assert "old" not in page
    assert benchmarks.page(page, document(row()), "a") == page


def test_a_row_shows_medians_and_the_range() -> None:
    full = row(werk=[10.0, 30, 20], compared_with="RQ", other=[5.0], ratios=[2.0, 6, 4])
    missing = row("huey", compared_with="huey", is_met=None)
    lines = benchmarks.text(document(full, missing)).splitlines()
    assert lines[-2] == "| drain | 20 (10-30) jobs/s | RQ: 5 jobs/s | 4 (2-6) x | >= 2 x: met |"
    assert lines[-1] == "| huey | | huey | | >= 2 x: not measured |"


def test_the_figures_of_a_quick_run_are_no_page() -> None:
    with pytest.raises(AssertionError, match="mean nothing"):
        benchmarks.page(PLACE, document(row(), is_quick=True), "a")


def test_a_bar_starts_at_rq_and_grows_by_the_logarithm() -> None:
    compared = {"werk": [1.0], "compared_with": "RQ", "other": [1.0]}
    ten, hundred, half, small = (
        row(ratios=[10.0], **compared),
        row(ratios=[100.0], **compared),
        row(ratios=[0.5], **compared),
        row(ratios=[0.1], **compared, target="<= 0.33 x"),
    )
    bars = drawn(ten, hundred, half, small)
    assert [kind for kind, _, _ in bars] == ["better", "better", "worse", "better"]
    assert bars[0][1] == bars[1][1] == bars[3][1] == pytest.approx(bars[2][1] + bars[2][2], abs=0.1)
    assert bars[1][2] == pytest.approx(2 * bars[0][2], abs=0.2)
    assert bars[3] == bars[0]  # a tenth of the CPU time is as good as ten times the jobs


def test_only_what_is_compared_with_rq_is_drawn() -> None:
    assert drawn(row("huey", werk=[1.0], compared_with="huey", ratios=[2.0])) == []
