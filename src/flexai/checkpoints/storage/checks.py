"""What every store checks: that a key is safe, that a body has the size it said, that an upload's parts are all there.

Object stores take nearly any text as a key, but HTTP clients and servers that keep objects as files normalise ``..``
and ``//``, XML cannot hold control characters, and a directory has no name for ``a/``. So such keys are refused at
every door of every store, whatever the provider would make of them. A listing still yields what others have put there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from flexai.checkpoints.errors import SourceChangedError, StorageError, UnsafePathError
from flexai.checkpoints.storage.protocol import Block, Body, ObjectInfo, PartReceipt

PARTIAL_SUFFIX = ".flexai-partial"
"""Ends the name of what is still being written: ``.NAME.ID.flexai-partial`` beside its final name."""

MAX_KEY_BYTES = 1024
"""UTF-8 bytes; S3's and GCS's limit: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html,
https://cloud.google.com/storage/docs/objects#naming."""

MAX_LISTED = 250_000
"""Objects that a caller keeps of one listing, which take 200 MB: those of a push, of a repository of the Hub."""
MAX_BESIDE = 1_000_000
"""Objects that a caller looks through for its own."""
_MAX_MEAN_NAME = 256
"""Characters."""

# Control characters, halves of surrogate pairs and non-characters: none can stand in XML 1.0.
_UNSAYABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def target_name(partial_name: str) -> str:
    """The name of the file that an unfinished one is of: ``.NAME.ID`` and the suffix."""
    return partial_name.removesuffix(PARTIAL_SUFFIX).removeprefix(".").rpartition(".")[0]


def check_key(key: str, location: str) -> str:
    """Return the key if it is safe in every store; ``location`` is how an error calls the store.

    Raises UnsafePathError for a key with an empty part, ``.``, ``..``, or a character that a protocol cannot carry, for
    one that is too long, and for one with the name of an unfinished upload.
    """
    parts = key.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise UnsafePathError(f"key {key!r} could leave {location}")
    if _UNSAYABLE.search(key):
        raise UnsafePathError(f"key {key!r} has a character that cannot be sent to every store")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise UnsafePathError(f"key {key[:40]!r}… is longer than {MAX_KEY_BYTES} bytes")
    if any(part.endswith(PARTIAL_SUFFIX) for part in parts):
        raise UnsafePathError(f"key {key!r} ends like an unfinished upload's ({PARTIAL_SUFFIX})")
    return key


def few_enough(listed: Iterable[ObjectInfo], where: str, most: int = MAX_LISTED) -> Iterator[ObjectInfo]:
    """Yield a listing for a caller that keeps all of it; StorageError where it has more than ``most`` objects."""
    names = 0
    for count, info in enumerate(listed, start=1):
        names += len(info.key)
        if count > most or names > most * _MAX_MEAN_NAME:
            raise StorageError(
                f"{where} has more than {most:,} objects, or too long names", hint="name a folder that has fewer"
            )
        yield info


def exact_blocks(body: Body) -> Iterator[Block]:
    """Yield a body's content from its start.

    Raises SourceChangedError as soon as it is clear that there are more or fewer bytes than the body said: a store
    would pad it, cut it, or wait for the rest.
    """
    count = 0
    for block in body.blocks():
        count += len(block)
        if count > body.size:
            raise SourceChangedError(f"the source has more than the {body.size} bytes that it had at first")
        yield block
    if count < body.size:
        raise SourceChangedError(f"the source has only {count} of the {body.size} bytes that it had at first")


def sort_receipts(receipts: Iterable[PartReceipt], what: str) -> Sequence[PartReceipt]:
    """The receipts of an upload in order of their numbers; ``what`` is how an error calls the object.

    Raises StorageError where a number is missing or given twice, because the object would lack a piece.
    """
    ordered = sorted(receipts, key=lambda receipt: receipt.number)
    for number, receipt in enumerate(ordered, start=1):
        if receipt.number != number:
            raise StorageError(f"{what} cannot be completed: part {number} of {len(ordered)} is missing or doubled")
    return ordered
