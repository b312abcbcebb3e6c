"""CRC32C of what is sent to S3, by which the service refuses what arrives damaged.

A digest would find the damage when the part is next read; the service finds it while the source is still here. Many
that speak S3 refuse every trailer, so it is sent only where ``storage check`` saw that a wrong one is refused.

The checksum is known when the last byte has been read, so it follows the body as a trailer, in the encoding
``aws-chunked``: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from flexai.checkpoints.storage.checks import exact_blocks
from flexai.checkpoints.storage.http import BodyReader
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, Block, Body

ALGORITHM = "CRC32C"
FIELD = "ChecksumCRC32C"
"""What the SDK calls it in requests and answers."""

_TRAILER = "x-amz-checksum-crc32c"
_MARK = "crc32c:"
"""Begins the name of an upload whose parts all have checksums: the service wants them of all parts or of none."""


class TrailedBody:
    """A body in chunks, with its checksum behind it; a retry that reads it again takes the checksum anew."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.size = _encoded_size(body.size)

    def blocks(self) -> Iterator[Block]:
        """Yield the encoded content."""
        import google_crc32c

        checksum, left, chunk = 0, self.body.size, 0
        for block in exact_blocks(self.body):
            while block:
                if not chunk:
                    chunk = min(left, BLOCK_SIZE)
                    yield memoryview(_begin_chunk(chunk))
                piece, block = block[:chunk], block[chunk:]
                # It takes no memory that could be written to.
                checksum = google_crc32c.extend(checksum, bytes(piece))
                yield piece
                left, chunk = left - len(piece), chunk - len(piece)
                if not chunk:
                    yield memoryview(b"\r\n")
        yield memoryview(end_body(checksum))


def _begin_chunk(size: int) -> bytes:
    return b"%x\r\n" % size


def end_body(checksum: int) -> bytes:
    """What follows the last chunk."""
    return b"0\r\n%s:%s\r\n\r\n" % (_TRAILER.encode(), base64.b64encode(checksum.to_bytes(4, "big")))


def _encoded_size(size: int) -> int:
    whole, rest = divmod(size, BLOCK_SIZE)
    framing = whole * len(_begin_chunk(BLOCK_SIZE) + b"\r\n") + (len(_begin_chunk(rest) + b"\r\n") if rest else 0)
    return size + framing + len(end_body(0))


def announce_trailer(request: Any, **_: Any) -> None:
    """Tell, in the headers of a request about to be signed, that a trailer follows; a handler of the SDK's events."""
    reader = request.data
    if not isinstance(reader, BodyReader) or not isinstance(reader.body, TrailedBody):
        return
    request.headers["Content-Encoding"] = "aws-chunked"
    request.headers["X-Amz-Trailer"] = _TRAILER
    request.headers["X-Amz-Decoded-Content-Length"] = str(reader.body.body.size)
    # The SDK signs that the payload is unsigned and has a trailer where it would have made one itself.
    request.context["checksum"] = {"request_algorithm": {"algorithm": "crc32c", "in": "trailer", "name": _TRAILER}}


def mark(upload_id: str) -> str:
    """The name of an upload whose parts are to have checksums."""
    return _MARK + upload_id


def unmark(upload_id: str) -> tuple[str, bool]:
    """The service's own name of an upload, and whether its parts have checksums."""
    return upload_id.removeprefix(_MARK), upload_id.startswith(_MARK)
