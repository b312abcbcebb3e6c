"""Pushes into a store that can share disk blocks; few file systems of test machines can, so here one is played."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flexai.checkpoints.errors import SourceChangedError
from flexai.checkpoints.storage.local import PARTIAL_SUFFIX
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block, ClonesFiles
from tests.support.faults import FaultyStorage
from tests.support.machine import PART, Machine, check_all
from tests.support.trees import Tree, noise

SOURCE: Tree = {"a.bin": noise(3 * PART + 17), "b.bin": noise(2 * PART), "small.bin": b"small"}


@dataclass
class CloningStorage(FaultyStorage):
    """A store on a file system that shares blocks, until it does not."""

    clones_left: int = 1000
    cloned: int = 0
    root: Path = field(default_factory=Path)

    def clone_part(self, key: str, upload_id: str, *, offset: int, descriptor: int, start: int, length: int) -> bool:
        """Take a range as it is at this moment, without handing it over."""
        if not self.clones_left:
            return False
        self.clones_left -= 1
        self.cloned += length
        with self._partial(key, upload_id).open("r+b") as file:
            file.seek(offset)
            file.write(os.pread(descriptor, length, start))
        return True

    def read_upload(self, key: str, upload_id: str, *, start: int, length: int) -> Iterator[Block]:
        """What has been taken."""
        with self._partial(key, upload_id).open("rb") as file:
            file.seek(start)
            yield memoryview(file.read(length))

    def _partial(self, key: str, upload_id: str) -> Path:
        path = self.root / key
        return path.with_name(f".{path.name}.{upload_id}{PARTIAL_SUFFIX}")


@pytest.fixture
def storage(machine: Machine) -> CloningStorage:
    """The machine's store, which clones from now on."""
    storage = CloningStorage(machine.storage.inner, root=machine.store_folder)
    assert isinstance(storage, ClonesFiles)
    machine.storage = storage
    machine.system.store = ManagedStore(storage)
    return storage


def test_large_files_are_cloned_and_not_sent(machine: Machine, storage: CloningStorage) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    assert storage.cloned == 5 * PART + 17
    assert storage.named("put_part") == []
    check_all(machine, ["llama"], SOURCE)


@pytest.mark.parametrize("clones", [0, 1, 4])
def test_a_file_system_that_does_not_share_blocks_gets_the_bytes(
    machine: Machine, storage: CloningStorage, clones: int
) -> None:
    storage.clones_left = clones
    machine.push("llama", machine.write("run", SOURCE))
    assert storage.cloned + sum(call.size for call in storage.named("put_part")) == 5 * PART + 17
    check_all(machine, ["llama"], SOURCE)


def test_the_digest_is_that_of_the_clone_whatever_becomes_of_the_source(
    machine: Machine, storage: CloningStorage
) -> None:
    source = machine.write("run", SOURCE)
    real = storage.read_upload

    def read_upload(key: str, upload_id: str, *, start: int, length: int) -> Iterator[Block]:
        with (source / "a.bin").open("r+b") as file:
            file.write(b"written between the clone and its digest")
        return real(key, upload_id, start=start, length=length)

    storage.read_upload = read_upload  # type: ignore[method-assign]
    with pytest.raises(SourceChangedError):
        machine.push("llama", source)
    storage.read_upload = real  # type: ignore[method-assign]
    machine.push("llama", source)
    check_all(machine, ["llama"], {path: (source / path).read_bytes() for path in SOURCE})
