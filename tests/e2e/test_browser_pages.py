"""The pages for people on call in a real Chromium: what they show, and what their buttons do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import redis
from browsing import CHROMIUM, Browser
from browsing import browser as browser
from browsing import chromium as chromium
from playwright.sync_api import Page, Route, expect
from support import Process, wait_until

import werk
from werk.dev.server import Server

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on PATH")

REFUSED, NO_PICTURE = "billing.internal refused the connection", "cat.jpg is not a picture"
PATHS = {
    "overview": "/",
    "failures": "/failures",
    "jobs": "/jobs",
    "failed": f"/jobs?state=failed&task=panic&error=RuntimeError: {REFUSED}",
    "tasks": "/tasks",
    "cron": "/cron",
    "queues": "/0/view/queues",
    "list": "/0/view/jobs/default/failed/8/asc/1",
    "workers": "/0/view/workers",
    "unknown": "/nowhere",
}
# Returns the texts on a page that overlap, as pairs.
OVERLAPS = """() => {
  const boxes = [], found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.data.trim() || !node.parentElement.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) boxes.push([box, node]);
  }
  const heads = [...document.querySelectorAll("th")].filter((head) => head.checkVisibility());
  for (const head of heads) for (const [one, node] of boxes) {
    const two = head.getBoundingClientRect();
    const isOver = !head.contains(node) && one.bottom > two.top + 2 && one.top < two.bottom - 2
      && one.right > two.left + 2 && one.left < two.right - 2;
    if (isOver) found.push([node.data.trim(), `over the heading ${head.textContent.trim()}`]);
  }
  for (const [one, node] of boxes) for (const [two, other] of boxes) {
    const width = Math.min(one.right, two.right) - Math.max(one.left, two.left);
    const height = Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top);
    const isOver = node !== other && width > 2 && height > 4;
    if (isOver) found.push([node.data.trim(), other.data.trim()]);
  }
  return found;
}"""


@pytest.fixture
def fleet(spawn: Callable[..., Process], connection: redis.Redis, tmp_path: Path) -> None:
    """A bad night: failures of two kinds, a queue without a worker, a job that runs for long."""
    in_ = werk.Options
    for message, count in ((REFUSED, 18), (NO_PICTURE, 3)):
        werk.enqueue_many("panic", [(message,)] * count)
    for name in ("Ada", "Grace", "Edsger"):
        werk.enqueue("hello", name)
    assert spawn("werk", "worker", "--burst", "default").wait(60) == 0
    assert connection.zcard("rq:failed:default") == 21
    job = werk.enqueue("sleep", 600)
    spawn("werk", "worker", "default", "--name", "web1-4711")
    wait_until(lambda: job.status() == "started")
    table = tmp_path / "crontab"
    table.write_text("@yearly hello Ada\n15 3 1 1 * sleep 1\n30 4 1 1 * hello Grace\n")
    spawn("werk", "cron", table)
    wait_until(lambda: connection.exists("rq:werk:crons"))
    werk.enqueue_many("hello", [("Barbara",), ("Margaret",)])
    werk.enqueue("hello", "Donald", options=in_(queue="mail", delay=3600))
    werk.enqueue_many("sleep", [(seconds,) for seconds in range(12)], options=in_(queue="low"))


def opened(browser: Browser, path: str) -> Page:
    page = browser.open(path)
    expect(page.locator("body")).not_to_contain_text("Counting...", use_inner_text=True)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit(
    fleet: None,
    browser: Browser,
    connection: redis.Redis,
    width: int,
    scheme: Literal["light", "dark"],
) -> None:
    browser.page.set_viewport_size({"width": width, "height": 844})
    browser.page.emulate_media(color_scheme=scheme)
    failed = connection.zrange("rq:failed:default", 0, 0)[0].decode()
    for name, path in {**PATHS, "job": f"/0/view/job/{failed}"}.items():
        page = opened(browser, path)
        browser.look(f"{name}-{width}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") == width, name
        assert page.evaluate(OVERLAPS) == [], name
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(20, 23, 26)") == (scheme == "dark")
        if name == "unknown":
            assert "404" in browser.complaints.pop()  # the browser's own


def test_a_group_of_five_hundred_failures_is_retried_in_three_clicks(
    fleet: None, browser: Browser, spawn: Callable[..., Process], connection: redis.Redis
) -> None:
    werk.enqueue_many("panic", [(REFUSED,)] * 479, options=werk.Options(queue="more"))
    assert spawn("werk", "worker", "--burst", "more").wait(60) == 0
    page = opened(browser, "/")
    row = page.locator("#failures tr", has_text=NO_PICTURE)
    expect(row.locator(".number")).to_have_text("3")
    row.get_by_text("Retry").click()
    expect(page.locator("#ask-text")).to_have_text("Retry 3 jobs?")
    late = werk.enqueue("panic", NO_PICTURE, options=werk.Options(queue="more"))
    assert spawn("werk", "worker", "--burst", "more").wait(60) == 0
    page.locator("#ask-yes").click()
    expect(page.locator("#told")).to_have_text("3 jobs retried")
    assert late.status() == "failed"
    assert connection.zcard("rq:failed:default") == 18
    assert connection.llen("rq:queue:default") == 5


def test_a_group_of_failures_is_opened_and_discarded(
    fleet: None, browser: Browser, connection: redis.Redis
) -> None:
    page = opened(browser, "/failures?hours=1")
    page.locator("#failures tr", has_text=NO_PICTURE).get_by_text("Open").click()
    expect(page.locator("#groups tbody")).to_contain_text("panic failed 3", use_inner_text=True)
    expect(page.locator("#jobs tbody tr")).to_have_count(3)
    expect(page.locator("#jobs tbody tr").first).to_contain_text(NO_PICTURE)
    page.get_by_text("Discard all that match").click()
    page.locator("#ask-no").click()
    expect(page.locator("#ask")).to_be_hidden()
    assert connection.zcard("rq:failed:default") == 21
    page.get_by_text("Discard all that match").click()
    expect(page.locator("#ask-text")).to_have_text("Discard 3 jobs?")
    page.locator("#ask-yes").click()
    expect(page.locator("#told")).to_have_text("3 jobs discarded")
    expect(page.locator("#jobs tbody")).to_have_text("No matching jobs.", use_inner_text=True)
    assert connection.zcard("rq:failed:default") == 18


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_late_count_changes_nothing_in_the_next_question(
    fleet: None, browser: Browser, connection: redis.Redis, has_failed: bool
) -> None:
    page, held = opened(browser, f"/jobs?state=failed&error=RuntimeError: {NO_PICTURE}"), []
    page.route("**/jobs/count/discard**", lambda route: held.append(route))
    page.get_by_text("Discard all that match").click()
    expect(page.locator("#ask-text")).to_have_text("Counting...")
    page.locator("#ask-no").click()
    page.get_by_text("Retry all that match").click()
    expect(page.locator("#ask-text")).to_have_text("Retry 3 jobs?")
    late(page, held[0], has_failed)
    expect(page.locator("#ask-text")).to_have_text("Retry 3 jobs?")
    expect(page.locator("#ask-yes")).to_have_text("Retry 3 jobs")
    page.locator("#ask-yes").click()
    expect(page.locator("#told")).to_have_text("3 jobs retried")
    assert connection.zcard("rq:failed:default") == 18
    assert connection.llen("rq:queue:default") == 5
    browser.complaints.clear()  # the browser's own


def test_a_question_that_was_cancelled_while_it_was_counted_is_never_acted_on(
    fleet: None, browser: Browser, connection: redis.Redis
) -> None:
    page, held = opened(browser, f"/jobs?state=failed&error=RuntimeError: {NO_PICTURE}"), []
    page.route("**/jobs/count/discard**", lambda route: held.append(route))
    page.get_by_text("Discard all that match").click()
    page.locator("#ask-no").click()
    page.get_by_text("Retry all that match").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#told")).to_have_text("3 jobs retried")
    sent: list[str] = []
    page.on("request", lambda own: sent.append(own.url) if own.method == "POST" else None)
    late(page, held[0], False)
    expect(page.get_by_text("Discard all that match")).to_be_enabled()
    assert sent == [] and connection.zcard("rq:failed:default") == 18


def late(page: Page, route: Route, has_failed: bool) -> None:
    """Let a request go on that was held, and wait until the page has had its reply."""
    if has_failed:
        route.abort()
    else:
        route.fulfill(json={"count": 3, "is_whole": True, "counted_at": 1.0})
    page.evaluate("fetch('/healthz').then(reply => reply.text())")


def test_waiting_jobs_are_filtered_and_cancelled(
    fleet: None, browser: Browser, connection: redis.Redis
) -> None:
    page = opened(browser, "/jobs")
    page.locator("[name=queue]").fill("low")
    page.locator("[name=arg]").fill("seconds=3")
    page.get_by_text("Filter").click()
    page.wait_for_url("**queue=low*")
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    page.get_by_text("Cancel all that match").click()
    page.get_by_text("Cancel 1 job", exact=True).click()
    expect(page.locator("#told")).to_have_text("1 job cancelled")
    assert connection.llen("rq:queue:low") == 11


def test_a_queue_is_paused_and_resumed_and_a_job_stopped(
    fleet: None, browser: Browser, connection: redis.Redis
) -> None:
    page = opened(browser, "/")
    row = page.locator("#queues tr", has_text="low")
    row.get_by_text("Pause").click()
    expect(page.locator("#ask-text")).to_contain_text("Waiting jobs that will not start: 12.")
    page.locator("#ask-yes").click()
    expect(page.locator("#told")).to_have_text("queue low paused")
    assert connection.sismember("rq:werk:paused", "low")
    row.get_by_text("Resume").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#told")).to_have_text("queue low resumed")
    assert not connection.exists("rq:werk:paused")
    page.locator("#running").get_by_text("Stop").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#told")).to_have_text("1 job stopped on worker web1-4711")


def test_a_worker_is_drained(browser: Browser, spawn: Callable[..., Process]) -> None:
    worker = spawn("werk", "worker", "default", "--name", "leaving")
    wait_until(lambda: "event=ready" in worker.output() or "leaving" in worker.output())
    page = opened(browser, "/0/view/workers")
    page.locator("tr", has_text="leaving").get_by_text("Drain").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#told")).to_have_text("worker leaving finishes its jobs and exits")
    assert worker.wait(60) == 0


def test_the_overview_refreshes_itself(browser: Browser, connection: redis.Redis) -> None:
    page = opened(browser, "/")
    expect(page.locator("#queues")).to_contain_text("No queues yet.")
    werk.enqueue("hello", "Ada")
    expect(page.locator("#queues")).to_contain_text("default")
    page.locator("#refresh").uncheck()
    page.reload()
    expect(page.locator("#refresh")).not_to_be_checked()
    page.locator("#refresh").check()


def test_the_overview_shows_that_redis_is_unreachable(browser: Browser, server: Server) -> None:
    werk.enqueue("hello", "Ada")
    page = opened(browser, "/")
    server.kill()
    expect(page.locator("#trouble")).to_contain_text("was not reached")
    page.reload()
    expect(page.locator("#error")).to_contain_text("was not reached")
    server.start()
    expect(page.locator("#queues")).to_contain_text("default")
    expect(page.locator("#trouble")).to_be_hidden()
    browser.complaints.clear()  # the browser's own


def test_nothing_of_a_job_is_run_on_a_page(browser: Browser, connection: redis.Redis) -> None:
    xss = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg onload=alert(3)>"
    queue = xss.replace("/", "")
    job = werk.enqueue("hello", xss, options=werk.Options(queue=queue))
    failed = werk.enqueue("hello", xss, options=werk.Options(queue=queue))
    connection.lrem(f"rq:queue:{queue}", 0, failed.id)
    facts: dict[Any, Any] = {"status": "failed", "werk_task": xss, "origin": queue}
    connection.hset(f"rq:job:{failed.id}", mapping=facts)
    connection.zadd(f"rq:failed:{queue}", {failed.id: 1e10})
    connection.hset(f"rq:job:{job.id}", mapping={"worker_name": xss, "werk_attempt": xss})
    now = int(connection.time()[0])
    connection.hset(f"rq:werk:failures:{now // 3600}", f"{xss}|{xss}", f"3 {now} {xss}")
    worker: dict[Any, Any] = dict.fromkeys(["hostname", "pid", "state", "queues", "birth"], xss)
    connection.hset(f"rq:worker:{xss}", mapping=worker)
    connection.sadd(f"rq:worker:{xss}:executions", f"{job.id}:e1")
    connection.sadd("rq:workers", f"rq:worker:{xss}")
    connection.hset("rq:werk:tallies", f"{xss}|done", "3")
    line = {
        "number": 1,
        "when": xss,
        "zone": xss,
        "call": xss,
        "task": xss,
        "done": 1,
        "error": xss,
    }
    cron = {"state": "running", "beat": now, "since": 1, "lines": [line]}
    connection.hset("rq:werk:crons", f"{xss}:/{xss}", json.dumps(cron))
    page = browser.page
    quoted = page.evaluate("text => encodeURIComponent(text)", xss)
    for path in ("/", "/failures", "/jobs", "/tasks", "/cron", "/0/view/queues", "/0/view/workers",
                 f"/jobs?queue={quoted}", f"/jobs?task={quoted}&arg={quoted}"):  # fmt: skip
        opened(browser, path)
        assert page.locator("img, svg").count() == 0, path
    opened(browser, "/")
    expect(page.locator("#failures")).to_contain_text(xss)
    expect(page.locator("#running")).to_contain_text("hello('<img")
    assert "onerror" in opened(browser, "/cron").locator("main").inner_text()
    opened(browser, "/")
    page.locator("#queues").get_by_text("Pause").first.click()
    expect(page.locator("#ask-text")).to_contain_text("<img")
    page.locator("#ask-no").click()


def test_the_pictures_of_the_docs(fleet: None, browser: Browser) -> None:
    """docs/images: the first page, there and on a phone at night, failures, and failed jobs."""
    page = browser.page
    for name, path, width in (
        ("dashboard", "/", 1280),
        ("failures", "/failures", 1280),
        ("failed-jobs", f"{PATHS['failed'].replace(REFUSED, NO_PICTURE)}", 1280),
        ("phone", "/", 390),
    ):
        page.set_viewport_size({"width": width, "height": 400})
        page.emulate_media(color_scheme="dark" if width == 390 else "light")
        opened(browser, path)
        browser.look(name)
        assert page.evaluate("document.documentElement.scrollWidth") == width
