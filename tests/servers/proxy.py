"""A proxy before a real server that makes the network fail as it does in life, at a chosen request.

A fault says which requests it strikes and how often. Whatever no fault strikes passes through unchanged; the client's
``Host`` header too, because requests are signed with it.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import urlsplit

from .local import LocalServer

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Request:
    """One request as the proxy saw it."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The target without its query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> str:
        """What follows the ``?``."""
        return urlsplit(self.target).query


Kind = Literal[
    "answer", "lose the answer", "reset", "cut the answer", "stall", "fall silent", "flip a bit", "flip a sent bit"
]


@dataclass
class Fault:
    """What goes wrong.

    ``answer``
        the server never sees the request; ``status``, ``headers`` and ``body`` are the answer
    ``lose the answer``
        the server does its work, and the connection breaks before its answer arrives
    ``reset``
        the connection breaks before the server sees anything
    ``cut the answer``
        the connection breaks after ``after`` bytes of the answer's body
    ``stall``
        nothing more arrives after ``after`` bytes of the answer's body, until the proxy ends
    ``fall silent``
        no more than ``after`` bytes of the request's body are taken, and there is no answer, until the proxy ends; the
        server never sees the request, nor ``strikes`` its body
    ``flip a bit``
        the byte at ``after`` of the answer's body is another one
    ``flip a sent bit``
        the byte at ``after`` of what the server gets is another one than was sent
    """

    kind: Kind
    strikes: Callable[[Request], bool] = field(default=lambda request: True)
    times: int = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: int = 0


_RECEIVE_BUFFER = 256 * 1024
"""Bytes."""


class FaultProxy:
    """A running proxy; ``url`` is where clients go."""

    def __init__(
        self,
        upstream: str,
        *,
        context: ssl.SSLContext | None = None,
        wait: Callable[[Request], object] = lambda request: None,
        sign: Callable[[Request], Mapping[str, str]] = lambda request: request.headers,
        edit: Callable[[Mapping[str, str], bytes], bytes] = lambda headers, body: body,
    ) -> None:
        """Stand before ``upstream``; with a context the proxy speaks TLS.

        ``wait`` is called with each request before it is judged, and may take its time; ``sign`` gives the headers with
        which it goes on; ``edit`` gives the body that is answered, of an answer's headers and its own body.
        """
        self.upstream = urlsplit(upstream)
        self.wait = wait
        self.sign = sign
        self.edit = edit
        self.requests: list[Request] = []
        self.answered = 0
        """Bytes of the answers' bodies."""
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        # Of a known size: the kernel lets a buffer grow up to 32 MiB, which would take in what the proxy does not read.
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "https" if context is not None else "http"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, kind: Kind, **details: Any) -> None:
        """Let something go wrong; of several faults that strike a request, the first added does."""
        with self._lock:
            self.faults.append(Fault(kind, **details))

    def seen(self, method: str, text: str = "") -> list[Request]:
        """The requests of a method whose target has the text."""
        return [request for request in self.requests if request.method == method and text in request.target]

    @property
    def moved(self) -> int:
        """Bytes of all bodies, both ways."""
        return self.answered + sum(len(request.body) for request in self.requests)

    def note_answer(self, size: int) -> None:
        """Count an answer's body, in bytes."""
        with self._lock:
            self.answered += size

    def note(self, request: Request) -> Fault | None:
        """Record a request; returns the fault that strikes it."""
        self.requests.append(request)
        return self.find(request)

    def find(self, request: Request, *, is_silence: bool = False) -> Fault | None:
        """The fault that strikes a request: one that keeps the rest of it from being read, or one of the others."""
        with self._lock:
            for fault in self.faults:
                if (fault.kind == "fall silent") == is_silence and fault.times > 0 and fault.strikes(request):
                    fault.times -= 1
                    return fault
        return None

    def wait_for_end(self) -> None:
        """Wait until the proxy ends."""
        self._ended.wait()


class _Server(LocalServer):
    proxy: FaultProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what this is about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *arguments: object) -> None:
        """No log: no test reads one."""

    def do_GET(self) -> None:
        self._serve()

    do_DELETE = do_HEAD = do_PATCH = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, b"")
        silence = self.server.proxy.find(request, is_silence=True)
        request = replace(request, body=self.rfile.read(size if silence is None else min(size, silence.after)))
        if silence is not None:
            self.server.proxy.requests.append(request)
            self.server.proxy.wait_for_end()
        if silence is not None or len(request.body) < size:
            self._break_off()
            return
        self.server.proxy.wait(request)
        fault = self.server.proxy.note(request)
        if fault is None:
            self._forward(request)
        elif fault.kind == "answer":
            self._answer(fault.status, fault.headers, fault.body)
        elif fault.kind == "reset":
            self._break_off()
        else:
            self._forward(request, fault)

    def _forward(self, request: Request, fault: Fault | None = None) -> None:
        signed = self.server.proxy.sign(request)
        headers = {name: value for name, value in signed.items() if name not in _HOP_BY_HOP}
        upstream = self.server.proxy.upstream
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            body = bytearray(request.body)
            if fault and fault.kind == "flip a sent bit":
                body[fault.after] ^= 1
            connection.endheaders(bytes(body))
            answer = connection.getresponse()
            content = answer.read()
            if request.method != "HEAD":
                content = self.server.proxy.edit(dict(answer.headers), content)
            length = answer.headers.get("Content-Length", str(len(content)))
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP | {"content-length"}}
            kept["Content-Length"] = length if request.method == "HEAD" else str(len(content))
        match fault.kind if fault else None:
            case "lose the answer":
                self._break_off()
            case "cut the answer" | "stall":
                assert fault is not None
                self._send_head(answer.status, kept)
                self.wfile.write(content[: fault.after])
                self.wfile.flush()
                if fault.kind == "stall":
                    self.server.proxy.wait_for_end()
                self.close_connection = True
            case "flip a bit":
                assert fault is not None
                damaged = bytearray(content)
                damaged[fault.after] ^= 1
                self._answer(answer.status, kept, bytes(damaged))
            case _:
                self._answer(answer.status, kept, content)

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self._send_head(status, {"Content-Length": str(len(content)), **headers})
        if self.command != "HEAD":
            self.server.proxy.note_answer(len(content))
            self.wfile.write(content)

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _break_off(self) -> None:
        """Close the connection, so that the client sees it broken rather than ended."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        with contextlib.suppress(OSError):
            self.wfile.flush()
        self.connection.close()


@contextlib.contextmanager
def faulty(upstream: str, *, context: ssl.SSLContext | None = None) -> Iterator[FaultProxy]:
    """A proxy for the length of a ``with`` statement."""
    with FaultProxy(upstream, context=context) as proxy:
        yield proxy
