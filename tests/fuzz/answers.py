"""A server that answers with whatever bytes it is told, to be asked by the real clients of S3, GCS and the Hub."""

from __future__ import annotations

import contextlib
import functools
import re
import socket
import threading
from collections.abc import Sequence
from typing import Any
from unittest import mock

_LENGTH = re.compile(rb"\r\nContent-Length: ([0-9]+)", re.IGNORECASE)
NOTHING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class AnsweringServer:
    """Answers one request after the other with what is next in line, and at last that there is nothing."""

    def __init__(self) -> None:
        """Listen at an address of this machine."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._line: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def prepare(self, answers: Sequence[bytes]) -> None:
        """Have these be what is answered next."""
        self._line = list(answers)

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            # A client that does not like an answer hangs up.
            with contextlib.suppress(OSError), connection:
                connection.settimeout(5)
                request = b""
                while _is_missing(request) and (more := connection.recv(65536)):
                    request += more
                    if request.endswith(b"\r\n\r\n") and b"100-continue" in request:
                        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                if request:
                    connection.sendall(self._line.pop(0) if self._line else NOTHING)
                    # Closed at once it could be cut off, as far as the client has sent more.
                    connection.shutdown(socket.SHUT_WR)


@functools.cache
def look_up_no_names() -> None:
    """From now on this process finds servers by their addresses alone, so that no input is a question to others."""
    looked_up = socket.getaddrinfo

    def of_number(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        return looked_up(host, port, flags=socket.AI_NUMERICHOST)

    mock.patch.object(socket, "getaddrinfo", of_number).start()


def _is_missing(request: bytes) -> bool:
    """Whether there is more to come of a request: of its head, or of a body that it says the length of."""
    head, end, body = request.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return not end or (length is not None and len(body) < int(length[1]))


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """A whole answer with its length.

    It says that the server hangs up, as it does: a client that learns this too late loses its next request.
    """
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", "Connection: close"]
    lines += [*headers, "", ""]
    return "\r\n".join(lines).encode() + body
