"""Every test records its jobs, so no test needs Redis or reaches one."""

import os

import pytest
from flask.testing import FlaskClient

from werk.testing import RecordedJobs

os.environ["WERK_REGISTRY"] = "gallery.table:TASKS"  # before the first enqueue

from gallery.app import app


@pytest.fixture
def client() -> FlaskClient:
    return app.test_client()


@pytest.fixture(autouse=True)
def jobs(werk_jobs: RecordedJobs) -> RecordedJobs:
    return werk_jobs
