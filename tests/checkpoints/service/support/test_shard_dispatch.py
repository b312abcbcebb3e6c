"""Shards that run one after the other or at once, each with a catalog and a store that it opened by itself."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import select

from flexai.checkpoints.catalog.tables import blobs, contents
from flexai.checkpoints.errors import (
    CheckpointError,
    ConflictError,
    DestinationExistsError,
    IntegrityError,
    SettingsError,
    SourceChangedError,
    SourceError,
    StorageUnavailableError,
    UnsafePathError,
    UnsupportedError,
)
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.fetch import is_large
from flexai.checkpoints.service.mirror import MirrorReport, mirror, run_mirror_shard
from flexai.checkpoints.service.mirror import is_large as is_large_mirror
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.store_requests import MirrorRequest
from flexai.checkpoints.service.support.shard_work import (
    ExportedShard,
    ExportShard,
    FetchedShard,
    FetchShard,
    MirroredShard,
    MirrorShard,
    PushedShard,
    PushShard,
    ShardSource,
    run_export_shard,
    run_fetch_shard,
    run_push_shard,
)
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.transfer.fetch import WITNESS
from flexai.checkpoints.transfer.scan import scan_local
from tests.hostile.swaps import swap
from tests.support.faults import Call
from tests.support.machine import PART, Machine, check_nothing_is_left_over, check_nothing_is_torn
from tests.support.progress import Counter
from tests.support.tables import tables_of
from tests.support.trees import Tree, flip_byte, noise, read_tree, write_tree

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
    given: list[PushShard | ExportShard | FetchShard | MirrorShard] = field(default_factory=list)

    def push(self, shards: Sequence[PushShard]) -> Iterator[PushedShard]:
        """Run shards of a push."""
        return self._run(shards, run_push_shard)

    def export(self, shards: Sequence[ExportShard]) -> Iterator[ExportedShard]:
        """Run shards of an export."""
        return self._run(shards, run_export_shard)

    def fetch(self, shards: Sequence[FetchShard]) -> Iterator[FetchedShard]:
        """Run shards of a fetch."""
        return self._run(shards, run_fetch_shard)

    def mirror(self, shards: Sequence[MirrorShard]) -> Iterator[MirroredShard]:
        """Run shards of a mirror."""
        return self._run(shards, run_mirror_shard)

    def fetches(self, *, compares: bool = False) -> list[FetchShard]:
        """The shards of a fetch that were given out."""
        return [one for one in self.given if isinstance(one, FetchShard) and one.compares == compares]

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
    assert {one.storage_provider for one in shards.given if isinstance(one, PushShard)} == {"lab"}


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


def test_an_export_in_shards_goes_to_a_service_that_takes_no_parts(machine: Machine) -> None:
    def refuse(_: int, call: Call) -> None:
        if call.name == "start_upload":
            raise UnsupportedError("no uploads in parts here")

    machine.push("llama", machine.write("run", SOURCE))
    machine.buckets.storage.before_call = refuse
    shards = Shards(machine)
    assert machine.export("llama", runner=shards).exported_files == len(SOURCE)
    assert not any(isinstance(one, ExportShard) and one.upload_id for one in shards.given)
    assert machine.buckets.tree("bucket/place") == SOURCE


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


@pytest.mark.parametrize("threads", [1, 4])
def test_a_fetch_in_shards_brings_the_same_files(machine: Machine, threads: int) -> None:
    folder = machine.write("run", SOURCE)
    (folder / "nothing").mkdir()
    (folder / "huge.safetensors").chmod(0o755)
    machine.push("llama", folder)
    shards, counter = Shards(machine, threads=threads), Counter()
    report = machine.fetch("llama", runner=shards, progress=counter)
    out = machine.root / "out"
    assert read_tree(out) == SOURCE
    assert (out / "nothing").is_dir()
    assert os.access(out / "huge.safetensors", os.X_OK)
    assert (report.fetched_files, report.kept_files, report.moved_bytes) == (len(SOURCE), 0, SIZE)
    assert (counter.moved, counter.files) == (SIZE, len(SOURCE))
    whole = [path for shard in shards.fetches() for path in shard.paths if not shard.place]
    assert sorted(whole) == sorted(SOURCE.keys() - {"huge.safetensors"}), "a file has two shards, or none"
    numbers = [number for shard in shards.fetches() if shard.place for number in range(*shard.numbers)]
    assert sorted(numbers) == list(range(1, 11)), "a part has two shards, or none"
    assert len(shards.fetches()) >= 6
    assert shards.fetches(compares=True) == []


def test_a_fetch_again_compares_in_shards_and_moves_nothing(machine: Machine) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    machine.fetch("llama")
    shards, counter = Shards(machine), Counter()
    report = machine.fetch("llama", runner=shards, progress=counter)
    assert (report.fetched_files, report.kept_files) == (0, len(SOURCE))
    assert (counter.moved, counter.skipped, counter.files) == (0, SIZE, len(SOURCE))
    assert shards.fetches() == []
    assert len(shards.fetches(compares=True)) >= 3
    assert read_tree(machine.root / "out") == SOURCE


def test_a_fetch_whose_shard_fails_says_so_and_the_next_moves_only_the_rest(machine: Machine) -> None:
    def fail(number: int) -> None:
        if number == 3:
            raise StorageUnavailableError("the worker lost its network")

    machine.push("llama", machine.write("run", SOURCE))
    with pytest.raises(StorageUnavailableError):
        machine.fetch("llama", runner=Shards(machine, at=fail))
    there = read_tree(machine.root / "out")
    arrived = {path: content for path, content in there.items() if not path.endswith(PARTIAL_SUFFIX)}
    assert there
    assert all(SOURCE[path] == content for path, content in arrived.items())
    report = machine.fetch("llama", runner=Shards(machine))
    assert (report.kept_files, report.fetched_files) == (len(arrived), len(SOURCE) - len(arrived))
    assert read_tree(machine.root / "out") == SOURCE


def test_a_shard_goes_on_with_what_a_dead_one_left_of_a_file(machine: Machine) -> None:
    machine.push("llama", machine.write("run", {"huge.safetensors": SOURCE["huge.safetensors"], "b.bin": b"b" * PART}))
    machine.storage.reset()
    machine.storage.down_from = 5
    with pytest.raises(StorageUnavailableError):
        machine.fetch("llama")
    machine.storage.reset()
    counter = Counter()
    machine.fetch("llama", runner=Shards(machine, shard_size=PART), progress=counter)
    assert counter.skipped >= 2 * PART
    assert counter.moved + counter.skipped == 10 * PART + 17
    assert len(read_tree(machine.root / "out")) == 2


def test_a_shard_of_a_fetch_that_runs_twice_moves_nothing_twice(machine: Machine) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    shards, counter = Shards(machine, tries=2), Counter()
    report = machine.fetch("llama", runner=shards, progress=counter)
    # Of the file that was cut the parts were there, and not yet the file.
    assert (report.kept_files, report.fetched_files) == (len(SOURCE) - 1, 1)
    assert (counter.moved, counter.skipped, counter.files) == (0, SIZE, len(SOURCE))
    assert read_tree(machine.root / "out") == SOURCE


def test_the_parts_that_arrived_before_a_shard_failed_do_not_move_again(machine: Machine) -> None:
    def fail(number: int) -> None:
        if number == 3:
            raise StorageUnavailableError("the worker lost its network")

    machine.push("llama", machine.write("run", {"huge.safetensors": SOURCE["huge.safetensors"]}))
    with pytest.raises(StorageUnavailableError):
        machine.fetch("llama", runner=Shards(machine, shard_size=PART, at=fail))
    (left,) = read_tree(machine.root / "out")
    assert left.endswith(PARTIAL_SUFFIX)
    counter = Counter()
    machine.fetch("llama", runner=Shards(machine, shard_size=PART), progress=counter)
    assert (counter.skipped, counter.moved) == (2 * PART, 7 * PART + 17)
    assert read_tree(machine.root / "out") == {"huge.safetensors": SOURCE["huge.safetensors"]}


def test_a_shard_whose_file_got_its_name_meanwhile_writes_nothing_more_into_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the process that gave out the shard is dead, and a later fetch has completed the file."""
    machine.push("llama", machine.write("run", {"huge.safetensors": SOURCE["huge.safetensors"]}))
    out, owners = machine.root / "out", b"?" * (9 * PART + 17)
    read_blob = ManagedStore.read_blob
    is_taken = False

    def take(store: ManagedStore, blob_id: str, *, start: int, length: int) -> Iterator[Block]:
        nonlocal is_taken
        for block in read_blob(store, blob_id, start=start, length=length):
            if start == 5 * PART and not is_taken:
                (partial,) = out.glob(f".huge*{PARTIAL_SUFFIX}")
                partial.rename(out / "taken").write_bytes(owners)
                is_taken = True
            yield block

    monkeypatch.setattr(ManagedStore, "read_blob", take)
    machine.fetch("llama", runner=Shards(machine, shard_size=5 * PART))
    assert read_tree(out) == {"huge.safetensors": SOURCE["huge.safetensors"], "taken": owners}


def test_a_file_whose_digest_is_not_known_is_fetched_by_one_shard(machine: Machine) -> None:
    write_tree(machine.buckets.root / "bucket" / "from", SOURCE)
    machine.push_from("llama", "bucket/from")
    with tables_of(machine.system.catalog.database) as connection:
        connection.execute(contents.update().values(digest=None, part_digests=b""))
    shards = Shards(machine)
    machine.fetch("llama", runner=shards)
    assert len(shards.fetches()) >= 3
    assert not any(shard.place for shard in shards.fetches())


def test_damage_that_a_shard_finds_is_told_and_all_else_is_fetched(machine: Machine) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    flip_byte(machine.blob_of("llama", "large.safetensors"))
    flip_byte(machine.blob_of("llama", "huge.safetensors"), 3 * PART)
    with pytest.raises(IntegrityError, match=r"of 2 files is damaged: 'huge\.safetensors', 'large\.safetensors'"):
        machine.fetch("llama", runner=Shards(machine, threads=2))
    found = {path: text for path, text in read_tree(machine.root / "out").items() if not path.endswith(PARTIAL_SUFFIX)}
    sound = {path: text for path, text in SOURCE.items() if path not in {"huge.safetensors", "large.safetensors"}}
    assert found == sound
    known = machine.system.soundness.damaged()
    assert len(known) == 2


def test_other_content_in_the_way_of_a_fetch_is_found_before_a_shard_writes(machine: Machine) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    there: Tree = {path: content[:-1] + b"?" for path, content in SOURCE.items() if content}
    out = machine.write("out", there)
    shards = Shards(machine)
    with pytest.raises(DestinationExistsError):
        machine.fetch("llama", runner=shards)
    assert shards.fetches() == []
    assert read_tree(out) == there
    machine.fetch("llama", runner=shards, overwrite=True)
    assert read_tree(out) == SOURCE


def test_a_machine_that_has_another_directory_there_writes_nothing_and_this_one_does_its_work(
    machine: Machine,
) -> None:
    elsewhere = machine.write("elsewhere", {"own.txt": b"another's"})

    class Mixed(Shards):
        """Of two machines one does not share the directory."""

        def fetch(self, shards: Sequence[FetchShard]) -> Iterator[FetchedShard]:
            """Run every second shard on the one that does not."""
            return super().fetch(
                [replace(one, destination=str(elsewhere)) if number % 2 else one for number, one in enumerate(shards)]
            )

    machine.push("llama", machine.write("run", SOURCE))
    counter = Counter()
    report = machine.fetch("llama", runner=Mixed(machine), progress=counter)
    assert read_tree(machine.root / "out") == SOURCE
    assert read_tree(elsewhere) == {"own.txt": b"another's"}
    assert (report.fetched_files, counter.files, counter.moved) == (len(SOURCE), len(SOURCE), SIZE)
    assert any("is another directory: this process fetches them" in note for note in counter.notes)
    counter = Counter()
    report = machine.fetch("llama", runner=Mixed(machine), progress=counter)
    assert (report.kept_files, counter.moved, counter.skipped) == (len(SOURCE), 0, SIZE)


@pytest.mark.parametrize("in_shards", [True, False])
def test_what_a_killed_fetch_in_shards_left_is_taken_away(machine: Machine, in_shards: bool) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    out = machine.write("out", {f".{WITNESS}.0123{PARTIAL_SUFFIX}": b"", "config.json": SOURCE["config.json"]})
    counter = Counter()
    report = machine.fetch("llama", runner=Shards(machine) if in_shards else None, progress=counter)
    assert (report.extra_files, counter.notes) == (0, [])
    assert read_tree(out) == SOURCE


def test_no_shard_writes_through_a_link_that_took_a_folder_s_place(machine: Machine) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    outside = machine.write("outside", {"own.txt": b"another's"})
    swapped = threading.Event()

    def swap_once(number: int) -> None:
        if number == 1:
            swap(machine.root / "out" / "tokens", outside)
            swapped.set()

    with pytest.raises(UnsafePathError):
        machine.fetch("llama", runner=Shards(machine, at=swap_once))
    assert swapped.is_set()
    assert read_tree(outside) == {"own.txt": b"another's"}


def test_a_fetch_of_one_part_of_a_checkpoint_is_cut_by_what_is_asked_for(machine: Machine) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    shards = Shards(machine)
    machine.fetch("llama", runner=shards, include=["tokens/"])
    assert shards.given == []
    request = FetchRequest("llama", str(machine.root / "out"), include=("tokens/",))
    assert not is_large(machine.system, request, shards.shard_size)
    assert is_large(machine.system, replace(request, include=("huge*",)), shards.shard_size)


def _push_for_a_mirror(machine: Machine) -> dict[str, Tree]:
    """Push a large checkpoint and six small ones; returns what they hold."""
    trees: dict[str, Tree] = {f"small-{number}": {"a.bin": noise(PART, f"small-{number}")} for number in range(6)}
    trees["large"] = SOURCE
    for name, tree in trees.items():
        machine.push(name, machine.write(f"run-{name}", tree))
    return trees


def _mirror(machine: Machine, runner: Shards, **options: Any) -> MirrorReport:
    return mirror(machine.system, MirrorRequest("lab", "bucket/mirror", **options), runner=runner)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_mirror_in_shards_copies_several_checkpoints_in_one_and_a_large_one_in_several(
    machine: Machine, threads: int
) -> None:
    trees = _push_for_a_mirror(machine)
    request = MirrorRequest("lab", "bucket/mirror")
    assert is_large_mirror(machine.system, request, 3 * PART)
    assert not is_large_mirror(machine.system, request, 100 * PART)
    shards = Shards(machine, threads=threads)
    told: list[str] = []
    counter = Counter()
    report = mirror(
        machine.system,
        request,
        runner=shards,
        on_copied=lambda done: told.append(done.checkpoint.name),
        progress=counter,
    )
    assert {name: machine.buckets.tree(f"bucket/mirror/{name}") for name in trees} == trees
    assert {one.checkpoint.name for one in report.copied} == set(told) == trees.keys()
    assert len(told) == len(trees)
    assert report.moved_bytes == counter.moved == SIZE + 6 * PART
    groups = [{one.name for one in shard.checkpoints} for shard in shards.given if isinstance(shard, MirrorShard)]
    assert sorted(map(len, groups)) == [3, 3]
    assert set().union(*groups) == trees.keys() - {"large"}
    assert len([shard for shard in shards.given if isinstance(shard, ExportShard)]) >= 4
    # What is there costs one question, and no shard.
    again = Shards(machine)
    report = _mirror(machine, again)
    assert {one.checkpoint.name for one in report.skipped} == trees.keys()
    assert (len(report.copied), len(again.given)) == (0, 0)


def test_a_mirror_whose_shard_is_lost_is_continued(machine: Machine) -> None:
    trees = _push_for_a_mirror(machine)

    def fail(number: int) -> None:
        if number == 2:
            raise StorageUnavailableError("the worker lost its network")

    with pytest.raises(StorageUnavailableError):
        _mirror(machine, Shards(machine, at=fail))
    report = _mirror(machine, Shards(machine))
    assert (len(report.skipped), len(report.copied)) == (3, 4)
    assert {name: machine.buckets.tree(f"bucket/mirror/{name}") for name in trees} == trees


def test_a_checkpoint_that_a_shard_cannot_copy_is_named_and_the_others_are_copied(machine: Machine) -> None:
    trees = _push_for_a_mirror(machine)
    flip_byte(machine.blob_of("small-1", "a.bin"))
    flip_byte(machine.blob_of("large", "large.safetensors"))
    report = _mirror(machine, Shards(machine))
    assert report.failed.keys() == {"small-1", "large"}
    assert {one.checkpoint.name for one in report.copied} == trees.keys() - report.failed.keys()
    with pytest.raises(CheckpointError, match="2 of 7 checkpoints could not be mirrored"):
        report.raise_if_failed()


@pytest.mark.parametrize(("named", "failed"), [(False, set()), (True, {"small-4"})])
def test_a_checkpoint_that_is_deleted_before_its_shard_fails_only_the_mirror_that_named_it(
    machine: Machine, named: bool, failed: set[str]
) -> None:
    trees = _push_for_a_mirror(machine)

    def delete_one(number: int) -> None:
        if number == 1:
            with machine.again() as other:
                delete(other.system, DeleteRequest("small-4"))

    report = _mirror(machine, Shards(machine, at=delete_one), checkpoints=tuple(trees) if named else ())
    assert report.failed.keys() == failed
    assert {one.checkpoint.name for one in report.copied} == trees.keys() - {"small-4"}


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
