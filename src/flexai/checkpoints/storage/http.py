"""What every store behind HTTP shares: bodies on their way out, and what headers say."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from flexai.checkpoints.errors import StorageUnavailableError
from flexai.checkpoints.storage.protocol import Block, Body
from flexai.checkpoints.storage.uploads import exact_blocks

T = TypeVar("T")

_EMPTY: Block = memoryview(b"")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")


class BodyReader:
    """A body as the file that HTTP clients ask for.

    ``read`` ignores how much it is asked for and gives the body's own block: http.client asks for 16 KiB at a time,
    which costs a third more CPU. What the body raises is kept, because clients wrap it in errors of their own.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self._blocks: Iterator[Block] | None = None
        self._position = 0
        self.error: BaseException | None = None

    def __len__(self) -> int:
        return self._body.size

    def read(self, size: int = -1) -> Block:
        """The next block; empty at the end."""
        try:
            if self._blocks is None:
                self._blocks = exact_blocks(self._body)
            for block in self._blocks:
                if block:
                    self._position += len(block)
                    return block
        except BaseException as error:
            self.error = error
            raise
        return _EMPTY

    def seek(self, offset: int, whence: int = 0) -> int:
        """Start over; a client asks for nothing else, except for the end, to learn the size."""
        if whence == 2 and offset == 0:
            self._position = len(self)
        elif whence == 0 and offset == 0:
            self._blocks = None
            self._position = 0
            self.error = None
        elif (offset, whence) != (0, 1):
            raise OSError("a body can only be read from its start")
        return self._position

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position


class BodyError(Exception):
    """Carries a body's own error out of the tries, which are not repeated for it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def sending(body: Body, send: Callable[[BodyReader], T]) -> T:
    """Send a body once; what the body raises comes out as BodyError, whatever the client has made of it."""
    reader = BodyReader(body)
    try:
        if not body.size:
            # A client does not read what is empty, so a body that is not would go unnoticed.
            reader.read()
        return send(reader)
    except Exception as error:
        if reader.error is not None:
            raise BodyError(reader.error) from error
        raise


def parse_content_range(header: str) -> tuple[int, int, int] | None:
    """First byte, byte after the last, and size of the object; the first two are the size for ``bytes */SIZE``.

    RFC 9110, section 14.4.
    """
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None:
        return None
    size = int(match[3])
    return (size, size, size) if match[1] is None else (int(match[1]), int(match[2]) + 1, size)


def parse_retry_after(header: str, *, now: float | None = None) -> float:
    """Seconds that a ``Retry-After`` header asks for, by number or date; 0 for neither (RFC 9110, section 10.2.3)."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, moment.timestamp() - (time.time() if now is None else now))


def unavailable(message: str, *, retry_after: float = 0.0) -> StorageUnavailableError:
    """A passing failure, with the wait that the service asked for in seconds."""
    error = StorageUnavailableError(message)
    error.retry_after = retry_after
    return error
