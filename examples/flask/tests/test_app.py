"""What the endpoints enqueue, and what they answer."""

import pytest
from flask.testing import FlaskClient

import werk
from werk.testing import RecordedJobs

PICTURE = "/pictures/cat.jpg/thumbnail"


def test_a_thumbnail_is_made(client: FlaskClient, jobs: RecordedJobs) -> None:
    job = client.post(PICTURE, json={"width": 64}).json["job"]
    assert client.get(f"/jobs/{job}").status_code == 202
    jobs.run()
    assert client.get(f"/jobs/{job}").json["result"] == "/thumbnails/64/cat.jpg"


def test_a_second_click_enqueues_nothing(client: FlaskClient, jobs: RecordedJobs) -> None:
    answers = [client.post(PICTURE, json={}).json["duplicate"] for _ in range(2)]
    assert answers == [False, True]
    assert len(jobs) == 1


def test_a_bad_width_enqueues_nothing(client: FlaskClient, jobs: RecordedJobs) -> None:
    assert client.post(PICTURE, json={"width": "wide"}).status_code == 422
    assert len(jobs) == 0


@pytest.mark.parametrize("body", [[1], "wide", 64])
def test_a_body_that_is_no_object_enqueues_nothing(
    client: FlaskClient, jobs: RecordedJobs, body: object
) -> None:
    answer = client.post(PICTURE, json=body)
    assert (answer.status_code, answer.json["error"]) == (422, "the body must be a JSON object")
    assert len(jobs) == 0


def test_a_file_of_another_kind_fails(client: FlaskClient, jobs: RecordedJobs) -> None:
    job = client.post("/pictures/cat.txt/thumbnail", json={}).json["job"]
    jobs.run()
    answer = client.get(f"/jobs/{job}")
    assert answer.status_code == 500
    assert "'cat.txt' is not a picture" in answer.json["reason"]


def test_an_unknown_job_is_not_found(client: FlaskClient) -> None:
    assert client.get("/jobs/none").status_code == 404


def test_an_unreachable_redis(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def enqueue(*args: object, **kwargs: object) -> None:
        raise werk.RedisUnavailable("Redis does not answer")

    monkeypatch.setattr(werk, "enqueue", enqueue)
    answer = client.post(PICTURE, json={})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
