"""`bin/chaos --mutants`: run the faulty copies of mutants.py, and werk as it is beside them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import werk
from chaos import report
from chaos.fleet import Fleet
from chaos.mutants import MUTANTS, Mutant
from chaos.trial import Plan, run
from chaos.verdict import CATEGORIES
from werk.dev.binary import find_binary
from werk.settings import Settings

FEWEST_JOBS = 50
MARK = "this module is a mutant"


def run_all(names: Iterable[str], seed: int, folder: Path) -> bool:
    """Run mutants, without names all of them, and werk as it is. Return whether all is well."""
    chosen = list(names) or list(MUTANTS)
    is_well = True
    for concurrency in sorted({MUTANTS[name].concurrency for name in chosen}):
        some = [MUTANTS[name] for name in chosen if MUTANTS[name].concurrency == concurrency]
        is_well = _is_well_unmutated(some, seed, folder) and is_well
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


def _is_well_unmutated(mutants: list[Mutant], seed: int, folder: Path) -> bool:
    """Run werk as it is with the faults of mutants, all of the same concurrency."""
    faults: Counter[str] = Counter()  # a mutant may name a fault several times
    for mutant in mutants:
        faults |= Counter(mutant.faults)
    seconds, concurrency = max(mutant.seconds for mutant in mutants), mutants[0].concurrency
    name = "unmutated" + f"-{concurrency}-slots" * (concurrency > 1)
    plain = Mutant((), (), tuple(faults.elements()), seconds, concurrency)
    problems = _problems(name, plain, seed, folder)
    print(f"{name}: {report.details(problems) if problems else 'well'}", flush=True)
    return not problems


def _problems(name: str, mutant: Mutant, seed: int, folder: Path) -> list[str]:
    """Run a mutant; return what the verdict finds wrong."""
    own = folder / name
    package = copied(mutant, own / "package")
    fleet = Fleet("werk", seed, own, package)
    fleet.concurrency = mutant.concurrency
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
