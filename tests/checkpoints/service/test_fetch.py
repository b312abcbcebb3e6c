from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from flexai.checkpoints.errors import (
    CheckpointError,
    ConflictError,
    DestinationExistsError,
    IntegrityError,
    NotFoundError,
    StorageError,
    StorageUnavailableError,
    UnsafePathError,
    UsageError,
)
from flexai.checkpoints.service import fetch as fetching
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.storage import files
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.transfer import file_fetch
from flexai.checkpoints.transfer.partial_files import partial_path
from tests.hostile.paths import HOSTILE_PATHS
from tests.hostile.swaps import swap, swapping
from tests.support.faults import Call, Fault
from tests.support.machine import KIB, PART, THRESHOLD, Machine
from tests.support.progress import Counter
from tests.support.tables import tables_of
from tests.support.trees import Tree, flip_byte, noise, read_tree, write_tree

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "empty.txt": b"",
    "model/a.safetensors": noise(3 * PART + 17, "a"),
    "model/b.safetensors": noise(2 * PART, "b"),
    "tokens/one.bin": noise(5000, "one"),
    "tokens/two.bin": noise(9000, "two"),
}
SIZE = sum(map(len, SOURCE.values()))
LARGE = "model/a.safetensors"
LONG = "long.safetensors"


@pytest.fixture
def pushed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with a checkpoint in its store, and nothing counted yet; a fetch asks for each part by itself."""
    monkeypatch.setattr(file_fetch, "REQUEST_SECONDS", 0.0)
    machine.push("llama", machine.write("run", SOURCE))
    machine.storage.reset()
    return machine


@pytest.fixture
def long(machine: Machine) -> Iterator[Machine]:
    """A machine with a checkpoint of one file of 40 parts, and two threads."""
    machine.push("llama", machine.write("run", {LONG: noise(40 * PART, "long")}))
    with machine.again(concurrency=2) as again:
        yield again


@pytest.fixture
def out(machine: Machine) -> Path:
    return machine.root / "out"


def _partials(folder: Path) -> list[Path]:
    return sorted(folder.rglob(f"*{PARTIAL_SUFFIX}"))


def _interrupt(machine: Machine, *, after_parts: int) -> None:
    """A fetch that breaks off after so many parts of large files."""
    machine.storage.down_from = after_parts + 1
    with pytest.raises(StorageUnavailableError):
        machine.fetch("llama")
    machine.storage.reset()


def test_the_files_land_in_the_directory_itself(pushed: Machine, out: Path) -> None:
    report = pushed.fetch("llama")
    assert read_tree(out) == SOURCE
    assert report.checkpoint.id == str(pushed.checkpoint("llama").id)
    assert report.destination == out
    assert (report.fetched_files, report.kept_files, report.moved_bytes) == (len(SOURCE), 0, SIZE)


def test_a_checkpoint_is_fetched_by_its_uuid_and_by_its_name_in_any_case(pushed: Machine) -> None:
    checkpoint_id = str(pushed.checkpoint("llama").id)
    for number, reference in enumerate((checkpoint_id, checkpoint_id.upper(), "LLAMA")):
        pushed.fetch(reference, f"out-{number}")
        assert read_tree(pushed.root / f"out-{number}") == SOURCE


@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_the_number_of_threads_changes_nothing(pushed: Machine, out: Path, concurrency: int) -> None:
    pushed.again(concurrency=concurrency).fetch("llama")
    assert read_tree(out) == SOURCE


def test_the_parts_of_one_file_are_written_one_at_a_time(
    machine: Machine, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing: set[int] = set()
    together: set[int] = set()
    writes: set[int] = set()
    write_block = files.write_block

    def write(descriptor: int, position: int, block: Block, *, keep_hole: bool) -> None:
        if descriptor in writing:
            together.add(position)
        writing.add(descriptor)
        writes.add(position)
        time.sleep(0.002)  # in which another thread would begin
        write_block(descriptor, position, block, keep_hole=keep_hole)
        writing.discard(descriptor)

    tree = {"model.safetensors": noise(20 * PART, "model")}
    machine.push("llama", machine.write("run", tree))
    monkeypatch.setattr(files, "write_block", write)
    machine.again(concurrency=4).fetch("llama")
    assert read_tree(out) == tree
    assert (len(writes), together) == (20, set())


def test_missing_folders_are_made(pushed: Machine) -> None:
    pushed.fetch("llama", "deep/deeper/out")
    assert read_tree(pushed.root / "deep" / "deeper" / "out") == SOURCE


def test_files_have_the_modes_that_the_umask_leaves(pushed: Machine, out: Path) -> None:
    before = os.umask(0o027)
    try:
        pushed.fetch("llama")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_file()} == {0o640}
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_dir()} == {0o750}


def test_every_byte_is_read_from_the_store_once(pushed: Machine) -> None:
    pushed.fetch("llama")
    assert pushed.storage.delivered == SIZE


def test_many_small_files_come_by_few_requests(machine: Machine, out: Path) -> None:
    files = {f"{number:04}.json": noise(50, number) for number in range(1000)}
    machine.push("llama", machine.write("run", files))
    machine.storage.reset()
    machine.fetch("llama")
    assert read_tree(out) == files
    assert len(machine.storage.calls) <= 1000 * 50 // THRESHOLD + 2


def test_progress_counts_every_byte_and_file_once(pushed: Machine) -> None:
    progress = Counter()
    pushed.fetch("llama", progress=progress)
    assert progress.stages == [("fetch llama", SIZE, len(SOURCE))]
    assert (progress.moved, progress.skipped, progress.files, progress.ended) == (SIZE, 0, len(SOURCE), 1)
    again = Counter()
    pushed.fetch("llama", progress=again)
    assert (again.moved, again.skipped, again.files, again.ended) == (0, SIZE, len(SOURCE), 1)


def test_a_checkpoint_that_is_not_there_is_named(machine: Machine, out: Path) -> None:
    with pytest.raises(NotFoundError, match="no checkpoint 'llama'"):
        machine.fetch("llama")
    assert not out.exists()


def test_a_checkpoint_in_another_store_is_not_there(pushed: Machine, out: Path) -> None:
    elsewhere = pushed.again(store=str(pushed.root / "other-store"))
    # Of one that is far the first bytes are asked for before that is known.
    elsewhere.system.store.storage = elsewhere.storage.inner
    with pytest.raises(NotFoundError, match="lies in another store") as caught:
        elsewhere.fetch("llama")
    assert "FLEXAI_STORE" in caught.value.hint
    assert not out.exists()


def test_a_checkpoint_that_is_not_available_is_refused_with_its_reason(machine: Machine, out: Path) -> None:
    machine.storage.down_from = 3
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", machine.write("run", SOURCE))
    with pytest.raises(ConflictError, match="is failed, not available: put_part failed because"):
        machine.again().fetch("llama")
    assert not out.exists()


@pytest.mark.parametrize("changes", [{"pack_threshold": 10**9}, {"pack_threshold": 0}, {"part_size": 3 * PART}])
def test_a_checkpoint_is_fetched_whatever_the_settings_are_now(
    pushed: Machine, out: Path, changes: dict[str, int]
) -> None:
    pushed.again(pack_size=10**9, **changes).fetch("llama")
    assert read_tree(out) == SOURCE


# What is there already.


def test_files_with_the_right_content_are_kept_as_they_are(pushed: Machine, out: Path) -> None:
    pushed.fetch("llama")
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*")}
    pushed.storage.reset()
    report = pushed.fetch("llama")
    assert (report.fetched_files, report.kept_files, report.moved_bytes) == (0, len(SOURCE), 0)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*")} == before
    assert pushed.storage.calls == []


def test_only_missing_files_are_fetched(pushed: Machine, out: Path) -> None:
    pushed.fetch("llama")
    (out / LARGE).unlink()
    (out / "config.json").unlink()
    pushed.storage.reset()
    report = pushed.fetch("llama")
    assert (report.fetched_files, report.kept_files) == (2, len(SOURCE) - 2)
    assert report.moved_bytes == pushed.storage.delivered == len(SOURCE[LARGE]) + len(SOURCE["config.json"])
    assert read_tree(out) == SOURCE


def test_files_of_others_in_the_directory_stay(pushed: Machine, out: Path) -> None:
    write_tree(out, {"mine.txt": b"mine", "model/mine.bin": b"mine"})
    pushed.fetch("llama", overwrite=True)
    assert read_tree(out) == SOURCE | {"mine.txt": b"mine", "model/mine.bin": b"mine"}


_OTHERS: dict[str, Callable[[Path], object]] = {
    "shorter": lambda path: path.write_bytes(SOURCE[LARGE][:-1]),
    "longer": lambda path: path.write_bytes(SOURCE[LARGE] + b"x"),
    "different in its last byte": lambda path: path.write_bytes(SOURCE[LARGE][:-1] + b"x"),
    "empty": lambda path: path.write_bytes(b""),
    "a link to the right content": lambda path: path.symlink_to(path.parents[2] / "run" / LARGE),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("make", _OTHERS.values(), ids=_OTHERS)
def test_other_content_is_refused_before_anything_is_written(
    pushed: Machine, out: Path, make: Callable[[Path], object]
) -> None:
    (out / "model").mkdir(parents=True)
    make(out / LARGE)
    before = (out / LARGE).lstat()
    with pytest.raises(DestinationExistsError, match=f"other content is already at {out}/{LARGE}$") as caught:
        pushed.fetch("llama")
    assert "--overwrite" in caught.value.hint
    assert [str(path.relative_to(out)) for path in sorted(out.rglob("*"))] == ["model", LARGE]
    after = (out / LARGE).lstat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("make", _OTHERS.values(), ids=_OTHERS)
def test_other_content_is_replaced_on_request(pushed: Machine, out: Path, make: Callable[[Path], object]) -> None:
    (out / "model").mkdir(parents=True)
    make(out / LARGE)
    report = pushed.fetch("llama", overwrite=True)
    assert (report.fetched_files, report.kept_files) == (len(SOURCE), 0)
    assert not (out / LARGE).is_symlink()
    assert read_tree(out) == SOURCE
    assert read_tree(pushed.root / "run") == SOURCE


def test_the_number_of_files_in_the_way_is_told(pushed: Machine, out: Path) -> None:
    write_tree(out, dict.fromkeys(("tokens/one.bin", "config.json", LARGE), b"x"))
    with pytest.raises(DestinationExistsError, match=f"already at {out}/config.json and 2 more"):
        pushed.fetch("llama")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_where_a_file_should_go_is_refused(pushed: Machine, out: Path, overwrite: bool) -> None:
    (out / LARGE).mkdir(parents=True)
    with pytest.raises(DestinationExistsError, match=f"{LARGE} is a folder") as caught:
        pushed.fetch("llama", overwrite=overwrite)
    assert caught.value.hint == "choose another destination"
    assert read_tree(out) == {}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_where_a_folder_should_be_is_refused(pushed: Machine, out: Path, overwrite: bool) -> None:
    write_tree(out, {"model": b"a file"})
    with pytest.raises(DestinationExistsError, match=f"{out}/model is no folder, where one should be") as caught:
        pushed.fetch("llama", overwrite=overwrite)
    assert caught.value.hint == "choose another destination"
    assert read_tree(out) == {"model": b"a file"}


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_directory_that_is_a_file_is_refused(pushed: Machine, out: Path, below: str) -> None:
    out.write_bytes(b"a file")
    with pytest.raises(DestinationExistsError, match=f"{out} is no folder, where one should be"):
        pushed.fetch("llama", f"out{below}")
    assert out.read_bytes() == b"a file"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["elsewhere", "nowhere", "."])
def test_a_link_on_the_way_to_a_file_is_refused(pushed: Machine, out: Path, overwrite: bool, target: str) -> None:
    write_tree(pushed.root / "elsewhere", {"mine.txt": b"mine"})
    out.mkdir()
    (out / "model").symlink_to(out if target == "." else pushed.root / target)
    with pytest.raises(UnsafePathError, match="model is a symbolic link"):
        pushed.fetch("llama", overwrite=overwrite)
    assert [path.name for path in out.iterdir()] == ["model"]
    assert read_tree(pushed.root / "elsewhere") == {"mine.txt": b"mine"}


def test_a_folder_that_is_swapped_for_a_link_during_a_fetch_is_refused(pushed: Machine, out: Path) -> None:
    outside = write_tree(pushed.root / "outside", {"mine.txt": b"mine"})

    def swap_once(number: int, _call: Call) -> None:
        if number == 1:
            swap(out / "model", outside)

    pushed.storage.before_call = swap_once
    with pytest.raises(UnsafePathError, match=f"{out}/model is a symbolic link") as caught:
        pushed.fetch("llama")
    assert caught.value.hint == "choose another destination, or remove the link"
    assert read_tree(outside) == {"mine.txt": b"mine"}


def test_folders_that_are_swapped_for_links_while_a_fetch_runs_lead_nowhere(machine: Machine) -> None:
    files = {f"model/{number}.bin": noise(20, number) for number in range(100)} | {LARGE: SOURCE[LARGE]}
    machine.push("many", machine.write("run", files))
    # Names that the fetch compares, replaces and removes are there as well.
    mine = write_tree(machine.root / "outside", {"0.bin": b"mine", "a.safetensors": b"mine"})
    for number in range(12):
        out = machine.root / f"out{number}"
        out.mkdir()
        with swapping(out / "model", mine), suppress(CheckpointError):
            machine.fetch("many", out.name, overwrite=True)
        assert read_tree(mine) == {"0.bin": b"mine", "a.safetensors": b"mine"}


def test_the_directory_itself_may_be_a_link(pushed: Machine, out: Path) -> None:
    (pushed.root / "disk").mkdir()
    out.symlink_to(pushed.root / "disk")
    pushed.fetch("llama")
    assert read_tree(pushed.root / "disk") == SOURCE


def test_a_way_up_from_a_folder_that_is_not_there_hides_nothing_that_is_in_the_way(pushed: Machine, out: Path) -> None:
    write_tree(out, {"config.json": b"mine"})
    with pytest.raises(DestinationExistsError):
        pushed.fetch("llama", str(out.parent / "missing" / ".." / out.name))
    assert read_tree(out) == {"config.json": b"mine"}
    assert not (out.parent / "missing").exists()


def test_a_way_up_from_a_link_is_the_one_that_the_system_goes(pushed: Machine, out: Path) -> None:
    (out / "deep").mkdir(parents=True)
    (pushed.root / "link").symlink_to(out / "deep")
    pushed.fetch("llama", str(pushed.root / "link" / ".." / "here"))
    assert read_tree(out / "here") == SOURCE


def test_an_empty_destination_is_refused() -> None:
    with pytest.raises(UsageError, match="destination is empty"):
        FetchRequest("llama", "")


def test_a_tilde_of_an_unknown_user_is_refused(pushed: Machine) -> None:
    with pytest.raises(UsageError, match="nobody"):
        fetching.fetch(pushed.system, FetchRequest("llama", "~nobody-of-that-name/out"))


def test_a_tilde_means_the_home_directory(pushed: Machine, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(pushed.root))
    fetching.fetch(pushed.system, FetchRequest("llama", "~/out"))
    assert read_tree(out) == SOURCE


# Parts that one request brings.


def _requested(machine: Machine) -> list[int]:
    """How many parts each request has asked for."""
    return [call.size // PART for call in machine.storage.named("get") if call.size >= PART]


def test_parts_that_take_a_moment_come_several_by_one_request(long: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_fetch, "REQUEST_SECONDS", 3600.0)
    progress = Counter()
    long.fetch("llama", progress=progress)
    assert read_tree(long.root / "out") == read_tree(long.root / "run")
    requested = _requested(long)
    assert sum(requested) == 40
    assert requested[0] == 1, "how long one takes is not known before"
    assert len(requested) <= 20
    assert max(requested) <= 10, "each of two threads finds as much again"
    assert progress.moved == 40 * PART


def test_parts_that_take_their_time_come_one_by_one(long: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_fetch, "REQUEST_SECONDS", 0.0)
    long.fetch("llama")
    assert _requested(long) == [1] * 40


def test_of_several_parts_only_those_that_are_missing_move(long: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_fetch, "REQUEST_SECONDS", 3600.0)
    long.storage.down_from = 4
    with pytest.raises(StorageUnavailableError):
        long.fetch("llama")
    arrived = sum(_requested(long)[:3])
    assert 3 < arrived < 40
    long.storage.reset()
    progress = Counter()
    long.fetch("llama", progress=progress)
    assert progress.skipped + progress.moved == 40 * PART
    assert 0 < progress.skipped <= arrived * PART
    assert sum(_requested(long)) * PART == progress.moved
    assert read_tree(long.root / "out") == read_tree(long.root / "run")


@pytest.mark.parametrize("number", [0, 7, 39])
def test_a_damaged_part_among_several_keeps_its_file_from_its_name(
    long: Machine, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(file_fetch, "REQUEST_SECONDS", 3600.0)
    blob = long.blob_of("llama", LONG)
    flip_byte(blob, number * PART)
    with pytest.raises(IntegrityError, match=LONG):
        long.fetch("llama")
    assert not (long.root / "out" / LONG).exists()
    flip_byte(blob, number * PART)
    long.fetch("llama")
    assert read_tree(long.root / "out") == read_tree(long.root / "run")


def test_a_damaged_file_leaves_the_other_one_to_all_threads(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_fetch, "REQUEST_SECONDS", 3600.0)
    files = {"damaged.bin": noise(200 * PART, "damaged"), LONG: noise(40 * PART, "long")}
    machine.push("llama", machine.write("run", files))
    flip_byte(machine.blob_of("llama", "damaged.bin"), 5)
    # With one thread the damaged file, which is the larger one, always comes first.
    with machine.again(concurrency=1) as again:
        with pytest.raises(IntegrityError, match="damaged"):
            again.fetch("llama")
        blob = machine.blob_of("llama", LONG).name
        requested = [call.size // PART for call in again.storage.named("get") if call.key.endswith(blob)]
    assert (machine.root / "out" / LONG).read_bytes() == files[LONG]
    assert sum(requested) == 40
    assert len(requested) > 2


def test_damaged_files_keep_nothing_of_the_store_open(machine: Machine) -> None:
    files = {f"{number}.bin": noise(2 * PART, number) for number in range(20)}
    machine.push("llama", machine.write("run", files))
    for path in files:
        flip_byte(machine.blob_of("llama", path), 5)
    with pytest.raises(IntegrityError) as caught:
        machine.fetch("llama")
    opened = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert [path for path in opened if path.startswith(f"{machine.store_folder}/blobs")] == []
    assert caught.value.exit_code == 6


# A fetch that breaks off, and the next one that continues it.


def test_nothing_half_written_has_its_final_name(pushed: Machine, out: Path) -> None:
    _interrupt(pushed, after_parts=2)
    found = read_tree(out)
    assert {path: content for path, content in found.items() if not path.endswith(PARTIAL_SUFFIX)} == {}
    (partial,) = _partials(out)
    assert partial.name.startswith(".a.safetensors.")
    assert partial.parent == out / "model"


def test_parts_that_arrived_do_not_move_again(pushed: Machine, out: Path) -> None:
    _interrupt(pushed, after_parts=2)
    progress = Counter()
    report = pushed.fetch("llama", progress=progress)
    assert pushed.storage.delivered == SIZE - 2 * PART
    assert (progress.moved, progress.skipped) == (SIZE - 2 * PART, 2 * PART)
    assert report.moved_bytes == SIZE
    assert read_tree(out) == SOURCE


def test_parts_that_another_process_brought_are_used_whatever_its_settings(pushed: Machine, out: Path) -> None:
    _interrupt(pushed, after_parts=2)
    again = pushed.again(concurrency=4, part_size=2 * PART)
    again.fetch("llama")
    assert again.storage.delivered == SIZE - 2 * PART
    assert read_tree(out) == SOURCE


def test_only_the_damaged_part_of_an_unfinished_file_moves_again(pushed: Machine, out: Path) -> None:
    _interrupt(pushed, after_parts=3)
    (partial,) = _partials(out)
    flip_byte(partial, PART + 5)
    pushed.fetch("llama")
    assert pushed.storage.delivered == SIZE - 2 * PART
    assert read_tree(out) == SOURCE


@pytest.mark.parametrize("size", [0, 100, PART + 1, 10 * PART])
def test_an_unfinished_file_of_another_size_is_made_right(pushed: Machine, out: Path, size: int) -> None:
    _interrupt(pushed, after_parts=2)
    (partial,) = _partials(out)
    os.truncate(partial, size)
    pushed.fetch("llama")
    assert read_tree(out) == SOURCE


def test_unfinished_files_of_another_content_are_removed(pushed: Machine, out: Path) -> None:
    pushed.push("mistral", pushed.write("other", SOURCE | {LARGE: noise(5 * PART, "other")}))
    pushed.storage.reset()
    _interrupt(pushed, after_parts=2)
    pushed.fetch("mistral")
    assert read_tree(out) == SOURCE | {LARGE: noise(5 * PART, "other")}


def test_of_two_unfinished_files_one_is_used_and_none_is_left(pushed: Machine, out: Path) -> None:
    _interrupt(pushed, after_parts=2)
    (partial,) = _partials(out)
    file = next(one for one in pushed.system.blobs.files_of(str(pushed.checkpoint("llama").id)) if one.path == LARGE)
    Path(partial_path(str(out / LARGE), file.content)).write_bytes(partial.read_bytes())
    pushed.fetch("llama")
    assert pushed.storage.delivered == SIZE - 2 * PART
    assert read_tree(out) == SOURCE


def test_an_unfinished_file_whose_owner_is_at_work_is_left_alone(pushed: Machine, out: Path) -> None:
    _interrupt(pushed, after_parts=2)
    (partial,) = _partials(out)
    with partial.open("r+b") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        pushed.fetch("llama")
        assert pushed.storage.delivered == SIZE
        assert partial.exists()
    assert {path: read_tree(out)[path] for path in SOURCE} == SOURCE
    pushed.fetch("llama")
    assert read_tree(out) == SOURCE


def test_unfinished_small_files_of_a_dead_fetch_are_removed(pushed: Machine, out: Path) -> None:
    for file in pushed.system.blobs.files_of(str(pushed.checkpoint("llama").id)):
        target = out / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(partial_path(str(target), file.content)).write_bytes(b"half")
    pushed.fetch("llama")
    assert read_tree(out) == SOURCE


def test_unfinished_files_beside_files_that_are_complete_are_removed(pushed: Machine, out: Path) -> None:
    pushed.fetch("llama")
    for file in pushed.system.blobs.files_of(str(pushed.checkpoint("llama").id)):
        Path(partial_path(str(out / file.path), file.content)).write_bytes(b"half")
    pushed.fetch("llama")
    assert read_tree(out) == SOURCE


def test_unfinished_files_of_others_stay(pushed: Machine, out: Path) -> None:
    others = {f".other.bin.{'0' * 32}{PARTIAL_SUFFIX}": b"half", f"model/x{PARTIAL_SUFFIX}": b"half"}
    write_tree(out, others)
    pushed.fetch("llama")
    assert read_tree(out) == SOURCE | others


@pytest.mark.parametrize("kind", ["hard link", "pipe"])
def test_what_no_fetch_left_is_not_continued(pushed: Machine, out: Path, kind: str) -> None:
    _interrupt(pushed, after_parts=2)
    (partial,) = _partials(out)
    victim = pushed.root / "victim"
    victim.write_bytes(b"mine")
    partial.unlink()
    os.link(victim, partial) if kind == "hard link" else os.mkfifo(partial)
    pushed.fetch("llama")
    assert victim.read_bytes() == b"mine"
    partial.unlink()
    assert read_tree(out) == SOURCE


def test_a_link_with_the_name_of_an_unfinished_file_is_not_followed(pushed: Machine, out: Path) -> None:
    _interrupt(pushed, after_parts=2)
    (partial,) = _partials(out)
    victim = pushed.root / "victim"
    victim.write_bytes(b"mine")
    partial.unlink()
    partial.symlink_to(victim)
    pushed.fetch("llama")
    assert victim.read_bytes() == b"mine"
    assert (out / LARGE).read_bytes() == SOURCE[LARGE]


def test_an_interruption_by_the_user_leaves_a_fetch_that_can_be_continued(pushed: Machine, out: Path) -> None:
    def interrupt(number: int, _call: Call) -> None:
        if number == 3:
            raise KeyboardInterrupt

    pushed.storage.before_call = interrupt
    with pytest.raises(KeyboardInterrupt):
        pushed.fetch("llama")
    pushed.storage.reset()
    pushed.fetch("llama")
    assert pushed.storage.delivered == SIZE - 2 * PART
    assert read_tree(out) == SOURCE


# Several at once.


def _fetch_at_once(machine: Machine, count: int) -> None:
    """Several fetches into one directory, which begin together and go on part by part."""
    together = threading.Barrier(count, timeout=60)
    errors: list[BaseException] = []

    def fetch() -> None:
        try:
            with machine.again(concurrency=2) as one:
                together.wait()
                one.fetch("llama")
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


@pytest.mark.parametrize("round_number", range(3))
def test_fetches_into_one_directory_at_once_all_end_right(pushed: Machine, out: Path, round_number: int) -> None:
    _fetch_at_once(pushed, 4)
    assert read_tree(out) == SOURCE


@contextmanager
def _broken_locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Locks that keep no process out, as on some network file systems."""
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: None)
        yield


@pytest.mark.parametrize("round_number", range(3))
def test_fetches_into_one_directory_end_right_where_locks_keep_no_process_out(
    pushed: Machine, out: Path, monkeypatch: pytest.MonkeyPatch, round_number: int
) -> None:
    with _broken_locks(monkeypatch):
        _fetch_at_once(pushed, 4)
    assert {path: read_tree(out)[path] for path in SOURCE} == SOURCE


@pytest.mark.parametrize("after", [1, 3, 4, 6])
def test_a_fetch_whose_unfinished_file_is_taken_by_another_starts_that_file_over(
    pushed: Machine, out: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    def fetch_too(number: int, _call: Call) -> None:
        if number == after:
            pushed.storage.before_call = None
            with pushed.again() as other:
                other.fetch("llama", overwrite=True)

    pushed.storage.before_call = fetch_too
    with _broken_locks(monkeypatch):
        pushed.fetch("llama")
    assert read_tree(out) == SOURCE


def test_small_files_that_another_fetch_took_for_a_dead_one_s_are_written_again(
    pushed: Machine, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    real = os.replace

    def replace(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if source.endswith(PARTIAL_SUFFIX) and len(taken) < 3:
            taken.append(source)
            os.unlink(source, dir_fd=src_dir_fd)
        real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "replace", replace)
    pushed.fetch("llama")
    assert len(taken) == 3
    assert read_tree(out) == SOURCE


def test_a_directory_that_is_removed_meanwhile_is_an_error_and_no_endless_loop(pushed: Machine, out: Path) -> None:
    def remove(_number: int, _call: Call) -> None:
        for path in out.rglob("*"):
            path.unlink() if path.is_file() else None
        for path in sorted(out.rglob("*"), reverse=True):
            path.rmdir()
        if out.exists():
            out.rmdir()

    pushed.storage.before_call = remove
    with pytest.raises(StorageError):
        pushed.fetch("llama")


# Content that is not what was recorded.


@pytest.mark.parametrize("path", [LARGE, "tokens/one.bin"])
def test_a_file_of_a_damaged_blob_is_never_published(pushed: Machine, out: Path, path: str) -> None:
    blob = pushed.blob_of("llama", path)
    position = blob.read_bytes().index(SOURCE[path][:100]) + 77
    flip_byte(blob, position)
    with pytest.raises(IntegrityError, match=f"the stored content of '{path}' is damaged") as caught:
        pushed.fetch("llama")
    assert caught.value.exit_code == 6
    assert "verify" in caught.value.hint
    assert not (out / path).exists()
    flip_byte(blob, position)
    pushed.fetch("llama")
    assert read_tree(out) == SOURCE


@pytest.mark.parametrize("path", [LARGE, "tokens/two.bin"])
@pytest.mark.parametrize("harm", [lambda blob: os.truncate(blob, 3 * KIB), lambda blob: blob.unlink()])
def test_a_blob_that_is_cut_or_gone_is_an_integrity_error(
    pushed: Machine, out: Path, path: str, harm: Callable[[Path], None]
) -> None:
    harm(pushed.blob_of("llama", path))
    with pytest.raises(IntegrityError):
        pushed.fetch("llama")
    assert not (out / path).exists()


@pytest.mark.parametrize("fault", [Fault.WRONG, Fault.SHORT])
def test_bytes_that_were_spoiled_on_the_way_are_never_published(pushed: Machine, out: Path, fault: Fault) -> None:
    pushed.fetch("llama")
    reads = len(pushed.storage.calls)
    for number in range(1, reads + 1):
        pushed.storage.reset()
        pushed.storage.faults = {number: fault}
        folder = f"out-{number}"
        with pytest.raises(IntegrityError):
            pushed.fetch("llama", folder)
        published = read_tree(pushed.root / folder)
        assert all(SOURCE[path] == text for path, text in published.items() if not path.endswith(PARTIAL_SUFFIX))
        pushed.storage.reset()
        pushed.fetch("llama", folder)
        assert read_tree(pushed.root / folder) == SOURCE


@pytest.mark.parametrize(("path", "reason"), HOSTILE_PATHS)
def test_a_hostile_path_in_the_catalog_is_refused_before_anything_is_written(
    hostile_machine: Machine, path: str, reason: str
) -> None:
    try:
        with tables_of(hostile_machine.system.catalog.database) as connection:
            connection.exec_driver_sql("UPDATE files SET path = ? WHERE path <> 'config.json'", (path,))
    except UnicodeEncodeError:
        return  # SQLite holds no such text
    before = read_tree(hostile_machine.root)
    with pytest.raises(UnsafePathError):
        hostile_machine.fetch("llama", overwrite=True)
    assert not (hostile_machine.root / "out").exists()
    assert {one for one in read_tree(hostile_machine.root) if "catalog.db" not in one} == {
        one for one in before if "catalog.db" not in one
    }


@pytest.fixture(scope="module")
def hostile_machine(home_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A checkpoint of two files, the path of one of which the tests spoil."""
    from tests.support.machine import copy_home

    root = tmp_path_factory.mktemp("hostile")
    copy_home(home_template, root)
    with Machine.start(root) as machine:
        machine.push("llama", machine.write("run", {"config.json": b"{}", "model.bin": b"x"}))
        yield machine
