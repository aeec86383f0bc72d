"""What the endpoints enqueue, and what the jobs do."""

from datetime import date
from decimal import Decimal

import pytest
from fastapi.testclient import TestClient

import werk
from shop import mail, tasks
from werk.testing import RecordedJobs

ORDER = {"number": 42, "total": "9.50", "email": "ada@shop.example"}
REFUND = {"amount": "9.50", "card": "4111111111111111"}


def test_an_order_enqueues_its_receipt(client: TestClient, jobs: RecordedJobs) -> None:
    assert client.post("/orders", json=ORDER).status_code == 202
    [job] = jobs.of("receipt")
    assert job.args == (42, Decimal("9.50"))
    assert job.kwargs == {"email": "ada@shop.example"}


def test_a_receipt_waits_in_the_mail_queue(client: TestClient, jobs: RecordedJobs) -> None:
    client.post("/orders", json=ORDER)
    assert (jobs[0].queue, jobs[0].options.retry) == ("mail", 3)


def test_an_order_that_is_sent_twice_has_one_receipt(
    client: TestClient, jobs: RecordedJobs
) -> None:
    first, second = (client.post("/orders", json=ORDER).json() for _ in range(2))
    assert first == {"job": "receipt-42", "duplicate": False}
    assert second == {"job": "receipt-42", "duplicate": True}
    assert len(jobs) == 1


def test_a_receipt_is_sent(client: TestClient, jobs: RecordedJobs) -> None:
    client.post("/orders", json=ORDER)
    jobs.run()
    assert mail.outbox == [("ada@shop.example", "Order 42: 9.50 EUR")]


def test_a_receipt_for_a_bad_address_fails(client: TestClient, jobs: RecordedJobs) -> None:
    job = client.post("/orders", json={**ORDER, "email": "ada"}).json()["job"]
    jobs.run()
    with pytest.raises(werk.JobFailed, match="'ada' is not an address"):
        werk.result(job)


def test_a_failing_receipt_is_retried(client: TestClient, jobs: RecordedJobs) -> None:
    client.post("/orders", json={**ORDER, "email": "ada"})
    assert jobs.run() == [jobs[0]] * 4


def test_a_bad_order_enqueues_nothing(client: TestClient, jobs: RecordedJobs) -> None:
    assert client.post("/orders", json={**ORDER, "total": "much"}).status_code == 422
    assert len(jobs) == 0


def test_a_refund_waits_for_a_day(client: TestClient, jobs: RecordedJobs) -> None:
    client.post("/orders/42/refund", json=REFUND)
    assert jobs[0].options.delay == 24 * 3600


def test_the_number_of_a_card_is_not_shown(client: TestClient, jobs: RecordedJobs) -> None:
    client.post("/orders/42/refund", json=REFUND)
    assert repr(jobs[0]) == "<scheduled job: refund(42, Decimal('9.50'), card=***)>"


def test_a_refund_ends(client: TestClient, jobs: RecordedJobs) -> None:
    job = client.post("/orders/42/refund", json=REFUND).json()["job"]
    jobs.run()
    assert werk.result(job) == "9.50 EUR to card 1111"


def test_a_newsletter_has_a_job_for_each_address(client: TestClient, jobs: RecordedJobs) -> None:
    client.post("/newsletters?subject=News", json=["a@shop.example", "b@shop.example"])
    assert [job.kwargs for job in jobs.of("newsletter")] == [
        {"address": "a@shop.example", "subject": "News"},
        {"address": "b@shop.example", "subject": "News"},
    ]


def test_one_bad_address_does_not_stop_a_newsletter(client: TestClient, jobs: RecordedJobs) -> None:
    client.post("/newsletters?subject=News", json=["a@shop.example", "b", "c@shop.example"])
    jobs.run()
    assert [job.status for job in jobs] == ["finished", "failed", "finished"]
    assert len(mail.outbox) == 2


def test_a_report_is_enqueued_once_while_it_waits(client: TestClient, jobs: RecordedJobs) -> None:
    answers = [client.post("/reports/2026-11-01").json()["duplicate"] for _ in range(2)]
    assert answers == [False, True]
    assert jobs[0].args == (date(2026, 11, 1),)


def test_a_report_is_enqueued_again_when_it_has_ended(
    client: TestClient, jobs: RecordedJobs
) -> None:
    client.post("/reports/2026-11-01")
    jobs.run()
    assert not client.post("/reports/2026-11-01").json()["duplicate"]


def test_a_report_is_sent_to_the_owner(client: TestClient, jobs: RecordedJobs) -> None:
    client.post("/reports/2026-11-01")
    assert [job.task for job in jobs.run()] == ["report", "newsletter"]
    assert mail.outbox == [("owner@shop.example", "Sales of November 2026")]


def test_an_async_task_runs(client: TestClient, jobs: RecordedJobs) -> None:
    job = client.post("/prices", json=["pen", "paper"]).json()["job"]
    jobs.run()
    assert werk.result(job) == {"pen": 3, "paper": 5}


def test_a_job_is_unfinished_before_it_runs(client: TestClient) -> None:
    job = client.post("/prices", json=["pen"]).json()["job"]
    assert client.get(f"/jobs/{job}").json() == {"status": "unfinished"}


def test_a_job_that_has_run_has_a_result(client: TestClient, jobs: RecordedJobs) -> None:
    job = client.post("/prices", json=["pen"]).json()["job"]
    jobs.run()
    assert client.get(f"/jobs/{job}").json() == {"status": "finished", "result": {"pen": 3}}


def test_an_unknown_job_is_not_found(client: TestClient) -> None:
    assert client.get("/jobs/none").status_code == 404


def test_a_task_is_a_function() -> None:
    assert tasks.refund(42, Decimal(1), card="4111111111111111") == "1 EUR to card 1111"
