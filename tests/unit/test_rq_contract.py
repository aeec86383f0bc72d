"""RQ 3.0 has what werk/worker/rq_*.py touch or replace, with the arguments they give."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from rq.job import Job, JobStatus, _current_job
from rq.queue import Queue
from rq.results import Result
from rq.worker import Worker

import werk
from werk.client.result import Status
from werk.worker.rq_patches import OF_A_JOB, OF_A_SUCCESS, OF_PERFORMING, OF_THE_LOOP
from werk.worker.rq_side import RQSide

CALLED = {
    "_finalize_success": "job queue execution return_value",
    "_finalize_failure": "job queue execution exc_info",
    "_handle_stopped_job": "job queue execution",
    "handle_job_failure": "job queue started_job_registry exc_string execution",
    "handle_work_horse_killed": "job retpid ret_val rusage",
    "handle_execution_ended": "job queue heartbeat_ttl",
    "handle_exception": "job exc_info",
    "cleanup_execution": "job pipeline execution",
    "prepare_execution": "job",
    "prepare_job_execution": "job remove_from_intermediate_queue",
    "execute_job": "job queue",
    "perform_job": "job queue execution",
    "fork_work_horse": "job queue",
    "monitor_work_horse": "job queue execution",
    "increment_successful_job_count": "pipeline",
    "increment_failed_job_count": "pipeline",
    "reorder_queues": "reference_queue",
    "_install_signal_handlers": "",
    "run_maintenance_tasks": "",
    "get_redis_server_version": "",
}
SET = (  # attributes of a worker
    "_is_horse _stop_requested _shutdown_requested_date _stopped_job_id _ordered_queues"
    " _dequeue_strategy _state scheduler pubsub pubsub_thread executions connection_timeout"
).split()


@pytest.mark.parametrize("name", CALLED)
def test_a_method_takes_what_it_is_given(name: str) -> None:
    parameters = [*inspect.signature(getattr(Worker, name)).parameters][1:]
    assert set(CALLED[name].split()) <= set(parameters), parameters


def test_what_is_replaced_is_there() -> None:
    for name in (*OF_THE_LOOP, *OF_PERFORMING, *OF_A_SUCCESS):
        assert callable(getattr(Worker, name)), name
    for name in OF_A_JOB:
        assert callable(getattr(Job, name)), name
    assert callable(Queue._persist_job)
    assert "pipeline if pipeline is not None" in inspect.getsource(Result.save)  # its xadd()
    assert _current_job.get(None) is None


def test_a_worker_has_the_attributes_that_are_set() -> None:
    source = "".join(inspect.getsource(kind) for kind in Worker.__mro__[:-1])
    assert [name for name in SET if f"self.{name}" not in source] == []


def test_our_own_names_are_none_of_rqs() -> None:
    own = {name for name, value in vars(RQSide).items() if inspect.isfunction(value)}
    replaced = {name for name in own if hasattr(Worker, name)}
    called = set(CALLED) | {"handle_job_success", "handle_job_retry"}
    assert replaced <= called, replaced - called


def test_only_the_adapters_use_private_names_of_rq() -> None:
    """The files to look at when RQ changes are werk/worker/rq_*.py."""
    private = {name for kind in (Job, Queue, Worker) for name in _private_names(kind)}
    source = Path(werk.__file__).parent
    used = {
        (path.relative_to(source).as_posix(), name)
        for path in source.rglob("*.py")
        if not path.name.startswith("rq_")
        for name in private.intersection(_used_names(path.read_text()))
    }
    assert used == set()


def _private_names(kind: type) -> Iterator[str]:
    """Yield the private names that a class of RQ defines, or assigns to itself."""
    for own in kind.__mro__[:-1]:
        for node in ast.walk(ast.parse(inspect.getsource(own))):
            if isinstance(node, ast.FunctionDef) and _is_private(node.name):
                yield node.name
            elif isinstance(node, ast.Attribute) and _is_private(node.attr) and _is_of_self(node):
                yield node.attr


def _used_names(source: str) -> Iterator[str]:
    """Yield the private names of other objects that a file of ours uses, or defines in a class."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and not _is_of_self(node):
            if ast.unparse(node.value) not in ("os", "os.environ"):
                yield node.attr
        elif isinstance(node, ast.ClassDef) and any("RQ" in ast.unparse(own) for own in node.bases):
            yield from (own.name for own in node.body if isinstance(own, ast.FunctionDef))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def test_every_status_of_a_job() -> None:
    assert {*get_args(Status)} == {status.value for status in JobStatus}
