from __future__ import annotations

import threading
import uuid
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import (
    CheckpointError,
    ConflictError,
    NotFoundError,
    StorageUnavailableError,
)
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.service.delete import delete, undelete
from flexai.checkpoints.service.gc import GarbageReport
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.requests import DeleteRequest, NameRequest, UndeleteRequest
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.checkpoints.service.training import delete_job
from flexai.checkpoints.service.training_requests import DeleteJobRequest
from flexai.checkpoints.storage.protocol import BytesBody
from tests.support.faults import Call, Fault
from tests.support.fixtures import NewMachine
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import PART, Machine, check_all, check_nothing_is_left_over, check_nothing_is_torn
from tests.support.progress import Counter
from tests.support.tables import tables_of
from tests.support.trees import Tree, noise, read_tree

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "model/a.safetensors": noise(3 * PART + 17, "a"),
    "model/b.safetensors": noise(2 * PART, "b"),
    "tokens/one.bin": noise(5000, "one"),
    "tokens/two.bin": noise(9000, "two"),
}
SIZE = sum(map(len, SOURCE.values()))
DAY = timedelta(days=1)


@pytest.fixture
def source(machine: Machine) -> Path:
    return machine.write("run", SOURCE)


def _backdate(machine: Machine, **columns: str) -> None:
    """Make the catalog believe that what happened to its checkpoints happened long ago."""
    settings = ", ".join(f"{column} = '{time}'" for column, time in columns.items())
    with tables_of(machine.system.catalog.database) as connection:
        connection.exec_driver_sql(f"UPDATE checkpoints SET {settings}")


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
    assert machine.collect(DAY).checkpoints == 1
    check_nothing_is_left_over(machine)


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
    delete(machine.system, DeleteRequest("other"))
    again = machine.again()

    def collect(_number: int, _call: Call) -> None:
        with machine.again() as other:
            other.collect()

    again.storage.before_call = collect
    again.push("llama", source)
    again.storage.reset()
    check_all(again, ["llama"], SOURCE)


def test_a_push_that_begins_while_gc_gives_up_an_earlier_one_keeps_its_manifest(machine: Machine, source: Path) -> None:
    """gc is about to remove the manifest of a push that failed at its very end; the push is just continued."""
    machine.push("probe", source)
    calls = len(machine.storage.calls)
    delete(machine.system, DeleteRequest("probe"))
    machine.collect()
    broken = machine.again()
    broken.storage.faults = {calls: Fault.AFTER}
    with pytest.raises(StorageUnavailableError):
        broken.push("llama", source)
    collector = machine.again()
    outcome: list[object] = []

    def continue_the_push(_number: int, call: Call) -> None:
        if call.name == "delete" and call.key.startswith("manifests/") and not outcome:
            with machine.again() as other:
                try:
                    outcome.append(other.push("llama", source))
                except CheckpointError as error:
                    outcome.append(error)

    collector.storage.before_call = continue_the_push
    collector.collect()
    assert len(outcome) == 1
    assert isinstance(outcome[0], ConflictError), "gc holds it while it takes it"
    again = machine.again()
    again.push("llama", source)
    check_all(again, ["llama"], SOURCE)


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
        try:
            machine.collect()
        except StorageUnavailableError:
            again = machine.again()
            check_nothing_is_torn(again)
            again.collect()
            check_all(again, ["kept"], SOURCE)
            assert {one.name for one in again.checkpoints()} == {"kept", "broken", "pack"}
        else:
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

    from flexai.checkpoints.catalog.jobs import parse_job_reference
    from flexai.checkpoints.catalog.tables import jobs

    def count() -> int:
        with tables_of(machine.system.catalog.database) as connection:
            return int(connection.execute(select(func.count()).select_from(jobs)).scalar_one())

    (checkpoint,) = machine.checkpoints()
    delete(machine.system, DeleteRequest(checkpoint.id))
    machine.system.catalog.jobs.delete(parse_job_reference("train"))
    assert count() == 1
    machine.collect()
    assert count() == 0
