"""One server, one worker and one browser for all that is done in the UI."""

from __future__ import annotations

import subprocess
from base64 import b64encode
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.cli.program import Program
from tests.servers.postgresql import PostgreSQL
from tests.ui.browser import CHROMIUM, SECONDS, UI

_FAILED = pytest.StashKey[bool]()
_CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


# Not for the whole session: the tests of other modules cannot run event loops of their own beside Playwright's.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        # A container's /dev/shm may be too small for it.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def program(browser: Browser, postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program in a clone of the repository, on what is as good as a new machine, with ``flexai up`` done.

    The server has PostgreSQL: on a busy machine with SQLite it refuses what a form has sent, and the UI says so only
    for a moment.
    """
    program = Program(tmp_path_factory.mktemp("ui"))
    subprocess.run(["git", "clone", "--quiet", _CHECKOUT, program.cwd], check=True)
    program.environment |= postgresql.for_prefect() | {
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "FLEXAI_QUIET_PERIOD": "0",
        # Slow enough for a person to see how far a transfer of some megabytes is.
        "FLEXAI_BANDWIDTH_LIMIT": "1MiB",
    }
    try:
        up = program.run("up")
        assert up.code == 0, up.err
        program.environment["PREFECT_API_URL"] = f"{up.out.strip()}/api"
        yield program
    finally:
        program.environment.pop("PREFECT_API_URL", None)
        program.run("down", "--grace", "5")


@pytest.fixture
def ui(browser: Browser, program: Program, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UI]:
    """A page of its own in the browser; where a test fails, what it showed is in the test's folder."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light", timezone_id="UTC")
    context.set_default_timeout(SECONDS * 1000)
    expect.set_options(timeout=SECONDS * 1000)
    # As Prefect's UI remembers a password that was typed into it.
    password = b64encode(program.credential.encode()).decode()
    context.add_init_script(f"localStorage.setItem('prefect-password', '{password}')")
    page = context.new_page()
    yield UI(page, program, program.environment["PREFECT_API_URL"].removesuffix("/api"))
    if request.node.stash.get(_FAILED, False):
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        (tmp_path / "page.txt").write_text(f"{page.url}\n\n{page.inner_text('body')}")
        print(f"what the browser showed: {tmp_path}/page.png and page.txt")
    context.close()
