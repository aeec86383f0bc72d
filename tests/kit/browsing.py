"""A real Chromium: what a person sees and clicks on the dashboard.

WERK_SCREENSHOTS=FOLDER keeps a picture of each page, to be looked at.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Dialog, Page, expect, sync_playwright
from support import Process, wait_until

from werk.dev.server import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = os.environ.get("WERK_SCREENSHOTS")  # read before the tests clear it
FLAGS = """
    --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync
""".split()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """A browser whose clock is in New York: times on a page do not depend on where one is."""
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            timezone_id="America/New_York",
            viewport={"width": 1280, "height": 900},
        )
        context.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield context
        context.close()


class Browser:
    """A tab that remembers what no page may do: complain, or open a dialog."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.complaints: list[str] = []
        page.on("console", lambda said: self._note(said.type in ("error", "warning"), said.text))
        page.on("pageerror", lambda error: self._note(True, str(error)))
        page.on("dialog", self._dismiss)

    def open(self, path: str, wanted: str = "") -> Page:
        """Open a page and wait until it has loaded what it shows."""
        self.page.goto(self.address + path)
        expect(self.page.locator("body")).not_to_contain_text("Loading...", use_inner_text=True)
        if wanted:
            expect(self.page.locator(".section")).to_contain_text(wanted, use_inner_text=True)
        return self.page

    def look(self, name: str) -> None:
        if SCREENSHOTS:
            self.page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)

    def _note(self, is_bad: bool, text: str) -> None:
        if is_bad:
            self.complaints.append(f"{self.page.url}: {text}")

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(f"{self.page.url}: a dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture
def browser(
    chromium: BrowserContext, spawn: Callable[..., Process], redis_url: str
) -> Iterator[Browser]:
    port = free_port()
    process = spawn("werk", "dashboard", "--port", port)
    wait_until(lambda: "event=serving" in process.output())
    tab = Browser(chromium.new_page(), f"http://127.0.0.1:{port}")
    yield tab
    tab.page.close()
    assert not tab.complaints
