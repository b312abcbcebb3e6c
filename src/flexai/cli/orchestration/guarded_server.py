"""The application that ``flexai up`` starts: Prefect's server, behind a guard against pages of other places.

Prefect has a password and takes allowed origins, but it answers to every name: a page whose name is made to point to
this machine (DNS rebinding) would be of the same origin. So a request to another name is refused, and one that a page
of another origin makes. A page logs a browser in: Prefect's UI keeps the password in the browser's storage.

Prefect's UI asks a service of its makers' analytics for its configuration, whatever the settings say. So the browser is
told that the UI's pages talk to this server alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from flexai.checkpoints.storage.kinds import KINDS
from flexai.prefect_server.ui import LOGOS_PATH

LOGIN_PATH = "/flexai-login"
_LOGOS = {
    f"{LOGOS_PATH}{kind}.svg": (files("flexai") / "blocks" / "logos" / f"{kind}.svg").read_bytes() for kind in KINDS
}
HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
"""The names of this machine. A port does not matter: it may be forwarded."""

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[_Message, _Receive, _Send], Awaitable[None]]

_SAFE = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; connect-src 'self'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_LOGIN = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>flexai</title><p id="said">logging in&hellip;</p>
<script>
const credential = btoa(decodeURIComponent(location.hash.slice(1)));
history.replaceState(null, "", location.pathname);
fetch("/api/admin/version", {headers: {Authorization: "Basic " + credential}}).then(answer => {
  if (!answer.ok) { throw new Error(); }
  localStorage.setItem("prefect-password", credential);
  location.replace("/");
}).catch(() => {
  document.getElementById("said").textContent = "this password is not the server's; flexai up --open knows it";
});
</script></html>
"""


class Guard:
    """Refuses what is not meant for this server, before Prefect sees it."""

    def __init__(self, application: _Application, origins: Iterable[str]) -> None:
        self._application = application
        self._origins = frozenset(origins)
        talks_to = [each for origin in sorted(self._origins) for each in (origin, origin.replace("http", "ws", 1))]
        self._policy = " ".join(["connect-src 'self'", *talks_to]).encode()

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """See https://asgi.readthedocs.io/en/latest/specs/www.html."""
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
        elif problem := self._problem(scope["headers"]):
            await _refuse(scope, receive, send, problem)
        elif scope["type"] == "http" and scope["path"] == LOGIN_PATH and scope["method"] == "GET":
            await _answer(send, 200, "text/html; charset=utf-8", _LOGIN)
        elif scope["type"] == "http" and (logo := _LOGOS.get(scope["path"])) is not None:
            await _answer(send, 200, "image/svg+xml", logo)
        else:
            await self._application(scope, receive, self._restricted(send))

    def _problem(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        if len(hosts) != 1 or _host_name(hosts[0]) not in HOSTS:
            return "this server answers to names of its own machine only"
        if any(origin not in self._origins and origin != f"http://{hosts[0]}" for origin in origins):
            return "this server answers to pages of its own only"
        return ""

    def _restricted(self, send: _Send) -> _Send:
        """No other page frames the UI, where it could be clicked unseen, and the UI talks to no other place."""
        headers = [(b"x-frame-options", b"SAMEORIGIN"), (b"content-security-policy", self._policy)]

        async def add(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        return add


def create_app() -> _Application:
    """The application, for ``uvicorn --factory``."""
    from prefect.server.api.server import create_app as create_prefect
    from prefect.settings import get_current_settings

    allowed = get_current_settings().server.api.cors_allowed_origins
    return Guard(create_prefect(), allowed.split(","))


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _refuse(scope: _Message, receive: _Receive, send: _Send, problem: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": problem})
    else:
        await _answer(send, 403, "text/plain; charset=utf-8", problem.encode() + b"\n")


async def _answer(send: _Send, status: int, kind: str, body: bytes) -> None:
    headers = {"content-type": kind, "content-length": str(len(body))} | _SAFE
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
