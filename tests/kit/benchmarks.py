"""The document that `bin/bench --json` prints, as text, as a table and as a chart.

bin/docs makes the table and the chart of docs/benchmarks.md from docs/benchmarks.json, and those of
docs/scaling.md from docs/scaling.json.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Document = Mapping[str, Any]
Row = Mapping[str, Any]

BEGIN = "<!-- Made by bin/docs from {}.json. -->"
END = "<!-- End of what bin/docs made. -->"
RQ = "RQ"  # what the chart compares with

# The chart, in pixels.
WIDTH, ROW, TOP, BOTTOM = 800, 30, 58, 44
BARS, FIGURES = 260, 600  # where the bars begin, and the figures beside them
LOWEST = 0.5  # where the scale begins, unless a ratio is lower
STYLE = """\
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
.page { fill: #ffffff; stroke: #d0d7de; }
text { fill: #1f2328; }
.title { font-weight: 600; font-size: 15px; }
.minor { fill: #59636e; font-size: 12px; }
.line { stroke: #d0d7de; }
.base { stroke: #59636e; }
.better { fill: #0969da; }
.worse { fill: #bc4c00; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; stroke: #3d444d; }
  text { fill: #f0f6fc; }
  .minor { fill: #9198a1; }
  .line { stroke: #3d444d; }
  .base { stroke: #9198a1; }
  .better { fill: #4493f8; }
  .worse { fill: #db6d28; }
}"""


def text(found: Document) -> str:
    """Return where and how the figures were measured, and the table."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"`{found['command']}` on {found['date']}, {machine['cores']} cores of {machine['cpu']}; "
        f"{versions.replace('server ', '')} without persistence, on loopback.\n"
        f"{found['note']}\n\n{_table(found['rows'])}"
    )


def page(before: str, found: Document, name: str) -> str:
    """Return the text of a page with the part that is made from the document of that name."""
    assert not found["is_quick"], "the figures of a quick run mean nothing"
    begin = BEGIN.format(name)
    made = f"{begin}\n\n{text(found)}\n\n{END}"
    after, count = re.subn(f"{begin}.*?{END}", lambda _: made, before, flags=re.DOTALL)
    assert count == 1, "the page has no place for the table"
    return after


def chart(found: Document) -> str:
    """Return bars as SVG: how much better than RQ, on a logarithmic scale."""
    rows = [row for row in found["rows"] if row["compared_with"] == RQ and row["werk"]]
    bars = [(row, _advantage(row)) for row in rows]
    low = min([LOWEST, *(times for _, times in bars)])
    high = max([10, *(times for _, times in bars)])

    def x(times: float) -> float:
        room = FIGURES - BARS - 70  # for the number at the end of the longest bar
        return round(BARS + room * math.log(times / low) / math.log(high / low), 1)

    bottom = TOP + ROW * len(bars)
    ticks = [10.0**n for n in range(4) if 10**n <= high]
    parts = [_grid(x(times), bottom, f"{times:g} x") for times in ticks]
    parts += [_bar(TOP + ROW * at, row, times, x) for at, (row, times) in enumerate(bars)]
    machine, title = found["machine"], "werk compared with RQ"
    height = bottom + BOTTOM
    said = "; ".join(f"{row['name']}: {number(times)} x" for row, times in bars)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" \
viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title desc">
<title id="title">{title}</title>
<desc id="desc">{escape(said)}</desc>
<style>
{STYLE}
</style>
<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>
{_text(16, 28, title, "title")}
{_text(16, 46, "times as fast, or as small; RQ is 1 x; logarithmic scale", "minor")}
{_text(FIGURES, 46, "werk / RQ", "minor")}
{"".join(parts)}\
{_text(16, height - 12, f"{found['date']}, {machine['cores']} cores of {machine['cpu']}", "minor")}
</svg>
"""


def number(figure: float) -> str:
    """Return a figure with three digits: 10,700, 92.5, 0.83."""
    rounded = float(f"{figure:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def _table(rows: Sequence[Row]) -> str:
    head = ["| measure | werk | compared with | ratio | target |", "|---|--:|--:|--:|--:|"]
    return "\n".join([*head, *map(_line, rows)])


def _line(row: Row) -> str:
    unit, other = row["unit"], _figures(row["other"])
    met = {True: "met", False: "**not met**", None: "not measured"}[row["is_met"]]
    cells = [
        row["name"],
        f"{_figures(row['werk'])} {unit}" if row["werk"] else "",
        f"{row['compared_with']}: {other} {unit}" if other else row["compared_with"],
        f"{_figures(row['ratios'])} x" if row["ratios"] else "",
        f"{row['target']}: {met}",
    ]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _figures(figures: Sequence[float]) -> str:
    """Return the median and, if they differ, the lowest and the highest."""
    if not figures:
        return ""
    low, middle, high = map(number, (min(figures), statistics.median(figures), max(figures)))
    return middle if low == high else f"{middle} ({low}-{high})"


def _advantage(row: Row) -> float:
    """Return how many times as good werk is; where there is an upper limit, less is better."""
    if row["ratios"]:
        ratio = statistics.median(row["ratios"])
    else:
        ratio = statistics.median(row["werk"]) / statistics.median(row["other"])
    return 1 / ratio if row["target"].startswith("<=") else ratio


def _bar(y: int, row: Row, times: float, x: Any) -> str:
    start, end = sorted((x(1), x(times)))
    figures = f"{number(statistics.median(row['werk']))} / "
    figures += f"{number(statistics.median(row['other']))} {row['unit']}"
    shape = f'x="{start}" y="{y + 6}" width="{round(end - start, 1)}" height="{ROW - 12}" rx="2"'
    return "\n".join(
        [
            _text(16, y + 20, row["name"]),
            f'<rect class="{"better" if times >= 1 else "worse"}" {shape}/>',
            _text(end + 6, y + 20, f"{number(times)} x"),
            _text(FIGURES, y + 20, figures),
            "",
        ]
    )


def _grid(x: float, bottom: int, label: str) -> str:
    kind = "base" if label == "1 x" else "line"
    line = f'<line class="{kind}" x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}"/>'
    return f"{line}\n{_text(x - 8, bottom + 16, label, 'minor')}\n"


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:g}" y="{y:g}">{escape(words)}</text>'
