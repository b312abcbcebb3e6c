"""A Prefect API is asked as Prefect's own client asks it: a real HTTP server keeps what it was sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flexai.checkpoints.errors import AccessDeniedError, NotFoundError, SettingsError, StorageUnavailableError
from flexai.prefect_server.finding import PrefectAPI
from flexai.prefect_server.rest import PrefectREST
from flexai.prefect_server.ui import shown_ui

SEEN: list[tuple[str, str, dict[str, str]]] = []
ANSWERS = {
    "/api/there": (200, b'{"a": 1}'),
    "/api/gone": (404, b'{"detail": "Block document not found"}'),
    "/api/no-such-path": (404, b'{"detail": "Not Found"}'),
    "/api/refused": (401, b'{"exception_message": "Unauthorized"}'),
    "/api/forbidden": (403, b""),
    "/api/broken": (500, b""),
    "/api/moved": (307, b""),
    "/api/page": (200, b"<html>"),
    "/ui-settings": (
        200,
        b'{"available_uis": ["v1", "v2"], "default_ui": "v2", "v1_base_url": "/", "v2_base_url": "/v2"}',
    ),
    "/none/ui-settings": (200, b'{"available_uis": [], "default_ui": "v2", "v2_base_url": null}'),
    "/first/ui-settings": (200, b'{"available_uis": ["v1"], "default_ui": "v1", "v1_base_url": "/"}'),
    "/old/ui-settings": (200, b'{"api_url": "http://127.0.0.1/api"}'),
    "/cloud/ui-settings": (200, b"<html>"),
}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        SEEN.append((self.command, path, dict(self.headers)))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/csrf-token":
            status, body = 200, b'{"token": "t-%s"}' % query.partition("=")[2].encode()
        else:
            status, body = ANSWERS[path]
        self.send_response(status)
        self.send_header("Location", "/api/there")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PrefectAPI]:
    """A server, and a machine on which nothing of Prefect is configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "PREFECT_CLIENT_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    SEEN.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield PrefectAPI(f"http://127.0.0.1:{server.server_port}/api", "test")
    server.shutdown()
    server.server_close()


def headers_of(api: PrefectAPI) -> dict[str, str]:
    assert PrefectREST(api).get("/there") == {"a": 1}
    return SEEN[-1][2]


def test_nothing_is_shown_where_nothing_is_configured_not_even_what_netrc_has(api: PrefectAPI, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password canary\n")
    assert "Authorization" not in headers_of(api)


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"PREFECT_API_AUTH_STRING": "me:pass:word"}, "Basic bWU6cGFzczp3b3Jk"),
        ({"PREFECT_API_KEY": "pnu_1"}, "Bearer pnu_1"),
        ({"PREFECT_API_AUTH_STRING": "me:pass:word", "PREFECT_API_KEY": "pnu_1"}, "Basic bWU6cGFzczp3b3Jk"),
    ],
)
@pytest.mark.parametrize("place", ["environment", ".env", "profile"])
def test_credentials_are_shown_as_prefect_shows_them_wherever_they_are_configured(
    api: PrefectAPI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, str], shown: str, place: str
) -> None:
    lines = [f'{name} = "{value}"' for name, value in settings.items()]
    if place == "environment":
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
    elif place == ".env":
        (tmp_path / ".env").write_text("\n".join(lines))
    else:
        (tmp_path / "profiles.toml").write_text("\n".join(['active = "mine"', "[profiles.mine]", *lines]))
    assert headers_of(api)["Authorization"] == shown


@pytest.mark.parametrize("text", ['PREFECT_CLIENT_CUSTOM_HEADERS=\'{"X-Proxy": "in"}\'', None])
def test_headers_of_ones_own_are_sent(api: PrefectAPI, tmp_path: Path, text: str | None) -> None:
    if text:
        (tmp_path / ".env").write_text(text)
    else:
        (tmp_path / "prefect.toml").write_text('[client.custom_headers]\nX-Proxy = "in"\n')
    assert headers_of(api)["X-Proxy"] == "in"


def test_a_question_with_a_body_shows_the_token_of_the_server_that_is_asked_for_once(api: PrefectAPI) -> None:
    server = PrefectREST(api)
    assert [server.post("/there", {}) for _ in range(2)] == [{"a": 1}] * 2
    assert [path for _, path, _ in SEEN] == ["/api/csrf-token", "/api/there", "/api/there"]
    for _, _, headers in SEEN[1:]:
        assert headers["Prefect-Csrf-Token"] == f"t-{headers['Prefect-Csrf-Client']}"


def test_headers_that_are_no_json_are_refused_without_quoting_them(
    api: PrefectAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", "X-Key: canary")
    with pytest.raises(SettingsError, match="PREFECT_CLIENT_CUSTOM_HEADERS") as refused:
        PrefectREST(api)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/gone", NotFoundError),
        ("/no-such-path", StorageUnavailableError),
        ("/refused", AccessDeniedError),
        ("/forbidden", AccessDeniedError),
        ("/broken", StorageUnavailableError),
        ("/moved", StorageUnavailableError),
        ("/page", StorageUnavailableError),
    ],
)
def test_what_is_no_answer_is_an_error_in_our_words(api: PrefectAPI, path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        PrefectREST(api).get(path)


def test_an_api_that_is_not_there_does_not_answer() -> None:
    with pytest.raises(StorageUnavailableError, match=r"the Prefect API at http://127\.0\.0\.1:9/api does not answer"):
        PrefectREST(PrefectAPI("http://127.0.0.1:9/api", "test")).get("/there")


def test_links_lead_to_the_ui_that_a_server_shows_and_nowhere_where_it_shows_none(api: PrefectAPI) -> None:
    base = api.url.removesuffix("/api")
    shown = {
        path: shown_ui(PrefectAPI(f"{base}{path}/api", "test")) for path in ("", "/first", "/old", "/cloud", "/none")
    }
    assert shown == {
        "": f"{base}/v2",
        "/first": f"{base}/first",
        "/old": f"{base}/old",
        "/cloud": f"{base}/cloud",
        "/none": "",
    }
    assert shown_ui(PrefectAPI("http://127.0.0.1:1/api", "test")) == "http://127.0.0.1:1"
