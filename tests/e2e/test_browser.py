"""The dashboard in a real Chromium: what a person sees and clicks, and that nothing on it is run.

WERK_SCREENSHOTS=FOLDER keeps a picture of each page, to be looked at. The pictures of the docs are
made by some of the tests:

    WERK_SCREENSHOTS=docs/images bin/test -n 0 -k "docs or stale" tests/e2e
"""

from __future__ import annotations

import os
import pickle
import re
import signal
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
import redis
from browsing import CHROMIUM, Browser
from browsing import browser as browser
from browsing import chromium as chromium
from playwright.sync_api import Locator, Page, ViewportSize, expect
from rq import Queue
from support import Process, wait_until
from workers import Start, horse

import werk
from werk.dev.server import free_port

XSS = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg onload=alert(3)>"
PICTURE: ViewportSize = {"width": 1280, "height": 540}  # of the docs; a longer page is shown whole
LISTS = ["queued", "scheduled", "deferred", "started", "finished", "failed", "canceled"]

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on PATH")


def test_a_failed_job_is_seen_and_requeued(
    browser: Browser, spawn: Callable[..., Process], connection: redis.Redis
) -> None:
    job = werk.enqueue("panic")
    spawn("rq", "worker", "default")
    wait_until(lambda: job.status() == "failed")

    page = browser.open("/0/view/queues", "default")
    expect(page.locator("td.failed a").first).to_have_text("1")
    browser.look("queues")
    page.locator("td.failed a").first.click()
    row = page.locator(f"tr[data-job-id='{job.id}']")
    expect(row).to_contain_text("RuntimeError: panic! as asked")
    expect(row.locator(".creation_date")).to_contain_text("second")  # not: 5 hours ago
    browser.look("failed")
    before = connection.xlen(f"rq:results:{job.id}")
    row.locator("[data-role=requeue-job-btn]").click()
    wait_until(lambda: connection.xlen(f"rq:results:{job.id}") > before)
    wait_until(lambda: job.status() == "failed")

    page = browser.open(f"/0/view/job/{job.id}", "RuntimeError: panic! as asked")
    expect(page.locator("#job-data")).to_contain_text("Duration")
    expect(page.locator("#job-data")).to_contain_text(re.compile(r"T\d\d:\d\d:\d\d[+-]\d\d:\d\d"))
    expect(page.locator("#job-data")).not_to_contain_text(re.compile(r"T[\d:.]+Z"))
    browser.look("job")
    before = connection.xlen(f"rq:results:{job.id}")
    page.click("#requeue-job-btn")
    wait_until(lambda: connection.xlen(f"rq:results:{job.id}") > before)
    wait_until(lambda: job.status() == "failed")
    page.click("#delete-job-btn")
    page.click("#confirmation-modal-yes")
    page.wait_for_url(f"{browser.address}/0/view/queues")
    assert not connection.exists(f"rq:job:{job.id}")


def test_all_failed_jobs_are_requeued_and_emptied(
    browser: Browser, spawn: Callable[..., Process], connection: redis.Redis
) -> None:
    werk.enqueue_many("panic", [()] * 3)
    spawn("rq", "worker", "default")
    wait_until(lambda: connection.zcard("rq:failed:default") == 3)
    page = browser.open("/0/view/jobs/default/failed/8/asc/1", "panic()")
    expect(page.locator(".intro")).to_contain_text("all the failed jobs on queue default")
    expect(page.locator("#empty-btn")).to_have_text("Delete all")
    first = connection.zrange("rq:failed:default", 0, 0)[0].decode()
    click_at_once(page, "empty-btn", "confirmation-modal-no")
    expect(page.locator("#confirmation-modal")).to_be_hidden()
    assert connection.zcard("rq:failed:default") == 3
    click_at_once(page, "requeue-all-btn", "confirmation-modal-yes")
    wait_until(lambda: connection.xlen(f"rq:results:{first}") == 2)
    wait_until(lambda: connection.zcard("rq:failed:default") == 3)
    expect(page.locator("#confirmation-modal")).to_be_hidden()
    click_at_once(page, "empty-btn", "confirmation-modal-yes")
    expect(page.locator("#jobs")).to_contain_text("No jobs.")
    expect(page.locator("#confirmation-modal")).to_be_hidden()
    wait_until(lambda: connection.zcard("rq:failed:default") == 0)  # the page may be an older one


def click_at_once(page: Page, *ids: str) -> None:
    """Click one element after the other with no time in between, faster than any person does.

    Playwright's own click waits until an element no longer moves.
    """
    page.evaluate("ids => ids.forEach(id => document.getElementById(id).click())", ids)


def test_a_busy_a_stale_and_a_hung_worker(
    browser: Browser, work: Start, spawn: Callable[..., Process], connection: redis.Redis
) -> None:
    job = werk.enqueue("sleep", 60)
    busy = work("default", "--name", "one-at-work")
    frozen = work("other", "--name", "one-frozen")
    hung = work("low", "--name", "one-hung")
    wait_until(lambda: job.status() == "started")
    for name in ("one-frozen", "one-hung"):
        wait_until(lambda name=name: connection.hget(f"rq:worker:{name}", "state") == b"idle")
    os.kill(frozen.pid, signal.SIGSTOP)
    os.killpg(horse(hung), signal.SIGSTOP)
    werk.enqueue("sleep", 0, options=werk.Options(queue="low"))
    page = browser.open("/0/view/workers", "one-at-work")

    def row(name: str, state: str, process: Process) -> Locator:
        found = page.locator("tr[data-role=worker]", has_text=name)
        for text in (state, os.uname().nodename, str(process.pid), "s ago"):
            expect(found).to_contain_text(text)
        return found

    for own in (row("one-frozen", "stale", frozen), row("one-hung", "hung", hung)):
        expect(own).to_have_class("table-danger")
    good = row("one-at-work", "busy", busy)
    expect(good).to_contain_text("sleep(60.0)")
    expect(good).not_to_have_class("table-danger")
    page.set_viewport_size(PICTURE)
    browser.look("workers")
    good.locator("a").click()
    expect(page.locator("#job-data")).to_contain_text("started")


def test_pages_have_their_rows_and_dependencies_open(
    browser: Browser, connection: redis.Redis
) -> None:
    queue = Queue(connection=connection)
    jobs = [queue.enqueue("werk.jobs.hello", f"number {n}") for n in range(20)]
    child = queue.enqueue("werk.jobs.hello", "the child", depends_on=jobs[0])
    page = browser.open("/0/view/jobs/default/queued/8/asc/1", "number 0")
    page.locator(".page-link", has_text="2").click()
    expect(page.locator("tr[data-role=job]")).to_have_count(8)
    ids = page.locator("tr[data-role=job]").evaluate_all("rows => rows.map(r => r.dataset.jobId)")
    assert ids == [job.id for job in jobs[8:16]]
    browser.look("page-2")
    page = browser.open(f"/0/view/job/{child.id}", "the child")
    browser.look("child")
    page.locator("#job-data a").click()
    expect(page.locator("#job-data")).to_contain_text("number 0")


def test_nothing_of_a_job_is_run_on_a_page(browser: Browser, connection: redis.Redis) -> None:
    queue = Queue(XSS.replace("/", ""), connection=connection)
    plain = queue.enqueue("werk.jobs.hello", XSS, description=XSS, meta={XSS: XSS}, result_ttl=-1)
    ours = werk.enqueue("hello", XSS, options=werk.Options(queue=queue.name))
    noted = pickle.dumps({XSS: XSS})
    bad = dict.fromkeys(["worker_name", "dependency_id", "timeout", "werk_attempt"], XSS)
    for job_id, registry in ((plain.id, "failed"), (ours.id, "finished")):
        fields: dict[Any, Any] = {**bad, "status": registry, "meta": noted}
        connection.hset(f"rq:job:{job_id}", mapping=fields)
        connection.zadd(f"rq:{registry}:{queue.name}", {job_id: 1e10, f"{XSS}{job_id}": 2e10})
    connection.hset(f"rq:job:{ours.id}", mapping={"created_at": XSS, "description": XSS})
    text, value = b64encode(XSS.encode()), b64encode(pickle.dumps(XSS))
    for kind in (4, 2):
        facts = dict.fromkeys(["worker_name", "werk_attempt"], XSS)
        connection.xadd(f"rq:results:{plain.id}", {"type": kind, "exc_string": text, **facts})
    connection.xadd(f"rq:results:{ours.id}", {"type": 1, "return_value": value})
    worker: dict[Any, Any] = dict.fromkeys(["hostname", "pid", "state", "queues", "birth"], XSS)
    connection.hset(f"rq:worker:{XSS}", mapping=worker)
    connection.sadd(f"rq:worker:{XSS}:executions", f"{plain.id}:e1")
    connection.sadd("rq:workers", f"rq:worker:{XSS}")

    browser.open("/0/view/queues", "<img src=x onerror=alert(1)>")
    browser.look("xss-queues")
    page = browser.open("/0/view/workers", XSS)
    expect(page.locator("tr[data-role=worker]")).to_contain_text("werk.jobs.hello('<img")
    browser.look("xss-workers")
    place = page.evaluate("name => encodeURIComponent(name)", queue.name)
    for name in LISTS:
        browser.open(f"/0/view/jobs/{place}/{name}/8/asc/1")
        assert page.locator("img, svg").count() == 0
    browser.open(f"/0/view/jobs/{place}/failed/8/asc/1", "werk.jobs.hello('<img")
    browser.look("xss-failed")
    expect(page.locator("pre.exc_info").first).to_have_text(XSS)
    for name in ("');alert(4);//", "</script><script>alert(5)//", "{{ 7 * 7 }}<%= alert(6) %>"):
        place = page.evaluate("name => encodeURIComponent(name)", name.replace("/", "%2F"))
        browser.open(f"/0/view/jobs/{place}/queued/8/asc/1", "No jobs.")
    for job_id in (plain.id, ours.id):
        page = browser.open(f"/0/view/job/{job_id}", XSS)
        assert page.locator("img, svg").count() == 0
        browser.look(f"xss-job-{'ours' if job_id == ours.id else 'plain'}")
        assert page.locator("img, svg").count() == 0
    result = page.locator("tr", has=page.locator("th", has_text="Result")).locator("td")
    expect(result).to_have_text(XSS)


def test_what_is_enqueued_over_http_is_text(browser: Browser, connection: redis.Redis) -> None:
    page = browser.open("/0/view/queues")
    queue = XSS.replace("/", "")
    call = {"args": [XSS], "options": {"queue": queue, "job_id": "xss"}}
    assert page.evaluate(ASK, ["/api/tasks/hello", "application/json", call]) == 201
    place = page.evaluate("name => encodeURIComponent(name)", queue)
    for path in ("/0/view/queues", f"/0/view/jobs/{place}/queued/8/asc/1", "/0/view/job/xss"):
        browser.open(path, "<img src=x onerror=alert(1)>")
        assert page.locator("img, svg").count() == 0


ASK = """async ([url, type, call]) => {
  const headers = {"Content-Type": type}, body = JSON.stringify(call);
  const mode = type == "text/plain" ? "no-cors" : "cors";
  const asked = fetch(url, {method: "POST", headers, body, mode, credentials: "include"});
  return asked.then((reply) => reply.status, (error) => error.name);
}"""
FORM = """<form method="post" enctype="text/plain" action="{url}">
<input name='{{"args": ["' value='"]}}'></form>"""


def test_a_page_of_another_site_enqueues_nothing(browser: Browser, connection: redis.Redis) -> None:
    """The browser asks first, and the dashboard allows nothing; or it sends what is refused."""
    url = f"{browser.address}/api/tasks/hello"
    page = browser.page.context.new_page()  # it may complain
    text = FORM.format(url=url)
    page.route(
        "http://evil.example/", lambda route: route.fulfill(body=text, content_type="text/html")
    )
    page.goto("http://evil.example/")
    for kind, outcome in (("application/json", "TypeError"), ("text/plain", 0)):
        assert page.evaluate(ASK, [url, kind, {"args": ["Ada"]}]) in (outcome, "TypeError")
    page.goto("http://evil.example/")
    with page.expect_navigation(url=url):
        page.evaluate("document.forms[0].submit()")
    expect(page.locator("body")).to_contain_text("Origin is not this Host")
    page.close()
    assert connection.keys("rq:job:*") == []


NAMES = [
    "a/b",
    "a\\b",
    "a\nb",
    '"><script>alert(7)</script>',
    "..",
    "%2e%2e",
    "a?b#c",
    "it's",
    "ü%",
]


def test_a_queue_of_any_name_has_its_page_and_its_actions(
    browser: Browser, connection: redis.Redis
) -> None:
    jobs = {}
    for name in [*NAMES, "ab"]:
        queue = Queue(name, connection=connection)
        jobs[name] = [queue.enqueue("werk.jobs.hello", f"job {n} of {name!r}") for n in range(10)]
        for job in jobs[name][5:]:
            connection.lrem(queue.key, 0, job.id)
            connection.hset(job.key, "status", "failed")
            connection.zadd(f"rq:failed:{name}", {job.id: 1e10})
    for name in NAMES:
        page = browser.open("/0/view/queues", "Queues")
        row = page.locator("tr[data-role=queue]").nth(sorted(jobs).index(name))
        row.locator("td.failed a").first.click()
        first = page.locator(f"tr[data-job-id='{jobs[name][5].id}']")
        expect(first).to_be_visible()
        expect(page.locator(".intro strong")).to_have_text(name.replace("\n", " "))
        page.hover("#select-queue")
        page.mouse.move(0, 0)
        expect(page.locator("#select-queue")).to_have_value(name.replace("\n", ""))
        page.select_option("#select-sort-order", "dsc")  # its script builds the address
        page.wait_for_url(lambda url: "/failed/8/dsc/1" in url)
        expect(first).to_be_visible()
        page.select_option("#select-registry", "queued")
        expect(page.locator(f"tr[data-job-id='{jobs[name][0].id}']")).to_be_visible()
        click_at_once(page, "empty-btn", "confirmation-modal-yes")
        expect(page.locator("#jobs")).to_contain_text("No jobs.")
        assert not connection.exists(f"rq:queue:{name}")
        page.select_option("#select-registry", "failed")
        expect(first).to_be_visible()
        click_at_once(page, "requeue-all-btn", "confirmation-modal-yes")
        wait_until(lambda name=name: connection.llen(f"rq:queue:{name}") == 5)
        browser.look(f"name-{NAMES.index(name)}")
    assert connection.llen("rq:queue:ab") == connection.zcard("rq:failed:ab") == 5


def test_errors_are_said(browser: Browser, connection: redis.Redis) -> None:
    job = werk.enqueue("sleep", 1)
    page = browser.open("/0/view/jobs/default/queued/8/asc/1", "sleep(1.0)")
    connection.hset(f"rq:job:{job.id}", "status", "started")
    page.click("[data-role=delete-job-btn]")
    page.click("#confirmation-modal-yes")
    expect(page.locator("#werk-error")).to_contain_text("is running; stop it first")
    browser.look("error")
    assert "409" in browser.complaints.pop()  # the browser's own


def test_read_only_has_no_buttons(
    browser: Browser, spawn: Callable[..., Process], connection: redis.Redis
) -> None:
    job = werk.enqueue("panic")
    assert spawn("rq", "worker", "--burst", "default").wait(60) == 0
    port = free_port()
    process = spawn("werk", "dashboard", "--port", port, "--read-only")
    wait_until(lambda: "event=serving" in process.output())
    browser.address = f"http://127.0.0.1:{port}"
    for path in ("/0/view/jobs/default/failed/8/asc/1", f"/0/view/job/{job.id}"):
        page = browser.open(path, "RuntimeError: panic! as asked")
        for button in page.locator(".btn-outline-warning, .btn-outline-danger").all():
            expect(button).to_be_hidden()
    page = browser.open("/0/view/jobs/default/queued/8/asc/1")
    expect(page.locator("#compact-btn")).to_be_hidden()
    browser.look("read-only")
