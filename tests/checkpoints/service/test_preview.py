"""Dry runs: nothing is written, and what they say is what the operation then does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.catalog.tables import metadata
from flexai.checkpoints.errors import (
    AlreadyExistsError,
    CheckpointError,
    ConflictError,
    DestinationExistsError,
    NotFoundError,
    SourceError,
    UsageError,
)
from flexai.checkpoints.models import now
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, protect, undelete
from flexai.checkpoints.service.preview import (
    preview_delete,
    preview_export,
    preview_fetch,
    preview_garbage,
    preview_name,
    preview_push,
)
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import NameRequest, PushRequest
from flexai.checkpoints.service.requests import ExportRequest, FetchRequest
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.transfer.steps import Action, Preview
from tests.support.faults import Fault
from tests.support.fixtures import NewMachine
from tests.support.machine import PART, Machine, copy_of_catalog, restored, small_settings
from tests.support.progress import Counter
from tests.support.tables import tables_of
from tests.support.trees import Tree, flip_byte, noise, read_tree, write_tree

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "model/a.safetensors": noise(3 * PART + 17, "a"),
    "model/b.safetensors": noise(2 * PART, "b"),
    "tokens/one.bin": noise(5000, "one"),
}
SIZE = sum(map(len, SOURCE.values()))
LONG_AGO = time.time() - 3600


@pytest.fixture
def source(machine: Machine) -> Path:
    folder = machine.write("run", SOURCE)
    _age(folder)
    return folder


def _age(folder: Path) -> None:
    """Have files been written long ago, so that their digests are remembered."""
    for path in folder.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


def _everything(machine: Machine) -> object:
    """All that is there: files, folders and the catalog's rows."""
    with tables_of(machine.system.catalog.database) as connection:
        rows = {table.name: sorted(map(repr, connection.execute(table.select()))) for table in metadata.sorted_tables}
    files = {path: content for path, content in read_tree(machine.root).items() if "catalog.db" not in path}
    return rows, files, {str(path) for path in machine.root.rglob("*") if path.is_dir()}


def _look(machine: Machine) -> AbstractContextManager[System]:
    return System.open(machine.settings, connect=machine.connect, read_only=True)


def _actions(preview: Preview) -> dict[str, Action]:
    return {step.name: step.action for step in preview.steps}


def _asked(name: str, folder: Path, **options: Any) -> PushRequest:
    return PushRequest(name, [str(folder)], **options)


def test_on_a_machine_that_has_nothing_a_look_makes_nothing(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "run", SOURCE)
    with System.open(small_settings(tmp_path / "home"), read_only=True) as system:
        preview = preview_push(system, _asked("llama", folder))
        with pytest.raises(NotFoundError):
            preview_fetch(system, FetchRequest("llama", str(tmp_path / "out")))
        assert preview_garbage(system, GarbageRequest()).steps == []
    assert set(_actions(preview).values()) == {Action.MOVE}
    assert preview.moved_bytes == SIZE
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_no_look_writes_anything(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.push("gone", source)
    machine.export("llama", "bucket/whole")
    machine.export("llama", "bucket/torn")
    (machine.root / "buckets/bucket/torn/config.json").unlink()
    machine.fetch("llama", "out")
    (machine.root / "out/config.json").unlink()
    flip_byte(machine.root / "out/tokens/one.bin")
    delete(machine.system, DeleteRequest("gone"))
    looks: list[Callable[[System], Preview]] = [
        lambda system: preview_push(system, _asked("new", source)),
        lambda system: preview_push(system, PushRequest("new", (str(source),), rehash=True)),
        lambda system: preview_push(system, _asked("llama", source)),
        lambda system: preview_push(system, PushRequest("new", storage_provider="lab", source_path="bucket/whole")),
        lambda system: preview_name(system, NameRequest("new", "llama")),
        lambda system: preview_fetch(system, FetchRequest("llama", str(machine.root / "out"))),
        lambda system: preview_fetch(system, FetchRequest("llama", str(machine.root / "out"), overwrite=True)),
        lambda system: preview_fetch(system, FetchRequest("llama", str(machine.root / "elsewhere"))),
        lambda system: preview_export(system, ExportRequest("llama", "lab", "bucket/whole")),
        lambda system: preview_export(system, ExportRequest("llama", "lab", "bucket/torn")),
        lambda system: preview_export(system, ExportRequest("llama", "lab", "bucket/new")),
        lambda system: preview_delete(system, DeleteRequest("llama")),
        lambda system: preview_garbage(system, GarbageRequest(grace_period=timedelta(0))),
    ]
    before = _everything(machine)
    for look in looks:
        with _look(machine) as system:
            assert look(system).steps
        assert _everything(machine) == before


def test_a_push_of_what_was_pushed_reads_nothing_and_skips_all(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    for path in source.rglob("*"):
        if path.is_file():
            path.chmod(0)  # only root could read it
    with _look(machine) as system:
        preview = preview_push(system, _asked("again", source))
    assert set(_actions(preview).values()) == {Action.SKIP}
    assert preview.moved_bytes == 0


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 100, b""])
def test_a_damaged_or_empty_memory_of_digests_stays_as_it_is(machine: Machine, source: Path, content: bytes) -> None:
    machine.push("llama", source)
    (machine.settings.home / "stat-cache.db").write_bytes(content)
    before = _everything(machine)
    with _look(machine) as system:
        assert set(_actions(preview_push(system, _asked("again", source))).values()) == {Action.COMPARE}
    assert _everything(machine) == before


def test_a_push_compares_what_the_store_has_in_that_size(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    with _look(machine) as system:
        preview = preview_push(system, PushRequest("again", (str(source),), rehash=True))
    assert set(_actions(preview).values()) == {Action.COMPARE}
    other = machine.write("other", {"a.bin": noise(3 * PART + 17, "another"), "b.bin": noise(PART, "new")})
    with _look(machine) as system:
        preview = preview_push(system, _asked("again", other))
    assert _actions(preview) == {"a.bin": Action.COMPARE, "b.bin": Action.MOVE}


def test_a_twin_in_the_same_push_is_compared_with_the_first(machine: Machine) -> None:
    twins = machine.write("run", {"a.bin": noise(PART), "b.bin": noise(PART), "c.bin": noise(PART, "other")})
    with _look(machine) as system:
        preview = preview_push(system, _asked("llama", twins))
    assert _actions(preview) == {"a.bin": Action.MOVE, "b.bin": Action.COMPARE, "c.bin": Action.MOVE}
    assert [step.why for step in preview.steps][1] == "looks like a.bin"


def test_an_interrupted_push_goes_on_where_it_stopped(machine: Machine) -> None:
    folder = machine.write("run", {"a.bin": noise(4 * PART)})
    machine.storage.faults = dict.fromkeys(range(4, 100), Fault.BEFORE)
    with pytest.raises(CheckpointError):
        machine.push("llama", folder)
    machine.storage.reset()
    arrived = len(machine.system.blobs.unfinished(str(machine.checkpoint("llama").id))["a.bin"].parts)
    assert 0 < arrived < 4
    with _look(machine) as system:
        preview = preview_push(system, _asked("llama", folder))
    assert preview.steps[0].why == f"goes on: {arrived} of 4 parts have arrived"
    counter = Counter()
    machine.push("llama", folder, progress=counter)
    assert counter.moved == preview.moved_bytes == (4 - arrived) * PART


@pytest.mark.parametrize("is_pushed_before", [False, True])
def test_a_push_moves_no_more_than_was_said(machine: Machine, source: Path, is_pushed_before: bool) -> None:
    if is_pushed_before:
        machine.push("first", source)
        (source / "config.json").write_bytes(b'{"layers": 3}')
    preview = preview_push(machine.system, _asked("llama", source))
    machine.storage.reset()
    counter = Counter()
    machine.push("llama", source, progress=counter)
    assert counter.moved <= preview.moved_bytes
    assert abs(len(machine.storage.calls) - preview.requests) <= 2


def test_a_name_that_is_taken_ends_as_the_push_does(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    other = machine.write("other", {**SOURCE, "config.json": b"{}", "more.json": b"{}"})
    for folder, action in ((source, Action.SKIP), (other, Action.CONFLICT)):
        with pytest.raises(AlreadyExistsError) as caught:
            machine.push("llama", folder)
        with _look(machine) as system:
            preview = preview_push(system, _asked("llama", folder))
        assert preview.conflict is not None
        assert (preview.conflict.message, preview.conflict.exit_code) == (caught.value.message, 4)
        assert _actions(preview)["config.json"] is action
    with _look(machine) as system:
        same = preview_push(system, _asked("llama", source, if_not_exists=True))
        unread = preview_push(system, PushRequest("llama", (str(source),), rehash=True))
        tried = preview_push(system, PushRequest("llama", (str(source),), rehash=True, if_not_exists=True))
    assert same.conflict is None
    assert isinstance(unread.conflict, AlreadyExistsError)
    assert set(_actions(unread).values()) == {Action.COMPARE}
    assert tried.conflict is None


def test_a_push_of_a_checkpoint_under_another_name_moves_nothing(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.push("other", machine.write("other", {"a": b"a"}))
    with _look(machine) as system:
        free = preview_name(system, NameRequest("new", "llama"))
        same = preview_name(system, NameRequest("llama", "llama"))
        other = preview_name(system, NameRequest("other", "llama"))
    assert set(_actions(free).values()) == set(_actions(same).values()) == {Action.SKIP}
    assert free.conflict is None
    assert same.conflict is not None
    assert "same content" in same.conflict.message
    assert other.conflict is not None
    assert "other content" in other.conflict.message


def test_what_cannot_be_pushed_is_refused_as_by_the_push(machine: Machine) -> None:
    with _look(machine) as system:
        with pytest.raises(SourceError):
            preview_push(system, PushRequest("llama", (str(machine.root / "nowhere"),)))
        with pytest.raises(SourceError):
            preview_push(system, PushRequest("llama", storage_provider="lab", source_path="bucket/nowhere"))


def test_what_a_provider_can_copy_by_itself_is_said_to_be_copied(machine: Machine) -> None:
    write_tree(machine.root / "buckets/bucket/place", SOURCE)
    machine.storage.service_identity = machine.buckets.storage.service_identity = "one"
    preview = preview_push(machine.system, PushRequest("llama", storage_provider="lab", source_path="bucket/place"))
    assert _actions(preview) == {
        "config.json": Action.MOVE,
        "model/a.safetensors": Action.COPY,
        "model/b.safetensors": Action.COPY,
        "tokens/one.bin": Action.MOVE,
    }
    counter = Counter()
    machine.push_from("llama", "bucket/place", progress=counter)
    assert counter.moved == preview.moved_bytes == len(SOURCE["config.json"]) + len(SOURCE["tokens/one.bin"])
    again = preview_push(machine.system, PushRequest("again", storage_provider="lab", source_path="bucket/place"))
    assert [step.why for step in again.steps] == ["stored: same object"] * 4
    exported = preview_export(machine.system, ExportRequest("llama", "lab", "bucket/new"))
    assert _actions(exported) == _actions(preview)
    machine.buckets.storage.reset()
    machine.export("llama", "bucket/new")
    assert len(machine.buckets.storage.named("copy")) == 2


def test_a_fetch_does_what_was_said(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    for overwrite in (False, True):
        with _look(machine) as system:
            preview = preview_fetch(system, FetchRequest("llama", str(machine.root / "out"), overwrite=overwrite))
        report = machine.fetch("llama", "out", overwrite=overwrite)
        said = preview.by_action()
        assert said.get(Action.MOVE, (0, 0)) == (report.fetched_files, report.moved_bytes)
        assert said.get(Action.SKIP, (0, 0))[0] == report.kept_files
        (machine.root / "out/config.json").unlink()
        flip_byte(machine.root / "out/model/a.safetensors", PART)


def test_a_look_records_no_digest_that_it_finds_out(machine: Machine) -> None:
    write_tree(machine.root / "buckets/bucket/place", SOURCE)
    machine.storage.service_identity = machine.buckets.storage.service_identity = "one"
    machine.push_from("llama", "bucket/place")
    machine.storage.service_identity = machine.buckets.storage.service_identity = ""
    write_tree(machine.root / "out", SOURCE)
    before = _everything(machine)
    with _look(machine) as system:
        assert set(_actions(preview_fetch(system, FetchRequest("llama", str(machine.root / "out")))).values()) == {
            Action.SKIP
        }
    assert _everything(machine) == before
    machine.fetch("llama", "out")
    assert _everything(machine) != before, "a fetch does record them"


def test_a_fetch_asks_for_about_as_much_as_was_said(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    preview = preview_fetch(machine.system, FetchRequest("llama", str(machine.root / "out")))
    machine.storage.reset()
    machine.fetch("llama", "out")
    assert abs(len(machine.storage.calls) - preview.requests) <= 2


def test_other_content_at_the_destination_ends_as_the_fetch_does(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.fetch("llama", "out")
    flip_byte(machine.root / "out/config.json")
    with pytest.raises(DestinationExistsError) as caught:
        machine.fetch("llama", "out")
    with _look(machine) as system:
        preview = preview_fetch(system, FetchRequest("llama", str(machine.root / "out")))
    assert preview.conflict is not None
    assert (preview.conflict.message, preview.conflict.exit_code) == (caught.value.message, 4)
    assert _actions(preview)["config.json"] is Action.CONFLICT
    assert preview.moved_bytes == 0


def test_a_broken_fetch_is_seen_to_have_left_something(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.storage.before_call = _interrupt_at(len(machine.storage.calls) + 3)
    with pytest.raises(KeyboardInterrupt):
        machine.fetch("llama", "out")
    machine.storage.reset()
    with _look(machine) as system:
        preview = preview_fetch(system, FetchRequest("llama", str(machine.root / "out")))
    assert "an earlier fetch left some" in {step.why for step in preview.steps}


def _interrupt_at(number: int) -> Callable[[int, object], None]:
    def interrupt(call: int, _: object) -> None:
        if call >= number:
            raise KeyboardInterrupt

    return interrupt


def test_an_export_does_what_was_said(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    place = machine.root / "buckets/bucket/place"
    for overwrite in (False, False, True):
        with _look(machine) as system:
            preview = preview_export(system, ExportRequest("llama", "lab", "bucket/place", overwrite=overwrite))
        machine.buckets.storage.reset()
        report = machine.export("llama", "bucket/place", overwrite=overwrite)
        said = preview.by_action()
        assert said.get(Action.MOVE, (0, 0)) == (report.exported_files, report.moved_bytes)
        assert said.get(Action.SKIP, (0, 0))[0] == report.skipped_files
        assert abs(len(machine.buckets.storage.calls) - preview.requests) <= 8
        flip_byte(place / "config.json") if report.skipped_files else (place / "tokens/one.bin").unlink()


def test_other_content_at_the_provider_ends_as_the_export_does(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.push("other", machine.write("other", {"config.json": b"{}"}))
    machine.export("llama")
    flip_byte(machine.root / "buckets/bucket/place/config.json")
    with pytest.raises(DestinationExistsError) as caught:
        machine.export("llama")
    with _look(machine) as system:
        preview = preview_export(system, ExportRequest("llama", "lab", "bucket/place"))
        assert preview.conflict is not None
        assert preview.conflict.message == caught.value.message
        with pytest.raises(DestinationExistsError, match="another checkpoint was exported"):
            preview_export(system, ExportRequest("other", "lab", "bucket/place"))
        with pytest.raises(UsageError):
            preview_export(system, ExportRequest("other", "lab", "bucket"))


def test_a_deletion_frees_what_no_other_checkpoint_needs(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    own = machine.write("own", {"model/b.safetensors": SOURCE["model/b.safetensors"], "c.bin": noise(PART, "c")})
    machine.push("other", own)
    with _look(machine) as system:
        preview = preview_delete(system, DeleteRequest("other"))
    assert _actions(preview) == {"c.bin": Action.FREE, "model/b.safetensors": Action.SKIP}
    assert preview.steps[1].why == "stays: another needs it"
    delete(machine.system, DeleteRequest("other"))
    with _look(machine) as system:
        collected = preview_garbage(system, GarbageRequest(grace_period=timedelta(0)))
        assert preview_garbage(system, GarbageRequest()).steps == []
    assert machine.collect().freed_bytes == collected.freed_bytes == preview.freed_bytes == PART


def test_what_cannot_be_deleted_is_refused_as_by_the_deletion(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    protect(machine.system, ProtectRequest(["llama"]))
    for reference, kind in (("llama", ConflictError), ("unknown", NotFoundError)):
        with pytest.raises(kind) as caught:
            delete(machine.system, DeleteRequest(reference))
        with _look(machine) as system, pytest.raises(kind, match=f"^{caught.value.message}$"):
            preview_delete(system, DeleteRequest(reference))


def test_gc_tells_of_each_checkpoint_what_it_frees(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.push("half", source, machine.write("more", {"more.bin": noise(PART, "more")}))
    delete(machine.system, DeleteRequest("llama"))
    delete(machine.system, DeleteRequest("half"))
    machine.storage.faults = dict.fromkeys(range(3, 100), Fault.BEFORE)
    with pytest.raises(CheckpointError):
        machine.push("broken", machine.write("broken", {"c.bin": noise(4 * PART, "c")}))
    machine.storage.reset()
    with _look(machine) as system:
        preview = preview_garbage(system, GarbageRequest(grace_period=timedelta(0)))
    assert set(_actions(preview)) == {"llama", "half", "broken"}
    assert sum(step.size for step in preview.steps) == preview.freed_bytes
    report = machine.collect()
    assert report.freed_bytes == preview.freed_bytes
    assert report.checkpoints + report.abandoned == len(preview.steps)


def test_gc_that_would_be_refused_is_refused_by_its_dry_run(
    machine: Machine, source: Path, new_machine: NewMachine
) -> None:
    machine.push("llama", source)
    other = new_machine(store=str(machine.store_folder))
    (other.settings.home / "catalog.db").unlink()
    with System.open(other.settings) as system:
        assert system.catalog.identity()
    store_id, catalog = machine.system.store.read()
    assert store_id is not None and catalog is not None
    with _look(other) as system, pytest.raises(ConflictError, match="belongs to another catalog"):
        preview_garbage(system, GarbageRequest())
    machine.system.store.renew(store_id, catalog._replace(changes=1000))
    with _look(machine) as system, pytest.raises(ConflictError, match="older copy"):
        preview_garbage(system, GarbageRequest())


def test_a_push_that_gc_would_finish_is_no_abandoned_one_for_its_dry_run(machine: Machine, source: Path) -> None:
    machine.push("first", source)
    with machine.system.catalog.database.writing() as transaction:
        transaction.change("UPDATE checkpoints SET status = 'failed', manifest_digest = NULL")
        transaction.change("DELETE FROM files")
    with _look(machine) as system:
        preview = preview_garbage(system, GarbageRequest(grace_period=timedelta(0)))
    assert (_actions(preview), preview.freed_bytes) == ({"first": Action.SKIP}, 0)
    report = machine.collect()
    assert (report.finished, report.abandoned, report.freed_bytes) == (("first",), 0, 0)


def test_what_gc_would_keep_is_told_by_its_dry_run(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    copy = copy_of_catalog(machine)
    undelete(machine.system, UndeleteRequest("llama"))
    machine.push("mistral", machine.write("more", {"more.bin": noise(PART, "more")}))
    kept = {machine.checkpoint(name).id: Action.SKIP for name in ("llama", "mistral")}
    machine = restored(machine, copy)
    with _look(machine) as system:
        preview = preview_garbage(system, GarbageRequest(grace_period=timedelta(0)))
    assert (_actions(preview), preview.freed_bytes) == (kept, 0)
    report = machine.collect()
    assert (set(report.newer), report.freed_bytes) == (set(kept), 0)


def test_gc_and_its_dry_run_go_by_the_clock_of_the_store(
    machine: Machine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    ahead = now() + timedelta(days=365)
    for module in ("gc", "preview"):
        monkeypatch.setattr(f"flexai.checkpoints.service.{module}.now", lambda: ahead)
    with _look(machine) as system:
        assert preview_garbage(system, GarbageRequest(timedelta(days=1))).steps == []
    assert machine.collect(timedelta(days=1)).checkpoints == 0


def test_a_push_by_a_live_process_is_told_of(machine: Machine, source: Path) -> None:
    seen = []

    def look(*_: object) -> None:
        machine.storage.before_call = None
        with _look(machine) as system, pytest.raises(ConflictError) as caught:
            preview_push(system, _asked("llama", source))
        seen.append(caught.value.message)

    machine.storage.before_call = look
    push(machine.system, _asked("llama", source))
    assert len(seen) == 1
    assert "is being pushed by" in seen[0]
