"""What tests of pushes share: a checkpoint of every kind of file, and counts of what moved and what was read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults import Call
from tests.support.machine import SOURCE as machine_source
from tests.support.machine import Machine
from tests.support.trees import Tree

SOURCE: Tree = machine_source | {"empty.txt": b""}
"""A checkpoint of large files, small ones that go into a pack, and an empty one."""
SIZE = sum(map(len, SOURCE.values()))


def blob_writes(machine: Machine) -> list[Call]:
    """The requests that sent content to the store."""
    return [call for call in machine.storage.named("put", "put_part") if call.key.startswith("blobs/")]


def moved(machine: Machine) -> int:
    """Bytes of content that were sent to the store."""
    return sum(call.size for call in blob_writes(machine))


class Reads:
    """Counts the bytes that are read from local files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_inode: dict[int, int] = {}
        real = os.preadv

        def preadv(descriptor: int, buffers: Any, offset: int) -> int:
            count = real(descriptor, buffers, offset)
            inode = os.fstat(descriptor).st_ino
            self.by_inode[inode] = self.by_inode.get(inode, 0) + count
            return count

        monkeypatch.setattr(os, "preadv", preadv)

    def of(self, folder: Path) -> dict[str, int]:
        """How many bytes were read of each file of a folder."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): self.by_inode.get(path.stat().st_ino, 0) for path in paths}
