"""The base of the servers that run in the test process itself."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any, Self


class LocalServer(ThreadingHTTPServer):
    """A server that ends its connections when it is closed.

    A client that stays open keeps its connection, and with it the thread that serves it and all that the server has
    noted, such as the bodies of requests: tens of megabytes a test.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()

    @contextlib.contextmanager
    def serving(self) -> Iterator[Self]:
        """Answer while the block runs."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """Forget a connection that has ended."""
        with self._connections_lock:
            self._connections.discard(request)
        super().close_request(request)

    def server_close(self) -> None:
        """Stop to listen, and end what is open."""
        super().server_close()
        with self._connections_lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # it has ended just now
                    # Of the plain socket: TLS would say goodbye first, from a thread that is not the connection's.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
