"""Prefect's UI in a real browser, as a person uses it: what is done there is done by titles, labels and buttons."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, TimeoutError, ViewportSize, expect

from flexai.blocks import PROVIDERS
from tests.cli.program import Program
from tests.servers.prefect import PrefectServer

CHROMIUM = Path("/usr/bin/chromium")
SECONDS = 120
"""How long anything may take on a busy machine."""
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
UPDATE_SCREENSHOTS = os.environ.get("FLEXAI_UPDATE_SCREENSHOTS") == "1"

TAKEN = IMAGES.parents[1] / "build" / "pictures"
"""The pictures of each run of the tests, at both widths."""

_SIZE: ViewportSize = {"width": 1280, "height": 900}
_WIDTHS = (_SIZE["width"], 1600)


@dataclass
class UI:
    """A page of the browser, at what ``flexai up`` has brought up."""

    page: Page
    program: Program
    url: str
    _deployments: dict[str, str] = field(default_factory=dict)

    def ask(self, path: str, document: Any = None) -> Any:
        """Ask the API, to see without the UI what was done in it."""
        server = PrefectServer(f"{self.url}/api", credential=self.program.credential)
        return server.get(path) if document is None else server.post(path, document)

    def open(self, path: str) -> None:
        """Open a page of the UI that Prefect shows by default."""
        self.page.goto(f"{self.url}/v2{path}")

    def save_block(self, kind: str, name: str, texts: Mapping[str, str], choices: Mapping[str, str]) -> None:
        """Fill in and save the form of a connection's kind."""
        self.open(f"/blocks/catalog/flexai-{kind}-storage-provider/create")
        slug = f"flexai-{kind}-storage-provider"
        (block,) = (one for one in PROVIDERS.values() if one.get_block_type_slug() == slug)
        *_, last = block.model_json_schema()["properties"].values()
        # The last field of all: the form is there.
        self.page.get_by_label(last["title"]).or_(self.page.get_by_text(last["title"])).first.wait_for()
        assert not self.page.get_by_text("Saved form").or_(self.page.get_by_text("Capabilities")).count()
        self.page.get_by_label("Name", exact=True).fill(name)
        self.fill(texts)
        for label, choice in choices.items():
            self.choose(self.page.get_by_label(label), choice)
        if kind == "s3":
            self.screenshot("connection-form")
        self._save()
        expect(self.page.get_by_role("main")).to_contain_text(name)

    def _save(self) -> None:
        """Save the form; a click while the page is still at work on what was filled in may come to nothing."""
        saved = self.page.get_by_text("Paste this snippet into your flows")
        for seconds in (10, 10, SECONDS):
            self.page.get_by_role("button", name="Save").click()
            try:
                saved.wait_for(timeout=seconds * 1000)
            except TimeoutError:
                if not self.page.url.endswith("/create"):
                    break
            else:
                return
        expect(saved).to_be_visible()

    def fill(self, texts: Mapping[str, str]) -> None:
        """Fill in texts by the titles of their fields."""
        for label, text in texts.items():
            # "Project" is a part of "Billed project".
            self.page.get_by_label(re.compile(rf"^{re.escape(label)}")).fill(text)

    def choose(self, field: Locator, choice: str) -> None:
        """Choose one of the values that a field offers."""
        field.click()
        self.page.get_by_role("option", name=choice, exact=True).click()

    def fill_list(self, texts: list[str]) -> None:
        """Fill in the form's first list, item by item, over what it holds already."""
        button = self.page.get_by_role("button", name="Add item")
        add = button.first
        lists = self.page.locator("fieldset", has=button)
        items = lists.filter(has_not=lists).first.locator("textarea")
        for number, text in enumerate(texts):
            if items.count() <= number:
                add.click()
            items.nth(number).fill(text)

    def deployment(self, name: str) -> str:
        """The id of a deployment, by ``FLOW/NAME``."""
        if name not in self._deployments:
            self._deployments[name] = self.ask(f"/deployments/name/{name}")["id"]
        return self._deployments[name]

    def open_form(self, deployment: str) -> None:
        """Open the form that runs a deployment."""
        self.open(f"/deployments/deployment/{self.deployment(deployment)}/run")
        self.page.get_by_role("heading", name="Parameters").or_(
            self.page.get_by_text("Parameters", exact=True)
        ).first.wait_for()

    def submit(self) -> str:
        """Submit the form, and return the id of the flow run that it makes."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/create_flow_run")) as answer:
            self.page.get_by_role("button", name="Submit").click()
        assert answer.value.ok, answer.value.text()
        return str(answer.value.json()["id"])

    def open_run(self, run: str, tab: str = "Logs") -> None:
        """Open the page of a flow run."""
        self.open(f"/runs/flow-run/{run}?tab={tab}")
        self.page.get_by_role("tab", name=tab, exact=True).wait_for()

    def expect_state(self, name: str) -> None:
        """Wait until the page of a flow run shows a state; the UI asks for it again by itself."""
        expect(self.page.get_by_role("main").get_by_text(name, exact=True).first).to_be_visible()

    def choose_from_menu(self, item: str) -> None:
        """Choose what may be done with a flow run from its menu."""
        self.page.get_by_role("button", name="Open menu").first.click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()

    def artifact(self, filter_: Mapping[str, Any]) -> dict[str, Any] | None:
        """The newest artifact of some, or None."""
        found = self.ask("/artifacts/filter", {"artifacts": filter_, "sort": "CREATED_DESC", "limit": 1})
        return dict(found[0]) if found else None

    def open_artifact(self, key: str) -> None:
        """Open the newest artifact of a key."""
        artifact = self.artifact({"key": {"any_": [key]}})
        assert artifact is not None, f"there is no artifact {key}"
        self.open(f"/artifacts/artifact/{artifact['id']}")
        self.page.get_by_text("Created", exact=True).first.wait_for()

    def screenshot(self, name: str, *, whole: bool = False) -> None:
        """Take pictures, narrow and wide, on which nothing stands out of the page; one for the docs where asked for."""
        TAKEN.mkdir(parents=True, exist_ok=True)
        self.page.mouse.move(0, 0)
        for width in _WIDTHS:
            with self._sized(width, whole=whole):
                assert self.page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is too wide"
                picture = self.page.screenshot(path=TAKEN / f"{name}-{width}.png", animations="disabled")
                if UPDATE_SCREENSHOTS and width == _SIZE["width"]:
                    (IMAGES / f"{name}.png").write_bytes(picture)

    @contextmanager
    def _sized(self, width: int, *, whole: bool) -> Iterator[None]:
        """A width, and high enough for all that it shows: a page that scrolls inside itself has no full picture."""
        self.page.set_viewport_size({"width": width, "height": _SIZE["height"]})
        if whole:
            height = self.page.evaluate("document.documentElement.scrollHeight")
            self.page.set_viewport_size({"width": width, "height": min(int(height), 2400)})
        yield
        self.page.set_viewport_size(_SIZE)
