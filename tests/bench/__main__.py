"""Measure werk against RQ and print a table. Without names: all but scale, ten minutes.

bin/docs draws the tables and charts from docs/benchmarks.json and docs/scaling.json: what --json
prints.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import benchmarks

import werk
from bench import measures
from bench.measures import Row
from bench.scale import scale
from bench.stand import Stand

MEASURES = {**measures.MEASURES, "scale": scale}


def main() -> int:
    """Run `bin/bench`. Return 1 if a target was not met."""
    options = _options()
    warnings.simplefilter("ignore", werk.WerkWarning)  # the jobs are there before the worker
    stand = Stand(options.quick)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    rows: list[Row] = []
    load = os.getloadavg()[0]
    try:
        stand.start()
        for name in options.measures or measures.MEASURES:
            print(f"bin/bench: {name} ...", file=sys.stderr, flush=True)
            rows += MEASURES[name](stand)
    except KeyboardInterrupt:
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # not in the middle of this
        stand.stop()
    found = _document(options, stand, rows, load)
    print(json.dumps(found, indent=1) if options.json else benchmarks.text(found))
    return 1 if any(row.is_met is False for row in rows) else 0


def _document(
    options: argparse.Namespace, stand: Stand, rows: Sequence[Row], load: float
) -> dict[str, object]:
    """Return what `--json` prints: what was measured, where, with which versions."""
    note = "Medians of 5 turns; in brackets, the lowest and the highest turn."
    if options.quick:
        note = "A quick run, to see that it works: its figures mean nothing."
    return {
        "schema": 1,
        "command": shlex.join(["bin/bench", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "is_quick": options.quick,
        "note": f"{note} The load average was {load:.1f} before the run.",
        "machine": {"cpu": _cpu(), "cores": len(stand.cores)},
        "versions": {
            "werk": werk.__version__,
            "RQ": version("rq"),
            "redis-py": version("redis"),
            "Python": platform.python_version(),
            "server": str(stand.server.binary),
        },
        "rows": [row.as_json() for row in rows],
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _options() -> argparse.Namespace:
    listed = "\n".join(f"  {name:10}{call.__doc__}" for name, call in MEASURES.items())
    parser = argparse.ArgumentParser(
        prog="bin/bench",
        description=__doc__,
        epilog=f"measures:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("measures", nargs="*", metavar="MEASURE", choices=[*MEASURES, []])
    parser.add_argument("--quick", action="store_true", help="run few jobs: does it work?")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    return parser.parse_args()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
