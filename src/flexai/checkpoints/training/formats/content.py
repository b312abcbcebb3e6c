"""Bytes that are read by ranges, and a stream over them that reads ahead and jumps."""

from __future__ import annotations

import bz2
import lzma
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from flexai.checkpoints.training.formats.folder import RangedFiles, read_exactly
from flexai.checkpoints.training.formats.verdict import NotWholeError

_BLOCK = 64 * 1024
_LARGEST_BLOCK = 1024 * 1024
_BLOCK_AFTER_JUMP = 4096
_IN_MEMORY = 128 * 1024


class Content(Protocol):
    """What is looked into: a file, a range of one, or bytes in memory."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read(self, start: int, length: int) -> bytes:
        """At most `length` bytes from offset `start`, fewer where it ends. Raises NotWholeError."""


@dataclass(frozen=True, slots=True)
class ContentRange:
    """A range of something that can be read by ranges."""

    reader: Callable[[int, int], bytes]
    start: int
    size: int

    @classmethod
    def of(cls, data: bytes) -> ContentRange:
        """Bytes in memory."""
        return cls(lambda start, length: data[start : start + length], 0, len(data))

    @classmethod
    def within(cls, content: Content, start: int, size: int) -> ContentRange:
        """What of a range lies inside `content`."""
        start = min(max(start, 0), content.size)
        return cls(content.read, start, min(size, content.size - start))

    def read(self, start: int, length: int) -> bytes:
        """See `Content.read`."""
        length = min(length, self.size - start)
        return self.reader(self.start + start, length) if length > 0 else b""


def content_of(folder: RangedFiles, path: str) -> ContentRange:
    """A file of a checkpoint; a small one is read at once. Reading raises NotWholeError."""
    size = folder.files[path]
    if size <= _IN_MEMORY:
        return ContentRange.of(read_exactly(folder, path, 0, size))
    return ContentRange(lambda start, length: read_exactly(folder, path, start, length), 0, size)


class ContentStream(ABC):
    """Reads forward. `spend` is told how many bytes each reading took, and raises where that is too much."""

    def __init__(self, spend: Callable[[int], None]) -> None:
        self._spend = spend
        self._buffer = b""
        self._at = 0
        self._before = 0

    @property
    def position(self) -> int:
        """Bytes that were read or jumped over."""
        return self._before + self._at

    def read(self, length: int) -> bytes:
        """Exactly `length` bytes, fewer only at the end."""
        end = self._at + length
        while end > len(self._buffer):
            if not self._fill():
                break
            end = self._at + length
        data = self._buffer[self._at : end]
        self._at += len(data)
        return data

    def line(self, limit: int) -> bytes | None:
        """Up to the next line end and with it; None where the line is longer than `limit` bytes."""
        line = b""
        long = False
        while True:
            end = self._buffer.find(b"\n", self._at)
            piece = self._buffer[self._at : len(self._buffer) if end < 0 else end + 1]
            self._at += len(piece)
            long = long or len(line) + len(piece) > limit
            line = b"" if long else line + piece
            if end >= 0 or not self._fill():
                return None if long else line

    def skip(self, length: int) -> bool:
        """Jump over bytes; False where there are fewer."""
        while length > (there := len(self._buffer) - self._at):
            self._at = len(self._buffer)
            length -= there
            if not self._fill():
                return False
        self._at += length
        return True

    def place(self, length: int) -> ContentRange | None:
        """The next `length` bytes as something to be read later; None where that cannot be."""
        return None

    def _fill(self) -> bool:
        more = self._more()
        self._spend(len(more))
        self._before += self._at
        self._buffer = self._buffer[self._at :] + more
        self._at = 0
        return bool(more)

    @abstractmethod
    def _more(self) -> bytes:
        """The next bytes; none at the end."""


class RangeStream(ContentStream):
    """A stream over content, from an offset."""

    def __init__(self, content: Content, spend: Callable[[int], None], start: int = 0) -> None:
        super().__init__(spend)
        self._content = content
        self._next = self._before = start
        self._block = _BLOCK

    def skip(self, length: int) -> bool:
        """See `ContentStream.skip`; nothing is read."""
        if length <= len(self._buffer) - self._at:
            self._at += length
            return True
        there = self._content.size - self.position
        self._before = self._next = self.position + min(length, there)
        self._buffer, self._at = b"", 0
        self._block = _BLOCK_AFTER_JUMP
        return length <= there

    def place(self, length: int) -> ContentRange | None:
        """See `ContentStream.place`."""
        return ContentRange.within(self._content, self.position, length)

    def _more(self) -> bytes:
        data = self._content.read(self._next, self._block)
        self._next += len(data)
        self._block = min(2 * self._block, _LARGEST_BLOCK)
        return data


class UnpackedStream(ContentStream):
    """A stream of what compressed content unpacks to, a block at a time."""

    def __init__(self, pieces: Iterator[bytes], spend: Callable[[int], None]) -> None:
        super().__init__(spend)
        self._pieces = pieces

    def _more(self) -> bytes:
        return next(self._pieces, b"")


def unpacked(kind: str, content: Content) -> Iterator[bytes]:
    """The pieces of compressed content (`deflate`, `zlib`, `gzip`, `bz2`, `xz`, `stored`), each of some 64 KiB.

    Raises NotWholeError where it is damaged or cut off.
    """
    if kind in _ZLIB_WINDOW:
        return _inflated(content, _ZLIB_WINDOW[kind])
    return _decompressed(content, bz2.BZ2Decompressor() if kind == "bz2" else lzma.LZMADecompressor(memlimit=64 << 20))


# zlib's own numbers for its three frames (zlib manual, inflateInit2).
_ZLIB_WINDOW = {"deflate": -15, "zlib": 15, "gzip": 31}


def _inflated(content: Content, window: int) -> Iterator[bytes]:
    machine = zlib.decompressobj(window)
    position = 0
    while not machine.eof and (data := content.read(position, _BLOCK)):
        position += len(data)
        while data and not machine.eof:
            try:
                piece = machine.decompress(data, _BLOCK)
            except zlib.error as error:
                raise NotWholeError(f"its compressed content is damaged ({error})") from None
            data = machine.unconsumed_tail
            if piece:
                yield piece
    if rest := machine.flush(_BLOCK):
        yield rest
    if not machine.eof:
        raise NotWholeError("its compressed content is cut off")


def _decompressed(content: Content, machine: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> Iterator[bytes]:
    position = 0
    while not machine.eof:
        data = b""
        if machine.needs_input:
            data = content.read(position, _BLOCK)
            position += len(data)
            if not data:
                raise NotWholeError("its compressed content is cut off")
        try:
            piece = machine.decompress(data, _BLOCK)
        except (OSError, lzma.LZMAError, EOFError) as error:
            raise NotWholeError(f"its compressed content is damaged ({error})") from None
        if piece:
            yield piece
