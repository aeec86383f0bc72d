"""Which slots `werk status` takes for one worker, and what they add up to; without a server."""

from __future__ import annotations

import pytest

from werk.cli.status import _states
from werk.ops.slots import PLAIN_RQ, Slot, read_slot
from werk.ops.workers import STATES, Worker, group, older, succeeded
from werk.store import keys

NOW = 2_000_000_000.0


def slot(name: str = "web.1", slots: object = 3, **given: str) -> Slot:
    """Return a slot whose record is in order, with these facts in its hash besides."""
    facts = {
        "birth": keys.iso(NOW - 60),
        "hostname": "web1",
        "last_heartbeat": keys.iso(NOW),
        "pid": "7",
        "queues": "default",
        "state": "idle",
        "werk_horse": "g",
        "werk_lease": "15",
        "werk_moved": str(NOW),
        "werk_slots": str(slots),
    }
    row = {
        "name": name,
        "run": "",
        "since": "",
        "task": "",
        "call": "",
        "lease": str(NOW + 15),
        "ttl": 100,
    }
    return read_slot(NOW, {"default": 0.0}, {**row, "facts": {**facts, **given}})


def test_a_worker_that_was_declared_dead_is_silent_since_its_last_beat() -> None:
    row = {"name": "web", "run": "", "since": "", "task": "", "call": "", "ttl": 100}
    facts = {"birth": keys.iso(NOW - 60), "last_heartbeat": keys.iso(NOW - 30), "werk_lease": "15"}
    lease = str(NOW + 4)  # of a rescue that has to be tried again
    dead = read_slot(NOW, {"": 0.0}, {**row, "lease": lease, "facts": facts})
    assert (dead.state, dead.beat_s) == ("stale", pytest.approx(30))


@pytest.mark.parametrize(
    ("name", "slots", "worker"),
    [
        ("web.1", 2, "web"),
        ("web.2", 2, "web"),
        ("host:12:ab.cd.17", 50, "host:12:ab.cd"),
        ("web.3", 2, ""),  # not one of two
        ("web.0", 2, ""),
        ("web.-1", 2, ""),
        ("web.x", 2, ""),
        ("web.²", 2, ""),
        (".1", 2, ""),
        ("web", 2, ""),
        ("web.1", 1, ""),
        ("web.1", "x", ""),
        ("web.1", 1001, ""),  # more than a worker can have
        ("web.1", "", ""),
    ],
)
def test_the_name_of_a_slot_says_whose_it_is(name: str, slots: object, worker: str) -> None:
    found = slot(name, slots)
    assert found.worker == (worker or name)
    assert found.slots == (slots if worker else 1)


def test_slots_are_grouped_by_process_and_ordered_by_number() -> None:
    names = [f"web.{number}" for number in (10, 2, 1, 9)]
    found = [slot(name, 10) for name in names] + [slot("solo", ""), slot("web.1", 2, pid="8")]
    assert [(own.name, own.pid, [s.name for s in own.slots]) for own in group(found)] == [
        ("solo", 7, ["solo"]),
        ("web", 7, ["web.1", "web.2", "web.9", "web.10"]),
        ("web", 8, ["web.1"]),
    ]


def of_states(*states: str) -> Worker:
    return Worker.of([slot()._replace(state=state) for state in states])


@pytest.mark.parametrize("state", STATES)
def test_a_worker_with_one_slot_has_its_state(state: str) -> None:
    own = Worker.of([slot("solo", "")._replace(state=state)])
    assert (own.state, _states(own), own.missing) == (state, state, 0)


@pytest.mark.parametrize(
    ("states", "state", "shown"),
    [
        ("idle idle idle", "idle", "3 idle"),
        ("idle busy busy", "busy", "2 busy, 1 idle"),
        ("idle busy hung", "hung", "1 hung, 1 busy, 1 idle"),
        ("stale stale stale", "stale", "3 stale"),
        ("stale idle", "idle", "1 idle, 1 stale, 1 missing"),
        ("draining idle idle", "idle", "2 idle, 1 draining"),
        ("draining draining", "draining", "2 draining, 1 missing"),
    ],
)
def test_the_states_of_slots_are_counted(states: str, state: str, shown: str) -> None:
    own = of_states(*states.split())
    assert (own.state, _states(own), own.is_live) == (state, shown, state != "stale")


def test_counts_of_slots_are_added() -> None:
    slots = [slot()._replace(done=n, failed=1, dropped=n, beat_s=n, expires_s=n) for n in (1, 4)]
    own = Worker.of(slots)
    assert (own.done, own.failed, own.dropped, own.beat_s, own.expires_s) == (5, 2, 5, 4, 4)


def test_one_worker_replaces_another_whatever_number_of_slots_they_have() -> None:
    dead = [slot(f"old.{n}", 3)._replace(state="stale", beat_s=30, owes=False) for n in (1, 2, 3)]
    new = [slot(f"new.{n}", 2)._replace(pid=8, born=NOW - 20) for n in (1, 2)]
    found = {own.name: own.successor for own in succeeded(NOW, group([*dead, *new]))}
    assert found == {"old": "new", "new": ""}
    dead[1] = dead[1]._replace(owes=True)
    found = {own.name: own.successor for own in succeeded(NOW, group([*dead, *new]))}
    assert found["old"] == ""


def process(
    name: str, born: float, silent: float | None = None, queues: str = "default", owes: bool = False
) -> Slot:
    """Return the one slot of a worker with these times, in seconds before NOW."""
    found = slot(name, "")._replace(born=NOW - born, queues=queues.split(), owes=owes)
    return found if silent is None else found._replace(state="stale", beat_s=silent)


@pytest.mark.parametrize(
    ("slots", "successors"),
    [
        ([process("a", 90, 60), process("b", 50, 30), process("c", 20)], "c c -"),
        ([process("a", 90, 70), process("b", 60, 50), process("c", 40, 30), process("d", 20)],
         "d d d -"),
        ([process("a", 90, 60), process("b", 90, 60), process("c", 20)], "c - -"),
        ([process("a", 90, 60), process("b", 90, 60), process("c", 50, 30), process("d", 20)],
         "d - d -"),
        ([process("a", 90, 60), process("b", 90, 60), process("c", 50), process("d", 20)],
         "c d - -"),
        ([process("a", 90, 60), process("b", 50, 30)], "- -"),
        ([process("a", 90, 60), process("b", 50, 30, owes=True)], "- -"),
        ([process("a", 90, 60), process("b", 50, 30), process("c", 20, queues="low")], "- - -"),
        ([process("a", 90, 60, "default low"), process("b", 90, 30), process("c", 20),
          process("d", 25, queues="low default")], "d c - -"),
    ],
)  # fmt: skip
def test_a_worker_that_was_replaced_has_replaced_another(
    slots: list[Slot], successors: str
) -> None:
    found = {own.name: own.successor or "-" for own in succeeded(NOW, group(slots))}
    assert [*found.values()] == successors.split()


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        (
            ("new", "new"),
            "workers",
        ),  # both have read the same; their modules may have changed since
        (("old", "new"), "worker w0"),
        (("new", "old"), "worker w0"),  # rolled back: the one that started last is right
        (("old", "", "other", "new", "new"), "workers w0, w1, w2"),  # '': of a version before
    ],
)
def test_an_unfinished_deploy_names_whom_to_restart(tables: tuple[str, ...], named: str) -> None:
    started = [
        slot(f"w{at}", 1, werk_table=table)._replace(born=NOW - 60 + at)
        for at, table in enumerate(tables)
    ]
    other = slot("w8", 1, werk_table="old")
    others = [
        other._replace(queues=["other"]),
        other._replace(name="w7", worker="w7", state="stale"),
        other._replace(name="w6", worker="w6", kind=PLAIN_RQ),
    ]
    assert older("default", group([*others, *started])) == named
