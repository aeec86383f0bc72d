"""Inject faults for a while, let the jobs come to an end, judge. Ctrl-C leaves nothing behind."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from chaos.fleet import COMMANDS, Fleet
from chaos.monkey import Monkey
from chaos.records import count_waiting, read_diary, read_jobs, read_traces
from chaos.verdict import Verdict

DRAIN_S = 60.0  # for all jobs to end after the last fault


def main() -> int:
    """Run `bin/chaos`. Return 0 if nothing is wrong, else 1."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="werk-chaos-", dir=_memory()))
    fleet = Fleet(options.worker, options.seed, folder)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    is_well = False
    try:
        verdict = _run(fleet, options.seconds, options.seed)
        is_well = not verdict.wrong
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        is_well = True  # nothing to look into
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # not in the middle of this
        fleet.stop()
        if is_well:
            shutil.rmtree(folder)
    if not is_well:
        print(f"\nwrong, with logs and traces in {folder}:\n{verdict.details()}")
    return 0 if is_well else 1


def _run(fleet: Fleet, seconds: float, seed: int) -> Verdict:
    begin = time.monotonic()
    fleet.start()
    monkey = Monkey(fleet, seed)
    monkey.torment(seconds)
    tormented = time.monotonic() - begin
    monkey.relent()
    fleet.stop_callers()
    drained = _drain(monkey)
    fleet.stop_workers()
    with fleet.connection() as connection:
        jobs = read_jobs(connection)
    verdict = Verdict(
        read_diary(fleet.diary),
        read_traces(fleet.traces),
        jobs,
        monkey.faults,
        fleet.surprises,
        fleet.gave_up,
        monkey.doubles,
    )
    print(f"bin/chaos --worker {fleet.kind} --seconds {seconds:g} --seed {seed}: ", end="")
    print(f"{tormented:.0f} s of faults, {drained:.0f} s until no job was waiting or running\n")
    print(verdict.table())
    return verdict


def _drain(monkey: Monkey) -> float:
    """Wait until no job waits or runs. Return the seconds it took."""
    begin = time.monotonic()
    with monkey.fleet.connection() as connection:
        while count_waiting(connection) and time.monotonic() < begin + DRAIN_S:
            monkey.wait(0.2)
    return time.monotonic() - begin


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="of faults; then it drains")
    parser.add_argument("--seed", type=int, default=1, help="decides the order of the faults")
    parser.add_argument("--worker", choices=COMMANDS, default="werk")
    return parser.parse_args()


def _memory() -> str | None:
    """Return a folder in memory, if there is one: what ends here is processes, not the machine."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
