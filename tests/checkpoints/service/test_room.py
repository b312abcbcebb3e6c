"""Room is looked at before anything is written: a fetch or a push that cannot fit says so at once."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.errors import StorageFullError
from flexai.checkpoints.service.preview import preview_fetch, preview_push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.storage.files import free_space
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import HasRoom
from flexai.checkpoints.transfer.partial_files import partial_path
from tests.support.faults import FaultyStorage
from tests.support.fixtures import NewMachine
from tests.support.machine import KIB, Machine
from tests.support.progress import Counter
from tests.support.small_disk import SmallDisk, needs_tmpfs, small_disk
from tests.support.trees import Tree, noise, read_tree

pytestmark = needs_tmpfs

FILES: Tree = {
    "large.bin": noise(600 * KIB, "large"),
    "other.bin": noise(600 * KIB, "other"),
    **{f"small/{number}.bin": noise(10 * KIB, number) for number in range(20)},
}
SIZE = sum(map(len, FILES.values()))
NUMBERS = re.compile(r"no space is left in .* for what is (pushed|fetched): (.*) are needed, and (.*) are free")


def told(caught: pytest.ExceptionInfo[StorageFullError]) -> tuple[str, str]:
    """How much is needed, and how much is free, as the error says."""
    found = NUMBERS.fullmatch(caught.value.message)
    assert found is not None, caught.value.message
    return found[2], found[3]


def stands(machine: Machine, store: Path) -> FaultyStorage:
    """Put the store on another file system; returns its storage, which counts."""

    class Roomy(FaultyStorage):
        def free_space(self) -> int | None:
            assert isinstance(self.inner, HasRoom)
            return self.inner.free_space()

    storage = Roomy(LocalStorage(store, private=True))
    machine.system.store.storage = storage
    return storage


# Fetch


def test_a_fetch_that_cannot_fit_writes_nothing(machine: Machine) -> None:
    machine.push("llama", machine.write("run", FILES))
    with small_disk(machine.root / "disk", 1024) as disk:
        free = free_space(disk.folder)
        assert free is not None
        with pytest.raises(StorageFullError) as caught:
            machine.fetch("llama", "disk/deep/out")
        assert told(caught) == (human_size(SIZE), human_size(free))
        planned = preview_fetch(machine.system, FetchRequest("llama", str(disk.folder / "deep" / "out")))
        assert planned.conflict is not None
        assert planned.conflict.message == caught.value.message
        assert list(disk.folder.iterdir()) == []
        disk.grow(4 * SIZE // KIB)
        machine.fetch("llama", "disk/deep/out")
        assert read_tree(disk.folder / "deep" / "out") == FILES


def test_what_is_there_already_needs_no_room(machine: Machine) -> None:
    machine.push("llama", machine.write("run", FILES))
    with small_disk(machine.root / "disk", SIZE // KIB + 100) as disk:
        machine.fetch("llama", "disk/out")
        machine.fetch("llama", "disk/out")
        (disk.folder / "out" / "large.bin").unlink()
        machine.fetch("llama", "disk/out")
        assert read_tree(disk.folder / "out") == FILES


def test_what_an_interrupted_fetch_left_needs_no_room_again(machine: Machine) -> None:
    machine.push("llama", machine.write("run", {"large.bin": FILES["large.bin"]}))
    (file,) = machine.system.blobs.files_of(machine.checkpoint("llama").id)
    with small_disk(machine.root / "disk", 800) as disk:
        (disk.folder / "out").mkdir()
        left = disk.folder / "out" / partial_path(file.path, file.content)
        left.write_bytes(FILES["large.bin"][: 500 * KIB])
        os.truncate(left, len(FILES["large.bin"]))
        machine.fetch("llama", "disk/out")
        assert read_tree(disk.folder / "out") == {"large.bin": FILES["large.bin"]}


# Push


def test_a_push_that_cannot_fit_stores_nothing(machine: Machine) -> None:
    source = machine.write("run", FILES)
    with small_disk(machine.root / "disk", 1024) as disk:
        storage = stands(machine, disk.folder)
        free = free_space(disk.folder)
        assert free is not None
        with pytest.raises(StorageFullError) as caught:
            machine.push("llama", source)
        assert told(caught) == (human_size(SIZE), human_size(free))
        planned = Counter()
        preview_push(machine.system, PushRequest("llama", [str(source)]), progress=planned)
        (note,) = planned.notes
        assert note.endswith(f"has {human_size(free)} free, and up to {human_size(SIZE)} would come")
        assert storage.received == 0
        assert read_tree(disk.folder) == {}
        assert machine.checkpoints() == []
        _grow(disk)
        machine.push("llama", source)
        assert machine.fetched("llama") == FILES


def _grow(disk: SmallDisk) -> None:
    disk.grow(4 * SIZE // KIB)


def test_what_the_store_has_already_needs_no_room(machine: Machine) -> None:
    source = machine.write("run", FILES)
    with small_disk(machine.root / "disk", SIZE // KIB + 200) as disk:
        stands(machine, disk.folder)
        machine.push("llama", source)
        machine.push("mistral", source)
        machine.push("phi", source, rehash=True)
        assert machine.fetched("phi") == FILES


def test_holes_need_no_room(new_machine: NewMachine) -> None:
    machine = new_machine(part_size=4 * KIB * KIB)
    source = machine.root / "sparse.bin"
    with source.open("wb") as file:
        file.truncate(64 * KIB * KIB)
        file.seek(32 * KIB * KIB)
        file.write(b"not only a hole")
    with small_disk(machine.root / "disk", 4096) as disk:
        stands(machine, disk.folder)
        machine.push("sparse", source)
        assert machine.fetched("sparse") == {"sparse.bin": source.read_bytes()}


def test_equal_files_need_room_once(machine: Machine) -> None:
    same = {f"copy-{number}.bin": FILES["large.bin"] for number in range(5)}
    same |= {f"small/{number}.bin": FILES["small/1.bin"] for number in range(50)}
    with small_disk(machine.root / "disk", 1024) as disk:
        stands(machine, disk.folder)
        machine.push("llama", machine.write("run", same))
        assert machine.fetched("llama") == same


def test_parts_that_have_arrived_need_no_room_again(new_machine: NewMachine) -> None:
    machine = new_machine(part_size=100 * KIB)
    source = machine.write("run", {"large.bin": FILES["large.bin"]})
    with small_disk(machine.root / "disk", 800) as disk:
        storage = stands(machine, disk.folder)

        def stop(_number: int, call: object) -> None:
            if len(storage.named("put_part")) > 5:
                raise KeyboardInterrupt

        storage.before_call = stop
        with pytest.raises(KeyboardInterrupt):
            machine.push("llama", source)
        storage.before_call = None
        machine.push("llama", source)
        assert machine.fetched("llama") == {"large.bin": FILES["large.bin"]}


def test_a_file_system_that_does_not_tell_its_room_is_used(machine: Machine) -> None:
    assert free_space(Path("/proc")) is None
    assert free_space(machine.root / "not" / "there" / "yet") is not None
