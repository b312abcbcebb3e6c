from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    ConflictError,
    DestinationExistsError,
    IntegrityError,
    NotFoundError,
    SourceError,
    StorageUnavailableError,
    UnsafePathError,
    UsageError,
)
from flexai.checkpoints.models import ExportRecord
from flexai.checkpoints.names import new_id
from flexai.checkpoints.service.export import export
from flexai.checkpoints.service.requests import ExportRequest
from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST
from flexai.checkpoints.service.support.manifest_reader import manifest_of
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import BytesBody, UnfinishedUpload
from tests.hostile.paths import HOSTILE_PATHS
from tests.support.faults import Call, Fault
from tests.support.machine import PART, Buckets, Machine
from tests.support.progress import Counter
from tests.support.tables import tables_of
from tests.support.trees import Tree, flip_byte, noise, read_tree

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


@pytest.fixture
def pushed(machine: Machine) -> Machine:
    """A machine with a checkpoint in its store, and nothing counted yet."""
    machine.push("llama", machine.write("run", SOURCE))
    machine.storage.reset()
    return machine


@pytest.fixture
def place(machine: Machine) -> Path:
    """Where exports go."""
    return machine.buckets.root / "bucket" / "place"


def _writes(machine: Machine) -> list[Call]:
    return machine.buckets.storage.named("put", "put_part", "start_upload", "complete_upload", "copy", "delete")


def _manifest(place: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((place / EXPORT_MANIFEST).read_bytes())
    return document


def _unfinished(machine: Machine) -> list[UnfinishedUpload]:
    return list(machine.buckets.storage.inner.list_uploads(""))


def test_every_file_lands_below_the_prefix(pushed: Machine) -> None:
    report = pushed.export("llama")
    assert pushed.buckets.tree("bucket/place") == SOURCE
    assert report.checkpoint == pushed.checkpoint("llama")
    assert (report.exported_files, report.skipped_files, report.moved_bytes) == (len(SOURCE), 0, SIZE)


@pytest.mark.parametrize("concurrency", [2, 8])
def test_the_number_of_threads_changes_nothing(pushed: Machine, concurrency: int) -> None:
    machine = pushed.again(concurrency=concurrency)
    machine.export("llama")
    assert machine.buckets.tree("bucket/place") == SOURCE


def test_every_byte_is_read_and_sent_once(pushed: Machine) -> None:
    pushed.export("llama")
    assert pushed.storage.delivered == SIZE
    assert sum(call.size for call in _writes(pushed) if not call.key.endswith(EXPORT_MANIFEST)) == SIZE


def test_the_manifest_is_written_first_as_incomplete_and_last_as_complete(pushed: Machine, place: Path) -> None:
    seen: list[tuple[str, bool | None]] = []

    def look(_number: int, call: Call) -> None:
        if call in _writes(pushed):
            complete = _manifest(place)["complete"] if (place / EXPORT_MANIFEST).exists() else None
            seen.append((call.key.removeprefix("place/"), complete))

    pushed.buckets.storage.before_call = look
    pushed.export("llama")
    assert seen[0] == (EXPORT_MANIFEST, None)
    assert seen[-1] == (EXPORT_MANIFEST, False)
    assert {complete for key, complete in seen[1:]} == {False}
    assert EXPORT_MANIFEST not in [key for key, _ in seen[1:-1]]
    assert _manifest(place)["complete"] is True


def test_the_manifest_says_what_the_export_holds(pushed: Machine, place: Path) -> None:
    checkpoint = pushed.checkpoint("llama")
    pushed.export("llama")
    manifest = manifest_of(pushed.system.blobs.files_of(checkpoint.id))
    assert _manifest(place) == {
        "kind": "CheckpointExport",
        "format": 1,
        "complete": True,
        # A directory's are times of writing, which are nothing to rely on.
        "etags": {},
        "checkpoint": {"id": checkpoint.id, "name": "llama"},
        "manifest": json.loads(manifest.canonical()),
        "manifestDigest": checkpoint.manifest_digest,
    }
    assert [entry["path"] for entry in _manifest(place)["manifest"]["files"]] == sorted(SOURCE)


def test_an_export_is_recorded(pushed: Machine) -> None:
    record = pushed.export("llama").record
    assert _exports(pushed) == [record]
    assert (record.storage_provider, record.destination_path) == ("lab", "bucket/place")
    assert record.manifest_digest == pushed.checkpoint("llama").manifest_digest
    pushed.export("llama", "bucket/other")
    again = pushed.export("llama").record
    assert {one.destination_path for one in _exports(pushed)} == {"bucket/place", "bucket/other"}
    assert again in _exports(pushed)


def test_progress_counts_every_byte_and_file_once(pushed: Machine) -> None:
    progress = Counter()
    pushed.export("llama", progress=progress)
    assert progress.stages == [("export llama", SIZE, len(SOURCE))]
    assert (progress.moved, progress.skipped, progress.files, progress.ended) == (SIZE, 0, len(SOURCE), 1)
    again = Counter()
    pushed.export("llama", progress=again)
    assert (again.moved, again.skipped, again.files, again.ended) == (0, SIZE, len(SOURCE), 1)


@pytest.mark.parametrize(
    ("min_part_size", "max_parts", "sizes"),
    [
        (1, 10_000, [PART, PART, PART, 17]),
        (2 * PART - 5, 10_000, [2 * PART, PART + 17]),
        (10 * PART, 10_000, [3 * PART + 17]),
        (1, 3, [2 * PART, PART + 17]),
        (1, 1, [3 * PART + 17]),
    ],
)
def test_parts_are_joined_to_what_the_provider_takes(
    pushed: Machine, min_part_size: int, max_parts: int, sizes: list[int]
) -> None:
    pushed.buckets.storage.min_part_size = min_part_size
    pushed.buckets.storage.max_parts = max_parts
    pushed.export("llama")
    parts = [call.size for call in pushed.buckets.storage.named("put_part") if call.key.endswith(LARGE)]
    assert sorted(parts, reverse=True) == sorted(sizes, reverse=True)
    assert pushed.buckets.tree("bucket/place") == SOURCE


def test_a_provider_that_can_copy_gets_no_byte_of_a_large_file(pushed: Machine) -> None:
    pushed.storage.service_identity = pushed.buckets.storage.service_identity = "s3://here"
    pushed.export("llama")
    assert pushed.buckets.tree("bucket/place") == SOURCE
    assert {call.key for call in pushed.buckets.storage.named("copy")} == {
        f"place/{path}" for path, content in SOURCE.items() if len(content) >= PART
    }
    assert pushed.storage.delivered == sum(len(content) for content in SOURCE.values() if len(content) < PART)


# What is there already.


def test_objects_that_are_there_with_the_same_content_are_left_as_they_are(pushed: Machine, place: Path) -> None:
    pushed.export("llama")
    before = {path: path.stat().st_ino for path in place.rglob("*")}
    pushed.buckets.storage.reset()
    report = pushed.export("llama")
    assert (report.exported_files, report.skipped_files, report.moved_bytes) == (0, len(SOURCE), 0)
    assert _writes(pushed) == []
    assert {path: path.stat().st_ino for path in place.rglob("*")} == before


def test_only_missing_objects_are_sent_and_the_manifest_says_so_meanwhile(pushed: Machine, place: Path) -> None:
    pushed.export("llama")
    (place / LARGE).unlink()
    pushed.buckets.storage.reset()
    seen = set()
    pushed.buckets.storage.before_call = lambda _number, call: (
        seen.add(_manifest(place)["complete"]) if call.name == "put_part" else None
    )
    report = pushed.export("llama")
    assert seen == {False}
    assert (report.exported_files, report.moved_bytes) == (1, len(SOURCE[LARGE]))
    assert _manifest(place)["complete"] is True
    assert pushed.buckets.tree("bucket/place") == SOURCE


def test_an_export_that_lost_its_manifest_gets_it_back(pushed: Machine, place: Path) -> None:
    pushed.export("llama")
    (place / EXPORT_MANIFEST).unlink()
    assert pushed.export("llama").exported_files == 0
    assert _manifest(place)["complete"] is True


@pytest.mark.parametrize("content", [b"", b"x", SOURCE[LARGE][:-1] + b"x", SOURCE[LARGE] + b"x"])
def test_other_content_is_refused_before_anything_is_written(pushed: Machine, place: Path, content: bytes) -> None:
    pushed.write("buckets/bucket/place", {LARGE: content})
    with pytest.raises(DestinationExistsError, match=f"other content is already at .*/place/{LARGE}$") as caught:
        pushed.export("llama")
    assert "--overwrite" in caught.value.hint
    assert _writes(pushed) == []
    assert read_tree(place) == {LARGE: content}
    assert _exports(pushed) == []


def test_other_content_is_replaced_on_request(pushed: Machine, place: Path) -> None:
    pushed.write("buckets/bucket/place", {LARGE: b"x", "config.json": SOURCE["config.json"], "mine.txt": b"mine"})
    report = pushed.export("llama", overwrite=True)
    assert (report.exported_files, report.skipped_files) == (len(SOURCE) - 1, 1)
    assert pushed.buckets.tree("bucket/place") == SOURCE | {"mine.txt": b"mine"}


def test_the_number_of_objects_in_the_way_is_told(pushed: Machine) -> None:
    pushed.write("buckets/bucket/place", dict.fromkeys(("tokens/one.bin", "config.json", LARGE), b"x"))
    with pytest.raises(DestinationExistsError, match=r"/place/config\.json and 2 more"):
        pushed.export("llama")


def test_an_export_of_another_checkpoint_is_in_the_way(pushed: Machine, place: Path) -> None:
    pushed.push("mistral", pushed.write("other", {"other.bin": b"x"}))
    pushed.export("mistral")
    with pytest.raises(DestinationExistsError, match="another checkpoint was exported to"):
        pushed.export("llama")
    assert pushed.buckets.tree("bucket/place") == {"other.bin": b"x"}
    pushed.export("llama", overwrite=True)
    assert _manifest(place)["checkpoint"]["name"] == "llama"
    assert _manifest(place)["complete"] is True


def test_a_checkpoint_of_the_same_content_takes_the_export_for_its_own(pushed: Machine) -> None:
    pushed.export("llama")
    pushed.push("mistral", pushed.root / "run")
    assert pushed.export("mistral").skipped_files == len(SOURCE)


@pytest.mark.parametrize("content", [b"", b"no JSON", b"[]", b"{}", b'{"complete": true, "manifest": 1}', b"\xff\xfe"])
def test_a_foreign_object_in_the_manifest_s_place_is_refused(pushed: Machine, place: Path, content: bytes) -> None:
    pushed.write("buckets/bucket/place", {EXPORT_MANIFEST: content})
    with pytest.raises(IntegrityError, match="not the manifest of an export") as caught:
        pushed.export("llama")
    assert "--overwrite" in caught.value.hint
    assert read_tree(place) == {EXPORT_MANIFEST: content}
    pushed.export("llama", overwrite=True)
    assert pushed.buckets.tree("bucket/place") == SOURCE


def test_a_manifest_that_was_edited_is_refused(pushed: Machine, place: Path) -> None:
    pushed.export("llama")
    document = _manifest(place)
    document["manifest"]["files"][0]["size"] += 1
    (place / EXPORT_MANIFEST).write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="does not match its digest"):
        pushed.export("llama")
    with pytest.raises(IntegrityError, match="does not match its digest"):
        pushed.push_from("back", "bucket/place")


@pytest.mark.parametrize(("path", "reason"), HOSTILE_PATHS)
def test_a_hostile_path_in_a_manifest_is_refused_before_anything_is_written(
    exported: Machine, path: str, reason: str
) -> None:
    manifest = exported.buckets.root / "bucket" / "place" / EXPORT_MANIFEST
    before = manifest.read_bytes()
    document = json.loads(before)
    document["manifest"]["files"][0]["path"] = path
    manifest.write_text(json.dumps(document))
    exported.storage.reset()
    try:
        with pytest.raises((UnsafePathError, IntegrityError)):
            exported.push_from("back", "bucket/place")
        with pytest.raises((UnsafePathError, IntegrityError)):
            exported.export("llama")
    finally:
        manifest.write_bytes(before)
    assert exported.storage.named("put", "start_upload") == []
    assert [one.name for one in exported.checkpoints()] == ["llama"]


@pytest.fixture(scope="module")
def exported(home_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with an export."""
    from tests.support.machine import copy_home

    root = tmp_path_factory.mktemp("exported")
    copy_home(home_template, root)
    with Machine.start(root) as machine:
        machine.push("llama", machine.write("run", {"config.json": b"{}", "model.bin": b"x"}))
        machine.export("llama")
        yield machine


# What cannot be exported, and where to.


def test_a_bucket_without_a_folder_is_refused(pushed: Machine) -> None:
    with pytest.raises(UsageError, match="names a bucket without a folder") as caught:
        pushed.export("llama", "bucket")
    assert "BUCKET/PREFIX" in caught.value.hint
    assert not pushed.buckets.root.exists()


@pytest.mark.parametrize("path", ["", "/", "/place", "bucket/../place", "bucket/..", "../bucket", "bucket/a//b", "./a"])
def test_a_destination_that_could_leave_its_bucket_is_refused(pushed: Machine, path: str) -> None:
    with pytest.raises(UsageError):
        pushed.export("llama", path)
    assert not pushed.buckets.root.exists()


@pytest.mark.parametrize(("path", "reason"), HOSTILE_PATHS)
def test_a_hostile_path_in_the_catalog_is_refused_before_anything_is_written(
    hostile_machine: Machine, path: str, reason: str
) -> None:
    try:
        with tables_of(hostile_machine.system.catalog.database) as connection:
            connection.exec_driver_sql("UPDATE files SET path = ? WHERE path <> 'config.json'", (path,))
    except UnicodeEncodeError:
        return  # SQLite holds no such text
    with pytest.raises(UnsafePathError):
        hostile_machine.export("llama", overwrite=True)
    assert not hostile_machine.buckets.root.exists()


@pytest.fixture(scope="module")
def hostile_machine(home_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A checkpoint of two files, the path of one of which the tests spoil."""
    from tests.support.machine import copy_home

    root = tmp_path_factory.mktemp("hostile")
    copy_home(home_template, root)
    with Machine.start(root) as machine:
        machine.push("llama", machine.write("run", {"config.json": b"{}", "model.bin": b"x"}))
        yield machine


def test_a_checkpoint_with_a_file_of_the_manifest_s_name_is_refused(machine: Machine) -> None:
    machine.push("llama", machine.write("run", {EXPORT_MANIFEST: b"{}", "a": b"x"}))
    with pytest.raises(SourceError, match=EXPORT_MANIFEST):
        machine.export("llama")
    assert not machine.buckets.root.exists()


def test_a_checkpoint_that_is_not_there_or_not_available_is_refused(machine: Machine) -> None:
    with pytest.raises(NotFoundError, match="no checkpoint 'llama'"):
        machine.export("llama")
    machine.storage.down_from = 3
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", machine.write("run", SOURCE))
    with pytest.raises(ConflictError, match="is failed, not available"):
        machine.again().export("llama")


# An export that breaks off, and the next one that continues it.


def test_a_name_that_is_mistyped_is_said_before_the_connection_is_looked_at(pushed: Machine) -> None:
    with pytest.raises(NotFoundError, match="there is no checkpoint 'lama'") as raised:
        export(pushed.system, ExportRequest("lama", "no-such-connection", "bucket/place"))
    assert "did you mean 'llama'?" in raised.value.hint


def test_a_torn_export_says_that_it_is_torn(pushed: Machine, place: Path) -> None:
    pushed.buckets.storage.faults = {6: Fault.BEFORE}
    with pytest.raises(StorageUnavailableError):
        pushed.export("llama")
    assert _manifest(place)["complete"] is False
    assert _exports(pushed) == []


def test_a_broken_export_gives_up_its_uploads(pushed: Machine) -> None:
    pushed.buckets.storage.before_call = _fail_at("put_part", 2)
    with pytest.raises(StorageUnavailableError):
        pushed.export("llama")
    assert _unfinished(pushed) == []


def test_an_interrupted_export_gives_up_its_uploads(pushed: Machine) -> None:
    pushed.buckets.storage.before_call = _fail_at("put_part", 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pushed.export("llama")
    assert _unfinished(pushed) == []


def test_the_first_error_counts_even_where_uploads_cannot_be_given_up(
    pushed: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Enough threads for the parts of both files.
    monkeypatch.setattr("flexai.checkpoints.transfer.pace.FIRST_WIDTH", 8)
    machine = pushed.again(concurrency=8)
    begun: set[str] = set()
    both_begun = threading.Event()
    aborted = []

    def fail_aborts_too(_number: int, call: Call) -> None:
        if call.name == "abort_upload":
            aborted.append(call.key)
            raise StorageUnavailableError("nothing answers")
        if call.name == "put_part":
            begun.add(call.key)
            if len(begun) == 2:
                both_begun.set()
            assert both_begun.wait(60)
            raise AccessDeniedError("the token has expired")

    machine.buckets.storage.before_call = fail_aborts_too
    with pytest.raises(AccessDeniedError, match="the token has expired") as caught:
        machine.export("llama")
    assert len(aborted) == 2, "each upload is given up, whether or not another one could be"
    assert "nothing answers" in "".join(caught.value.__notes__)


def _fail_at(name: str, count: int, error: BaseException | None = None) -> Any:
    """What fails from the so-manieth call of a name on."""
    calls = [0]

    def fail(_number: int, call: Call) -> None:
        calls[0] += call.name == name
        if call.name == name and calls[0] >= count:
            raise error or StorageUnavailableError("a test wanted it")

    return fail


def test_a_rerun_sends_only_what_had_not_arrived(pushed: Machine, place: Path) -> None:
    pushed.buckets.storage.before_call = _fail_at("put", 3)
    with pytest.raises(StorageUnavailableError):
        pushed.export("llama")
    arrived = pushed.buckets.tree("bucket/place")
    assert {LARGE, "model/b.safetensors"} <= arrived.keys() < SOURCE.keys()
    pushed.buckets.storage.reset()
    report = pushed.export("llama")
    assert (report.exported_files, report.skipped_files) == (len(SOURCE) - len(arrived), len(arrived))
    assert report.moved_bytes == SIZE - sum(map(len, arrived.values()))
    assert _manifest(place)["complete"] is True
    assert pushed.buckets.tree("bucket/place") == SOURCE


def test_an_empty_object_of_an_export_that_was_cut_off_is_replaced(pushed: Machine, place: Path) -> None:
    pushed.buckets.storage.before_call = _fail_at("put", 3)
    with pytest.raises(StorageUnavailableError):
        pushed.export("llama")
    pushed.buckets.storage.reset()
    missing = sorted(SOURCE.keys() - pushed.buckets.tree("bucket/place").keys())
    pushed.write("buckets/bucket/place", dict.fromkeys((missing[0], LARGE), b""))
    report = pushed.export("llama")
    assert report.exported_files == len(missing) + 1
    assert pushed.buckets.tree("bucket/place") == SOURCE


@pytest.mark.parametrize("was_exported", [True, False])
def test_an_empty_object_that_no_cut_off_export_can_have_left_is_in_the_way(
    pushed: Machine, place: Path, was_exported: bool
) -> None:
    if was_exported:
        pushed.export("llama")
    pushed.write("buckets/bucket/place", {LARGE: b""})
    with pytest.raises(DestinationExistsError, match="other content"):
        pushed.export("llama")
    assert (place / LARGE).read_bytes() == b""


def test_uploads_that_a_dead_export_left_are_given_up(pushed: Machine) -> None:
    bucket = LocalStorage(pushed.buckets.root / "bucket")
    for path in (LARGE, "config.json", EXPORT_MANIFEST):
        bucket.start_upload(f"place/{path}", size=5)
    stranger = bucket.start_upload("place/mine.bin", size=5)
    neighbour = bucket.start_upload(f"place-2/{LARGE}", size=5)
    pushed.export("llama")
    assert {upload.upload_id for upload in _unfinished(pushed)} == {stranger, neighbour}


def test_uploads_are_left_alone_where_nothing_is_to_be_done(pushed: Machine) -> None:
    pushed.write("buckets/bucket/place", {LARGE: b"x"})
    LocalStorage(pushed.buckets.root / "bucket").start_upload(f"place/{LARGE}", size=5)
    with pytest.raises(DestinationExistsError):
        pushed.export("llama")
    assert len(_unfinished(pushed)) == 1


def test_an_export_needs_no_right_to_list_uploads(pushed: Machine) -> None:
    def deny(_number: int, call: Call) -> None:
        if call.name == "list_uploads":
            raise AccessDeniedError("s3:ListBucketMultipartUploads is not allowed")

    pushed.buckets.storage.before_call = deny
    progress = Counter()
    pushed.export("llama", progress=progress)
    assert pushed.buckets.tree("bucket/place") == SOURCE
    (note,) = progress.notes
    assert "ListBucketMultipartUploads" in note


def test_two_exports_to_one_place_at_once_do_no_harm(pushed: Machine, place: Path) -> None:
    together = threading.Barrier(2, timeout=60)
    errors: list[CheckpointError] = []

    def export() -> None:
        with pushed.again(concurrency=2) as one:
            together.wait()
            try:
                one.export("llama")
            except CheckpointError as error:
                errors.append(error)

    threads = [threading.Thread(target=export) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) < 2
    pushed.export("llama")
    assert pushed.buckets.tree("bucket/place") == SOURCE
    assert _manifest(place)["complete"] is True
    assert _unfinished(pushed) == []


# Content that is not what was recorded.


@pytest.mark.parametrize("path", [LARGE, "tokens/one.bin"])
def test_a_file_of_a_damaged_blob_never_leaves(pushed: Machine, place: Path, path: str) -> None:
    blob = pushed.blob_of("llama", path)
    position = blob.read_bytes().index(SOURCE[path][:100]) + 77
    flip_byte(blob, position)
    with pytest.raises(IntegrityError, match=f"the stored content of '{path}' is damaged"):
        pushed.export("llama")
    assert not (place / path).exists()
    assert _manifest(place)["complete"] is False
    assert _unfinished(pushed) == []
    flip_byte(blob, position)
    pushed.export("llama")
    assert pushed.buckets.tree("bucket/place") == SOURCE


def test_damage_in_any_of_the_joined_parts_is_noticed(pushed: Machine, place: Path) -> None:
    pushed.buckets.storage.min_part_size = 3 * PART
    blob = pushed.blob_of("llama", LARGE)
    for position in (0, PART - 1, PART, 2 * PART + 1, 3 * PART + 16):
        flip_byte(blob, position)
        with pytest.raises(IntegrityError, match=f"the stored content of '{LARGE}' is damaged"):
            pushed.export("llama")
        assert not (place / LARGE).exists()
        flip_byte(blob, position)
    pushed.export("llama")
    assert pushed.buckets.tree("bucket/place") == SOURCE


@pytest.mark.parametrize("fault", [Fault.WRONG, Fault.SHORT])
def test_bytes_that_were_spoiled_on_the_way_out_of_the_store_never_arrive(
    pushed: Machine, place: Path, fault: Fault
) -> None:
    pushed.export("llama")
    reads = [number for number, call in enumerate(pushed.storage.calls, 1) if call.name == "get" and call.size]
    for number in reads:
        pushed.storage.reset()
        pushed.storage.faults = {number: fault}
        with pytest.raises(CheckpointError):
            pushed.export("llama", f"bucket/place-{number}")
        arrived = pushed.buckets.tree(f"bucket/place-{number}")
        assert arrived.items() < SOURCE.items()


def test_an_object_that_the_provider_cut_is_noticed(pushed: Machine, place: Path) -> None:
    def cut(_number: int, call: Call) -> None:
        if call.name == "complete_upload":
            for upload in _unfinished(pushed):
                path = place.parent / upload.key
                partial = path.with_name(f".{path.name}.{upload.upload_id}.flexai-partial")
                with partial.open("r+b") as file:
                    file.truncate(PART)

    pushed.buckets.storage.before_call = cut
    with pytest.raises(IntegrityError, match="bytes"):
        pushed.export("llama")
    assert _manifest(place)["complete"] is False


def test_an_object_of_nothing_is_not_an_export(pushed: Machine) -> None:
    pushed.buckets.open("bucket/place").storage.put("place", BytesBody(b"a file"))
    with pytest.raises(CheckpointError):
        pushed.export("llama")


@pytest.mark.parametrize("path", ["config.json", LARGE])
def test_what_another_program_brings_there_meanwhile_is_not_replaced(pushed: Machine, place: Path, path: str) -> None:
    def bring(_number: int, call: Call) -> None:
        if call.key.endswith(path) and call.name in {"put", "complete_upload"}:
            (place / path).write_bytes(b"another's")

    pushed.buckets.storage.before_call = bring
    (place / path).parent.mkdir(parents=True)
    with pytest.raises(DestinationExistsError, match="other content has just come to"):
        pushed.export("llama")
    assert (place / path).read_bytes() == b"another's"
    assert _manifest(place)["complete"] is False
    assert _unfinished(pushed) == []
    pushed.export("llama", overwrite=True)
    assert pushed.buckets.tree("bucket/place") == SOURCE


@pytest.mark.parametrize("path", ["config.json", LARGE])
def test_what_another_export_of_the_same_brings_there_meanwhile_is_left(
    pushed: Machine, place: Path, path: str
) -> None:
    def bring(_number: int, call: Call) -> None:
        if call.key.endswith(path) and call.name in {"put", "complete_upload"}:
            (place / path).write_bytes(SOURCE[path])

    pushed.buckets.storage.before_call = bring
    pushed.export("llama")
    assert pushed.buckets.tree("bucket/place") == SOURCE
    assert _manifest(place)["complete"] is True
    assert _unfinished(pushed) == []


def _exports(machine: Machine) -> list[ExportRecord]:
    return machine.system.catalog.checkpoints.list_exports(machine.checkpoint("llama").id)


def test_a_place_is_that_of_the_checkpoint_that_was_exported_there_last(pushed: Machine) -> None:
    pushed.export("llama")
    pushed.export("llama", "bucket/place/below")
    pushed.push("mistral", pushed.write("other", {"below/config.json": b"{}", "config.json": b"{}"}))
    pushed.export("mistral", "bucket/place/", overwrite=True)
    exports = pushed.system.catalog.checkpoints.list_exports
    assert exports(str(pushed.checkpoint("llama").id)) == []
    assert [one.destination_path for one in exports(str(pushed.checkpoint("mistral").id))] == ["bucket/place/"]


def test_a_place_that_two_connections_lead_to_has_one_record(pushed: Machine, tmp_path: Path) -> None:
    doors = {
        "lab": pushed.buckets,
        "same": Buckets(pushed.buckets.root, connection_name="same"),
        "other": Buckets(tmp_path / "other", connection_name="other"),
    }

    def connect(name: str) -> Buckets:
        if name == "gone":
            raise NotFoundError("there is no such connection")
        return doors[name]

    pushed.system.connect = connect
    pushed.export("llama")
    llama, mistral = pushed.checkpoint("llama"), pushed.push("mistral", pushed.write("other", {"config.json": b"{}"}))
    for name in ("other", "gone"):
        (record,) = pushed.system.catalog.checkpoints.list_exports(llama.id)[:1]
        pushed.system.catalog.exports.record(record._replace(id=new_id(), storage_provider=name))
    export(pushed.system, ExportRequest("mistral", "same", "bucket/place/", overwrite=True))
    providers = {one.storage_provider for one in pushed.system.catalog.checkpoints.list_exports(llama.id)}
    assert providers == {"other", "gone"}
    assert [one.storage_provider for one in pushed.system.catalog.checkpoints.list_exports(mistral.id)] == ["same"]
