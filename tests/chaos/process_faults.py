"""Faults of workers and callers. Each function injects one and returns whether it could."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from chaos import jobs
from chaos.gates import Cut
from chaos.member import Member

if TYPE_CHECKING:
    from chaos.monkey import Monkey

LONG_S = (17.5, 20.0)  # more than a lease of 15 s and a tick
SHORT_S = (0.5, 5.0)  # less than a lease
GONE_S = 1.0  # for the horses of a supervisor that was killed
LONG_AT_ONCE = 2  # or too few workers would be left to rescue anything
CUTS_AT_ONCE = 5
CLOCKS = {"100 s ahead": 100, "3600 s ahead": 3600, "90 s behind": -90}


def kill(monkey: Monkey, kind: str) -> bool:
    """SIGKILL to one horse, to the supervisor, or to it and all its horses."""
    if (found := monkey.some_worker()) is None:
        return False
    worker, horse = found
    horses = [horse] if kind == "kill -9 horse" else worker.horses()
    to_supervisor = kind != "kill -9 horse"
    supervisor = worker.pid if to_supervisor else None
    monkey.note(kind, worker, horses=frozenset(horses), supervisor=supervisor)
    if to_supervisor:
        worker.expect_end()
        os.kill(worker.pid, signal.SIGKILL)
        monkey.later(GONE_S, lambda: monkey.fleet.note_survivors(worker, horses))
    for pid in horses if kind != "kill -9 supervisor" else ():
        _signal(pid, signal.SIGKILL)
    return True


def terminate(monkey: Monkey, kind: str) -> bool:
    """SIGTERM: it finishes its jobs and leaves."""
    if (found := monkey.some_worker()) is None:
        return False
    worker, _ = found
    horses = worker.horses()
    monkey.note(kind, worker, horses=frozenset(horses), supervisor=worker.pid)
    worker.expect_end()
    os.kill(worker.pid, signal.SIGTERM)
    for pid in horses if kind == "TERM supervisor and horse" else ():  # as systemd does
        _signal(pid, signal.SIGTERM)
    return True


def terminate_twice(monkey: Monkey, kind: str) -> bool:
    """SIGTERM, and again 1.1 s later if it still works then; RQ ignores one before that."""
    if (found := monkey.some_worker()) is None:
        return False
    worker, horse = found
    before = frozenset((horse, *worker.horses()))
    worker.expect_end()
    fault = monkey.note("TERM supervisor", worker, horses=before, supervisor=worker.pid)
    os.kill(worker.pid, signal.SIGTERM)
    monkey.wait(1.1)
    left = before.intersection(worker.horses())
    if not left:
        return False  # it had little left to do: once was enough
    monkey.faults.remove(fault)
    monkey.note(kind, worker, horses=left)  # not the supervisor: others have left politely
    os.kill(worker.pid, signal.SIGTERM)
    return True


def drain(monkey: Monkey, kind: str) -> bool:
    """An operator drains a worker: it finishes its jobs and leaves."""
    if not monkey.server_is_well or (found := monkey.some_worker()) is None:
        return False
    worker, _ = found
    count = monkey.fleet.concurrency
    worker.drained.update(jobs.drain(monkey.fleet, worker.slots(count)))
    if not worker.slots(count):
        worker.expect_end()
        monkey.note(kind, worker, supervisor=worker.pid)
    return worker.end_expected


def drain_one_slot(monkey: Monkey, kind: str) -> bool:
    """An operator drains one slot of a worker: the others go on, and nothing else happens."""
    if not monkey.server_is_well or (found := monkey.some_worker()) is None:
        return False
    worker, _ = found
    slots = worker.slots(monkey.fleet.concurrency)
    if len(slots) < 2:
        return False  # the worker would leave: see drain
    slot = monkey.chance.choice(slots)
    if not jobs.drain(monkey.fleet, [slot]):
        return False
    worker.drained.add(slot)
    monkey.note(kind, worker, note=slot)  # of no horse: it explains nothing
    return True


def freeze(monkey: Monkey, kind: str) -> bool:
    """SIGSTOP to one horse, the supervisor, or it and all its horses; SIGCONT later."""
    long = kind.endswith("long")
    if long and monkey.lasting() >= LONG_AT_ONCE:
        return False
    if (found := monkey.some_worker()) is None:
        return False
    worker, horse = found
    what = kind.split()[1].strip(",")
    fault = monkey.note(
        kind,
        worker,
        horses=frozenset({"horse": [horse], "both": worker.horses()}.get(what, [])),
        supervisor=worker.pid if what != "horse" else None,
    )
    pids = [horse] if what == "horse" else [worker.pid]
    _signal(pids[0], signal.SIGSTOP)
    if what == "both":
        pids += worker.horses()  # a frozen supervisor starts no other
    for pid in pids[1:]:
        _signal(pid, signal.SIGSTOP)

    def thaw() -> None:
        for pid in pids:
            _signal(pid, signal.SIGCONT)
        worker.is_busy = False

    worker.is_busy = True
    monkey.until(LONG_S if long else SHORT_S, fault, thaw)
    return True


def cut_off(monkey: Monkey, kind: str) -> bool:
    """Hold back all that a worker says and hears; it arrives late."""
    if monkey.lasting() >= LONG_AT_ONCE or (found := monkey.some_worker()) is None:
        return False
    worker, _ = found
    horses = frozenset(worker.horses())
    fault = monkey.note(kind, worker, horses=horses, supervisor=worker.pid)

    def reconnect() -> None:
        worker.gate.release()
        worker.is_busy = False

    worker.is_busy = True
    worker.gate.hold()
    monkey.until(LONG_S, fault, reconnect)
    return True


def leave_unread(monkey: Monkey, kind: str) -> bool:
    """Nobody reads what a worker prints."""
    if monkey.lasting() >= LONG_AT_ONCE or (found := monkey.some_worker()) is None:
        return False
    worker, _ = found
    horses = frozenset(worker.horses())
    fault = monkey.note(kind, worker, horses=horses, supervisor=worker.pid)

    def read_again() -> None:
        monkey.fleet.outputs.release(worker.output)
        worker.is_busy = False

    worker.is_busy = True
    monkey.fleet.outputs.hold(worker.output)
    monkey.until(LONG_S, fault, read_again)
    return True


def cut(monkey: Monkey, kind: str) -> bool:
    """Cut connections of a worker or a caller, a few in a row, each at some byte."""
    everyone = monkey.fleet.callers if "caller" in kind else monkey.fleet.workers
    well = [member for member in everyone if member.is_up()]
    if not well:
        return False
    member = monkey.chance.choice(well)
    direction = "reply" if "reply" in kind else "request"
    return sum(_cut_once(monkey, kind, member, direction) for _ in range(CUTS_AT_ONCE)) > 0


def _cut_once(monkey: Monkey, kind: str, member: Member, direction: str) -> bool:
    wanted = Cut(direction, monkey.chance.random())
    member.gate.cut(wanted)
    deadline = time.monotonic() + 2
    while wanted.at is None and time.monotonic() < deadline and member.is_up():
        monkey.wait(0.01)
    if wanted.at is None:
        member.gate.cut(None)
        return False
    fault = monkey.note(kind, member, supervisor=member.pid, note=wanted.note)
    fault.begin = fault.end = wanted.at
    return True


def shift_clock(monkey: Monkey, kind: str) -> bool:
    """Replace a worker or a caller by one whose clock is wrong, for a while."""
    is_caller = kind.startswith("a caller")
    everyone = monkey.fleet.callers if is_caller else monkey.fleet.workers
    well = [member for member in everyone if member.is_up() and not member.clock_s]
    well = [member for member in well if is_caller or member.has_begun]
    if not well:
        return False
    member = monkey.chance.choice(well)
    member.clock_s = CLOCKS[kind.partition("'s clock ")[2]]
    _replace(member)
    fault = monkey.note(kind, member)

    def correct() -> None:
        member.clock_s = 0
        if member.is_up() and (is_caller or member.has_begun):
            _replace(member)
        elif member.is_alive():
            monkey.later(0.2, correct)

    monkey.until(LONG_S, fault, correct)
    return True


def _replace(member: Member) -> None:
    """Ask a process to end; fleet.tend starts the next one."""
    member.expect_end()
    os.kill(member.pid, signal.SIGTERM)


def kill_caller(monkey: Monkey, kind: str) -> bool:
    """SIGKILL to a caller, wherever it is."""
    caller = monkey.chance.choice(monkey.fleet.callers)
    if not caller.is_up():
        return False
    monkey.note(kind, caller)
    caller.expect_end()
    os.kill(caller.pid, signal.SIGKILL)
    return True


def misbehave(monkey: Monkey, kind: str) -> bool:
    """Enqueue a task that forks, leaks or floods."""
    if not monkey.server_is_well:
        return False
    name, how = jobs.MISBEHAVING[kind]
    monkey.jobs += 1
    monkey.note(kind, "a job")
    jobs.enqueue(monkey.fleet, f"m-{monkey.jobs}-{name}", how)
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
