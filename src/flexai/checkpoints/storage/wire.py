"""What every HTTP client of ours does on the wire, so that a server chooses neither our memory, nor our time, nor whom
we ask.

- **The address of each connection is judged** once it is made, before a byte is sent: a name that was looked up a
  moment ago can mean another machine by now. Behind a proxy the address is the proxy's, which is the user's own.
- **What comes in comes at a least rate**: ``LEAST_BYTES`` within the read timeout, headers included. Time that the
  server takes before its first byte, or that we take before we read on, does not count. Where the server has work to do
  first (anything but GET and HEAD), it may take ``WORK_SECONDS``: AWS sends white space while it copies or puts an
  object together, https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html.
- **Lines are bounded**, in length and in how many follow each other: those of headers, of what comes before an answer,
  of the sizes of chunks, and of what comes after them.
- **A document is bounded**: what is read as a whole, and not block by block, has at most ``MAX_ANSWER`` bytes, and is
  packed once at most.
- **The environment is asked once**, for each session and server: which proxy leads there, and which authorities are
  trusted. requests itself goes through all of it for each request, which takes a quarter of its processor time, and
  sends what it finds in ``.netrc`` in place of a token.

All but the last of them hold for urllib3's pools, which requests and botocore use alike.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from flexai.checkpoints.errors import StorageError
from flexai.checkpoints.storage.addresses import why_peer_refused
from flexai.checkpoints.storage.retry import LEAST_BYTES

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as _Connection
    from urllib3.connectionpool import HTTPConnectionPool as _Pool
else:
    # What goes before a class that is only known when a pool is there, and urllib3 is not imported for it.
    _Connection = _Pool = object

WORK_SECONDS = 600.0
"""Seconds that an answer to anything but GET and HEAD may take instead."""
MAX_ANSWER = 32 * 1024**2
"""Bytes of an answer that is read as a whole: a page of a listing, an error. The Hub's description of a repository of
100,000 files has 10 MB, a page of S3's or GCS's at most 4."""

_MAX_LINE = 64 * 1024
_MAX_LINES = 1000
_MAX_SERVERS = 256
"""Servers whose proxies are kept; the Hub's redirects name as many as it likes."""
_ENCODINGS = {"", "identity", "gzip"}

Judge: TypeAlias = Callable[[str, str], str]
"""Why a connection to a host that has led to an address is refused; empty where it is not."""


def judge_peer(host: str, address: str) -> str:
    """The judge of clients that follow no redirect: private networks are fine, which is where MinIO mostly is."""
    return why_peer_refused(address, inside=True)


class _Lines:
    """Lines that have a longest and a most; http.client bounds some, and botocore and urllib3 fewer."""

    _count = 0

    def readline(self, size: int | None = -1) -> bytes:
        self._count += 1
        most = size if size is not None and 0 <= size <= _MAX_LINE else _MAX_LINE + 1
        line: bytes = super().readline(most)  # type: ignore[misc]  # of what this is mixed into
        if self._count > _MAX_LINES or len(line) > _MAX_LINE:
            raise StorageError("a server answered with endless headers", hint="check the connection's endpoint")
        return line


class _Metered(_Lines, io.RawIOBase):
    """What arrives at a socket, at a least rate."""

    def __init__(self, raw: io.RawIOBase, seconds: float, read: Callable[[Any], int | None]) -> None:
        """``read`` fills a buffer, ``raw`` is told of the end."""
        self._raw = raw
        self._read = read
        self._seconds = seconds
        self._waited = 0.0
        self._missing = 0
        """Bytes until the next stretch begins; 0 before the first byte."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        asked_at = time.monotonic()
        count = self._read(buffer)
        if count:
            if self._missing <= count:
                self._missing, self._waited = LEAST_BYTES, 0.0
            else:
                self._missing -= count
                self._waited += time.monotonic() - asked_at
                if self._waited > self._seconds:
                    raise TimeoutError(f"fewer than {LEAST_BYTES} bytes came in {self._seconds:.0f} s")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Readers:
    """Threads that read records of TLS at a time: each record takes Python's lock, for which more of them only wait."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked process, whose parent's threads may be reading."""
        self.turns = threading.Semaphore(max(2, os.cpu_count() or 1))


_readers = _Readers()
os.register_at_fork(after_in_child=_readers.renew)


def _read_records(tls: Any, buffer: Any) -> int:
    """Fill a buffer that is for content alone with what has come; of any other, which may reach beyond an answer's
    end, read a record.

    A record of 16 KiB by itself comes through four functions of Python's. What has not come is waited for by itself:
    who waits keeps no other thread from reading.
    """
    room = memoryview(buffer)
    count = last = int(tls.read(len(room), room))
    if last and count < len(room) > io.DEFAULT_BUFFER_SIZE:
        seconds = tls.gettimeout()
        tls.settimeout(0)
        try:
            with _readers.turns, contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                while last and count < len(room):
                    last = tls.read(len(room) - count, room[count:])
                    count += last
        finally:
            tls.settimeout(seconds)
    return count


class _Answer(_Lines, io.BufferedReader):
    def read(self, size: int | None = -1) -> bytes:
        self._count = 0
        return super().read(size)

    def readinto(self, buffer: Any) -> int:
        self._count = 0
        return super().readinto(buffer)


class _Socket:
    """A socket whose readers are metered."""

    def __init__(self, plain: Any, connection: _GuardedConnection) -> None:
        self._plain = plain
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def makefile(self, mode: str = "r", buffering: int = -1) -> io.IOBase:
        """A reader of what arrives; clients make one for each answer, and write none."""
        seconds = self._plain.gettimeout()
        if seconds is not None and self._connection.waits_for_work:
            seconds = max(seconds, WORK_SECONDS)
        raw = self._plain.makefile("rb", buffering=0)
        read = partial(_read_records, self._plain) if hasattr(self._plain, "pending") else raw.readinto
        metered = _Metered(raw, float("inf") if seconds is None else seconds, read)
        return metered if buffering == 0 else _Answer(metered)


_WITH_HEAD = 16 * 1024
"""Bytes of a body that are copied to go with its head."""


class _GuardedConnection(_Connection):
    """Goes before a class of urllib3's connections."""

    judge: Judge | None
    waits_for_work = False
    sock: Any
    _holds = False
    _head = b""

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        """Send a request, its head together with what comes first of its body.

        A client can die between two calls, and SeaweedFS takes a head without a body for an empty object.
        """
        self._holds, self._head = body is not None and not (headers or {}).get("Expect"), b""
        try:
            super().request(method, url, body, headers, **options)
            if self._head:
                self.send(b"")
        except ssl.SSLEOFError as error:
            # What TLS makes of a pipe that is broken, after which urllib3 looks for an answer all the same.
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from error

    def send(self, data: Any) -> None:
        """Send bytes, but for a head that is to wait for its body."""
        if self._holds:
            self._holds, self._head = False, data
            return
        if self._head:
            head, self._head = self._head, b""
            first, data = data[:_WITH_HEAD], data[_WITH_HEAD:]
            super().send(head + first)
        if data:
            super().send(data)

    def _new_conn(self) -> Any:
        found = super()._new_conn()
        if self.judge is not None and (why := self.judge(self.host, found.getpeername()[0])):
            found.close()
            raise StorageError(f"{self.host} leads to an address that is refused: {why}")
        return found

    def connect(self) -> None:
        super().connect()
        self.sock = _Socket(self.sock, self)

    def putrequest(self, method: str, *arguments: Any, **options: Any) -> Any:
        self.waits_for_work = method not in {"GET", "HEAD"}
        return super().putrequest(method, *arguments, **options)


class _BoundedPool(_Pool):
    """Goes before a class of urllib3's pools."""

    def urlopen(self, *arguments: Any, **options: Any) -> Any:
        answer: Any = super().urlopen(*arguments, **options)
        # What reads an answer as a whole, in requests and in botocore; content is read by ``read``.
        answer.stream = _bounded(answer, answer.stream, self.host)
        return answer


def _bounded(answer: Any, stream: Callable[..., Iterator[bytes]], host: str) -> Callable[..., Iterator[bytes]]:
    def bounded(*arguments: Any, **options: Any) -> Iterator[bytes]:
        size = 0
        # Each layer can be a thousand times as long as it is packed.
        encoding = answer.headers.get("Content-Encoding", "") if options.get("decode_content") else ""
        if encoding.strip().lower() not in _ENCODINGS:
            answer.close()
            raise StorageError(f"{host} answered with a document that is packed in a way it was not asked for")
        for chunk in stream(*arguments, **options):
            size += len(chunk)
            if size > MAX_ANSWER:
                answer.close()
                raise StorageError(
                    f"{host} answered with a document of more than {MAX_ANSWER // 1024**2} MiB",
                    hint="check the connection's endpoint",
                )
            yield chunk

    return bounded


def guard_pools(
    pools: Mapping[str, type[Any]], judge: Judge | None, *, bounds_documents: bool = True
) -> dict[str, type[Any]]:
    """Classes of urllib3's pools, by scheme, that do as this module says; without a judge for those behind a proxy."""

    def guarded(pool: type[Any]) -> type[Any]:
        ours = {"judge": None if judge is None else staticmethod(judge)}
        connection = type(pool.ConnectionCls.__name__, (_GuardedConnection, pool.ConnectionCls), ours)
        bases = (_BoundedPool, pool) if bounds_documents else (pool,)
        return type(pool.__name__, bases, {"ConnectionCls": connection})

    return {scheme: guarded(pool) for scheme, pool in pools.items()}


def guard_session(
    session: Any,
    judge: Judge = judge_peer,
    *,
    ca_bundle: str = "",
    connections: int = 10,
    bounds_documents: bool = True,
) -> None:
    """Have a session of requests do as this module says, follow no redirect, and keep no cookie.

    requests reads the body of a redirect that it does not follow, too. ``ca_bundle`` is a file of trusted authorities,
    else the one that the environment names.
    """
    from http.cookiejar import DefaultCookiePolicy

    from requests.adapters import HTTPAdapter
    from requests.utils import get_environ_proxies

    proxies_of = functools.lru_cache(maxsize=_MAX_SERVERS)(get_environ_proxies)

    class Adapter(HTTPAdapter):
        def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
            scheme, _, rest = request.url.partition("://")
            options["proxies"] = proxies_of(f"{scheme}://{rest.partition('/')[0]}")
            return super().send(request, *arguments, **options)

        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options)
            self._guard(self.poolmanager, judge)

        def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
            is_new = proxy not in self.proxy_manager
            manager = super().proxy_manager_for(proxy, **options)
            if is_new:
                self._guard(manager, None)
            return manager

        def _guard(self, manager: Any, judge: Judge | None) -> None:
            manager.pool_classes_by_scheme = guard_pools(
                manager.pool_classes_by_scheme, judge, bounds_documents=bounds_documents
            )

    session.trust_env = False
    session.verify = ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    session.get_redirect_target = lambda response: None
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = Adapter(pool_maxsize=connections)
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)
