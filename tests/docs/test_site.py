"""The site that `make site` builds from the pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.docs.conftest import site
from tests.docs.test_pages import ROOT, pages

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


def test_the_menu_calls_each_page_by_a_title_of_its_own(site: Path) -> None:
    """Without a heading MkDocs makes a title of the file's name, such as Cli."""
    home = (site / "index.html").read_text(encoding="utf-8").partition('data-md-component="sidebar"')[2]
    entry = re.compile(
        r'<a href="([^"#]+)" class="md-nav__link[^"]*">\s*<span class="md-ellipsis">\s*(.*?)\s*</span>', re.S
    )
    menu = {link: unescape(re.sub(r"<[^>]*>", "", title)) for link, title in entry.findall(home)}
    chosen = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    titles = {page.removesuffix(".md") + ".html": title for page, title in _titles(chosen)}
    titles["index.html"] = "Start"  # the page of a section
    assert menu == titles
    assert menu["reference/cli.html"] == "CLI"
    assert len(set(menu.values())) == len(menu)


def _titles(menu: list[Any]) -> Iterator[tuple[str, str]]:
    """The pages of a menu of mkdocs.yml, each with the title that stands there or with its first heading."""
    for one in menu:
        for title, below in one.items() if isinstance(one, dict) else [("", one)]:
            if isinstance(below, list):
                yield from _titles(below)
            else:
                yield below, title or _heading(below)


def _heading(page: str) -> str:
    (path,) = (path for path in (ROOT / "docs" / page, ROOT / page.replace("index.md", "README.md")) if path.is_file())
    heading = re.search(r"^# (.*)$", path.read_text(encoding="utf-8"), re.M)
    assert heading is not None, f"{page} has no heading"
    return heading[1].replace("`", "")
