"""Content that a provider copied by itself: no process of ours has seen its bytes, so it has no digest at first.

Until its first reading the provider's own checksum is all that is known of it, and that reading is compared with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from flexai.checkpoints.contents import CLAIMED, StoredContent
from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.transfer.digest import Part, digest_each, digest_parts, parts_of
from flexai.checkpoints.transfer.journal import RecordDigests
from flexai.checkpoints.transfer.stored_body import StoredBody


class Hasher(Protocol):
    """A checksum in the making."""

    def update(self, data: Block, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """The checksum so far."""


class _Crc32c:
    """CRC-32C as providers write it: big-endian (RFC 3720, appendix B.4)."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Block) -> None:
        import google_crc32c

        self._value = google_crc32c.extend(self._value, bytes(data))

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _hasher(name: str) -> Hasher:
    import hashlib  # few contents have one of these, and none that came from this machine

    return hashlib.new(name, usedforsecurity=False)


HASHERS: Mapping[str, Callable[[], Hasher]] = {
    "crc32c": _Crc32c,
    **{name: partial(_hasher, name) for name in ("sha256", "sha1", "md5")},
}
"""The checksums that are compared here, the cheapest first: one of them is enough."""


def check_checksum(content: StoredContent, blocks: Iterable[Block]) -> None:
    """Compare a content's bytes with one of its provider's checksums, where that is of a kind known here.

    The blocks are read to their end. Raises IntegrityError where they are not what the provider copied.
    """
    name = next((name for name in HASHERS if name in content.checksums), None)
    hasher = None if name is None else HASHERS[name]()
    for block in blocks:
        if hasher is not None:
            hasher.update(block)
    if name is not None and hasher is not None and hasher.hexdigest() != content.checksums[name].lower():
        raise IntegrityError(
            f"blob {content.blob_id} does not match its provider's {name.upper()}", blob_id=content.blob_id
        )


class FirstReading:
    """The digests of a content's parts as its first reading takes them, by any threads in any order."""

    def __init__(self, content: StoredContent) -> None:
        self._content = content
        self._digests: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def take(self, part: Part, digest: bytes) -> None:
        """Note the digest of a part."""
        with self._lock:
            self._digests[part.number] = digest

    def record(self, record: RecordDigests) -> StoredContent:
        """Record what was learned, once all parts were read; IntegrityError where a manifest claimed another digest."""
        content = self._content
        digests = [self._digests[part.number] for part in parts_of(content.size, content.part_size)]
        learned = content._replace(digest=digest_parts(digests), part_digests=b"".join(digests))
        claimed = content.checksums.get(CLAIMED)
        if claimed is not None and learned.digest != bytes.fromhex(claimed):
            raise IntegrityError(
                f"blob {content.blob_id} is not what the manifest that it comes from says",
                hint="delete the checkpoint, and push it from a source that can be trusted",
                blob_id=content.blob_id,
            )
        record(learned)
        return learned


def learn(
    content: StoredContent, *, store: ManagedStore, record: RecordDigests, check: Callable[[], None]
) -> StoredContent:
    """Read a content that has no digest yet and record the digests; one that has is returned as it is.

    ``check`` is called between blocks and raises where the work is being given up. Raises IntegrityError where the
    content is gone or not what the provider copied.
    """
    if content.digest is not None:
        return content
    reading = FirstReading(content)

    def blocks() -> Iterable[Block]:
        for block in StoredBody(store, content.blob_id, content.start, content.size).blocks():
            check()
            yield block

    parts = parts_of(content.size, content.part_size)
    check_checksum(content, digest_each(parts, blocks(), reading.take))
    return reading.record(record)
