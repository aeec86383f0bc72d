"""Inject faults for a while, let the jobs come to an end, judge. Ctrl-C leaves nothing behind."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from chaos import mutant_runs, mutants, report
from chaos.faults import KINDS, OF_SENTINEL, OF_SLOTS
from chaos.fleet import COMMANDS, Fleet
from chaos.sentinel import SentinelFleet
from chaos.trial import Plan, run

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run `bin/chaos`. Return 0 if nothing is wrong, else 1."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="werk-chaos-", dir=_memory()))
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    is_well = False
    try:
        if options.mutants is not None:
            is_well = mutant_runs.run_all(options.mutants, options.seed, folder)
        else:
            kinds = [*(OF_SENTINEL if options.sentinel else KINDS)]
            kinds += OF_SLOTS if options.concurrency > 1 else []
            plan = Plan(options.seconds, options.seed, options.worker, tuple(kinds))
            kind = SentinelFleet if options.sentinel else Fleet
            fleet = kind(plan.worker, plan.seed, folder)
            fleet.has_sentry, fleet.concurrency = options.sentry, options.concurrency
            is_well = _run(fleet, plan)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        is_well = True  # nothing to look into
        return 130
    finally:
        if is_well:
            shutil.rmtree(folder, ignore_errors=True)
    if not is_well:
        print(f"logs and traces: {folder}")
    return 0 if is_well else 1


def _run(fleet: Fleet, plan: Plan) -> bool:
    try:
        outcome = run(fleet, plan)
    finally:
        stop(fleet)
    mode = " --sentinel" * isinstance(fleet, SentinelFleet) + " --sentry" * fleet.has_sentry
    mode += f" --concurrency {fleet.concurrency}" * (fleet.concurrency > 1)
    name = f"bin/chaos{mode} --worker {plan.worker} --seconds {plan.seconds:g} --seed {plan.seed}"
    print(f"{name}: {outcome.tormented_s:.0f} s of faults, ", end="")
    print(f"{outcome.drained_s:.0f} s until no job was waiting or running\n")
    print(report.table(outcome.verdict))
    wrong = outcome.verdict.wrong
    if wrong:
        print(f"\n{len(wrong)} problems:\n{report.details(wrong)}")
    return not wrong


def stop(fleet: Fleet) -> None:
    """End everything; further signals do not interrupt this."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    fleet.stop()
    for number, handler in before.items():
        signal.signal(number, handler)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="of faults; then it drains")
    parser.add_argument("--seed", type=int, default=1, help="decides the order of the faults")
    parser.add_argument("--worker", choices=COMMANDS, default="werk")
    parser.add_argument(
        "--sentinel", action="store_true", help="a master, a replica and sentinels, and failovers"
    )
    parser.add_argument(
        "--concurrency", type=int, default=1, metavar="N", help="slots of each of the workers"
    )
    parser.add_argument(
        "--sentry", action="store_true", help="sentry-sdk in the workers (first: bin/setup dev)"
    )
    parser.add_argument(
        "--mutants",
        nargs="*",
        choices=mutants.MUTANTS,
        metavar="NAME",
        help="check the verdict: faulty copies of werk must be caught; without names, all",
    )
    options = parser.parse_args()
    if options.concurrency < 1 or (options.concurrency > 1 and options.worker != "werk"):
        parser.error("--concurrency: 1 or more, and with --worker werk only")
    return options


def _memory() -> str | None:
    """Return a folder in memory, if there is one: what ends here is processes, not the machine."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
