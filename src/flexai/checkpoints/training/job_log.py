"""A training job's log: everything that its command printed, as it printed it, and our own remarks in between."""

from __future__ import annotations

import codecs
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_READ_BYTES = 64 * 1024
_FOLLOW_SECONDS = 0.1


class JobLog:
    """The log file of one attempt, written from many threads.

    A log that cannot be written (a full disk) must not end a training: ``failure`` says what happened, once.
    """

    def __init__(self, path: Path) -> None:
        """Make the file, readable by its owner alone. Raises OSError."""
        self.path = path
        self.failure = ""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._is_at_line_start = True

    def write(self, data: bytes) -> None:
        """Append bytes."""
        with self._lock:
            self._write(data)

    def note(self, message: str) -> None:
        """Append a remark of ours on a line of its own."""
        with self._lock:
            start = b"" if self._is_at_line_start else b"\n"
            self._write(start + f"[flexai] {message}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, data: bytes) -> None:
        if self._descriptor < 0 or not data:
            return
        self._is_at_line_start = data.endswith(b"\n")
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self.failure = self.failure or f"the log {self.path} could not be written: {error.strerror}"


def read_log(path: Path, *, is_over: Callable[[], bool]) -> Iterator[str]:
    """Yield a log's text, and what is added to it, until ``is_over`` says that nothing will be; FileNotFoundError."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    with path.open("rb") as file:
        while True:
            was_over = is_over()
            while data := file.read(_READ_BYTES):
                if text := decoder.decode(data):
                    yield text
            if was_over:
                break
            time.sleep(_FOLLOW_SECONDS)
    if text := decoder.decode(b"", final=True):
        yield text
