"""Shards that run one after the other or at once, each with a catalog and a store that it opened by itself."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import select

from flexai.checkpoints.catalog.tables import blobs
from flexai.checkpoints.errors import (
    ConflictError,
    DestinationExistsError,
    SettingsError,
    SourceChangedError,
    SourceError,
    StorageUnavailableError,
)
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.support.shard_work import (
    ExportedShard,
    ExportShard,
    PushedShard,
    PushShard,
    ShardSource,
    run_export_shard,
    run_push_shard,
)
from flexai.checkpoints.transfer.scan import scan_local
from tests.hostile.swaps import swap
from tests.support.machine import PART, Machine, check_nothing_is_left_over, check_nothing_is_torn
from tests.support.progress import Counter
from tests.support.tables import tables_of
from tests.support.trees import Tree, noise, write_tree

S = TypeVar("S")
R = TypeVar("R")

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "empty.txt": b"",
    "huge.safetensors": noise(9 * PART + 17, "huge"),
    "large.safetensors": noise(2 * PART, "large"),
    "large-too.safetensors": noise(2 * PART + 1, "large-too"),
    **{f"tokens/{number}.bin": noise(5000 + number, str(number)) for number in range(20)},
}
SIZE = sum(map(len, SOURCE.values()))


@dataclass
class Shards:
    """Runs shards, by default one after the other; ``at`` may do something before one runs."""

    machine: Machine
    shard_size: int = 3 * PART
    threads: int = 1
    at: Callable[[int], None] = lambda number: None
    tries: int = 1
    given: list[PushShard | ExportShard] = field(default_factory=list)

    def push(self, shards: Sequence[PushShard]) -> Iterator[PushedShard]:
        """Run shards of a push."""
        return self._run(shards, run_push_shard)

    def export(self, shards: Sequence[ExportShard]) -> Iterator[ExportedShard]:
        """Run shards of an export."""
        return self._run(shards, run_export_shard)

    def _run(self, shards: Sequence[S], run: Callable[..., R]) -> Iterator[R]:
        def one(shard: S) -> R:
            self.given.append(shard)  # type: ignore[arg-type]
            self.at(len(self.given))
            with self.machine.again() as elsewhere:
                elsewhere.system.connect = self.machine.connect  # its buckets count
                moved = pickle.loads(pickle.dumps(shard))  # noqa: S301 - our own, as it travels to another machine
                done = [run(elsewhere.system, moved, progress=Progress()) for _ in range(self.tries)][-1]
                return pickle.loads(pickle.dumps(done))  # type: ignore[no-any-return]  # noqa: S301

        if self.threads == 1:
            yield from map(one, shards)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            for future in as_completed([pool.submit(one, shard) for shard in shards]):
                yield future.result()


def _stored_bytes(machine: Machine) -> int:
    with tables_of(machine.system.catalog.database) as connection:
        return sum(connection.execute(select(blobs.c.size)).scalars())


def _cut_paths(shards: Shards) -> set[str]:
    return {one.files[0].path for one in shards.given if isinstance(one, PushShard) and one.blob_id}


@pytest.mark.parametrize("threads", [1, 4])
def test_a_push_in_shards_is_the_same_checkpoint(machine: Machine, threads: int) -> None:
    whole = machine.push("whole", machine.write("run", SOURCE))
    other = {path: content + b"x" for path, content in SOURCE.items()}
    folder = machine.write("other", other)
    shards, counter = Shards(machine, threads=threads), Counter()
    pushed = machine.push("sharded", folder, runner=shards, progress=counter)
    assert pushed.status is CheckpointStatus.AVAILABLE
    assert machine.fetched("sharded") == other
    assert _cut_paths(shards) == {"huge.safetensors"}
    assert len(shards.given) >= 6
    assert (counter.moved, counter.files) == (sum(map(len, other.values())), len(other))
    assert machine.push("again", folder).manifest_digest == pushed.manifest_digest
    assert whole.status is CheckpointStatus.AVAILABLE
    check_nothing_is_torn(machine)
    check_nothing_is_left_over(machine)


def test_a_push_from_a_provider_lists_once_and_reads_each_byte_once(machine: Machine) -> None:
    write_tree(machine.buckets.root / "bucket" / "from", SOURCE)
    shards = Shards(machine)
    assert machine.push_from("llama", "bucket/from", runner=shards).size == SIZE
    assert machine.fetched("llama") == SOURCE
    assert machine.buckets.storage.delivered == SIZE
    assert len(machine.buckets.storage.named("list")) == 1
    assert {one.storage_provider for one in shards.given} == {"lab"}


def test_what_is_smaller_than_a_shard_is_not_cut(machine: Machine) -> None:
    shards = Shards(machine, shard_size=SIZE * 3)
    machine.push("small", machine.write("run", SOURCE), runner=shards)
    machine.export("small", runner=shards)
    assert shards.given == []


def test_a_push_whose_shard_fails_says_so_and_the_next_moves_only_the_rest(machine: Machine) -> None:
    def fail(number: int) -> None:
        if number == 4:
            raise StorageUnavailableError("the worker lost its network")

    folder = machine.write("run", SOURCE)
    with pytest.raises(StorageUnavailableError):
        machine.push("broken", folder, runner=Shards(machine, at=fail))
    assert machine.checkpoint("broken").reason == "the worker lost its network"
    counter, shards = Counter(), Shards(machine)
    machine.push("broken", folder, runner=shards, progress=counter)
    assert counter.moved + counter.skipped == SIZE
    assert counter.skipped >= 3 * PART
    assert machine.fetched("broken") == SOURCE
    machine.collect()
    assert _stored_bytes(machine) == SIZE
    check_nothing_is_left_over(machine)


def test_a_shard_that_runs_twice_stores_nothing_twice(machine: Machine) -> None:
    machine.push("twice", machine.write("run", SOURCE), runner=Shards(machine, tries=2))
    assert machine.fetched("twice") == SOURCE
    assert _stored_bytes(machine) == SIZE


def test_a_source_that_changes_under_the_shards_fails_the_push(machine: Machine) -> None:
    folder = machine.write("run", SOURCE)

    def change(number: int) -> None:
        if number == 3:
            (folder / "large.safetensors").write_bytes(noise(2 * PART, "changed"))
            (folder / "huge.safetensors").write_bytes(noise(9 * PART + 17, "changed"))

    with pytest.raises(SourceChangedError):
        machine.push("changing", folder, runner=Shards(machine, at=change))
    assert machine.checkpoint("changing").status is CheckpointStatus.FAILED


def test_a_shard_of_a_push_that_has_ended_writes_nothing(machine: Machine) -> None:
    shards = Shards(machine)
    machine.push("done", machine.write("run", SOURCE), runner=shards)
    stored = _stored_bytes(machine)
    for shard in shards.given:
        assert isinstance(shard, PushShard)
        with machine.again() as late, pytest.raises(ConflictError):
            run_push_shard(late.system, shard, progress=Progress())
    assert _stored_bytes(machine) == stored


def test_a_machine_with_another_store_is_told_so(machine: Machine) -> None:
    shards = Shards(machine)
    machine.push("here", machine.write("run", SOURCE), runner=shards)
    shard = shards.given[0]
    assert isinstance(shard, PushShard)
    with pytest.raises(SettingsError, match="another one"):
        run_push_shard(
            machine.system,
            replace(shard, store_id="other"),
            progress=Progress(),
        )


def test_what_is_there_already_is_not_stored_by_a_shard(machine: Machine) -> None:
    machine.push("first", machine.write("run", SOURCE))
    stored, counter = _stored_bytes(machine), Counter()
    machine.push("second", machine.write("copy", SOURCE), runner=Shards(machine), progress=counter)
    assert _stored_bytes(machine) == stored
    assert counter.skipped == SIZE


def test_equal_files_of_one_push_are_stored_once(machine: Machine) -> None:
    twins: Tree = {"a.bin": noise(4 * PART, "t"), "b.bin": noise(4 * PART, "t"), "c.bin": noise(4 * PART, "c")}
    machine.push("twins", machine.write("run", twins), runner=Shards(machine, threads=3))
    assert machine.fetched("twins") == twins
    assert _stored_bytes(machine) == 8 * PART


@pytest.mark.parametrize("threads", [1, 4])
def test_an_export_in_shards_is_the_same_export(machine: Machine, threads: int) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    shards, counter = Shards(machine, threads=threads), Counter()
    report = machine.export("llama", runner=shards, progress=counter)
    assert machine.buckets.tree("bucket/place") == SOURCE
    assert (report.exported_files, report.moved_bytes, counter.moved) == (len(SOURCE), SIZE, SIZE)
    assert any(isinstance(one, ExportShard) and one.upload_id for one in shards.given)
    assert list(machine.buckets.storage.inner.list_uploads("")) == []
    again = Shards(machine)
    assert machine.export("llama", runner=again).moved_bytes == 0
    assert not any(isinstance(one, ExportShard) and not one.existing for one in again.given)


def test_a_broken_export_is_continued_and_its_uploads_are_given_up(machine: Machine) -> None:
    def fail(number: int) -> None:
        if number == 4:
            raise StorageUnavailableError("the worker lost its network")

    machine.push("llama", machine.write("run", SOURCE))
    with pytest.raises(StorageUnavailableError):
        machine.export("llama", runner=Shards(machine, at=fail))
    assert list(machine.buckets.storage.inner.list_uploads("")) == []
    report = machine.export("llama", runner=Shards(machine))
    assert machine.buckets.tree("bucket/place") == SOURCE
    assert report.skipped_files + report.exported_files == len(SOURCE)


def test_other_content_in_the_way_is_found_before_a_shard_writes(machine: Machine) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    there = machine.buckets.root / "bucket" / "place" / "large.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(noise(2 * PART, "other"))
    with pytest.raises(DestinationExistsError):
        machine.export("llama", runner=Shards(machine))
    assert [path.name for path in there.parent.iterdir()] == ["large.safetensors"]
    machine.export("llama", runner=Shards(machine), overwrite=True)
    assert machine.buckets.tree("bucket/place") == SOURCE


@pytest.mark.parametrize("below", [".", "deep"])
def test_a_shard_reads_nothing_through_a_link_that_took_a_folder_s_place(tmp_path: Path, below: str) -> None:
    write_tree(tmp_path / "run", {"deep/model.bin": b"mine"})
    (listed,) = scan_local([str(tmp_path / "run")])
    shard_source = ShardSource.of(listed)
    # Of the same size and time, which is all that another machine can compare.
    outside = write_tree(tmp_path / "outside", {"model.bin": b"also", "deep/model.bin": b"also"})
    for path in outside.rglob("*.bin"):
        os.utime(path, ns=(listed.identity[3], listed.identity[3]))
    swap(tmp_path / "run" / below, outside)
    with pytest.raises(SourceError, match=r"model\.bin cannot be read here") as caught:
        shard_source.open(None)
    assert caught.value.hint
