"""RQ 3.0 has what rq_side.py and rq_classes.py touch or replace, with the arguments they give."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest
from rq.job import Job, JobStatus, _current_job
from rq.queue import Queue
from rq.worker import Worker

from werk.client.result import Status
from werk.worker.frame import LOOP, OF_A_JOB, OF_A_SUCCESS, PERFORMING
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
    "reorder_queues": "reference_queue",
    "_install_signal_handlers": "",
    "run_maintenance_tasks": "",
    "get_redis_server_version": "",
    "set_shutdown_requested_date": "",
}
SET = (  # attributes of a worker
    "_is_horse _stop_requested _stopped_job_id _ordered_queues _dequeue_strategy _state scheduler"
    " pubsub pubsub_thread executions connection_timeout"
).split()


@pytest.mark.parametrize("name", CALLED)
def test_a_method_takes_what_it_is_given(name: str) -> None:
    parameters = [*inspect.signature(getattr(Worker, name)).parameters][1:]
    assert set(CALLED[name].split()) <= set(parameters), parameters


def test_what_is_replaced_is_there() -> None:
    for name in (*LOOP, *PERFORMING, *OF_A_SUCCESS):
        assert callable(getattr(Worker, name)), name
    for name in OF_A_JOB:
        assert callable(getattr(Job, name)), name
    assert callable(Queue._persist_job)
    assert _current_job.get(None) is None


def test_a_worker_has_the_attributes_that_are_set() -> None:
    source = "".join(inspect.getsource(kind) for kind in Worker.__mro__[:-1])
    assert [name for name in SET if f"self.{name}" not in source] == []


def test_our_own_names_are_none_of_rqs() -> None:
    own = {name for name, value in vars(RQSide).items() if inspect.isfunction(value)}
    replaced = {name for name in own if hasattr(Worker, name)}
    called = set(CALLED) | {"handle_job_success", "handle_job_retry"}
    assert replaced <= called, replaced - called


def test_every_status_of_a_job() -> None:
    assert {*get_args(Status)} == {status.value for status in JobStatus}
