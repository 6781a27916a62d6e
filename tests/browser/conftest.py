"""Fixtures of the application's tests: a server, Chromium, pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.browser import CHROMIUM, DESKTOP, Server, wait_for_new_answer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]
# For a response of a page: the machine may be busy.
TIMEOUT_MS = 60_000


@pytest.fixture(scope="session")
def gallery() -> Iterator[str]:
    """The address of a server of the gallery."""
    server = Server("demo", "--ui")
    server.wait_until_open()
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens pages, each in a new window; checks at the end that they requested no other host."""
    contexts = []
    requested: list[str] = []
    console: list[str] = []

    def open_one(
        url: str, locale: str = "zh-CN", size: dict[str, int] = DESKTOP, scheme: str = "light"
    ) -> Page:
        context = browser.new_context(locale=locale, viewport=size, color_scheme=scheme)
        contexts.append(context)
        context.on("request", lambda request: requested.append(request.url))
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda line: console.append(line.text))
        page.goto(url)
        wait_for_new_answer(page, 0)
        return page

    yield open_one
    host = {urlsplit(url).hostname for url in requested if not url.startswith(("data:", "blob:"))}
    assert host <= {"127.0.0.1"}, requested
    # The content security policy did not block a request either.
    assert not [line for line in console if "Content Security Policy" in line]
    for context in contexts:
        context.close()
