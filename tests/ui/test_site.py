"""The site from docs, in a browser that has no network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, expect

from tests.docs.conftest import site

__all__ = ["site"]


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of a request."""


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The address of a server on this machine that has the site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Visit:
    """A page of the browser, and what went wrong in it."""

    def __init__(self, context: BrowserContext) -> None:
        self.wrong: list[str] = []
        context.route("**/*", self._only_here)
        self.page: Page = context.new_page()
        self.page.on("console", lambda told: self._note(told.text) if told.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("requestfailed", self._note_failure)
        self.page.on("response", lambda answer: self._note(answer.url) if answer.status >= 400 else None)

    def _note(self, text: str) -> None:
        self.wrong.append(f"{self.page.url}: {text}")

    def _note_failure(self, request: Request) -> None:
        # What is still on its way when the next page is opened is given up: the picture of the tab comes last.
        if request.failure != "net::ERR_ABORTED":
            self._note(f"not loaded: {request.url}: {request.failure}")

    def _only_here(self, route: Route) -> None:
        if route.request.url.startswith(("file:", "http://127.0.0.1:", "data:", "blob:")):
            route.continue_()
        else:
            self._note(f"another host: {route.request.url}")
            route.abort()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Visit(context)
    context.close()


@pytest.mark.slow
def test_every_page_opens_from_a_disk_without_a_word_in_the_console(site: Path, visit: Visit) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        if page.name != "404.html":
            visit.page.goto(page.as_uri())
            expect(visit.page.locator("h1").first).to_be_visible()
            broken = "[...document.images].filter(one => one.complete && !one.naturalWidth).map(one => one.src)"
            assert visit.page.evaluate(broken) == []
    assert visit.wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["on a disk", "on a server"])
def test_the_search_leads_to_a_page(site: Path, served: str, visit: Visit, place: str) -> None:
    visit.page.goto(f"{site.as_uri() if place == 'on a disk' else served}/index.html")
    visit.page.keyboard.press("/")
    visit.page.keyboard.type("preemption")
    visit.page.locator(".md-search-result__link").first.click()
    expect(visit.page.locator("article mark").first).to_be_visible()
    assert visit.wrong == []


@pytest.mark.slow
def test_a_reader_can_have_it_dark(served: str, visit: Visit) -> None:
    visit.page.goto(f"{served}/training.html")
    scheme = visit.page.locator("body")
    expect(scheme).to_have_attribute("data-md-color-scheme", "default")
    visit.page.locator("label[title=Dark]").click()
    expect(scheme).to_have_attribute("data-md-color-scheme", "slate")
    visit.page.reload()
    expect(scheme).to_have_attribute("data-md-color-scheme", "slate")
    assert visit.wrong == []
