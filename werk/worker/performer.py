"""Performer: runs a claimed job, and returns its outcome or has RQ's code record it."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from rq.job import Job
from rq.timeouts import JobTimeoutException

from werk.errors import Unreadable
from werk.settings import Settings
from werk.store import payload
from werk.worker import rq_classes
from werk.worker.around import version_mismatch
from werk.worker.claim import Claim, Refused, Unknown
from werk.worker.counters import Counters
from werk.worker.frame import Frame
from werk.worker.log import JobLog
from werk.worker.outcome import Outcome, Recorder, success
from werk.worker.refusals import Refusals
from werk.worker.results import limited, reason_of, stored
from werk.worker.rq_patches import Patches
from werk.worker.rq_side import RQSide
from werk.worker.runner import Runner
from werk.worker.scripts import script
from werk.worker.shared_state import LONGEST_RUN, SharedState


class JobId:
    """RQ_JOB_ID in the environment, as in RQ: for a job, and for the processes that it starts.

    Its line in the environment is our own memory, by putenv(3). os.environ would call setenv(),
    which keeps and searches every value: six times as long, a quarter of a horse's time for a job.
    """

    # The environment refers to this memory.
    _LINE = ctypes.create_string_buffer(b"RQ_JOB_ID=", LONGEST_RUN)

    def __init__(self) -> None:
        self._putenv = ctypes.CDLL(None).putenv
        self._environ: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
        self._last = b""

    def set(self, job_id: bytes) -> None:
        self._LINE.value = b"RQ_JOB_ID=" + job_id
        if self._environ.get(b"RQ_JOB_ID") is not self._last:  # a job has written there
            self._putenv(self._LINE)
        self._environ[b"RQ_JOB_ID"] = self._last = job_id


class Performer:
    """Performs the jobs of a horse."""

    def __init__(
        self, worker: RQSide, shared: SharedState, settings: Settings, counters: Counters
    ) -> None:
        self.shared, self.counters, self.log = shared, counters, JobLog()
        free = Refusals(worker, shared, self.log) if settings.allow_unregistered else None
        self.runner, self.job_id = Runner(shared, self.log, free), JobId()
        fence = script("fence", worker.server_version())
        self.recorder = Recorder(worker, shared, self.log, counters, fence)
        self.patches, self.default_ttl = Patches(worker), worker.default_result_ttl
        self.runner.imported = self.patches.look
        self.is_ours = worker.serializer is rq_classes.PlainSerializer
        self.dumps = payload.dumps if self.is_ours else limited(worker.serializer.dumps)
        self.last_success: tuple[Claim, Job, Any] | None = None  # which step.lua has to record

    def perform(self, claim: Claim, number: int) -> Outcome | None:
        """Run the horse's job number `number`. Return its outcome, or None if it is recorded."""
        runner, recorder, log = self.runner, self.recorder, self.log
        job = recorder.job(job_id := claim.job.decode("utf-8", "replace"))
        self.shared.show(number - 1, job_id, claim.execution)
        try:
            limit_s, keep_s = claim.limits(self.default_ttl)
            task, path, args, kwargs = runner.read(claim, limit_s)
        except (Refused, Unreadable, Unknown, JobTimeoutException) as why:
            runner.disarm()
            return self.refuse(claim, job, why)
        self.job_id.set(claim.job)
        log.claim, log.task = claim, task
        if log.logs_jobs:
            log.event("started", claim.facts(task))
        function, known = path, runner.functions
        if type(path) is str:
            function = known[path] if path in known else runner.load(path, job)
        if runner.middleware:
            function = runner.within(function, claim, task, path, job)
        if self.patches.found():
            return Frame(self, claim, task, keep_s).perform(path, (function, args, kwargs), job)
        began = runner.started
        result, error, took = runner.run(function, args, kwargs, job)
        if error is not None:
            if mismatch := version_mismatch(claim, task, error, (path, args, kwargs)):
                return self.refuse(claim, job, mismatch)
            self.counters.add(task, False, took, claim, began)
        if log.logs_jobs:
            log.ended(claim.facts(task), error, took)
        if error is not None:
            return recorder.fail(claim, job, error)
        value: bytes | str | None = None
        if not claim.callbacks and keep_s > 0 and type(job) is recorder.lazy_class:
            value = stored(self.dumps, result) if self.is_ours else self.store(result, job, limit_s)
        self.counters.add(task, True, took, claim, began, isinstance(value, bytes))
        if not isinstance(value, bytes):
            return recorder.succeed(claim, job, result, value)
        self.last_success = claim, job, result
        return success(claim, keep_s, value, runner.ended + self.shared.offset)

    def store(self, result: Any, job: Job, limit_s: int) -> bytes | str | None:
        """Do the same as stored() with RQ's serializer.

        It runs code of the result, which has the job's time limit once more.
        """
        self.runner.arm(limit_s)
        value, error, _ = self.runner.run(stored, (self.dumps, result), {}, job)
        return value if error is None else reason_of(error, result)

    def refuse(self, claim: Claim, job: Job, why: Exception) -> Outcome | None:
        self.log.claim, self.log.task = claim, ""
        late = why.__context__  # the reader may have caught it
        return self.recorder.refuse(claim, job, late if type(late) is JobTimeoutException else why)
