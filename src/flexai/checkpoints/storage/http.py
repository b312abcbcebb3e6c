"""What every store behind HTTP shares: bodies on their way out, and what headers say."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import re
import ssl
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from flexai.checkpoints.errors import (
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    StorageError,
    StorageUnavailableError,
    UnsupportedError,
)
from flexai.checkpoints.storage.checks import exact_blocks
from flexai.checkpoints.storage.protocol import Block, Body, ObjectInfo
from flexai.checkpoints.storage.retry import Attempts, RetryPolicy, retrying

E = TypeVar("E", bound=BaseException)
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

SEND_SIZE = 512 * 1024
"""Bytes handed to a connection at a time. Fewer cost a third of a push's CPU, for a thread loses its turn with each; a
socket's timeout is for all of them together, so many would be too much for a slow line."""
JUST_RENEWED = 1.0
"""Seconds within which a credential that was renewed cannot have expired: refused then, it is refused for good."""

_EMPTY: Block = memoryview(b"")
# 19 digits are more than a service has bytes; of thousands Python makes no number.
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19})")
_SIZE = re.compile(r"[0-9]{1,19}")
_MAX_EMPTY_PAGES = 1000
"""Pages of a listing in a row that have nothing; services have some where much was deleted."""


class BodyReader:
    """A body as the file that HTTP clients ask for.

    ``read`` ignores how much it is asked for, which is 16 KiB at a time and costs twice the CPU. What the body raises
    is kept, because clients wrap it in errors of their own.
    """

    def __init__(self, body: Body) -> None:
        self.body = body
        self._blocks: Iterator[Block] | None = None
        self._rest = _EMPTY
        self._position = 0
        self.error: BaseException | None = None

    def __len__(self) -> int:
        return self.body.size

    def begin(self) -> None:
        """Have the first bytes at hand; raises what the body raises."""
        try:
            if self._blocks is None:
                self._blocks = exact_blocks(self.body)
            while not self._rest:
                self._rest = next(self._blocks)
        except StopIteration:
            pass
        except BaseException as error:
            self.error = error
            raise

    def read(self, size: int = -1) -> Block:
        """The next bytes, at most ``SEND_SIZE``; none at the end."""
        self.begin()
        piece, self._rest = self._rest[:SEND_SIZE], self._rest[SEND_SIZE:]
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        """Start over; a client asks for nothing else, except for the end, to learn the size."""
        if whence == 2 and offset == 0:
            self._position = len(self)
        elif whence == 0 and offset == 0:
            self._blocks = None
            self._rest = _EMPTY
            self._position = 0
            self.error = None
        elif (offset, whence) != (0, 1):
            raise OSError("a body can only be read from its start")
        return self._position

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position


class _BodyError(Exception):
    """Carries a body's own error out of the tries, which are not repeated for it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def send_body(body: Body, send: Callable[[BodyReader], T], policy: RetryPolicy) -> T:
    """Send a body, from its start again after a passing failure; what the body raises comes out as it is."""
    try:
        return retrying(lambda: _send_once(body, send), policy)
    except _BodyError as error:
        raise error.error from None


def _send_once(body: Body, send: Callable[[BodyReader], T]) -> T:
    reader = BodyReader(body)
    try:
        # A service that has begun to take an object may not give another one meanwhile, where both are its own. And a
        # client does not read what is empty, so a body that is not would go unnoticed.
        reader.begin()
        return send(reader)
    except Exception as error:
        if reader.error is not None:
            raise _BodyError(reader.error) from error
        raise


def find_stored(store: RangeReader, key: str, body: Body, policy: RetryPolicy) -> ObjectInfo | None:
    """The object under a key, if it holds the very bytes of a body.

    A put that was tried again because its answer was lost, and that replaces nothing, meets its own object there.
    """
    try:
        info = store.head(key)
        if info.size != body.size:
            return None
        found = _digest(read_object(store, key, start=0, length=None, etag=info.etag, policy=policy))
    except (NotFoundError, SourceChangedError):
        return None
    return info if found == _digest(exact_blocks(body)) else None


def _digest(blocks: Iterator[Block]) -> bytes:
    hasher = hashlib.sha256()
    for block in blocks:
        hasher.update(block)
    return hasher.digest()


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """What a service answers to a reader."""

    begins: int
    """The first byte that it sends."""
    ends: int
    """The byte after the last."""
    size: int
    """Bytes of the whole object."""
    etag: str
    blocks: Iterator[Block]
    close: Callable[[], object]


class RangeReader(Protocol):
    """What a store does so that :func:`read_object` can read from it."""

    @property
    def location(self) -> str:
        """Where this is, for people."""

    def head(self, key: str) -> ObjectInfo:
        """Describe an object."""

    def open_range(self, key: str, start: int, stop: int | None, etag: str) -> RangeAnswer:
        """Ask once for the bytes from ``start`` to before ``stop`` (to the end where None).

        Raises IntegrityError where the object has not got them, SourceChangedError where it is not that of the etag.
        """


def read_object(
    store: RangeReader, key: str, *, start: int, length: int | None, etag: str, policy: RetryPolicy
) -> Iterator[Block]:
    """Yield a range of an object; a transfer that breaks off goes on with the next byte of the same object."""
    if length == 0:
        _check_empty_range(store, key, start, etag)
        return
    stop = None if length is None else start + length
    attempts = Attempts(policy)
    while stop is None or start < stop:
        try:
            try:
                answer = store.open_range(key, start, stop, etag)
            except IntegrityError:
                if stop is not None:
                    raise
                # Nothing follows the last byte, which is not wrong.
                _check_empty_range(store, key, start, etag)
                return
            with contextlib.closing(answer):
                _check_answer(store, key, answer, start, stop, etag)
                # The rest must be of the same object, whatever the caller asked for.
                stop, etag = answer.ends, answer.etag
                for block in answer.blocks:
                    yield block
                    start += len(block)
                    attempts.arrived(len(block))
            if start < stop:
                raise unavailable(f"{store.location} sent {stop - start} bytes too few of {key}")
        except StorageUnavailableError as error:
            attempts.failed(error)


def _check_answer(store: RangeReader, key: str, answer: RangeAnswer, start: int, stop: int | None, etag: str) -> None:
    if etag and answer.etag != etag:
        raise changed(store, key)
    if answer.begins != start or (stop is not None and answer.ends > stop):
        raise UnsupportedError(f"{store.location} does not answer with the range that it was asked for")
    if answer.ends != (answer.size if stop is None else stop):
        raise too_short(store, key, answer.size)


def _check_empty_range(store: RangeReader, key: str, start: int, etag: str) -> None:
    info = store.head(key)
    if etag and info.etag != etag:
        raise changed(store, key)
    if start > info.size:
        raise too_short(store, key, info.size)


def changed(store: RangeReader, key: str) -> SourceChangedError:
    """An object that is not the one that was asked for."""
    return SourceChangedError(f"{store.location}/{key} changed while it was read")


def too_short(store: RangeReader, key: str, size: int) -> IntegrityError:
    """An object of ``size`` bytes that has not got what was asked for."""
    return IntegrityError(f"{store.location}/{key} is shorter than recorded: {size} bytes")


def pages(ask: Callable[[K | None], tuple[Iterable[T], K | None]], location: str) -> Iterator[T]:
    """Yield what the pages of a listing have; ``ask`` gets one by its token, None for the first and after the last.

    Raises StorageError for a listing that comes to a token again, or gets nowhere.
    """
    token: K | None = None
    seen: set[int] = set()
    empty = 0
    while True:
        items, token = ask(token)
        empty += 1
        for item in items:
            empty = 0
            yield item
        if token is None:
            return
        # Of a token, which may be long, its hash is kept: it is of 64 bits, with a key that no server knows.
        if hash(token) in seen or empty > _MAX_EMPTY_PAGES:
            raise StorageError(f"{location} is listed in a circle, or without an end", hint="check the endpoint")
        seen.add(hash(token))


def parse_size(value: object) -> int:
    """Bytes, as a service says them: a number or ASCII digits, below 2**63; ValueError for anything else."""
    text = str(value)
    if not _SIZE.fullmatch(text) or int(text) >= 2**63:
        raise ValueError(f"{text[:40]!r} is no size")
    return int(text)


def read_lengths(headers: Mapping[str, str], what: str) -> tuple[int, int, int]:
    """First byte and byte after the last of an answer, and size of the object, by the answer's headers.

    Raises StorageError, which calls the object ``what``, where they do not say, or contradict each other.
    """
    said, ranged = headers.get("content-length"), headers.get("content-range")
    try:
        length = None if said is None else parse_size(said)
    except ValueError:
        length = -1
    found = parse_content_range(ranged) if ranged is not None else None if length is None else (0, length, length)
    if found is None or length not in {None, found[1] - found[0]} or not 0 <= found[0] <= found[1] <= found[2]:
        raise StorageError(f"it is not said how many bytes of {what} are sent", hint="check the endpoint")
    return found


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
    moment = parse_date(text)
    return 0.0 if moment is None else max(0.0, moment - (time.time() if now is None else now))


def parse_date(header: str) -> float | None:
    """Seconds since the epoch of a date in a header (RFC 9110, section 5.6.7); None for what is none."""
    try:
        return email.utils.parsedate_to_datetime(header).timestamp()
    except (OverflowError, TypeError, ValueError):
        return None


def is_certificate_error(error: BaseException) -> bool:
    """Whether a certificate that was not accepted is at the bottom of an error, however clients have wrapped it.

    Other failures of TLS are connections that broke off.
    """
    return find_within(error, ssl.SSLCertVerificationError) is not None


def find_within(error: BaseException, kind: type[E]) -> E | None:
    """The error of a kind that clients have wrapped in an error of theirs, if there is one."""
    pending, seen = [error], set[int]()
    while pending:
        one = pending.pop()
        if isinstance(one, kind):
            return one
        seen.add(id(one))
        wrapped = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        pending.extend(inner for inner in wrapped if isinstance(inner, BaseException) and id(inner) not in seen)
    return None


@contextlib.contextmanager
def readable(service: str) -> Iterator[None]:
    """Say in our words that an answer lacks something, or has something else there than the service's own answers."""
    try:
        yield
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise unavailable(f"{service} gave an answer that cannot be read ({type(error).__name__})") from error


def unavailable(message: str, *, retry_after: float = 0.0) -> StorageUnavailableError:
    """A passing failure, with the wait that the service asked for in seconds."""
    error = StorageUnavailableError(message)
    error.retry_after = retry_after
    return error
