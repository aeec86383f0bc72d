"""`bin/chaos --mutants`: faulty copies of werk, each of which the verdict must catch.

A mutant is a few replacements of text in a copy of the package, which workers and callers import
instead of ours. Its trial injects the faults that bring it to light, and is short. The excuses of
the verdict (causes.py) have a mutant each: one that does wrong where the excuse is near.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import werk
from chaos import report
from chaos.fleet import Fleet
from chaos.trial import Plan, run
from chaos.verdict import CATEGORIES
from werk.dev.binary import find_binary
from werk.settings import Settings

FEWEST_JOBS = 50
MARK = "this module is a mutant"
KILLS = ("kill -9 horse", "kill -9 supervisor", "kill -9 both")
FREEZES = ("freeze both, short", "freeze both, long", "freeze supervisor, long")
FENCE = "local is_ours = removed == 1"
LISTED = "try('ZADD', place, ENDED_UNTIL, id)"
FORGOTTEN = """    call('UNLINK', execution_key)
    try('ZREM', P .. ':executions:' .. id, ENDED_EXECUTION)
"""
KEPT = "      call('EXPIRE', results, keep)\n"
OVERDUE = "call('ZRANGEBYSCORE', leases, '-inf', clock, 'LIMIT', 0, DEAD_AT_ONCE)"
LATE = ("store/lua/tick.lua", OVERDUE, OVERDUE.replace(" clock,", " clock - 25,"))
AGAIN = """      if string.find(id, '7%-%a+$') and call('HSETNX', job, 'again', 1) == 1 then
        try('ZREM', place, id)
        call('HSET', job, 'status', 'queued')
        call('RPUSH', P .. ':queue:' .. queue, id)
      end
"""
LAST_LINE = "\nreturn events"
REVIVED = """
for _, list in ipairs(KEYS) do
  local place = P .. ':failed:' .. string.sub(list, #P + 8)
  for _, id in ipairs(call('ZRANGE', place, 0, 0)) do
    call('ZREM', place, id)
    call('HSET', job_key(id), 'status', 'queued')
    call('LPUSH', list, id)
  end
end
return events"""
RETURNS = "-- as empty_hand in hands.lua"
STUCK = "if string.find(seen, line, 1, true) then"
EMPTIED = "local function empty_hands(worker, lists)"
READ = "        self.open = [wait for wait in self.open if wait.since]\n"
DIES = """        if any(read) and time.monotonic() % 1 < 0.2:
            os.kill(os.getppid(), 9)
            time.sleep(60)
"""
SENT = "    replies = link.run(request.script(), _places(first.task.queue), words)\n"
ACKNOWLEDGED = f"""    try:
    {SENT}    except Exception:
        replies = [1] * len(jobs) + [b""] * is_due
"""
RECORDED = "        return self.record(claim, job, record)\n\n    def refuse("
UNRECORDED = '        return success(claim, 3600, b"", self.shared.now())\n\n    def refuse('


class Mutant(NamedTuple):
    """What is replaced, where, and what has to be found because of it."""

    edits: tuple[tuple[str, str, str], ...]  # file, text that is there once, text instead
    expects: tuple[str, ...]  # categories of the verdict: a line of each
    faults: tuple[str, ...] = ("TERM supervisor",)
    seconds: float = 20.0


MUTANTS = {
    # The two of the review: ended jobs are in no place; a fleet that neglects its duties.
    "unlisted": Mutant(
        (
            ("store/lua/step.lua", LISTED, "0"),
            ("store/lua/step.lua", FORGOTTEN, ""),
        ),
        ("misplaced", "leaked"),
    ),
    "idle": Mutant(
        (
            LATE,
            ("store/lua/tick.lua", "if MOVES_DUE == '1' then for", "if false then for"),
            ("worker/outcome.py", RECORDED, UNRECORDED),
        ),
        ("stuck", "wrong end"),
        KILLS,
        30.0,
    ),
    "late-rescue": Mutant((LATE,), ("slow",), ("kill -9 both", "kill -9 supervisor"), 50.0),
    # The excuse: a worker was absent for longer than its lease.
    "early-rescue": Mutant(
        (
            (
                "store/lua/tick.lua",
                "call('ZADD', leases, clock + lease_s, WORKER)",
                "call('ZADD', leases, clock + lease_s / 5, WORKER)",
            ),
        ),
        ("ran again",),
        FREEZES,
        60.0,
    ),
    # The excuses: a crash, a failure that is retried.
    "again": Mutant((("store/lua/step.lua", KEPT, KEPT + AGAIN),), ("ran again",), KILLS, 30.0),
    # The excuse: an operator retried it.
    "revived": Mutant((("store/lua/tick.lua", LAST_LINE, REVIVED),), ("ran again",), seconds=30.0),
    # The excuse: an operator cancelled it.
    "uncancelled": Mutant(
        (("store/lua/tick.lua", LAST_LINE, REVIVED.replace("failed", "canceled")),),
        ("wrong end",),
        seconds=40.0,
    ),
    # The excuse: the reply was lost.
    "acknowledged": Mutant(
        (("client/enqueue.py", SENT, ACKNOWLEDGED),),
        ("lost",),
        ("pause Redis, short", "maxmemory", "kill -9 server"),
        30.0,
    ),
    # The excuse: a crash came between the end of a job and its ping.
    "unpinged": Mutant(
        (("store/lua/step.lua", " .. (got[WEBHOOKS] or '')", ""),), ("pings",), KILLS
    ),
    "uncalled": Mutant(
        (
            (
                "store/lua/step.lua",
                "local success = got[SUCCESS_CALLBACK_NAME] or ''",
                "local success = ''",
            ),
        ),
        ("callbacks",),
    ),
    "unfenced": Mutant(
        (("store/lua/step.lua", FENCE, f"{FENCE} or true"),),
        ("results",),
        ("cut a worker's reply", *FREEZES),
        40.0,
    ),
    "mute": Mutant(
        (
            (
                "store/lua/step.lua",
                "elseif WANTS_JOB ~= '1' then",
                "elseif WANTS_JOB ~= '1' or call('INCR', P .. ':werk:steps') > 300 then",
            ),
        ),
        ("silent", "stuck"),
    ),
    "dropped": Mutant(
        (
            (
                "store/lua/lib.lua",
                "  call('LPUSH', list, id)\n  return 'requeued'",
                "  return 'requeued'",
            ),
        ),
        ("lost",),
        KILLS,
    ),
    "early": Mutant(
        (
            (
                "store/lua/tick.lua",
                "scheduled, '-inf', clock, 'LIMIT'",
                "scheduled, '-inf', clock + 5, 'LIMIT'",
            ),
        ),
        ("untimely",),
    ),
    # A step returns the first hand only, and no tick the others.
    "held": Mutant(
        (
            ("store/lua/step.lua", f"(KEYS) do {RETURNS}", f"({{KEYS[1]}}) do {RETURNS}"),
            ("store/lua/hands.lua", STUCK, "if false then"),
        ),
        ("stuck",),
    ),
    # A rescue forgets the hands. Workers rarely die just then, so some kill themselves.
    "bereft": Mutant(
        (
            ("store/lua/hands.lua", EMPTIED, f"{EMPTIED}\n  if true then return end"),
            ("worker/idle.py", READ, READ + DIES),
        ),
        ("stuck",),
        seconds=30.0,
    ),
    "everlasting": Mutant(
        (("store/lua/step.lua", "call('EXPIRE', job, keep) == 1", "call('EXISTS', job) == 1"),),
        ("leaked",),
    ),
}


def run_all(names: Iterable[str], seed: int, folder: Path) -> bool:
    """Run mutants, without names all of them, and werk as it is. Return whether all is well."""
    chosen = list(names) or list(MUTANTS)
    faults = dict.fromkeys(fault for name in chosen for fault in MUTANTS[name].faults)
    seconds = max(MUTANTS[name].seconds for name in chosen)
    problems = _problems("unmutated", Mutant((), (), tuple(faults), seconds), seed, folder)
    is_well = not problems
    print(f"unmutated: {'well' if is_well else report.details(problems)}", flush=True)
    caught = 0
    for name in chosen:
        mutant = MUTANTS[name]
        problems = _problems(name, mutant, seed, folder)
        missing = [kind for kind in mutant.expects if not _has(problems, kind)]
        caught += not missing
        said = f"not caught: no line for {', '.join(missing)}" if missing else "caught"
        found = [line for line in problems if _has([line], *mutant.expects)]
        print(f"{name}: {said}: {found[0] if found else ''}"[:300], flush=True)
    print(f"{caught} of {len(chosen)} caught")
    return is_well and caught == len(chosen)


def _problems(name: str, mutant: Mutant, seed: int, folder: Path) -> list[str]:
    """Run a mutant; return what the verdict finds wrong."""
    own = folder / name
    package = copied(mutant, own / "package")
    fleet = Fleet("werk", seed, own, package)
    plan = Plan(mutant.seconds, seed, "werk", mutant.faults, FEWEST_JOBS, package)
    try:
        outcome = run(fleet, plan)
    finally:
        fleet.stop()
    prove(mutant, own)
    return outcome.verdict.wrong


def copied(mutant: Mutant, folder: Path) -> Path:
    """Make the mutated copy of the package in a folder. Raises ValueError."""
    package = folder / "werk"
    shutil.copytree(Path(werk.__file__).parent, package, ignore=shutil.ignore_patterns("*.pyc"))
    for file, old, new in mutant.edits:
        text = (package / file).read_text()
        if text.count(old) != 1:
            raise ValueError(f"{file} has {old!r} {text.count(old)} times instead of once")
        (package / file).write_text(text.replace(old, new))
    for file in {file for file, _, _ in mutant.edits if file.endswith(".py")}:
        with (package / file).open("a") as end:
            end.write(f"\nimport sys\n\nprint({MARK!r}, __name__, file=sys.stderr)\n")
    return folder


def prove(mutant: Mutant, folder: Path) -> None:
    """Check in the logs that the mutated code ran, and nothing else. Raises ValueError."""
    logs = "".join(log.read_text(errors="replace") for log in folder.glob("*.log"))
    shas = shas_of(folder / "package")
    logged = set(re.findall(r"step=\w+ tick=\w+", logs))
    if logged != {shas}:
        raise ValueError(f"workers ran {logged or 'nothing'}, not {shas}; see {folder}")
    is_lua = any(file.endswith(".lua") for file, _, _ in mutant.edits)
    if is_lua == (shas == shas_of(Path(werk.__file__).parents[1])):
        raise ValueError(f"the scripts of this mutant are not as they should be: {mutant}")
    for file in {file for file, _, _ in mutant.edits if file.endswith(".py")}:
        module = file.removesuffix(".py").replace("/", ".")
        if f"{MARK} werk.{module}" not in logs:
            raise ValueError(f"nobody imported the mutated {file}; see {folder}")


def shas_of(package: Path) -> str:
    """Return what a worker of this copy logs of its scripts."""
    version = find_binary(Settings.read()).version
    code = f"""from werk.worker.scripts import script
print(*(f"{{name}}={{script(name, {version}).sha[:8]}}" for name in ("step", "tick")))"""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    command = [sys.executable, "-P", "-c", code]  # not the current folder first
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def _has(problems: Iterable[str], *categories: str) -> bool:
    assert set(categories) <= set(CATEGORIES)
    return any(line.startswith(tuple(f"{each}:" for each in categories)) for line in problems)
