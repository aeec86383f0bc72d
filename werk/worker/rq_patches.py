"""Which of RQ's methods somebody has replaced: a subclass, a tracer or a test.

The private names of RQ's classes appear only in the files rq_*.py of this package.
"""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import TYPE_CHECKING

from rq.job import Job
from rq.queue import Queue

if TYPE_CHECKING:
    from werk.worker.rq_side import RQSide

# Methods of RQ's loop. Other methods that a subclass replaces are called in werk's loop as well.
OF_THE_LOOP = tuple(
    "dequeue_job_and_maintain_ttl fork_work_horse monitor_work_horse wait_for_horse main_work_horse"
    " setup_work_horse_signals heartbeat maintain_heartbeats check_for_suspension".split()
)
OF_PERFORMING = tuple("execute_job perform_job prepare_execution prepare_job_execution".split())
OF_A_JOB = ("perform", "_execute")
# If one of these is replaced, RQ's own code records successes too, and calls the replacement.
OF_A_SUCCESS = tuple(
    "_finalize_success handle_execution_ended handle_job_success cleanup_execution".split()
)

_MODULES = frozenset(
    "rq.job rq.worker.base rq.worker.worker_classes"
    " werk.worker werk.worker.rq_loop werk.worker.rq_side werk.worker.rq_classes".split()
)
_CLASSES = frozenset("BaseWorker Worker Job RQLoop RQSide".split())


def is_own(function: object) -> bool:
    """Return whether RQ or werk defines this function, and not a patch or a subclass.

    functools.wraps copies the names of a function and wrapt shows all of its attributes, but a
    patch has another type or other code. So the order of imports does not matter.
    """
    if type(function) is not FunctionType:
        return False
    is_ours = function.__globals__.get("__name__") in _MODULES
    return is_ours and function.__code__.co_qualname.partition(".")[0] in _CLASSES


def replaced_loop(worker: RQSide) -> str:
    """Return the part of RQ's loop that a subclass replaces, or '': then werk's loop runs.

    A method that is only wrapped, by functools.wraps or wrapt, is not replaced. Methods that
    perform a job may be other functions, but not mocks: a test expects their calls in this process.
    """
    for name in (*OF_THE_LOOP, *OF_PERFORMING):
        found = vars(worker).get(name) or getattr(type(worker), name)
        try:
            found = inspect.unwrap(found)
        except ValueError:  # it is wrapped in a circle
            return name
        found = getattr(found, "__func__", found)
        if not (is_own(found) if name in OF_THE_LOOP else isinstance(found, FunctionType)):
            return name
    if worker.job_class.redis_job_namespace_prefix != Job.redis_job_namespace_prefix:
        return "redis_job_namespace_prefix"
    if worker.queue_class.redis_queue_namespace_prefix != Queue.redis_queue_namespace_prefix:
        return "redis_queue_namespace_prefix"
    return ""


class Patches:
    """Knows whether jobs must be performed in a frame. Any import may patch a method."""

    __slots__ = (
        "_execute", "is_of_a_success", "is_one", "job_kind", "kind", "perform", "perform_job",
        "worker",
    )  # fmt: skip

    def __init__(self, worker: RQSide) -> None:
        self.worker, self.kind, self.job_kind = worker, type(worker), worker.job_class
        self.look()

    def look(self) -> None:
        """Look for patches of all methods."""
        own, job = self.kind, self.job_kind
        self.perform_job, self.perform, self._execute = own.perform_job, job.perform, job._execute
        self.is_of_a_success = self._has_other(OF_A_SUCCESS)
        in_a_job = (getattr(job, name) for name in OF_A_JOB)
        self.is_one = (
            self.is_of_a_success or self._has_other(OF_PERFORMING) or not all(map(is_own, in_a_job))
        )

    def found(self) -> bool:
        """Return whether there is a patch. Look again if a method that is patched often changed."""
        job = self.job_kind
        if (
            self.kind.perform_job is not self.perform_job
            or job.perform is not self.perform
            or job._execute is not self._execute
        ):
            self.look()
        return self.is_one

    def _has_other(self, names: tuple[str, ...]) -> bool:
        instance = vars(self.worker)
        return any(name in instance or not is_own(getattr(self.kind, name)) for name in names)
