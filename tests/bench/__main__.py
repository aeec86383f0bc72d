"""Measure, and print a table for docs/benchmarks.md. Without names: all of it, ten minutes."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import warnings
from datetime import date
from pathlib import Path

import werk
from bench.measures import MEASURES, Row
from bench.stand import Stand


def main() -> int:
    """Run `bin/bench`. Return 1 if a target was not met."""
    options = _options()
    warnings.simplefilter("ignore", werk.WerkWarning)  # the jobs are there before the worker
    stand = Stand(options.quick)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    rows: list[Row] = []
    load = os.getloadavg()
    try:
        stand.start()
        for name in options.measures or MEASURES:
            print(f"bin/bench: {name} ...", file=sys.stderr, flush=True)
            rows += MEASURES[name](stand)
    except KeyboardInterrupt:
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # not in the middle of this
        stand.stop()
    print(f"{_machine(stand)}; load {load[0]:.1f} before.")
    print("Server, worker and caller share one core, unless it says free. Medians of 5 turns.")
    if options.quick:
        print("A quick run, to see that it works: its figures mean nothing.")
    print(f"\n{_table(rows)}")
    return 1 if any(row.is_met is False for row in rows) else 0


def _table(rows: list[Row]) -> str:
    words = {True: "met", False: "**not met**", None: ""}
    lines = [f"| {row.what} | {row.figures} | {row.target} | {words[row.is_met]} |" for row in rows]
    return "\n".join(["| measure | median | target | |", "|---|--:|--:|---|", *lines])


def _machine(stand: Stand) -> str:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{date.today()}, {len(stand.cores)} cores of {cpu}, Python {platform.python_version()}, "
        f"{stand.server.binary} without persistence, on loopback"
    )


def _options() -> argparse.Namespace:
    listed = "\n".join(f"  {name:10}{call.__doc__}" for name, call in MEASURES.items())
    parser = argparse.ArgumentParser(
        prog="bin/bench",
        description=__doc__,
        epilog=f"measures:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("measures", nargs="*", metavar="MEASURE", choices=[*MEASURES, []])
    parser.add_argument("--quick", action="store_true", help="few jobs, once: does it work?")
    return parser.parse_args()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
