"""The guard before the server of ``flexai up``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flexai.checkpoints.storage.kinds import KINDS
from flexai.cli.orchestration.guarded_server import LOGIN_PATH, Guard
from flexai.prefect_server.ui import LOGOS_PATH

OWN = "http://127.0.0.1:4200"


async def _behind(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"behind"})
    else:
        await send({"type": "websocket.accept"})


def ask(kind: str = "http", path: str = "/api/x", **headers: str) -> Any:
    """The first message of the answer."""
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items() if value]
    scope = {"type": kind, "path": path, "method": "GET", "headers": pairs}
    asyncio.run(Guard(_behind, [OWN, "http://localhost:4200"])(scope, receive, send))
    return said[0]


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "localhost", "[::1]:4200", "LOCALHOST:9999"])
def test_names_of_this_machine_are_answered(host: str) -> None:
    assert ask(host=host)["status"] == 200


@pytest.mark.parametrize(
    "host",
    ["", "foreign.example", "foreign.example:4200", "127.0.0.1.foreign.example", "user@foreign.example", "[", "0"],
)
def test_other_names_are_refused(host: str) -> None:
    assert ask(host=host)["status"] == 403
    assert ask("websocket", host=host)["type"] == "websocket.close"


@pytest.mark.parametrize(
    "origin", ["http://foreign.example", "null", "http://localhost:3000", "https://127.0.0.1:4200", "http://127.0.0.1"]
)
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    assert ask(host="127.0.0.1:4200", origin=origin)["status"] == 403
    assert ask("websocket", host="127.0.0.1:4200", origin=origin)["type"] == "websocket.close"


@pytest.mark.parametrize(
    ("host", "origin"), [("127.0.0.1:4200", OWN), ("localhost:4200", OWN), ("localhost:9", "http://localhost:9")]
)
def test_pages_of_its_own_are_answered(host: str, origin: str) -> None:
    assert ask(host=host, origin=origin)["status"] == 200
    assert ask("websocket", host=host, origin=origin)["type"] == "websocket.accept"


def test_the_login_page_is_neither_kept_nor_framed() -> None:
    headers = dict(ask(path=LOGIN_PATH, host="localhost:4200")["headers"])
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-frame-options"] == b"DENY"


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_a_picture_of_each_kind_of_connections(kind: str) -> None:
    answer = ask(path=f"{LOGOS_PATH}{kind}.svg", host="localhost:4200")
    assert (answer["status"], dict(answer["headers"])[b"content-type"]) == (200, b"image/svg+xml")


def test_a_page_of_the_ui_talks_to_this_server_alone() -> None:
    headers = dict(ask(path="/v2/dashboard", host="localhost:4200")["headers"])
    assert headers[b"content-security-policy"] == (
        b"connect-src 'self' http://127.0.0.1:4200 ws://127.0.0.1:4200 http://localhost:4200 ws://localhost:4200"
    )
