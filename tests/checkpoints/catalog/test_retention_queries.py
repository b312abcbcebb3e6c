"""What retention asks the catalog, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from blake3 import blake3
from sqlalchemy import select, update

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.database import Record, Transaction
from flexai.checkpoints.catalog.leases import NO_LEASE, Lease
from flexai.checkpoints.catalog.retention_queries import Candidates, check_some_stay, check_unused, read_candidates
from flexai.checkpoints.catalog.tables import checkpoints, jobs
from flexai.checkpoints.errors import CheckpointError, ConflictError, NotFoundError
from flexai.checkpoints.models import Checkpoint, ExportRecord, TrainingFacts, now
from flexai.checkpoints.names import parse_reference
from tests.checkpoints.catalog.steps import STORE_ID, add_job, begin, capture, commit, push, store
from tests.support.tables import tables_of

RESUMABLE = TrainingFacts(resumable=True)


def captured(
    catalog: Catalog, job_id: str, name: str = "checkpoint-5", facts: TrainingFacts | None = RESUMABLE
) -> Checkpoint:
    checkpoint_id, lease = capture(catalog, job_id, name)
    content = store(catalog.blobs(STORE_ID), checkpoint_id, f"{job_id} {name}".encode())
    return commit(catalog, checkpoint_id, lease, {"model.bin": content}, facts)


def run(catalog: Catalog, job_id: str, *, from_checkpoint: object = None) -> Lease:
    """Let this process be the job's runner."""
    lease = Lease.new()
    values = {"status": "in progress", **lease.columns()}
    if from_checkpoint is not None:
        values["input_checkpoint_id"] = str(from_checkpoint)
    with tables_of(catalog.database) as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))
    return lease


def export(catalog: Catalog, checkpoint: Checkpoint) -> None:
    assert checkpoint.manifest_digest is not None
    catalog.exports.record(
        ExportRecord(
            id=checkpoint.id,
            checkpoint_id=checkpoint.id,
            storage_provider="lab",
            destination_path="bucket/x",
            manifest_digest=checkpoint.manifest_digest,
            exported_at=now(),
        )
    )


def found_ids(found: Candidates) -> set[str]:
    return {row["id"] for row in found.rows}


def test_only_what_is_asked_for_is_read_and_nothing_that_was_deleted(catalog: Catalog) -> None:
    one, two = add_job(catalog, "one"), add_job(catalog, "two")
    a, b, gone = captured(catalog, one), captured(catalog, two), captured(catalog, two, "gone")
    pushed = push(catalog, "llama")
    catalog.checkpoints.delete(parse_reference(gone.id))
    database = catalog.database
    assert found_ids(read_candidates(database, job_ids=None, pushed=False)) == {str(a.id), str(b.id)}
    assert found_ids(read_candidates(database, job_ids=[one], pushed=False)) == {str(a.id)}
    assert found_ids(read_candidates(database, job_ids=[], pushed=True)) == {pushed.id}
    assert found_ids(read_candidates(database, job_ids=[two], pushed=True)) == {str(b.id), pushed.id}
    assert found_ids(read_candidates(database, job_ids=[], pushed=False)) == set()
    assert {row["job_name"] for row in read_candidates(database, job_ids=None, pushed=False).rows} == {"one", "two"}


def test_every_reference_to_a_blob_is_read_of_all_checkpoints_and_no_others(catalog: Catalog) -> None:
    captured(catalog, add_job(catalog))
    pushed = push(catalog, "llama", {"model.bin": b"shared", "own.bin": b"own"})
    gone = push(catalog, "gone", {"model.bin": b"shared"})
    catalog.checkpoints.delete(parse_reference("gone"))
    on_its_way, _ = begin(catalog, "on-its-way")
    catalog.blobs(STORE_ID).hold_by_digest(on_its_way, [blake3(b"shared").hexdigest()])
    store(catalog.blobs(STORE_ID), on_its_way, b"another")
    with tables_of(catalog.database) as connection:
        connection.execute(update(checkpoints).where(checkpoints.c.id == on_its_way).values(kind="captured"))
    found = read_candidates(catalog.database, job_ids=[], pushed=True).blobs
    assert sorted(found.values(), key=lambda one: one[0]) == [
        (len(b"own"), frozenset({pushed.id})),
        (len(b"shared"), frozenset({pushed.id, gone.id, on_its_way})),
    ]


def test_exported_ones_are_told_from_others(catalog: Catalog) -> None:
    first, second = push(catalog, "first"), push(catalog, "second")
    export(catalog, first)
    rows = read_candidates(catalog.database, job_ids=[], pushed=True).rows
    assert {row["id"]: bool(row["is_exported"]) for row in rows} == {first.id: True, second.id: False}


def test_only_jobs_with_a_live_runner_count_as_running(catalog: Catalog) -> None:
    pushed = push(catalog)
    running, gone, ended = (add_job(catalog, name) for name in ("running", "gone", "ended"))
    run(catalog, running, from_checkpoint=pushed.id)
    run(catalog, gone, from_checkpoint=pushed.id)
    run(catalog, ended, from_checkpoint=pushed.id)
    with tables_of(catalog.database) as connection:
        connection.execute(update(jobs).where(jobs.c.id == gone).values(NO_LEASE))
        connection.execute(update(jobs).where(jobs.c.id == ended).values(status="stopped"))
    found = read_candidates(catalog.database, job_ids=None, pushed=False)
    assert found.running == {running: "running"}
    assert found.users == {pushed.id: ["running"]}


Check = Callable[[Transaction, Record], None]


def unused(transaction: Transaction, row: Record) -> None:
    check_unused(transaction, row, keep_exported=True)


def delete(catalog: Catalog, checkpoint: Checkpoint, check: Check = unused) -> None:
    catalog.checkpoints.delete(parse_reference(checkpoint.id), check=check)


def test_what_a_running_job_started_from_is_not_deleted(catalog: Catalog) -> None:
    pushed = push(catalog)
    run(catalog, add_job(catalog), from_checkpoint=pushed.id)
    with pytest.raises(ConflictError, match="has started from it"):
        delete(catalog, pushed)
    assert catalog.checkpoints.get(parse_reference("llama")).deleted_at is None


def test_the_newest_one_that_a_running_job_would_be_resumed_from_is_not_deleted(catalog: Catalog) -> None:
    job_id = add_job(catalog)
    first, second = captured(catalog, job_id, "a"), captured(catalog, job_id, "b")
    third = captured(catalog, job_id, "c", TrainingFacts(resumable=False))
    run(catalog, job_id)
    with pytest.raises(ConflictError, match="would be resumed from it"):
        delete(catalog, second)
    delete(catalog, first)
    delete(catalog, third)


def test_what_was_exported_is_deleted_only_on_request(catalog: Catalog) -> None:
    pushed = push(catalog)
    export(catalog, pushed)
    with pytest.raises(ConflictError, match="it was exported"):
        delete(catalog, pushed)
    delete(catalog, pushed, lambda transaction, row: check_unused(transaction, row, keep_exported=False))


def test_one_of_several_has_to_stay(catalog: Catalog) -> None:
    first, second, third = (push(catalog, name) for name in ("one", "two", "three"))

    def check(transaction: Transaction, _row: Record) -> None:
        check_some_stay(transaction, [second.id, str(third.id)])

    catalog.checkpoints.delete(parse_reference("two"))
    delete(catalog, first, check)
    fourth = push(catalog, "four")
    catalog.checkpoints.delete(parse_reference("three"))
    with pytest.raises(ConflictError, match="are gone"):
        delete(catalog, fourth, check)


def attempt(action: Callable[[], object]) -> CheckpointError | None:
    try:
        action()
    except CheckpointError as error:
        return error
    return None


def test_two_that_rely_on_each_others_checkpoint_never_delete_both(catalog: Catalog) -> None:
    for number in range(10):
        left, right = push(catalog, f"left-{number}"), push(catalog, f"right-{number}")
        start = threading.Barrier(2)

        def delete_one(one: Checkpoint, other: Checkpoint, start: threading.Barrier = start) -> None:
            start.wait()
            delete(catalog, one, lambda transaction, _: check_some_stay(transaction, [other.id]))

        with ThreadPoolExecutor(2) as pool:
            pairs = [(left, right), (right, left)]
            failures = list(pool.map(lambda pair: attempt(lambda: delete_one(*pair)), pairs))
        assert any(failures)
        assert all(isinstance(failure, ConflictError) for failure in failures if failure)
        with tables_of(catalog.database) as connection:
            query = select(checkpoints.c.id).where(
                checkpoints.c.id.in_([str(left.id), str(right.id)]), checkpoints.c.deleted_at.is_(None)
            )
            assert len(connection.execute(query).all()) >= 1


def test_a_job_starts_from_a_checkpoint_or_finds_it_deleted_and_never_both(catalog: Catalog) -> None:
    for number in range(10):
        pushed = push(catalog, f"input-{number}")
        job_id = add_job(catalog, f"job-{number}")
        lease = run(catalog, job_id)
        start = threading.Barrier(2)

        def begin_from(
            job_id: str = job_id, lease: Lease = lease, pushed: Checkpoint = pushed, start: threading.Barrier = start
        ) -> None:
            start.wait()
            catalog.jobs.set_input(job_id, lease, pushed.id)

        def delete_it(pushed: Checkpoint = pushed, start: threading.Barrier = start) -> None:
            start.wait()
            delete(catalog, pushed)

        with ThreadPoolExecutor(2) as pool:
            begun, deleted = pool.map(attempt, (begin_from, delete_it))
        assert (begun is None) is not (deleted is None)
        assert isinstance(begun or deleted, NotFoundError if begun else ConflictError)
