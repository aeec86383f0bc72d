"""The kinds of faults, by name, and how each is injected."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chaos import jobs, sentinel
from chaos import process_faults as processes
from chaos import server_faults as server

if TYPE_CHECKING:
    from chaos.monkey import Monkey

KINDS: dict[str, Callable[[Monkey, str], bool]] = {
    "kill -9 horse": processes.kill,
    "kill -9 supervisor": processes.kill,
    "kill -9 both": processes.kill,
    "TERM supervisor": processes.terminate,
    "TERM supervisor and horse": processes.terminate,
    "TERM twice": processes.terminate_twice,
    "drain": processes.drain,
    "freeze horse, short": processes.freeze,
    "freeze horse, long": processes.freeze,
    "freeze supervisor, short": processes.freeze,
    "freeze supervisor, long": processes.freeze,
    "freeze both, short": processes.freeze,
    "freeze both, long": processes.freeze,
    "cut off from Redis, long": processes.cut_off,
    "a worker's output unread": processes.leave_unread,
    "cut a worker's request": processes.cut,
    "cut a worker's reply": processes.cut,
    "cut a caller's request": processes.cut,
    "cut a caller's reply": processes.cut,
    **{f"a worker's clock {clock}": processes.shift_clock for clock in processes.CLOCKS},
    **{f"a caller's clock {clock}": processes.shift_clock for clock in processes.CLOCKS},
    "kill -9 caller": processes.kill_caller,
    "kill -9 server": server.kill_server,
    "pause Redis, short": server.pause_server,
    "pause Redis, long": server.pause_server,
    "stalls in a row": server.stall_in_a_row,
    "script flush": server.flush_scripts,
    "client kill": server.kill_clients,
    "maxmemory": server.fill_memory,
    **dict.fromkeys(jobs.MISBEHAVING, processes.misbehave),
}

# Without gates, and with another way to lose the server.
OF_SENTINEL = {
    **{kind: inject for kind, inject in KINDS.items() if kind.startswith(("kill -9", "TERM"))},
    "drain": processes.drain,
    "script flush": server.flush_scripts,
    **sentinel.KINDS,
}
del OF_SENTINEL["kill -9 server"]
OF_SLOTS = {"drain one slot": processes.drain_one_slot}  # of workers that have several
ALL = {**KINDS, **OF_SENTINEL, **OF_SLOTS}
