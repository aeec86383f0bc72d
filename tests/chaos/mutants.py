"""Faulty copies of werk, each of which the verdict of `bin/chaos` must catch: see mutant_runs.py.

A mutant is a few replacements of text in a copy of the package, which workers and callers import
instead of ours. Its trial injects the faults that bring it to light, and is short. The excuses of
the verdict (causes.py) have a mutant each: one that does wrong where the excuse is near.
"""

from __future__ import annotations

from typing import NamedTuple

KILLS = ("kill -9 horse", "kill -9 supervisor", "kill -9 both")
LIMIT = "is_counted and crashes > max"
FREEZES = ("freeze both, short", "freeze both, long", "freeze supervisor, long")
FENCE = "local is_ours = removed == 1"
LISTED = "try('ZADD', place, ENDED_UNTIL, id)"
FORGOTTEN = "call('UNLINK', execution_key, executions)"
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
EMPTIED = "local function empty_hand(worker, list)"
READ = "        self.open = [wait for wait in self.open if wait.since]\n"
DIES = """        if any(read) and time.monotonic() % 1 < 0.2:
            os.kill(os.getppid(), 9)
            time.sleep(60)  # its own end: our supervisor's death ends us
"""
SENT = "    replies = link.run(request.script(), _places(first.task.queue), words)\n"
ACKNOWLEDGED = f"""    try:
    {SENT}    except Exception:
        replies = [1] * len(jobs) + [b""] * is_due
"""
RECORDED = "        return self.record(claim, job, record)\n\n    def refuse("
UNRECORDED = '        return success(claim, 3600, b"", self.shared.now())\n\n    def refuse('
OWN_RUNS = "        return self.fence_generation()"
ALL_RUNS = """        slots = self.worker.slot.supervisor.slots
        runs = [slot.shared.progress().run for slot in slots if slot.child.pid]
        return [*self.fence_generation(), *filter(None, runs)]"""
OTHERS_PIPES = "(self._wake_w, self._life_w, *self._ours)"
SLOTS = 4


class Mutant(NamedTuple):
    """What is replaced, where, and what has to be found because of it."""

    edits: tuple[tuple[str, str, str], ...]  # file, text that is there once, text instead
    expects: tuple[str, ...]  # categories of the verdict: a line of each
    faults: tuple[str, ...] = ("TERM supervisor",)
    seconds: float = 20.0
    concurrency: int = 1


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
                "store/lua/slots.lua",
                "call('ZADD', leases, clock + lease_s, slot.name)",
                "call('ZADD', leases, clock + lease_s / 5, slot.name)",
            ),
        ),
        ("ran again",),
        FREEZES,
        60.0,
    ),
    # The excuses: a crash, a failure that is retried.
    "again": Mutant((("store/lua/step.lua", KEPT, KEPT + AGAIN),), ("ran again",), KILLS, 30.0),
    # The excuse: a crash, of a job that may not crash.
    "undying": Mutant(
        (("store/lua/lib.lua", LIMIT, LIMIT.replace("> max", "> max + 1")),),
        ("ran again",),
        KILLS,
        60.0,
    ),
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
    # The scripts of others forget the hands. Workers rarely die just then, so some kill themselves.
    "bereft": Mutant(
        (
            ("store/lua/hands.lua", EMPTIED, f"{EMPTIED}\n  if true then return end"),
            ("worker/idle.py", READ, READ + DIES),
        ),
        ("stuck",),
        ("script flush",),  # a fault that leaves workers time to wait
        seconds=30.0,
    ),
    "everlasting": Mutant(
        (("store/lua/step.lua", "call('EXPIRE', job, keep) == 1", "call('EXISTS', job) == 1"),),
        ("leaked",),
    ),
    # The excuse: the horse, or its supervisor, was killed; not a neighbour.
    "confused": Mutant(
        (("worker/executions.py", OWN_RUNS, ALL_RUNS),),
        ("ran again",),
        ("kill -9 horse",),
        30.0,
        concurrency=SLOTS,
    ),
    # Its horses outlive a supervisor, if another process has their pipes.
    "orphaned": Mutant(
        (("worker/process.py", OTHERS_PIPES, "(self._wake_w, self._life_w)"),),
        ("process", "ran again"),
        ("kill -9 supervisor", *("a task leaves a process behind",) * 8),  # few are killed
        40.0,
        concurrency=SLOTS,
    ),
}
