"""A proxy that lets bytes stream through, any number of them, and breaks requests by a forecast.

:mod:`.proxy` keeps every body, to be looked at; this one counts them. Only requests that carry content (a part that is
stored, a range that is read) are numbered, from 1 in the order in which they arrive, and only they are struck.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import urlsplit

from .local import LocalServer

Kind = Literal["reset", "truncate", "lose the answer", "delay", "busy", "deny"]
"""What happens to a request.

``reset``
    the connection breaks before the server sees anything
``truncate``
    it breaks in the middle of the content, whichever way that goes
``lose the answer``
    it breaks when the server has done its work
``delay``
    the request is held for a while
``busy``
    503, as a service answers that wants to be asked less
``deny``
    403, as a service answers without a permission
"""

DELAY = 0.5
"""Seconds."""
BUSY_IN_A_ROW = 5
_COPY_SIZE = 1024 * 1024
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_ANSWERS = {"busy": (503, "SlowDown"), "deny": (403, "AccessDenied")}


@dataclass(frozen=True)
class Request:
    """A request that carries content."""

    method: str
    target: str
    struck: Kind | None


def forecast(seed: int, *, each: int, calm: int) -> dict[int, Kind]:
    """What strikes which request: ``each`` of every kind that passes, and two storms of 503, between ``calm`` others.

    All of it happens to the first ``4 * each + 2 * BUSY_IN_A_ROW + calm`` requests.
    """
    kinds: tuple[Kind, ...] = ("reset", "truncate", "lose the answer", "delay")
    storm: list[Kind | None] = ["busy"] * BUSY_IN_A_ROW
    fair: list[Kind | None] = [None]
    events: list[list[Kind | None]] = [[kind] for kind in kinds for _ in range(each)]
    events += [storm, storm, *[fair] * calm]
    random.Random(seed).shuffle(events)
    days = [day for event in events for day in event]
    return {number: day for number, day in enumerate(days, start=1) if day is not None}


class StormProxy:
    """A running proxy; ``url`` is where clients go."""

    def __init__(self, upstream: str, strikes: Callable[[int], Kind | None]) -> None:
        """Stand before ``upstream``; ``strikes`` says what happens to the request of a number."""
        self.upstream = urlsplit(upstream)
        self.strikes = strikes
        self.requests: list[Request] = []
        self.received = self.delivered = 0
        """Bytes of bodies that clients sent, and that they were sent."""
        self.passed = 0
        """Requests for content whose whole answer went back to the client, and was a success."""
        self.later = 0
        """Requests of any kind since one was denied."""
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def struck(self) -> Counter[Kind]:
        """How many requests each kind struck."""
        return Counter(request.struck for request in self.requests if request.struck is not None)

    def reset(self, strikes: Callable[[int], Kind | None]) -> None:
        """Count anew, under another sky."""
        self.strikes = strikes
        self.requests.clear()
        self.received = self.delivered = self.passed = self.later = 0

    def note(self, method: str, target: str, *, is_range: bool) -> Kind | None:
        """Count a request; returns what strikes it."""
        is_content = (method == "PUT" and "partNumber=" in target) or (method == "GET" and is_range)
        with self._lock:
            if self.later or any(request.struck == "deny" for request in self.requests):
                self.later += 1
            if not is_content:
                return None
            kind = self.strikes(len(self.requests) + 1)
            self.requests.append(Request(method, target, kind))
            return kind

    def count(self, *, received: int = 0, delivered: int = 0, passed: int = 0) -> None:
        """Add up."""
        with self._lock:
            self.received += received
            self.delivered += delivered
            self.passed += passed

    def __enter__(self) -> StormProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(LocalServer):
    proxy: StormProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are what this is about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *arguments: object) -> None:
        """No log: no test reads one."""

    def do_GET(self) -> None:
        kind = self.server.proxy.note(self.command, self.path, is_range="Range" in self.headers)
        size = int(self.headers.get("Content-Length", 0))
        if kind == "reset":
            self._break_off()
        elif kind in _ANSWERS:
            for _ in self._body(size):
                pass
            self._answer(*_ANSWERS[kind])
        else:
            if kind == "delay":
                time.sleep(DELAY)
            self._forward(size, kind)

    do_DELETE = do_HEAD = do_POST = do_PUT = do_GET

    def _body(self, size: int) -> Iterator[bytes]:
        """What the client sends, counted."""
        while size:
            block = self.rfile.read(min(size, _COPY_SIZE))
            if not block:
                raise ConnectionError("the client has gone")
            size -= len(block)
            self.server.proxy.count(received=len(block))
            yield block

    def _forward(self, size: int, kind: Kind | None) -> None:
        proxy = self.server.proxy
        connection = http.client.HTTPConnection(proxy.upstream.hostname or "", proxy.upstream.port, timeout=120)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders()
            half = size // 2
            for block in self._body(half if kind == "truncate" and size else size):
                connection.send(block)
            if kind == "truncate" and size:
                self._break_off()
                return
            answer = connection.getresponse()
            if kind == "lose the answer":
                answer.read()
                self._break_off()
                return
            self._pass_on(answer, kind)

    def _pass_on(self, answer: http.client.HTTPResponse, kind: Kind | None) -> None:
        proxy = self.server.proxy
        length = int(answer.headers.get("Content-Length") or 0)
        content = None if answer.headers.get("Content-Length") else answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length if content is None else len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        left = length // 2 if kind == "truncate" else length
        while block := (answer.read(min(left, _COPY_SIZE)) if content is None else content):
            self.wfile.write(block)
            proxy.count(delivered=len(block))
            left -= len(block)
            content = None if content is None else b""
        if kind == "truncate":
            self.close_connection = True  # without a reset, so that what was sent arrives
        elif answer.status < 300 and ("partNumber=" in self.path or "Range" in self.headers):
            proxy.count(passed=1)

    def _answer(self, status: int, code: str) -> None:
        content = f"<Error><Code>{code}</Code><Message>said by the proxy</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _break_off(self) -> None:
        """Close the connection, so that the client sees it broken rather than ended."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.connection.close()
