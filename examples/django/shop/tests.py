"""What the views enqueue, and what they answer: `python manage.py test`."""

from unittest.mock import patch

from django.test import TestCase

import werk
from shop.models import Order
from werk.testing import recorded

EMAIL = {"email": "ada@shop.example"}


class OrderTest(TestCase):
    def setUp(self) -> None:
        self.jobs = self.enterContext(recorded())

    def order(self) -> str:
        with self.captureOnCommitCallbacks(execute=True):  # TestCase rolls back, and never commits
            return self.client.post("/orders", EMAIL).json()["job"]

    def test_an_order_enqueues_its_receipt(self) -> None:
        self.order()
        [job] = self.jobs.of("receipt")
        self.assertEqual(job.args, (Order.objects.get().pk,))

    def test_nothing_is_enqueued_before_the_commit(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            self.client.post("/orders", EMAIL)
            self.assertEqual(self.jobs, [])
        callbacks[0]()
        self.assertEqual(len(self.jobs), 1)

    def test_an_order_needs_an_email(self) -> None:
        self.assertEqual(self.client.post("/orders", {}).status_code, 422)
        self.assertEqual((Order.objects.count(), self.jobs), (0, []))

    def test_a_receipt_is_sent(self) -> None:
        job = self.order()
        self.assertEqual(self.client.get(f"/jobs/{job}").status_code, 202)
        self.jobs.run()
        self.assertEqual(self.client.get(f"/jobs/{job}").json()["result"], EMAIL["email"])
        self.assertTrue(Order.objects.get().receipt_sent)

    def test_a_receipt_for_an_order_that_was_deleted_fails(self) -> None:
        job = self.order()
        Order.objects.all().delete()
        with self.assertLogs(level="ERROR"):
            self.jobs.run()
        self.assertEqual(self.client.get(f"/jobs/{job}").status_code, 500)

    def test_an_unknown_job_is_not_found(self) -> None:
        self.assertEqual(self.client.get("/jobs/none").status_code, 404)

    def test_an_unreachable_redis_leaves_the_order(self) -> None:
        error = werk.RedisUnavailable("Redis does not answer")
        send = patch("werk.contrib.django.send", side_effect=error)
        with send, self.assertRaises(werk.RedisUnavailable):
            self.order()  # in a test, the callback runs after the view
        self.assertEqual(Order.objects.count(), 1)
