"""A program that enqueues in transactions, and prints what it finds in Redis."""

from __future__ import annotations

import json
import os

import database
from django.db import connection, transaction
from redis import Redis

import werk
from werk.contrib.django import enqueue_on_commit
from werk.testing import recorded

database.set_up()
seen: dict[str, object] = {}


def queued() -> list[str]:
    client = Redis.from_url(os.environ["RQ_REDIS_URL"])
    return [job_id.decode() for job_id in client.lrange("rq:queue:default", 0, -1)]


own = enqueue_on_commit("ask", "SELECT 1")
seen["autocommit"] = queued() == [own]

try:
    with transaction.atomic():
        enqueue_on_commit("ask", "SELECT 1")
        raise LookupError
except LookupError:
    seen["rolled back"] = queued() == [own]

with transaction.atomic():
    second = enqueue_on_commit("ask", "SELECT 1", options=werk.Options(job_id="second"))
    seen["before the commit"] = queued() == [own]
seen["committed"] = (second, queued()) == ("second", [own, "second"])

once = werk.Options(once_per="1h")
first, again = (enqueue_on_commit("ask", "SELECT 2", options=once) for _ in range(2))
seen["a duplicate"] = again == first

wrong = [("asks", {}), ("ask", {"question": 1}), ("ask", {}), ("ask", {"options": {"delay": 1}})]
for name, arguments in wrong:
    try:
        with transaction.atomic():
            enqueue_on_commit(name, **arguments)
            seen[f"{name} {arguments}"] = "not checked at once"
    except werk.WerkError as error:
        seen[f"{name} {arguments}"] = type(error).__name__
seen["nothing else"] = len(queued()) == 3

with transaction.atomic(), recorded() as jobs:  # as in a TestCase of Django
    werk.enqueue("ask", "SELECT 1")
    connection.ensure_connection()
    jobs.run()
    seen["run in a transaction"] = jobs[0].status
    connection.cursor().execute("SELECT 1")
print(json.dumps(seen))
