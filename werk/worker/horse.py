"""The horse: one long-lived child of a worker that runs its jobs, one at a time.

1. claim    one script records the outcome of the last job and takes the next one
2. run      the registered function, under the job's time limit (runner.py)
3. finish   a plain success goes with the next claim; all else goes RQ's own way (recorder.py)

The supervisor (supervisor.py) watches. The horse dies with its supervisor.
"""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import time
from binascii import b2a_base64
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import hiredis
from rq.job import Job, Retry
from rq.timeouts import JobTimeoutException

from werk import registry
from werk.errors import Unreadable
from werk.settings import Settings
from werk.store import connection as link
from werk.store import payload as wire
from werk.store.payload import text
from werk.store.scripts import script
from werk.worker import records
from werk.worker.channel import (
    AWAY,
    LONGEST_PAUSE_S,
    Channel,
    Unusable,
    hang_up,
    impatience,
    patience,
)
from werk.worker.claim import Claim, Tasks, Unknown, misplaced
from werk.worker.counters import Counters
from werk.worker.frame import Frame, Patches
from werk.worker.log import Diary
from werk.worker.log_stream import bound_logs, print_by_line
from werk.worker.outcome import Recorder
from werk.worker.process import forked
from werk.worker.records import PlainSerializer, Refused
from werk.worker.runner import JobId, Runner
from werk.worker.shared_state import HORSE_SIGNAL, Leave, Page, Plan

if TYPE_CHECKING:
    from werk.worker import Worker

FLUSH_S = 0.5  # between two writings of the worker's state and counters while Redis shows it busy
OWNED_S = 90  # RQ's own: 30 s between beats and 60 more
BLOCK_S = 10  # one idle wait of Redis's; then it is asked again
SPARE = 16  # descriptors that a job needs at most, to begin with
LATE_S = 5  # after that, without a reply, the connection is taken for dead
HELD_S = 1.0  # between two looks at a suspension or a pause
FENCED_S = 0.2  # the supervisor is about to write our generation, or to end us
CLEAN_S = 120  # of RQ's clean-up without progress: a callback in it has 60 s
BEFORE_FIRST = 10**9  # requests: all have as many digits, so executions are in order as texts


def ride(worker: Worker, page: Page, plan: Plan, bell: int) -> int:
    """Be the horse, in the child process. Returns its exit code.

    `bell` is a pipe: the supervisor writes to it when there is something to look at.
    """
    records.keep_redis_time(page.now)
    horse = Horse(worker, page, plan, bell)
    horse.settle()
    try:
        horse.obey()
        leave = Leave.OBEYED if plan.only_orders else horse.loop()
        horse.write_counts()
        return leave
    except Unusable as why:
        page.reason = str(why)
        horse.diary.log.error("event=unusable worker=%s reason=%s", worker.name, why)
        return Leave.UNUSABLE


class Horse:
    """The loop and what it calls. Lives in the child process only."""

    def __init__(self, worker: Worker, page: Page, plan: Plan, bell: int) -> None:
        self.worker, self.page, self.plan, self.bell = worker, page, plan, bell
        self.name, self.generation = worker.name, plan.generation
        self.settings = Settings.read()
        self.diary = Diary()
        self.runner = Runner(page, self.diary)
        self.counters, self.job_id = Counters(), JobId()
        self.recorder = Recorder(worker, page, self.diary, self.runner, self.counters)
        known = {**registry.tasks(), **registry.BUILT_IN}
        by_path = {task.path: (name, task.path) for name, task in known.items()}
        by_name = {name.encode(): (name, task.path) for name, task in known.items()}
        self.tasks: Tasks = {**by_path, **by_name}
        is_ours = worker.serializer is PlainSerializer
        self.dumps = wire.dumps if is_ours else records.limited(worker.serializer.dumps)
        self.default_ttl = worker.default_result_ttl
        self.reader = worker.serializer if self.settings.allow_unregistered else None
        self.patches = Patches(worker)
        self.follows_strategy = worker.has_strategy()
        self.script = script("step", worker.server_version())
        self.channel = Channel(worker.connection)
        self.waiting: dict[str, Channel] = {}  # one a queue, for the idle wait
        self.asked: dict[str, float] = {}  # when those were asked that have not answered
        self.serve(worker.ordered_queue_keys())
        self.jobs = 0  # begun by this horse
        max_jobs, horse_jobs = plan.max_jobs, self.settings.horse_jobs
        self.last_job = horse_jobs if max_jobs is None else min(max_jobs, horse_jobs)
        self.count = BEFORE_FIRST  # of requests; makes the execution ids
        self.execution = self.asked_at = ""  # of the last request
        self.flushed_at = 0.0
        self.is_busy = self.shows_busy = False  # with a job in hand; what Redis shows
        self.cleans, self.cleaner = self.is_cleaning_due(), 0  # the process that does it
        self.is_watched = bool(self.diary.says or self.follows_strategy)
        self.idle_since = time.monotonic()

    def settle(self) -> None:
        """Make the child its own process: signals, connections, random numbers, log, hooks."""
        random.seed()
        worker = self.worker
        worker._is_horse, worker.scheduler, worker.pubsub_thread = True, None, None
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Not the default, by which systemd would end the job; and to ignore it would be inherited
        # by the job's own children.
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(HORSE_SIGNAL, self.on_signal)
        worker.restore_connection(patience(self.page))
        os.environ["RQ_WORKER_ID"] = worker.name
        worker.log = self.diary.open()
        bound_logs(self.page)
        print_by_line()
        self.runner.add_hooks(self.settings)
        self.is_watched = self.is_watched or bool(self.runner.hooks)

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """The supervisor's signal: leave these connections, or time is up."""
        if self.page.reconnect:
            self.page.reconnect = 0
            for channel in (self.channel, *self.waiting.values()):
                channel.hang_up()
            if self.cleaner:
                os.kill(self.cleaner, signal.SIGKILL)
            elif self.page.finishing:
                hang_up(self.worker.connection)
        self.runner.interrupt(signum, frame)

    def serve(self, keys: list[str]) -> None:
        """Claim from these queues, in this order."""
        self.keys = keys
        who = (self.name, self.generation)
        self.head = ("EVALSHA", self.script.sha, len(keys), *keys, *who)  # of each request
        self.resent = len(self.head) + 6  # where it says so: ARGV 9 of step.lua

    def obey(self) -> None:
        """Carry out what the supervisor left to us. It reads in the page how far we came."""
        for number, order in enumerate(self.plan.orders, 1):
            self.page.orders_begun = number
            if finish := self.recorder.obey(order):
                self.step(finish, wants_job=False)
        self.page.orders_begun = len(self.plan.orders) + 1

    # --- the loop

    def loop(self) -> Leave:
        """Claim, run, finish, until there is a reason to leave."""
        page = self.page
        finish: Claim | None = None
        while True:
            leave = self.reason_to_leave()
            wants_job = leave is None and not self.cleans
            outcome, claimed, dropped, paused = self.step(finish, wants_job)
            if finish and outcome != b"done":
                if outcome == b"dependents":
                    self.counters.leave_last_to_rq()
                    finish = self.recorder.succeed(finish, finish.job, finish.result)
                    continue
                if outcome == b"misplaced" and finish.words[3] != "failed":
                    if finish.words[3] == "finished":
                        self.counters.leave_last_to_rq()
                    finish = misplaced(finish, self.page.now())
                    continue
                if outcome in (b"late", b"misplaced"):
                    self.diary.tell(outcome.decode(), finish, logging.WARNING)
            if dropped:
                self.diary.tell_dropped(dropped)
            finish = None
            if type(claimed) is list:
                if page.stop:
                    return Leave.STOPPED  # claimed on the way: the supervisor gives it back
                self.jobs += 1
                self.is_busy = True
                finish = self.perform(Claim.of(claimed, self.execution, self.asked_at))
                try:
                    os.close(os.dup(self.bell))
                    if finish is None:  # it may have failed for want of some
                        take_descriptors(SPARE, self.bell)
                except OSError:  # the job has left too few: no other one would get any
                    self.last_job = self.jobs
                continue
            page.show(self.jobs, "", self.execution)
            if self.is_busy:
                self.is_busy, self.idle_since = False, time.monotonic()
            if self.cleans:
                self.clean()
                continue
            leave = leave or self.reason_to_leave() or self.reason_not_to_wait(claimed)
            if leave:
                return leave
            self.wait(claimed, paused or ())

    def write_counts(self) -> None:
        """Write what is counted before this horse leaves."""
        if self.counters:
            self.flushed_at = 0.0
            self.step(None, wants_job=False)

    def reason_to_leave(self) -> Leave | None:
        if self.page.stop:
            return Leave.STOPPED
        if self.jobs >= self.last_job:
            return Leave.MAX_JOBS if self.jobs == self.plan.max_jobs else Leave.RECYCLED
        return None

    def reason_not_to_wait(self, why: bytes) -> Leave | None:
        if self.plan.is_burst and why in (b"empty", b"suspended"):
            return Leave.EMPTY if why == b"empty" else Leave.SUSPENDED
        limit = self.plan.max_idle_s
        if limit is not None and why == b"empty" and time.monotonic() >= self.idle_since + limit:
            return Leave.IDLE
        return None

    # --- claim

    def step(self, finish: Claim | None, wants_job: bool) -> Any:
        """One round trip: record that outcome, claim the next job. See step.lua."""
        _, asked_at, now_iso = wire.clock()
        owned = int(self.page.now()) + OWNED_S
        self.count += 1
        self.asked_at, self.execution = asked_at, f"{self.generation}{self.count}"
        flush = not self.shows_busy or time.monotonic() > self.flushed_at + FLUSH_S
        request = (
            *self.head, self.execution, now_iso, asked_at, owned, owned + 60,
            "1" if wants_job else "0", "0", self.counters.text() if flush else "",
            *(finish.words if finish else ()),
        )  # fmt: skip
        reply = self.ask(request, finish)
        if flush and reply[1] != b"":
            self.flushed_at, self.shows_busy = time.monotonic(), type(reply[1]) is list
            self.counters.clear()
            self.cleans = self.is_cleaning_due()
            if self.jobs and 0 < self.settings.horse_mb < resident_mb():
                self.last_job = self.jobs
        return reply

    def ask(self, request: tuple[Any, ...], finish: Claim | None) -> Any:
        """Send it until it is answered.

        What may have arrived before says so, and is recognised by its execution id.
        """
        pause_s = 0.0  # the first time at once: Redis may be back, or only this connection gone
        page = self.page
        while True:
            try:
                page.request = self.count
                self.channel.send(request)
                reply = self.channel.receive()
                if type(reply) is list:
                    page.request = 0
                    return reply
                self.read_refusal(str(reply))
            except AWAY as error:
                self.channel.close()
                request = (*request[: self.resent], "1", *request[self.resent + 1 :])
                if page.stop and not finish:
                    page.request = 0
                    return [b"none", b"unasked", None, None]
                if pause_s:
                    self.diary.log.error("event=redis-away worker=%s reason=%s", self.name, error)
                time.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2 or 0.05)

    def read_refusal(self, text: str) -> None:
        """Make good for an error reply. Raises Unusable if sending again would not help."""
        if link.passes(text):  # LOADING, READONLY, ...: another connection may do better
            raise ConnectionError(text)
        if not text.startswith("NOSCRIPT"):
            raise Unusable(f"Redis refused to record the job: {text}")
        self.channel.send(("SCRIPT", "LOAD", self.script.text))
        self.channel.receive()

    def wait(self, why: bytes, paused: Sequence[bytes]) -> None:
        """Wait until a queue has something, without taking it. Costs Redis nothing meanwhile."""
        if why == b"more":
            return
        if why != b"empty":
            self.sleep(HELD_S if why == b"suspended" else FENCED_S)
            return
        limit = self.plan.max_idle_s
        left = None if limit is None else max(0.0, self.idle_since + limit - time.monotonic())
        if paused:
            left = HELD_S if left is None else min(HELD_S, left)
        if self.counters or self.shows_busy:  # it is written soon, but no result waits for that
            left = FLUSH_S if left is None else min(FLUSH_S, left)
        try:
            self.listen([key for key in self.keys if key.encode() not in paused], left)
        except AWAY:
            for channel in self.waiting.values():
                channel.close()
            self.asked.clear()
            self.sleep(FENCED_S)

    def listen(self, keys: list[str], left: float | None) -> None:
        """Ask each queue to move its first job to where it is: blocks until there is one."""
        for key in keys:
            if key not in self.asked:
                channel = self.waiting.setdefault(key, Channel(self.worker.connection))
                channel.send(("BLMOVE", key, key, "LEFT", "LEFT", BLOCK_S))
                self.asked[key] = time.monotonic()
        sockets = {self.waiting[key].socket: key for key in keys}
        longest = BLOCK_S + LATE_S if left is None else min(left, BLOCK_S + LATE_S)
        for ready in select.select([self.bell, *sockets], [], [], longest)[0]:
            if ready == self.bell:
                self.answer_bell()
                continue
            key = sockets[ready]
            del self.asked[key]
            if isinstance(self.waiting[key].receive(), hiredis.ReplyError):
                self.sleep(FENCED_S)  # OOM: it counts as a write. So ask step.lua again and again
        if self.asked and min(self.asked.values()) < time.monotonic() - BLOCK_S - LATE_S:
            raise TimeoutError("an idle wait has lasted too long")

    def sleep(self, seconds: float) -> None:
        if select.select([self.bell], [], [], seconds)[0]:
            self.answer_bell()

    def answer_bell(self) -> None:
        if not os.read(self.bell, 4096):
            os._exit(1)  # the supervisor is gone

    # --- run

    def perform(self, claim: Claim) -> Claim | None:
        """Run a job. Returns it with its outcome for the next step, None if that is recorded."""
        self.page.show(self.jobs - 1, claim.id, claim.execution)
        job, runner = self.recorder.job(claim.id), self.runner
        try:
            claim.check(self.default_ttl)
            runner.arm(claim.timeout)
            path, args, kwargs = claim.call(self.tasks, self.reader)
            runner.is_running = False
        except (Refused, Unreadable, Unknown, JobTimeoutException) as why:
            runner.disarm()
            late = why.__context__  # the reader may have caught it
            late = late if isinstance(late, JobTimeoutException) else why
            return self.recorder.refuse(claim, job, late)
        self.job_id.set(claim.raw_id)
        self.diary.current = claim
        if self.is_watched:
            self.begin(claim, job)
        function = path
        if type(path) is str:
            function = runner.functions.get(path) or self.load(path, job)
        if self.patches.found():
            return self.recorder.perform(Frame(self, claim, path, (function, args, kwargs)), job)
        result, error, took = runner.run((function, args, kwargs), job)
        if error and (misfit := claim.misfit(error, path, args, kwargs)):
            self.diary.current = None
            return self.recorder.refuse(claim, job, misfit)
        if self.is_watched:
            self.end(claim, job, result, error, took)
        self.diary.current = None
        if error:
            self.counters.add(claim.task, False, took)
            return self.recorder.fail(claim, job, error)
        is_plain = claim.is_plain and type(job) is self.recorder.lazy_class  # untouched by the task
        value = self.stored(result) if is_plain else None
        if not isinstance(value, bytes):
            self.counters.add(claim.task, True, took)
            return self.recorder.succeed(claim, job, result, value)
        self.counters.add(claim.task, True, took, by_step=True)
        return claim.succeeded(job, result, value, self.page.now())

    def load(self, path: str, job: Job) -> Any:
        """Import a task's function: only then is it known what its module patches."""
        function = self.runner.load(path, job)
        self.patches.look()
        return function

    def stored(self, result: Any) -> bytes | str | None:
        """Return a result as RQ stores it, or why it cannot be stored; None for a Retry."""
        if result is None:
            return b""
        if type(result) is Retry:
            return None
        try:
            return b2a_base64(self.dumps(result), newline=False)
        except Exception as error:
            return records.reason_of(error, result)

    def begin(self, claim: Claim, job: Job) -> None:
        if self.diary.says:
            self.diary.tell("started", claim)
        if self.runner.hooks:
            self.runner.hook("before", job)
            self.runner.arm(claim.timeout)  # a hook has its own time
            self.runner.is_running = False

    def end(
        self, claim: Claim, job: Job, result: Any, error: BaseException | None, took: float
    ) -> None:
        if self.runner.hooks and error:
            self.runner.hook("error", job, error)
        elif self.runner.hooks:
            self.runner.hook("after", job, result)
        if self.diary.says and error:
            self.diary.tell("failed", claim, error=type(error).__name__, elapsed=f"{took:.3f}")
        elif self.diary.says:
            self.diary.tell("done", claim, elapsed=f"{took:.3f}")
        if self.follows_strategy:
            self.worker.reorder_after(text(claim.queue))
            self.serve(self.worker.ordered_queue_keys())

    # --- RQ's clean-up of what stock workers left: it may run users' code

    def is_cleaning_due(self) -> bool:
        cleaned_at = self.page.cleaned_at
        return not cleaned_at or time.monotonic() > cleaned_at + self.worker.maintenance_interval

    def clean(self) -> None:
        """Run it in a child: user code there cannot affect this process; its memory is freed."""
        self.page.cleaned_at = time.monotonic()  # first: what fails must not do so again at once
        self.cleans = False
        self.page.begin_finish(CLEAN_S)
        try:
            self.cleaner = forked(self.clean_up)
            os.waitpid(self.cleaner, 0)
        except OSError as error:  # no process to be had: the next time, then
            self.diary.log.error("event=clean-up-failed reason=%s", error)
        self.cleaner = 0
        self.page.end_finish()

    def clean_up(self) -> int:
        # Not patiently: while memory is full it would wait for ever, and no job would run.
        self.worker.connection.set_retry(impatience(self.page))
        try:
            self.worker.run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except Exception as error:
            self.diary.log.error("event=clean-up-failed reason=%s: %s", type(error).__name__, error)
        return 0


def take_descriptors(count: int, model: int) -> None:
    """Take so many copies of a descriptor, and close them. Raises OSError if there are fewer."""
    taken: list[int] = []
    try:
        while len(taken) < count:
            taken.append(os.dup(model))
    finally:
        for number in taken:
            os.close(number)


def resident_mb() -> float:
    """Return the memory that this process holds, 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    except OSError:
        return 0.0
