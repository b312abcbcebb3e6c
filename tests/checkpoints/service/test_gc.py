from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import (
    AlreadyExistsError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    StorageError,
    StorageUnavailableError,
)
from flexai.checkpoints.models import CheckpointStatus, now, to_text
from flexai.checkpoints.service.change_requests import DeleteRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, undelete
from flexai.checkpoints.service.gc import GarbageReport
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push_requests import NameRequest
from flexai.checkpoints.service.store_owner import first_use
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST
from flexai.checkpoints.service.training import delete_job
from flexai.checkpoints.service.training_requests import DeleteJobRequest
from flexai.checkpoints.storage.protocol import BytesBody
from tests.support.faults import BetweenTransactions, Call, Fault
from tests.support.fixtures import NewMachine
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import PART, SOURCE, Machine, check_all, check_nothing_is_left_over, check_nothing_is_torn
from tests.support.progress import Counter
from tests.support.tables import statements, tables_of
from tests.support.trees import noise, read_tree

SIZE = sum(map(len, SOURCE.values()))
DAY = timedelta(days=1)
A_MINUTE = timedelta(minutes=1)


@pytest.fixture
def source(machine: Machine) -> Path:
    return machine.write("run", SOURCE)


def _backdate(machine: Machine, **columns: str) -> None:
    """Make the catalog believe that what happened to its checkpoints happened long ago."""
    settings = ", ".join(f"{column} = '{time}'" for column, time in columns.items())
    with tables_of(machine.system.catalog.database) as connection:
        connection.exec_driver_sql(f"UPDATE checkpoints SET {settings}")


def _backdate_records(machine: Machine) -> None:
    """Make the store believe it as well."""
    for path in (machine.store_folder / "records").rglob("*.json"):
        os.utime(path, (1_577_836_800, 1_577_836_800))


_LONG_AGO = "2020-01-01T00:00:00.000000Z"


def test_nothing_deleted_is_nothing_collected(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    assert machine.collect() == GarbageReport(checkpoints=0, abandoned=0, blobs=0, freed_bytes=0, unreferenced=())
    check_all(machine, ["llama"], SOURCE)


def test_an_empty_store_can_be_collected(machine: Machine) -> None:
    assert machine.collect() == GarbageReport(checkpoints=0, abandoned=0, blobs=0, freed_bytes=0, unreferenced=())


def test_the_bytes_of_a_deleted_checkpoint_go(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    report = machine.collect()
    assert report == GarbageReport(checkpoints=1, abandoned=0, blobs=3, freed_bytes=SIZE, unreferenced=())
    assert machine.checkpoints() == []
    assert set(read_tree(machine.store_folder)) == {"store.json"}
    check_nothing_is_left_over(machine)


def test_what_was_deleted_within_the_grace_period_stays(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    assert machine.collect(DAY).checkpoints == 0
    assert undelete(machine.system, UndeleteRequest("llama")).status is CheckpointStatus.AVAILABLE
    delete(machine.system, DeleteRequest("llama"))
    _backdate(machine, deleted_at=_LONG_AGO)
    _backdate_records(machine)
    assert machine.collect(DAY).checkpoints == 1
    check_nothing_is_left_over(machine)


def test_what_a_machine_whose_clock_is_behind_has_deleted_stays_for_the_grace_period(
    machine: Machine, source: Path
) -> None:
    machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    _backdate(machine, deleted_at=_LONG_AGO)
    report = machine.collect(DAY)
    assert (report.checkpoints, report.blobs, report.newer) == (0, 0, ())
    assert undelete(machine.system, UndeleteRequest("llama")).status is CheckpointStatus.AVAILABLE
    assert machine.fetched("llama") == SOURCE


def test_a_machine_whose_clock_is_ahead_takes_nothing_before_its_time(
    machine: Machine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    monkeypatch.setattr("flexai.checkpoints.service.gc.now", lambda: now() + 365 * DAY)
    assert machine.collect(DAY).checkpoints == 0
    monkeypatch.undo()
    assert undelete(machine.system, UndeleteRequest("llama")).status is CheckpointStatus.AVAILABLE


def test_the_grace_period_of_the_settings_holds_where_none_is_given(machine: Machine, source: Path) -> None:
    from flexai.checkpoints.service.gc import collect_garbage

    machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    assert collect_garbage(machine.system, GarbageRequest()).checkpoints == 0
    impatient = machine.again(grace_period=0)
    assert collect_garbage(impatient.system, GarbageRequest()).checkpoints == 1


def test_a_deleted_job_is_forgotten_when_gc_takes_the_last_checkpoint_that_it_wrote(machine: Machine) -> None:
    job = begin_job(machine, "train")
    first, second = (capture_files(machine, job, name, {"model.bin": noise(50, name)}) for name in ("a", "b"))
    delete_job(machine.system, DeleteJobRequest("train", keep_checkpoints=True))
    delete(machine.system, DeleteRequest(first.id))
    machine.collect()
    delete(machine.system, DeleteRequest(second.id))
    machine.collect(DAY)
    assert machine.system.catalog.jobs.get_by_id(job.id).name == "train"
    machine.collect()
    with pytest.raises(NotFoundError):
        machine.system.catalog.jobs.get_by_id(job.id)
    check_nothing_is_left_over(machine)


def test_a_commit_that_no_process_will_ask_for_any_more_is_forgotten(machine: Machine) -> None:
    ages = {"old": DAY + A_MINUTE, "young": DAY - A_MINUTE}
    with machine.system.catalog.database.writing() as transaction:
        transaction.insert("commits", *({"id": one, "at": to_text(now() - age)} for one, age in ages.items()))
    machine.collect()
    with machine.system.catalog.database.reading() as transaction:
        assert ages.keys() & set(transaction.column("SELECT id FROM commits")) == {"young"}


def test_blobs_that_another_checkpoint_needs_stay(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    (source / "model" / "a.safetensors").write_bytes(noise(PART, "other"))
    machine.push("mistral", source)
    delete(machine.system, DeleteRequest("llama"))
    report = machine.collect()
    assert (report.blobs, report.freed_bytes) == (1, len(SOURCE["model/a.safetensors"]))
    check_all(machine, ["mistral"], SOURCE | {"model/a.safetensors": noise(PART, "other")})


def test_a_pack_stays_while_a_checkpoint_needs_one_of_its_files(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.push("tokens", source / "tokens")
    pack = machine.blob_of("llama", "config.json")
    delete(machine.system, DeleteRequest("llama"))
    machine.collect()
    assert pack.exists()
    assert machine.fetched("tokens") == {"one.bin": SOURCE["tokens/one.bin"], "two.bin": SOURCE["tokens/two.bin"]}
    delete(machine.system, DeleteRequest("tokens"))
    machine.collect()
    assert not pack.exists()
    check_nothing_is_left_over(machine)


def test_blobs_stay_while_a_checkpoint_of_another_name_needs_them(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    name_checkpoint(machine.system, NameRequest("copy", "llama"))
    delete(machine.system, DeleteRequest("llama"))
    assert machine.collect().blobs == 0
    check_all(machine, ["copy"], SOURCE)


def _make_garbage(machine: Machine, source: Path) -> None:
    """Of everything some: deleted, kept, shared, broken off."""
    machine.push("kept", source)
    machine.push("deleted", machine.write("other", SOURCE | {"model/b.safetensors": noise(4 * PART, "other")}))
    delete(machine.system, DeleteRequest("deleted"))
    machine.push("gone", machine.write("more", {"only.bin": noise(3 * PART, "only")}))
    delete(machine.system, DeleteRequest("gone"))
    broken = machine.again()
    broken.storage.down_from = 4
    with pytest.raises(StorageUnavailableError):
        broken.push("broken", machine.write("broken", {"half.bin": noise(5 * PART, "half")}))
    broken = machine.again()
    broken.storage.faults = {1: Fault.AFTER}
    with pytest.raises(StorageUnavailableError):
        broken.push("pack", machine.write("pack", {"small.bin": noise(55, "small")}))


def test_a_dry_run_tells_what_the_real_one_does_and_does_nothing(machine: Machine, source: Path) -> None:
    _make_garbage(machine, source)
    before = read_tree(machine.store_folder)
    planned = machine.planned_garbage()
    assert read_tree(machine.store_folder) == before
    assert machine.planned_garbage() == planned
    assert planned.checkpoints == 2
    assert planned.abandoned == 2
    assert machine.collect() == planned
    check_all(machine, ["kept"], SOURCE)


def test_a_second_run_has_nothing_to_do(machine: Machine, source: Path) -> None:
    _make_garbage(machine, source)
    machine.collect()
    before = read_tree(machine.store_folder)
    nothing = GarbageReport(checkpoints=0, abandoned=0, blobs=0, freed_bytes=0, unreferenced=())
    assert machine.planned_garbage() == nothing
    assert machine.collect() == nothing
    assert read_tree(machine.store_folder) == before


def test_progress_counts_what_goes(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    progress = Counter()
    report = machine.collect(progress=progress)
    assert progress.stages == [("gc", SIZE, 3)]
    assert (progress.moved, progress.files, progress.ended) == (report.freed_bytes, report.blobs, 1)


def test_of_an_upload_that_was_broken_off_only_what_had_arrived_is_freed(machine: Machine) -> None:
    """Such a blob is announced with all of its bytes."""
    machine.storage.down_from = 4
    with pytest.raises(StorageUnavailableError):
        machine.push("broken", machine.write("broken", {"half.bin": noise(5 * PART + 7, "half")}))
    again = machine.again()
    (blob,) = again.system.blobs.unfinished(again.checkpoint("broken").id).values()
    assert 0 < len(blob.parts) < 5
    planned = again.planned_garbage()
    report = again.collect()
    assert report == planned
    assert (report.blobs, report.freed_bytes) == (1, len(blob.parts) * blob.part_size)


def test_the_last_part_of_an_upload_is_freed_with_the_bytes_that_it_has(machine: Machine) -> None:
    machine.storage.faults = {6: Fault.BEFORE}
    with pytest.raises(StorageUnavailableError):
        machine.push("broken", machine.write("broken", {"all.bin": noise(3 * PART + 7, "all")}))
    again = machine.again()
    (blob,) = again.system.blobs.unfinished(again.checkpoint("broken").id).values()
    assert len(blob.parts) * blob.part_size > blob.size
    assert again.collect().freed_bytes == blob.size


def test_an_interrupted_push_is_given_up_after_the_grace_period(machine: Machine, source: Path) -> None:
    machine.storage.down_from = 6
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    again = machine.again()
    assert again.collect(DAY).abandoned == 0
    assert again.collect().abandoned == 1
    check_nothing_is_left_over(again)
    given_up = again.checkpoint("llama")
    assert (given_up.status, "a test wanted it" in given_up.reason) == (CheckpointStatus.FAILED, True)
    again.push("llama", source)
    check_all(again, ["llama"], SOURCE)


def test_a_push_whose_process_died_is_given_up_with_a_reason(machine: Machine, source: Path) -> None:
    machine.storage.down_from = 6
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    # As a killed process leaves it: it says uploading, and its holder is gone.
    with tables_of(machine.system.catalog.database) as connection:
        connection.exec_driver_sql("UPDATE checkpoints SET status = 'uploading', reason = ''")
    again = machine.again()
    again.collect()
    assert "not continued within the grace period" in again.checkpoint("llama").reason


def test_a_push_at_work_is_never_given_up(machine: Machine, source: Path) -> None:
    reports = []

    def collect(_number: int, call: Call) -> None:
        with machine.again() as other:
            reports.append(other.collect())

    machine.storage.before_call = collect
    machine.push("llama", source)
    assert {(report.abandoned, report.blobs) for report in reports} == {(0, 0)}
    assert len(reports) > 5
    check_all(machine, ["llama"], SOURCE)


@pytest.mark.parametrize("moment", ["start_upload", "put_part", "complete_upload"])
def test_the_uploads_of_a_push_at_work_are_never_given_up(
    machine: Machine, source: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    storage = machine.storage.inner
    real = getattr(storage, moment)
    moments = []

    def act_and_collect(*arguments: Any, **options: Any) -> Any:
        if moment == "complete_upload":
            moments.append(machine.again().collect())
        result = real(*arguments, **options)
        if moment != "complete_upload":
            moments.append(machine.again().collect())
        return result

    monkeypatch.setattr(storage, moment, act_and_collect)
    machine.push("llama", source)
    assert len(moments) > 2
    monkeypatch.undo()
    check_all(machine, ["llama"], SOURCE)


def test_gc_at_every_instant_of_a_continued_push_does_no_harm(machine: Machine, source: Path) -> None:
    machine.push("other", machine.write("shared", {"a": SOURCE["model/a.safetensors"]}))
    machine.storage.reset()
    machine.storage.down_from = 4
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    again = machine.again()
    delete(again.system, DeleteRequest("other"))

    def collect(_number: int, _call: Call) -> None:
        with machine.again() as other:
            other.collect()

    again.storage.before_call = collect
    again.push("llama", source)
    again.storage.reset()
    check_all(again, ["llama"], SOURCE)


def test_a_push_that_was_cut_off_at_its_very_end_is_finished(machine: Machine, source: Path) -> None:
    """Its manifest is written, and the catalog's word is missing: an older copy of the catalog looks the same."""
    machine.push("probe", source)
    calls = len(machine.storage.calls)
    delete(machine.system, DeleteRequest("probe"))
    machine.collect()
    broken = machine.again()
    broken.storage.faults = {calls: Fault.AFTER}
    with pytest.raises(StorageUnavailableError):
        broken.push("llama", source)
    again = machine.again()
    report = again.collect()
    assert (report.abandoned, report.newer, report.finished) == (0, (), ("llama",))
    check_all(again, ["llama"], SOURCE)
    with pytest.raises(AlreadyExistsError):
        again.push("llama", source)


def test_blobs_that_the_catalog_does_not_know_are_told_and_left_alone(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    stranger = uuid.uuid4().hex
    machine.storage.inner.put(machine.system.store.blob_key(stranger), BytesBody(b"of another catalog"))
    assert machine.collect().unreferenced == (stranger,)
    assert machine.blob_path(stranger).read_bytes() == b"of another catalog"


def test_files_that_are_not_ours_are_left_alone(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    ours = set(read_tree(machine.store_folder))
    mine = {"notes.txt": b"mine", "blobs/README": b"mine", "blobs/zz/zz": b"mine", "manifests/x/y.json": b"mine"}
    machine.write("home/store", mine)
    delete(machine.system, DeleteRequest("llama"))
    machine.collect()
    left = read_tree(machine.store_folder)
    assert {path: left[path] for path in mine} == mine
    assert left.keys() - mine.keys() < ours


def test_uploads_that_never_came_into_the_journal_go_after_the_grace_period(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    stray = machine.system.store.blob_key(uuid.uuid4().hex)
    machine.storage.inner.start_upload(stray, size=1000)
    machine.collect(DAY)
    assert len(list(machine.system.store.list_unfinished())) == 1
    machine.collect()
    assert list(machine.system.store.list_unfinished()) == []
    check_all(machine, ["llama"], SOURCE)


def test_what_dead_processes_left_beside_the_blobs_goes(machine: Machine, source: Path) -> None:
    checkpoint = machine.push("llama", source)
    for key in (f"manifests/{checkpoint.id}.json", f"logs/{uuid.uuid4()}.txt", "store.json"):
        machine.storage.inner.start_upload(key, size=1000)
    stranger = machine.storage.inner.start_upload("manifests/notes.txt", size=10)
    machine.collect(DAY)
    assert len(list(machine.storage.inner.list_uploads(""))) == 4
    machine.collect()
    assert [upload.upload_id for upload in machine.storage.inner.list_uploads("")] == [stranger]


@pytest.mark.parametrize("key", ["clock", "store.json"])
def test_a_collection_that_gives_up_what_another_one_is_writing_does_it_no_harm(machine: Machine, key: str) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    given_up = list[str]()

    def be_in_the_way(_number: int, call: Call) -> None:
        if call.key == key and not given_up:
            given_up.append(key)
            raise NotFoundError(f"the upload of {call.key} is gone")

    machine.storage.before_call = be_in_the_way
    assert machine.system.store.read_clock() is not None
    machine.system.store.renew(machine.system.store_id, first_use(machine.system))
    assert given_up == [key]


def test_the_unfinished_files_of_others_are_left_alone(machine: Machine) -> None:
    machine.storage.inner.start_upload("blobs/readme.txt", size=10)
    machine.storage.inner.start_upload("other/file", size=10)
    machine.collect()
    assert len(list(machine.storage.inner.list_uploads(""))) == 2


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.SHORT])
def test_a_collection_that_breaks_off_anywhere_is_finished_by_the_next(new_machine: NewMachine, fault: Fault) -> None:
    for number in count(1):
        machine = new_machine()
        _make_garbage(machine, machine.write("run", SOURCE))
        machine.storage.reset()
        machine.storage.faults = {number: fault}
        with suppress(StorageError):
            machine.collect()
        done = number > len(machine.storage.calls)
        again = machine.again()
        check_nothing_is_torn(again)
        again.collect()
        check_all(again, ["kept"], SOURCE)
        assert {one.name for one in again.checkpoints()} == {"kept", "broken", "pack"}
        if done:
            break
    assert number > 5


def test_two_collections_at_once_do_no_harm(machine: Machine, source: Path) -> None:
    _make_garbage(machine, source)
    planned = machine.planned_garbage()
    reports: list[GarbageReport] = []
    together = threading.Barrier(3, timeout=60)

    def collect() -> None:
        with machine.again() as one:
            together.wait()
            reports.append(one.collect())

    threads = [threading.Thread(target=collect) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 3
    assert sum(report.freed_bytes for report in reports) >= planned.freed_bytes
    machine.collect()
    check_all(machine, ["kept"], SOURCE)


def test_other_stores_of_the_catalog_are_left_alone(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    other = machine.again(store=str(machine.root / "other-store"))
    other.push("mistral", source)
    delete(machine.system, DeleteRequest("llama"))
    delete(machine.system, DeleteRequest("mistral"))
    assert machine.collect().checkpoints == 1
    assert undelete(other.system, UndeleteRequest("mistral"))
    assert other.fetched("mistral") == SOURCE


def test_the_record_of_a_deleted_job_goes_with_its_last_checkpoint(machine: Machine) -> None:
    from tests.support.jobs import begin_job, capture_files

    job = begin_job(machine, "train")
    capture_files(machine, job, "checkpoint-5", {"model.bin": noise(50)})
    from sqlalchemy import func, select

    from flexai.checkpoints.catalog.tables import jobs
    from flexai.checkpoints.names import parse_job_reference

    def count() -> int:
        with tables_of(machine.system.catalog.database) as connection:
            return int(connection.execute(select(func.count()).select_from(jobs)).scalar_one())

    (checkpoint,) = machine.checkpoints()
    delete(machine.system, DeleteRequest(checkpoint.id))
    machine.system.catalog.jobs.delete(parse_job_reference("train"))
    assert count() == 1
    machine.collect()
    assert count() == 0


def _export(machine: Machine) -> None:
    machine.export("llama")


def _give_another_name(machine: Machine) -> None:
    name_checkpoint(machine.system, NameRequest("other", "llama"))


@pytest.mark.parametrize("use", [_export, _give_another_name])
def test_a_checkpoint_that_gc_takes_at_any_moment_of_its_use_leaves_nothing_that_says_it_is_whole(
    new_machine: NewMachine, use: Callable[[Machine], None]
) -> None:
    for number in count(1):
        machine = new_machine()
        checkpoint = machine.push("llama", machine.write("run", SOURCE))
        other = machine.again()

        def take(other: Machine = other) -> None:
            delete(other.system, DeleteRequest("llama"))
            other.collect()

        moment = BetweenTransactions(machine.system.catalog.database, number, take)
        try:
            use(machine)
        except (ConflictError, IntegrityError, NotFoundError, SourceChangedError) as error:
            assert moment.has_acted, error
        check_nothing_is_torn(other)
        assert [one.file_count for one in other.checkpoints(CheckpointStatus.AVAILABLE)] in (
            [[], [len(SOURCE)]] if moment.has_acted else [[len(SOURCE)], [len(SOURCE), len(SOURCE)]]
        )
        exported = machine.buckets.root / "bucket" / "place" / EXPORT_MANIFEST
        if exported.exists() and json.loads(exported.read_text())["complete"]:
            assert machine.buckets.tree("bucket/place") == SOURCE
            assert json.loads(exported.read_text())["manifestDigest"] == checkpoint.manifest_digest
        if not moment.has_acted:
            return


def test_what_gc_takes_goes_together_in_the_catalog_and_in_the_store(machine: Machine) -> None:
    for number in range(12):
        machine.push(f"model-{number}", machine.write(f"run-{number}", {"a.bin": noise(40_000, str(number))}))
        delete(machine.system, DeleteRequest(f"model-{number}"))
    machine.storage.calls.clear()
    with statements() as asked:
        report = machine.collect()
    assert (report.checkpoints, report.blobs) == (12, 12)
    assert sum(sql.startswith("UPDATE blobs") for sql, _ in asked) == 1
    assert sum(sql.startswith("DELETE FROM blobs") for sql, _ in asked) == 1
    assert [call.name for call in machine.storage.calls].count("delete") <= 4
    check_nothing_is_left_over(machine)
