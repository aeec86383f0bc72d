"""Faults of the server. Each function injects one and returns whether it could."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import redis

from chaos.process_faults import LONG_S, SHORT_S, kill

if TYPE_CHECKING:
    from chaos.monkey import Monkey

STALLS, STALL_S, BETWEEN_STALLS_S = 3, 8.0, 20.0
CLIENTS_AT_ONCE = 5


def kill_server(monkey: Monkey, kind: str) -> bool:
    """SIGKILL to the server; it is started again and reads its file."""
    if not monkey.server_is_well:
        return False
    fault = monkey.note(kind, "server")
    monkey.server_is_well = False
    monkey.fleet.kill_server()

    def start() -> None:
        monkey.fleet.start_server()
        monkey.server_is_well = True

    monkey.until((0.1, 2), fault, start)
    return True


def pause_server(monkey: Monkey, kind: str) -> bool:
    """SIGSTOP to the server: connections stay, nothing is answered."""
    return _stall(monkey, kind, LONG_S if kind.endswith("long") else SHORT_S)


def _stall(monkey: Monkey, kind: str, seconds: tuple[float, float]) -> bool:
    if not monkey.server_is_well:
        return False
    fault = monkey.note(kind, "server")
    monkey.server_is_well = False
    os.kill(monkey.fleet.server.pid, signal.SIGSTOP)

    def resume() -> None:
        os.kill(monkey.fleet.server.pid, signal.SIGCONT)
        monkey.server_is_well = True

    monkey.until(seconds, fault, resume)
    return True


def stall_in_a_row(monkey: Monkey, kind: str) -> bool:
    """Stall the server for 8 s of every 20 s, a worker dead since the first."""
    if not monkey.server_is_well or not kill(monkey, "kill -9 both"):
        return False
    _stall(monkey, kind, (STALL_S, STALL_S))

    def again() -> None:
        if not _stall(monkey, kind, (STALL_S, STALL_S)):
            monkey.later(0.2, again)  # another fault of the server's comes first

    for number in range(1, STALLS):
        monkey.later(number * BETWEEN_STALLS_S, again)
    return True


def flush_scripts(monkey: Monkey, kind: str) -> bool:
    """SCRIPT FLUSH."""
    return _by_command(monkey, kind, lambda client: client.script_flush())


def kill_clients(monkey: Monkey, kind: str) -> bool:
    """Run CLIENT KILL on some connections of any client."""

    def kill_some(client: redis.Redis) -> None:
        own = client.client_id()
        ids = [entry["id"] for entry in client.client_list() if int(entry["id"]) != own]
        for number in monkey.chance.sample(ids, min(CLIENTS_AT_ONCE, len(ids))):
            client.client_kill_filter(_id=number)

    return _by_command(monkey, kind, kill_some)


def fill_memory(monkey: Monkey, kind: str) -> bool:
    """Have Redis allow itself no more memory than it uses."""

    def limit(client: redis.Redis) -> None:
        client.config_set("maxmemory", client.info("memory")["used_memory"])

    def allow() -> None:
        if monkey.server_is_well:  # else it was restarted or is stopped: see below
            with monkey.fleet.connection() as client:
                client.config_set("maxmemory", 0)
        else:
            monkey.later(0.2, allow)

    if not _by_command(monkey, kind, limit):
        return False
    monkey.until(SHORT_S, monkey.faults[-1], allow)
    return True


def _by_command(monkey: Monkey, kind: str, do: Callable[[redis.Redis], object]) -> bool:
    if not monkey.server_is_well:
        return False
    monkey.note(kind, "server")
    with monkey.fleet.connection() as client:
        do(client)
    return True
