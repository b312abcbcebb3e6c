"""Who gets into what ``flexai up`` has brought up: its user after a login, and no page of another place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from flexai.prefect_server.credential import write_login_page
from tests.cli.program import Program
from tests.servers.prefect import PrefectServer
from tests.ui.browser import CHROMIUM, SECONDS

# One server, one worker and one browser serve all of them.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("access")]

FOREIGN = "http://foreign.example"
_ATTACK = """async api => {
  const said = {};
  const attempt = async (name, work) => {
    try { said[name] = await work(); } catch (error) { said[name] = "refused"; }
  };
  const body = JSON.stringify({name: "foreign", slug: "foreign", value: 1});
  await attempt("read", async () => await (await fetch(api + "/admin/version")).text());
  await attempt("health", async () => await (await fetch(api + "/health")).text());
  await attempt("settings", async () => await (await fetch(api.replace("/api", "/ui-settings"))).text());
  await attempt("change", async () => (await fetch(api + "/variables/", {method: "POST", body})).status);
  await attempt("blind change", async () =>
    (await fetch(api + "/variables/", {method: "POST", mode: "no-cors", body})).type);
  await attempt("socket", () => new Promise((resolve, reject) => {
    const socket = new WebSocket(api.replace("http", "ws") + "/events/out", "prefect");
    socket.onopen = () => resolve("open");
    socket.onerror = () => reject();
  }));
  return said;
}"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a browser that knows no password."""
    context = browser.new_context()
    context.set_default_timeout(SECONDS * 1000)
    expect.set_options(timeout=SECONDS * 1000)
    yield context.new_page()
    context.close()


@pytest.fixture
def url(program: Program) -> str:
    """Where the UI is."""
    return program.environment["PREFECT_API_URL"].removesuffix("/api")


def test_the_ui_works_after_its_password_was_typed_in(page: Page, program: Program, url: str) -> None:
    page.goto(url)
    page.locator("input[type=password], input[placeholder*='admin']").first.fill(program.credential)
    page.get_by_role("button", name=re.compile("login|log in|sign in", re.IGNORECASE)).first.click()
    _expect_deployments(page)


def test_the_page_of_open_logs_the_browser_in(page: Page, program: Program, url: str) -> None:
    written = write_login_page(program.home, url, program.credential)
    assert written.stat().st_mode & 0o777 == 0o600
    page.goto(written.as_uri())
    page.wait_for_url(re.compile("/dashboard"))
    assert program.credential not in page.url
    _expect_deployments(page)


def _expect_deployments(page: Page) -> None:
    """By the UI's own link: where a page is left while it asks whether the password holds, it forgets the password."""
    page.get_by_role("link", name="Deployments").first.click()
    expect(page.get_by_text(re.compile(r"Page 1 of [1-9]"))).to_be_visible()  # the API has told what is deployed


def test_a_page_of_another_origin_gets_nothing(page: Page, program: Program, url: str) -> None:
    def serve(route: Route) -> None:
        route.fulfill(body="<title>foreign</title>", content_type="text/html")

    page.route(f"{FOREIGN}/**", serve)
    page.goto(FOREIGN)
    said = page.evaluate(_ATTACK, f"{url}/api")
    # The answer to a change that the page may not read has no content for it; that nothing was made is looked up.
    assert said.pop("blind change") in ("opaque", "refused")
    assert set(said.values()) == {"refused"}, said
    server = PrefectServer(f"{url}/api", credential=program.credential)
    assert "foreign" not in {each["name"] for each in server.post("/variables/filter")}


def test_a_name_that_is_made_to_point_here_gets_nothing(browser: Browser, url: str) -> None:
    """DNS rebinding: to the browser, the page and the server are of one origin."""
    rules = ["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP foreign.example 127.0.0.1"]
    rebound = browser.browser_type.launch(executable_path=CHROMIUM, args=rules)
    page = rebound.new_page()
    answer = page.goto(f"{FOREIGN}:{url.rpartition(':')[2]}/api/health")
    assert answer is not None
    assert answer.status == 403
    assert page.evaluate("async () => (await fetch('/api/health')).status") == 403
    rebound.close()


def test_another_user_of_the_machine_gets_nothing(program: Program, url: str) -> None:
    ask = f"""
import os, urllib.request, urllib.error
urllib.request.urlopen("{url}/api/health").read()  # what it imports, it may not find as another user
os.setgid(65534); os.setuid(65534)
for path in ("/api/admin/version", "/api/block_documents/filter", "/api/flows/filter", "/api/variables/filter"):
    for data in (None, b"{{}}"):
        try:
            print(urllib.request.urlopen(urllib.request.Request("{url}" + path, data), timeout=60).status)
        except urllib.error.HTTPError as error:
            print(error.code)
for path in ({str(program.home)!r}, {str(program.home / "prefect" / "credential")!r}):
    try:
        print(open(path).read() if os.path.isfile(path) else os.listdir(path))
    except OSError as error:
        print("refused")
"""
    if curl := shutil.which("curl"):
        for path in ("/api/admin/version", "/api/variables/name/health", "/api/variables/health"):
            command = [curl, "-s", "-w", "%{http_code}", f"{url}{path}"]
            said = subprocess.run(command, capture_output=True, text=True, check=True)
            assert said.stdout.endswith("401"), path
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    answers = set(done.stdout.split())
    # Changes without a token are refused before the password is asked for.
    assert answers <= {"401", "403", "405", "refused"}, done.stdout
    assert {"401", "refused"} <= answers
