"""What every store checks of an upload: its bodies have the size they said, its parts are all there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flexai.checkpoints.errors import SourceChangedError, StorageError
from flexai.checkpoints.storage.protocol import Block, Body, PartReceipt


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
