"""The site that `make site` builds from the pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.conftest import site
from tests.docs.test_pages import pages

pytestmark = pytest.mark.slow

__all__ = ["site"]

_LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class _Html(HTMLParser):
    """What a page loads, where it leads to, and the anchors that it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag in _LOADS and _LOADS[tag] in found:
            self.loads.append(found[_LOADS[tag]])
        elif tag == "a" and "href" in found:
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, _Html]:
    """The pages of the site. That for what is not there is left out: it is for a server that knows its own address."""
    return {page: _Html(page) for page in sorted(site.rglob("*.html")) if page.name != "404.html"}


def test_every_page_is_in_the_site(built: dict[Path, _Html]) -> None:
    names = {"index" if page.name == "README.md" else page.stem for page in pages()}
    assert names - {page.stem for page in built} == set()


def test_all_that_a_page_of_the_site_loads_or_leads_to_is_there(built: dict[Path, _Html]) -> None:
    dead = []
    for page, html in built.items():
        for link in html.loads + html.links:
            address = urlsplit(link)
            target = (page.parent / unquote(address.path)).resolve() if address.path else page
            if not address.scheme and (
                not target.is_file()
                or (address.fragment and target in built and unquote(address.fragment) not in built[target].anchors)
            ):
                dead.append(f"{page.name}: {link}")
    assert dead == []


def test_the_site_loads_nothing_from_another_host(site: Path, built: dict[Path, _Html]) -> None:
    assert [(page.name, load) for page, html in built.items() for load in html.loads if urlsplit(load).netloc] == []
    styles = {path.name: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    assert styles
    assert [name for name, text in styles.items() if re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", text)] == []
