"""Services that would have their clients' memory and time: over S3, GCS and the Hub, each attack a real answer.

    python -m tests.hostile.services KIND [ATTACK…]

makes a client of the kind ask a server of this module for each attack, and prints a line for each: the seconds, the
peak of memory in MiB, how often the server was asked, and which error came of it.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import itertools
import json
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.gcs.session import GCSService
from flexai.checkpoints.storage.hub.repository import HubStorage
from flexai.checkpoints.storage.protocol import BytesBody, ObjectStorage
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from flexai.checkpoints.transfer.scan import scan_remote
from tests.support.memory import give_memory_back

KINDS = ("s3", "gcs", "hub")
ATTEMPTS = 2
READ_TIMEOUT = 0.6
SIZE = 1000
"""Bytes of the one file that there is."""

Answer = Iterator[bytes]
_SHA = "a" * 64
_COMMIT = "c" * 40
_SOME = b"a" * 65_536
_OK = b"HTTP/1.1 200 OK\r\n"


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client has had enough
            while self.answer_one():
                pass

    def answer_one(self) -> bool:
        """Answer a request; whether the connection can have another."""
        first, length = self.rfile.readline(), 0
        while (line := self.rfile.readline()) not in {b"\r\n", b""}:
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        if not first:
            return False
        if length and not self.server.sends_early:
            self.rfile.read(length)
        method, path = first.decode().split(" ")[:2]
        self.server.asked.append(f"{method} {path}")
        keeps = False
        for piece in self.server.answer(method, path):
            keeps = keeps or piece.startswith(_KEPT)
            self.wfile.write(piece)
        return keeps


_KEPT = b"HTTP/1.1 200 Kept\r\n"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    sends_early = False

    def __init__(self, answer: Callable[[str, str], Answer], host: str) -> None:
        super().__init__((host, 0), _Handler)
        self.answer = answer
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


@contextmanager
def serve(
    answer: Callable[[str, str], Answer], *, host: str = "127.0.0.1", sends_early: bool = False
) -> Iterator[_Server]:
    """Answer each request, by its method and path, with pieces that follow each other until the client goes."""
    server = _Server(answer, host)
    server.sends_early = sends_early
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def open_storage(kind: str, endpoint: str, *, read_timeout: float = READ_TIMEOUT) -> ObjectStorage:
    """A client of the kind, which tries twice."""
    policy = RetryPolicy(attempts=ATTEMPTS, sleep=lambda _: None)
    if kind == "s3":
        keys = S3Credentials("key", "secret")
        return S3Storage(
            S3Service(endpoint_url=endpoint, credentials=keys, read_timeout=read_timeout), "bucket", policy=policy
        )
    if kind == "gcs":
        service = GCSService(endpoint_url=endpoint, anonymous=True, read_timeout=read_timeout)
        return GCSStorage(service, "bucket", policy=policy)
    return HubStorage("org/model", endpoint=endpoint, policy=policy, read_timeout=read_timeout)


def document(body: bytes, *headers: str, status: str = "200 OK") -> Answer:
    """An answer as it should be."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    yield "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def page(kind: str, names: list[str], token: str = "", *, size: str = str(SIZE)) -> Answer:
    """A page of a listing, with the token of the next one."""
    if kind == "s3":
        items = "".join(
            f"<Contents><Key>{name}</Key><Size>{size}</Size><ETag>&quot;e&quot;</ETag></Contents>" for name in names
        )
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
        return document(f"<?xml version='1.0'?><ListBucketResult>{more}{items}</ListBucketResult>".encode())
    link = [f'Link: <http://other/?cursor={token}>; rel="next"'] if token and kind == "hub" else []
    shown = size if kind == "hub" else json.dumps(size)
    if kind == "gcs":
        listed = ",".join(f'{{"name":"{name}","size":{shown},"generation":"1"}}' for name in names)
        text = f'{{"items":[{listed}]' + (f',"nextPageToken":"{token}"' if token else "") + "}"
    else:
        text = ",".join(
            f'{{"type":"file","path":"{name}","oid":"b","size":{shown},"lfs":{{"oid":"{_SHA}","size":{shown}}}}}'
            for name in names
        )
        text = f"[{text}]"
    return document(text.encode(), *link)


def hub_of_one_file(path: str) -> Answer | None:
    """What the Hub says before it is asked for the file's content, or for what it lists."""
    if "/revision/" in path:
        return document(json.dumps({"id": "org/model", "sha": _COMMIT}).encode())
    # A small file, which the Hub itself sends.
    listed = b'[{"type":"file","path":"file","oid":"b","size":%d}]' % SIZE
    return document(listed) if "/tree/" in path else None


def _endless(head: bytes, piece: bytes = _SOME) -> Answer:
    yield head
    while True:
        yield piece


def _dripping(head: bytes, piece: bytes = b"a") -> Answer:
    yield head
    while True:
        time.sleep(READ_TIMEOUT / 20)
        yield piece


@cache
def _packed_once() -> bytes:
    return gzip.compress(bytes(2**28), 9)


@cache
def _packed_twice() -> bytes:
    """A gibibyte, packed twice: four kilobytes."""
    return gzip.compress(gzip.compress(bytes(2**30), 9), 9)


def _packed(first: bytes, encoding: bytes, content: Callable[[], bytes]) -> Answer:
    """An answer whose content is packed when it is asked for, which takes a while."""
    yield first + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding, len(content())) + content()


def _bodies() -> dict[str, Callable[[], Answer]]:
    """Answers to any request."""
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"
    lengths = {"no": b"", "a negative": b"Content-Length: -1\r\n", "a huge": b"Content-Length: 9%s\r\n" % (b"9" * 30)}
    bodies: dict[str, Callable[[], Answer]] = {}
    statuses = (
        "200 OK",
        "302 Found\r\nLocation: /other",
        "302 Found\r\nLocation: \xff\xfe",
        "403 Forbidden",
        "500 Out of order",
    )
    for status in statuses:
        first = f"HTTP/1.1 {status}\r\n".encode("latin-1")
        name = status.replace("\r\nLocation:", " to").encode("ascii", "replace").decode()
        if status[0] != "5":
            bodies[f"{name}, dripping"] = partial(_dripping, first + b"Content-Length: 1000000\r\n\r\n")
        for length, header in lengths.items():
            bodies[f"{name}, endless, with {length} length"] = partial(_endless, first + header + b"\r\n")
        bodies[f"{name}, packed twice"] = partial(_packed, first, b"gzip, gzip", _packed_twice)
    header = b"X: %s\r\n" % _SOME[:60_000]
    return bodies | {
        "packed once": partial(_packed, _OK, b"gzip", _packed_once),
        "endless in chunks": lambda: _endless(_OK + chunked, b"10000\r\n" + _SOME + b"\r\n"),
        "endless size of a chunk": lambda: _endless(_OK + chunked, b"0" * 65_536),
        "endless end of a chunk": lambda: _endless(_OK + chunked + b"1\r\nx"),
        "endless trailers": lambda: _endless(_OK + chunked + b"0\r\n", b"X: y\r\n" * 10_000),
        "endless status line": lambda: _endless(b"HTTP/1.1 200 "),
        "endless header": lambda: _endless(_OK + b"X: "),
        "endless headers": lambda: _endless(_OK, header),
        "endless small headers": lambda: _endless(_OK, b"X: y\r\n" * 10_000),
        "endless answers that are none": lambda: _endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        "dripping status line": lambda: _dripping(b"HTTP/1.1 200 "),
        "dripping headers": lambda: _dripping(_OK, b"X: y\r\n"),
        "dripping chunks": lambda: _dripping(_OK + chunked, b"1\r\na\r\n"),
        "no HTTP": lambda: iter([b"\0" * 1000]),
        "nothing": lambda: iter([]),
    }


BODIES = _bodies()

_ENTITY = "<!DOCTYPE a [<!ENTITY b '" + "c" * 100_000 + "'>]>"


def _many(first: str, part: str, count: int, last: str, encoding: str = "utf-8") -> Callable[[], Answer]:
    """An answer of many parts, which are sent as they are made; ``{n}`` in a part is its number."""

    def pieces() -> Answer:
        yield _OK + b"\r\n" + first.encode(encoding)
        for start in range(0, count, 10_000):
            numbers = range(start, min(start + 10_000, count))
            yield (
                "".join(part.replace("{n}", str(n)) for n in numbers).encode(encoding)
                if "{n}" in part
                else (part.encode(encoding) * len(numbers))
            )
        yield last.encode(encoding)

    return pieces


_MANY = {
    "xml, elements": _many("<a>", "<b/>", 2_000_000, "</a>"),
    "xml, attributes": _many("<a", " b{n}='c'", 600_000, "/>"),
    "xml, names": _many("<a>", "<b{n}/>", 90_000, "</a>"),
    "xml, wide text": _many("<a>", "<b>😀", 40_000, "a" * 6_000_000 + "</b>" * 40_000 + "</a>"),
    "xml, entities": _many(f"<?xml version='1.0'?>{_ENTITY}<a>", "&b;", 80_000, "</a>"),
    "xml, entities in UTF-16": _many(
        f"<?xml version='1.0' encoding='utf-16-le'?>{_ENTITY}<a>", "&b;", 80_000, "</a>", "utf-16-le"
    ),
    "xml, entities in EBCDIC": _many(
        f"<?xml version='1.0' encoding='cp037'?>{_ENTITY}<a>", "&b;", 80_000, "</a>", "cp037"
    ),
    "xml, nested": _many("", "<a>", 1_000_000, ""),
    "json, objects": _many("[", "{},", 10_000_000, "{}]"),
    "json, lists": _many("[", "[],", 10_000_000, "[]]"),
    "json, numbers": _many("[", "1e9,", 8_000_000, "0]"),
    "json, keys": _many("{", '"{n}":0,', 2_000_000, '"a":0}'),
    "json, nested": _many("", "[", 10_000_000, ""),
    "json, a long number": _many("[", "9", 30_000_000, "]"),
    "json, wide text": _many('["', "a", 30_000_000, '😀"]'),
}


def _thousand(kind: str, number: int, padding: str) -> Answer:
    return page(kind, [f"{number}/{name}{padding}" for name in range(1000)], f"token{number}")


LISTINGS: dict[str, Callable[[str, Iterator[int]], Answer]] = {
    "objects, for ever": lambda kind, count: _thousand(kind, next(count), ""),
    "long names, for ever": lambda kind, count: _thousand(kind, next(count), "/name" * 180),
    "in a circle of one": lambda kind, _: page(kind, ["file"], "again"),
    "in a circle of three": lambda kind, count: page(kind, ["file"], f"token{next(count) % 3}"),
    "nothing, for ever": lambda kind, count: page(kind, [], f"token{next(count)}"),
    **{name: lambda kind, _, body=body: body() for name, body in _MANY.items()},  # type: ignore[misc]
    **{
        f"a size of {size}": lambda kind, _, size=size: page(kind, ["file"], size=size)  # type: ignore[misc]
        for size in ("NaN", "-1", "1e3", "９", "9" * 30, "9" * 10_000, "1_000", "Infinity", "", "null", "[]")
    },
    **{
        f"nonsense {number}": lambda kind, _, body=body: document(body)  # type: ignore[misc]
        for number, body in enumerate(
            [
                b"",
                b"null",
                b"[1]",
                b'["a"]',
                b'{"items":1}',
                b'{"items":[1]}',
                b'{"items":[{"name":1}]}',
                b'{"items":[{"name":"a"}]}',
                b'{"items":[{"name":"a","size":"1","generation":"1","crc32c":"?"}]}',
                b'{"items":[],"nextPageToken":[]}',
                b'[{"type":"file"}]',
                b'[{"type":"file","path":"a","oid":"b","size":true}]',
                b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
                b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
                b"<ListBucketResult><Contents><Key>a</Key><LastModified>never</LastModified></Contents></ListBucketResult>",
                b"<ListBucketResult><IsTruncated>perhaps</IsTruncated><MaxKeys>NaN</MaxKeys></ListBucketResult>",
                b"<html>",
                b"\xff\xfe",
            ]
        )
    },
}

CONTENTS: dict[str, Callable[[], Answer]] = {
    f"{name} of content": lambda head=head: _endless(head + b"\r\n")
    for name, head in {
        "no length": _OK,
        "NaN as length": _OK + b"Content-Length: NaN\r\n",
        "a negative length": _OK + b"Content-Length: -5\r\n",
        "a huge length": _OK + b"Content-Length: %s\r\n" % (b"9" * 30),
        "a length of 10,000 digits": _OK + b"Content-Length: %s\r\n" % (b"9" * 10_000),
        "superscript digits as length": _OK + b"Content-Length: \xb2\r\n",
        "two lengths": _OK + b"Content-Length: 1000\r\nContent-Length: 1001\r\n",
        "a longer range": b"HTTP/1.1 206 P\r\nContent-Range: bytes 2-950/1000\r\nContent-Length: 949\r\n",
        "an earlier range": b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-901/1000\r\nContent-Length: 902\r\n",
        "a range, then more": b"HTTP/1.1 206 P\r\nContent-Range: bytes 2-901/1000\r\nContent-Length: 99999\r\n",
        "a range of no length": b"HTTP/1.1 206 P\r\nContent-Range: bytes 2-901/1000\r\nContent-Length: -1\r\n",
        "a range that ends early": b"HTTP/1.1 206 P\r\nContent-Range: bytes 2-1/1000\r\n",
        "a range of 10,000 digits": b"HTTP/1.1 206 P\r\nContent-Range: bytes 2-%s/1000\r\n" % (b"9" * 10_000),
    }.items()
} | {
    "no length of a whole": lambda: _endless(_OK + b"\r\n"),
    "a negative length of a whole": lambda: _endless(_OK + b"Content-Length: -5\r\n\r\n"),
    "a huge length of a whole": lambda: _endless(_OK + b"Content-Length: %s\r\n\r\n" % (b"9" * 30)),
    "dripping content": lambda: _dripping(_OK + b"Content-Length: 1000\r\n\r\n"),
    "dripping range": lambda: _dripping(
        b"HTTP/1.1 206 P\r\nContent-Range: bytes 2-901/1000\r\nContent-Length: 900\r\n\r\n"
    ),
}


PUTS: dict[str, Callable[[], Answer]] = {
    # botocore waits for it, and then for the end of a line for ever.
    "a put that may go on, then nothing": lambda: iter([b"HTTP/1.1 100 Continue\r\n"]),
    "a put that may go on, for ever": lambda: _endless(b"HTTP/1.1 100 Continue\r\n", b"X: y\r\n" * 1000),
    "a put with an endless answer": lambda: _endless(b"HTTP/1.1 "),
}
"""Answers that come before the body has been sent."""


@dataclass
class Result:
    """What came of an attack."""

    attack: str
    error: str
    message: str
    hint: str
    seconds: float
    peak: int
    """MiB."""
    asked: int
    read: int
    """Bytes of content."""


def attack(kind: str, name: str) -> Result:
    """Have a client ask a server that attacks it."""
    count = itertools.count()

    def answer(method: str, path: str) -> Answer:
        if name in LISTINGS:
            honest = hub_of_one_file(path) if kind == "hub" and "/tree/" not in path else None
            return honest or LISTINGS[name](kind, count)
        if name in CONTENTS:
            return (hub_of_one_file(path) if kind == "hub" else None) or CONTENTS[name]()
        return PUTS[name]() if name in PUTS else BODIES[name]()

    with serve(answer, sends_early=name in PUTS) as server:
        storage = open_storage(kind, server.url)
        _forget_peak()
        began = time.monotonic()
        error, message, hint, read = "", "", "", 0
        try:
            if name in CONTENTS:
                start, length = (0, None) if name.endswith("whole") else (2, SIZE - 100)
                read = sum(len(block) for block in storage.get("file", start=start, length=length))
            elif name in PUTS:
                storage.put("file", BytesBody(bytes(SIZE)))
            else:
                scan_remote(RemotePath(storage, ""))
        except CheckpointError as raised:
            error, message, hint = type(raised).__name__, raised.message, raised.hint
        seconds = round(time.monotonic() - began, 1)
        return Result(name, error, message, hint, seconds, _peak(), len(server.asked), read)


def _forget_peak() -> None:
    """Begin anew, without what the attack before this one has left behind in this process."""
    gc.collect()
    give_memory_back()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024


def main(kind: str, *names: str) -> None:
    # The first client imports its SDK, which is no attack.
    attack(kind, "nothing")
    for name in names or [*BODIES, *LISTINGS, *CONTENTS, *(PUTS if kind != "hub" else ())]:
        print(json.dumps(vars(attack(kind, name))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
