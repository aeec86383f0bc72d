"""Every test records its jobs, so no test needs Redis or reaches one."""

import os
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from werk.testing import RecordedJobs

os.environ["WERK_REGISTRY"] = "shop.table:TASKS"  # before the first enqueue

from shop import mail
from shop.app import app


@pytest.fixture(scope="session")
def client() -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


@pytest.fixture(autouse=True)
def jobs(werk_jobs: RecordedJobs) -> Iterator[RecordedJobs]:
    yield werk_jobs
    mail.outbox.clear()
