from __future__ import annotations

import math
import uuid
from dataclasses import fields, replace
from datetime import timedelta

import pytest

from flexai.checkpoints.catalog.blobs import Blobs
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.checkpoint_rows import row_of
from flexai.checkpoints.catalog.leases import Lease, this_host
from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.errors import AlreadyExistsError, ConflictError, NameTakenError, NotFoundError
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus, Source, TrainingFacts, now, to_text
from flexai.checkpoints.names import new_id, parse_id, parse_name, parse_reference
from tests.checkpoints import samples
from tests.checkpoints.catalog.others import OtherProcesses
from tests.checkpoints.catalog.steps import (
    LATER,
    OTHER_STORE_ID,
    STORE_ID,
    add_job,
    at_once,
    begin,
    capture,
    collect,
    columns,
    commit,
    delete,
    fail,
    manifest_of,
    move_elsewhere,
    push,
    referenced,
    set_columns,
    store,
    undelete,
)
from tests.checkpoints.samples import OTHER_OWNER, OWNER

LEASE_COLUMNS = ("claim_token", "claim_host", "claim_pid", "claim_started", "claim_until")


def _get(catalog: Catalog, reference: object) -> Checkpoint:
    return catalog.checkpoints.get(parse_reference(str(reference)))


# Beginning a push


def test_a_push_takes_its_name_and_is_its_process_s(catalog: Catalog) -> None:
    parent = new_id()
    checkpoint_id, lease = begin(catalog, "Llama-7b", parent_id=parent, status=CheckpointStatus.SYNCING)
    found = _get(catalog, "Llama-7b")
    assert found.id == checkpoint_id
    assert found.kind is CheckpointKind.PUSHED
    assert found.status is CheckpointStatus.SYNCING
    assert (found.name, found.creator_user_id, found.owner_org_id) == ("Llama-7b", OWNER.user_id, OWNER.org_id)
    assert found.source == Source(from_local_files=("Llama-7b.bin",))
    assert (found.store_id, found.parent_id) == (STORE_ID, parent)
    assert (found.manifest_digest, found.size, found.file_count, found.deleted_at) == (None, 0, 0, None)
    assert found.created_at == found.updated_at
    assert tuple(columns(catalog, checkpoint_id, *LEASE_COLUMNS)) == tuple(lease.columns().values())


def test_a_name_that_is_available_is_taken(catalog: Catalog) -> None:
    pushed = push(catalog, "llama")
    for name in ("llama", "LLAMA", "Llama"):
        with pytest.raises(NameTakenError) as caught:
            begin(catalog, name)
        assert caught.value.existing == pushed
    with pytest.raises(NameTakenError):
        begin(catalog, "llama", owner=OTHER_OWNER)


def test_a_push_that_failed_is_taken_over(catalog: Catalog) -> None:
    checkpoint_id = fail(catalog)
    before = _get(catalog, "llama")
    assert (before.status, before.reason) == (CheckpointStatus.FAILED, "the disk is full")
    parent = new_id()
    checkpoint, lease = catalog.checkpoints.begin_push(
        parse_name("LLama"),
        owner=OWNER,
        source=Source(source_path="bucket/prefix"),
        status=CheckpointStatus.SYNCING,
        store_id=STORE_ID,
        parent_id=parent,
    )
    assert checkpoint.id == checkpoint_id
    assert checkpoint.name == "LLama", "as it was written last"
    assert (checkpoint.status, checkpoint.reason) == (CheckpointStatus.SYNCING, "")
    assert (checkpoint.source.source_path, checkpoint.parent_id) == ("bucket/prefix", parent)
    assert checkpoint.created_at == before.created_at
    assert checkpoint.updated_at >= before.updated_at
    assert catalog.checkpoints.renew(checkpoint_id, lease)


def test_a_push_taken_over_goes_to_the_store_in_force(catalog: Catalog) -> None:
    checkpoint_id, lease = begin(catalog)
    old = store(catalog.blobs(STORE_ID), checkpoint_id, b"old")
    catalog.checkpoints.fail(checkpoint_id, lease, "the store was lost")
    again, lease = begin(catalog, store_id=OTHER_STORE_ID)
    assert again == checkpoint_id
    assert catalog.blobs(OTHER_STORE_ID).unfinished(again) == {}
    new = store(catalog.blobs(OTHER_STORE_ID), again, b"new")
    committed = commit(catalog, again, lease, {"model.bin": new})
    assert committed.store_id == OTHER_STORE_ID
    assert referenced(catalog, again) == {new.blob_id}
    assert collect(catalog) == [old.blob_id]


def test_a_push_of_this_living_process_is_not_taken_over(catalog: Catalog) -> None:
    begin(catalog)
    with pytest.raises(ConflictError, match="is being pushed by process") as caught:
        begin(catalog, "LLAMA")
    assert not isinstance(caught.value, AlreadyExistsError)


def test_a_push_of_a_process_that_died_is_taken_over_at_once(
    catalog: Catalog, database_url: str, others: OtherProcesses
) -> None:
    other = others.start("begin", database_url, stay=True, name="llama")
    begun = other.answer()
    with pytest.raises(ConflictError, match=f"process {other.pid} on"):
        begin(catalog)
    with pytest.raises(ConflictError, match=f"process {other.pid} on"):
        delete(catalog, "llama")
    assert catalog.garbage(STORE_ID).give_up_abandoned(before=LATER) == []
    other.kill()
    checkpoint_id, lease = begin(catalog)
    assert checkpoint_id == begun["id"]
    assert lease.token != begun["token"]


def test_a_push_of_another_machine_is_taken_over_when_its_lease_has_run_out(catalog: Catalog) -> None:
    checkpoint_id, lost = begin(catalog)
    move_elsewhere(catalog, checkpoint_id, lapsed=False)
    with pytest.raises(ConflictError, match="on elsewhere"):
        begin(catalog)
    move_elsewhere(catalog, checkpoint_id, lapsed=True)
    again, _ = begin(catalog)
    assert again == checkpoint_id
    assert not catalog.checkpoints.renew(checkpoint_id, lost)


@pytest.mark.parametrize("is_failed", [True, False])
def test_a_push_of_another_owner_is_never_taken_over(catalog: Catalog, is_failed: bool) -> None:
    checkpoint_id, lease = begin(catalog)
    if is_failed:
        catalog.checkpoints.fail(checkpoint_id, lease, "stopped")
    else:
        move_elsewhere(catalog, checkpoint_id, lapsed=True)
    with pytest.raises(ConflictError, match="another owner"):
        begin(catalog, owner=OTHER_OWNER)


def test_of_many_that_begin_a_push_of_one_name_at_once_one_wins(catalog: Catalog) -> None:
    results = at_once(lambda number: begin(catalog, "llama" if number % 2 else "LLAMA"))
    won = [result for result in results if isinstance(result, tuple)]
    assert len(won) == 1
    assert all(isinstance(result, ConflictError) for result in results if result not in won)
    assert len(catalog.checkpoints.of_store(STORE_ID)) == 1
    assert catalog.checkpoints.renew(*won[0])


def test_of_many_that_take_over_a_push_at_once_one_wins(catalog: Catalog) -> None:
    checkpoint_id = fail(catalog)
    results = at_once(lambda _: begin(catalog))
    won = [result for result in results if isinstance(result, tuple)]
    assert len(won) == 1
    assert won[0][0] == checkpoint_id
    assert catalog.checkpoints.renew(*won[0])


def test_of_many_processes_that_begin_a_push_of_one_name_at_once_one_wins(
    catalog: Catalog, database_url: str, others: OtherProcesses
) -> None:
    running = [others.start("begin", database_url, stay=True, name="llama") for _ in range(6)]
    answers = [other.answer() for other in running]
    assert len([answer for answer in answers if "token" in answer]) == 1
    assert {answer.get("exit_code", 4) for answer in answers} == {4}
    assert len(catalog.checkpoints.of_store(STORE_ID)) == 1


# What a lease allows


def test_a_claim_that_is_lost_can_do_nothing_more(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, lost = begin(catalog)
    stored = store(blobs, checkpoint_id, b"weights")
    move_elsewhere(catalog, checkpoint_id, lapsed=True)
    _, held = begin(catalog)
    before = catalog.checkpoints.get_by_id(checkpoint_id)
    assert not catalog.checkpoints.renew(checkpoint_id, lost)
    for write in (
        lambda: commit(catalog, checkpoint_id, lost, {"model.bin": stored}),
        lambda: catalog.checkpoints.fail(checkpoint_id, lost, "mine"),
    ):
        with pytest.raises(ConflictError, match="taken over"):
            write()
    assert catalog.checkpoints.get_by_id(checkpoint_id) == before
    assert blobs.files_of(checkpoint_id) == []
    assert catalog.checkpoints.renew(checkpoint_id, held)
    commit(catalog, checkpoint_id, held, {"model.bin": stored})


@pytest.mark.parametrize("end", ["commit", "fail", "abandon"])
def test_a_claim_ends_with_the_push(catalog: Catalog, blobs: Blobs, end: str) -> None:
    checkpoint_id, lease = begin(catalog)
    stored = store(blobs, checkpoint_id, b"weights")
    if end == "commit":
        commit(catalog, checkpoint_id, lease, {"model.bin": stored})
    elif end == "fail":
        catalog.checkpoints.fail(checkpoint_id, lease, "stopped")
    else:
        move_elsewhere(catalog, checkpoint_id, lapsed=True)
        assert catalog.garbage(STORE_ID).give_up_abandoned(before=LATER) == [checkpoint_id]
    assert set(columns(catalog, checkpoint_id, *LEASE_COLUMNS)) == {None}
    assert not catalog.checkpoints.renew(checkpoint_id, lease)
    with pytest.raises(ConflictError, match="taken over"):
        commit(catalog, checkpoint_id, lease, {"model.bin": stored})
    with pytest.raises(ConflictError, match="taken over"):
        catalog.checkpoints.fail(checkpoint_id, lease, "again")


def test_a_claim_on_one_checkpoint_is_none_on_another(catalog: Catalog) -> None:
    one, _ = begin(catalog, "one")
    _, lease = begin(catalog, "two")
    assert not catalog.checkpoints.renew(one, lease)
    with pytest.raises(ConflictError):
        catalog.checkpoints.fail(one, lease, "not mine")


def test_a_lease_that_is_renewed_lasts_longer(catalog: Catalog) -> None:
    checkpoint_id, lease = begin(catalog)
    set_columns(catalog, checkpoint_id, claim_until=to_text(now()))
    assert catalog.checkpoints.renew(checkpoint_id, lease)
    (until,) = columns(catalog, checkpoint_id, "claim_until")
    assert str(until) > to_text(now() + timedelta(seconds=30))


# Commit


def test_a_committed_checkpoint_says_what_it_holds(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, lease = begin(catalog)
    contents = {path: store(blobs, checkpoint_id, path.encode(), path) for path in ("b.bin", "a.bin", "名前.txt")}
    facts = TrainingFacts(
        step=2**40,
        train_loss=0.1,
        eval_loss=1e-300,
        model="LlamaForCausalLM",
        version="4.57.0",
        inference_ready=True,
        inference_missing=("nothing",),
        resumable=True,
        resumable_missing=("a", "b"),
    )
    committed = commit(catalog, checkpoint_id, lease, contents, facts)
    assert committed == _get(catalog, "llama") == _get(catalog, checkpoint_id)
    assert committed.status is CheckpointStatus.AVAILABLE
    assert committed.reason == ""
    assert committed.facts == facts
    assert committed.size == sum(len(path.encode()) for path in contents)
    assert committed.file_count == 3
    assert committed.manifest_digest == manifest_of(contents).digest()
    assert {file.path: file.content for file in blobs.files_of(checkpoint_id)} == contents
    assert referenced(catalog, checkpoint_id) == {content.blob_id for content in contents.values()}


def test_a_commit_drops_what_only_earlier_tries_needed(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, lease = begin(catalog)
    kept = store(blobs, checkpoint_id, b"kept", "a")
    dropped = store(blobs, checkpoint_id, b"dropped", "b")
    half = blobs.begin(writer_id=checkpoint_id, path="c", size=10, part_size=5)
    blobs.set_upload(half, "upload-1")
    catalog.checkpoints.fail(checkpoint_id, lease, "stopped")
    _, lease = begin(catalog)
    commit(catalog, checkpoint_id, lease, {"a": kept})
    assert referenced(catalog, checkpoint_id) == {kept.blob_id}
    assert blobs.unfinished(checkpoint_id) == {}
    assert {blob_id for blob_id, _, _ in blobs.unneeded()} == {dropped.blob_id, half}


def test_a_commit_of_content_that_was_given_up_meanwhile_is_refused(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, _ = begin(catalog, "one")
    theirs = store(blobs, checkpoint_id, b"weights")
    other, other_lease = begin(catalog, "other")
    with pytest.raises(ConflictError):
        commit(catalog, other, other_lease, {"model.bin": theirs})
    assert catalog.checkpoints.get_by_id(other).status is CheckpointStatus.UPLOADING
    assert blobs.files_of(other) == []
    assert blobs.hold(other, theirs)
    commit(catalog, other, other_lease, {"model.bin": theirs})


def test_a_push_that_goes_on_after_it_was_given_up_loses_nothing(catalog: Catalog, blobs: Blobs) -> None:
    """gc gives up an old failed push; its owner tries again before, or after, gc has taken the bytes."""
    checkpoint_id, lease = begin(catalog)
    half = blobs.begin(writer_id=checkpoint_id, path="model.bin", size=7, part_size=7)
    blobs.set_upload(half, "upload-1")
    catalog.checkpoints.fail(checkpoint_id, lease, "the connection broke")
    assert catalog.garbage(STORE_ID).give_up_abandoned(before=LATER) == [checkpoint_id]
    again, lease = begin(catalog)
    for blob in blobs.unfinished(again).values():
        assert blob.id in referenced(catalog, again), "what a push goes on with, gc must not take"
    assert bool(blobs.mark_deleting(half)) == (half not in blobs.unfinished(again))


def test_a_commit_is_whole_or_not_at_all(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, lease = begin(catalog)
    stored = store(blobs, checkpoint_id, b"weights")
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        catalog.checkpoints.commit(
            checkpoint_id,
            lease,
            manifest=manifest_of({"a": stored, "b": stored}).summary,
            files=[StoredFile("a", stored), StoredFile("b", stored._replace(id=999_999))],
        )
    assert catalog.checkpoints.get_by_id(checkpoint_id).status is CheckpointStatus.UPLOADING
    assert catalog.checkpoints.renew(checkpoint_id, lease)
    assert blobs.files_of(checkpoint_id) == []


def test_a_checkpoint_of_many_files_is_committed(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, lease = begin(catalog)
    stored = store(blobs, checkpoint_id, b"the same")
    contents = {f"{number:05}": stored for number in range(12_000)}
    assert commit(catalog, checkpoint_id, lease, contents).file_count == 12_000
    assert [file.path for file in blobs.files_of(checkpoint_id)] == list(contents)


@pytest.mark.parametrize("loss", [0.0, -1.5, 1e308, 5e-324, None])
def test_a_loss_is_kept_as_it_is(catalog: Catalog, blobs: Blobs, loss: float | None) -> None:
    checkpoint_id, lease = begin(catalog)
    contents = {"a": store(blobs, checkpoint_id, b"a")}
    committed = commit(catalog, checkpoint_id, lease, contents, TrainingFacts(train_loss=loss, eval_loss=math.pi))
    assert (committed.facts.train_loss, committed.facts.eval_loss) == (loss, math.pi)


# Finding


def test_a_checkpoint_is_found_by_its_name_in_any_case_and_by_its_id_in_any_case(catalog: Catalog) -> None:
    pushed = push(catalog, "Llama-7b")
    for reference in ("Llama-7b", "llama-7B", "LLAMA-7B", pushed.id, pushed.id.upper()):
        assert _get(catalog, reference) == pushed


@pytest.mark.parametrize("reference", ["llam", "llama_7b", "unknown", parse_id(uuid.UUID(int=4))])
def test_a_checkpoint_that_is_not_there_is_not_found(catalog: Catalog, reference: object) -> None:
    push(catalog, "llama-7b")
    with pytest.raises(NotFoundError) as caught:
        _get(catalog, reference)
    assert str(reference) in caught.value.message
    with pytest.raises(NotFoundError):
        catalog.checkpoints.get_by_id(parse_id(uuid.UUID(int=4)))


def test_checkpoints_are_called_by_name_or_by_job_and_folder(catalog: Catalog) -> None:
    pushed = push(catalog, "llama")
    job = add_job(catalog, "finetune")
    captured, _ = capture(catalog, job, "checkpoint-5")
    root, _ = capture(catalog, job, "")
    wanted = [pushed.id, captured, root, new_id()]
    assert catalog.checkpoints.names_of(wanted) == {
        pushed.id: "llama",
        captured: "finetune/checkpoint-5",
        root: "finetune/.",
    }
    assert catalog.checkpoints.get_by_id(root).title == "finetune/."
    assert catalog.checkpoints.names_of([]) == {}


def test_the_checkpoints_of_a_store_are_its_own(catalog: Catalog) -> None:
    here = push(catalog, "here")
    begin(catalog, "there", store_id=OTHER_STORE_ID)
    assert [checkpoint.name for checkpoint in catalog.checkpoints.of_store(OTHER_STORE_ID)] == ["there"]
    delete(catalog, "here")
    assert [checkpoint.id for checkpoint in catalog.checkpoints.of_store(STORE_ID)] == [here.id]


# Captured checkpoints


def test_captures_of_one_job_are_numbered_in_their_order_however_many_come_at_once(catalog: Catalog) -> None:
    job, other = add_job(catalog, "one"), add_job(catalog, "two")
    done = at_once(lambda number: capture(catalog, job if number % 2 else other, f"checkpoint-{number}")[0], times=10)
    assert all(isinstance(checkpoint_id, str) for checkpoint_id in done)
    for each in (job, other):
        found = catalog.checkpoints.of_job(each)
        assert [checkpoint.sequence for checkpoint in found] == [1, 2, 3, 4, 5]
        assert {checkpoint.job_id for checkpoint in found} == {each}
        assert {checkpoint.kind for checkpoint in found} == {CheckpointKind.CAPTURED}


def test_captured_checkpoints_may_share_a_name_with_each_other_and_with_pushed_ones(catalog: Catalog) -> None:
    job = add_job(catalog)
    pushed = push(catalog, "checkpoint-5")
    first, _ = capture(catalog, job, "checkpoint-5")
    second, _ = capture(catalog, job, "checkpoint-5", node="1")
    assert _get(catalog, "checkpoint-5") == pushed
    assert {checkpoint.id: checkpoint.node for checkpoint in catalog.checkpoints.of_job(job)} == {
        first: "0",
        second: "1",
    }


@pytest.mark.parametrize("name", ["", "a folder's name", "名前", "x" * 255, "latest", parse_id(uuid.UUID(int=3))])
def test_a_captured_checkpoint_may_have_any_folder_s_name(catalog: Catalog, name: str) -> None:
    checkpoint_id, _ = capture(catalog, add_job(catalog), name)
    assert catalog.checkpoints.get_by_id(checkpoint_id).name == name


def test_a_capture_that_turned_out_to_be_none_leaves_no_trace(catalog: Catalog, blobs: Blobs) -> None:
    job = add_job(catalog)
    checkpoint_id, lease = capture(catalog, job)
    stored = store(blobs, checkpoint_id, b"half")
    catalog.checkpoints.discard_failed(checkpoint_id)
    assert catalog.checkpoints.get_by_id(checkpoint_id).status is CheckpointStatus.UPLOADING, "it is still being made"
    catalog.checkpoints.fail(checkpoint_id, lease, "it was removed meanwhile")
    catalog.checkpoints.discard_failed(checkpoint_id)
    with pytest.raises(NotFoundError):
        catalog.checkpoints.get_by_id(checkpoint_id)
    assert [blob_id for blob_id, _, _ in blobs.unneeded()] == [stored.blob_id]


# Delete and undelete


def test_a_deleted_checkpoint_is_gone_by_name_and_by_id_and_its_name_is_free(catalog: Catalog, blobs: Blobs) -> None:
    first = push(catalog, "llama")
    gone = delete(catalog, "LLAMA")
    assert gone.id == first.id
    assert gone.status is CheckpointStatus.DELETING
    assert gone.deleted_at is not None
    for reference in ("llama", first.id):
        with pytest.raises(NotFoundError):
            _get(catalog, reference)
        with pytest.raises(NotFoundError):
            delete(catalog, reference)
    second = push(catalog, "Llama")
    assert second.id != first.id
    assert len(blobs.files_of(first.id)) == 1, "its bytes stay until gc comes"
    assert [checkpoint.id for checkpoint in catalog.checkpoints.list_deleted()] == [first.id]


def test_a_failed_push_can_be_deleted_but_does_not_come_back(catalog: Catalog) -> None:
    fail(catalog)
    delete(catalog, "llama")
    assert catalog.checkpoints.list_deleted() == []
    with pytest.raises(NotFoundError, match="could come back"):
        undelete(catalog, "llama")


def test_a_push_that_a_process_works_on_is_not_deleted(catalog: Catalog) -> None:
    checkpoint_id, lease = begin(catalog)
    with pytest.raises(ConflictError, match="is being pushed by process"):
        delete(catalog, "llama")
    move_elsewhere(catalog, checkpoint_id, lapsed=True)
    delete(catalog, "llama")
    assert not catalog.checkpoints.renew(checkpoint_id, lease)


def test_of_many_that_delete_a_checkpoint_at_once_one_does(catalog: Catalog) -> None:
    push(catalog)
    results = at_once(lambda _: delete(catalog, "llama"))
    assert len([result for result in results if isinstance(result, Checkpoint)]) == 1
    assert len([result for result in results if isinstance(result, NotFoundError)]) == 7


def test_an_undeleted_checkpoint_is_as_it_was(catalog: Catalog, blobs: Blobs) -> None:
    first = push(catalog, "llama")
    delete(catalog, "llama")
    again = undelete(catalog, "LLAMA")
    assert replace(again, updated_at=first.updated_at) == first
    assert _get(catalog, "llama").id == first.id
    assert len(blobs.files_of(first.id)) == 1


def test_of_several_deleted_checkpoints_of_a_name_the_newest_comes_back(catalog: Catalog) -> None:
    ids = []
    for number in range(3):
        ids.append(push(catalog, "llama", {"a": str(number).encode()}).id)
        delete(catalog, "llama")
    assert undelete(catalog, "llama").id == ids[-1]
    with pytest.raises(AlreadyExistsError, match="in use again") as caught:
        undelete(catalog, "llama")
    assert str(ids[-2]) in caught.value.hint
    assert undelete(catalog, ids[0], "llama-0").name == "llama-0"
    assert [checkpoint.id for checkpoint in catalog.checkpoints.list_deleted()] == [ids[1]]


def test_a_checkpoint_comes_back_under_another_name_where_its_own_is_in_use(catalog: Catalog) -> None:
    first = push(catalog, "llama")
    delete(catalog, "llama")
    push(catalog, "Llama")
    with pytest.raises(AlreadyExistsError, match="in use again"):
        undelete(catalog, first.id)
    with pytest.raises(AlreadyExistsError, match="in use again"):
        undelete(catalog, first.id, "LLAMA")
    assert undelete(catalog, first.id, "llama-old").id == first.id
    assert _get(catalog, "llama-OLD").id == first.id


def test_a_captured_checkpoint_comes_back_by_its_id_alone(catalog: Catalog, blobs: Blobs) -> None:
    job = add_job(catalog)
    pushed = push(catalog, "checkpoint-5")
    delete(catalog, "checkpoint-5")
    checkpoint_id, lease = capture(catalog, job, "checkpoint-5")
    commit(catalog, checkpoint_id, lease, {"a": store(blobs, checkpoint_id, b"captured")})
    delete(catalog, checkpoint_id)
    assert catalog.checkpoints.of_job(job) == []
    assert undelete(catalog, "checkpoint-5").id == pushed.id
    assert str(undelete(catalog, checkpoint_id).id) == checkpoint_id
    assert [checkpoint.id for checkpoint in catalog.checkpoints.of_job(job)] == [checkpoint_id]


def test_what_was_never_deleted_does_not_come_back(catalog: Catalog) -> None:
    push(catalog, "llama")
    for reference in ("llama", "unknown", new_id()):
        with pytest.raises(NotFoundError, match="could come back"):
            undelete(catalog, reference)


def test_of_many_that_undelete_a_checkpoint_at_once_one_does(catalog: Catalog) -> None:
    push(catalog)
    delete(catalog, "llama")
    results = at_once(lambda _: undelete(catalog, "llama"))
    assert len([result for result in results if isinstance(result, Checkpoint)]) == 1


# Exports


def test_a_row_shows_the_claim_that_it_holds(catalog: Catalog) -> None:
    checkpoint_id, lease = begin(catalog)
    values = dict(zip(LEASE_COLUMNS, columns(catalog, checkpoint_id, *LEASE_COLUMNS), strict=True))
    assert Lease.of_row(values) == lease
    assert lease.host == this_host()
    catalog.checkpoints.fail(checkpoint_id, lease, "stopped")
    values = dict(zip(LEASE_COLUMNS, columns(catalog, checkpoint_id, *LEASE_COLUMNS), strict=True))
    assert Lease.of_row(values) is None


def test_every_field_of_a_checkpoint_is_read_as_it_was_written(catalog: Catalog) -> None:
    job_id = add_job(catalog)
    written = samples.checkpoint(
        kind=CheckpointKind.CAPTURED,
        source=Source(storage_provider="lab", storage_provider_id=new_id(), source_path="bucket/key", revision="abc"),
        status=CheckpointStatus.DELETING,
        reason="why",
        parent_id=new_id(),
        job_id=job_id,
        job_name="train",
        node="3",
        nodes="0-3",
        parts=4,
        attempt=2,
        part_of=new_id(),
        sequence=4,
        facts=TrainingFacts(
            step=5,
            train_loss=0.25,
            eval_loss=0.5,
            model="model",
            version="version",
            inference_ready=True,
            inference_missing=("weights",),
            resumable=True,
            resumable_missing=("optimizer",),
            metrics={"eval_f1": 0.5},
            best_by="eval_f1:max",
        ),
        pointers=("last.ckpt",),
        creator="ada@lab",
        folders=("logs",),
        is_protected=True,
        deleted_at=samples.TIME,
    )
    defaults = {field.name: field.default for field in fields(Checkpoint)}
    plain = [name for name, default in defaults.items() if getattr(written, name) == default]
    assert plain == [], "a field that has its default shows nothing"
    with catalog.database.writing() as transaction:
        transaction.insert("checkpoints", row_of(written))
    assert catalog.checkpoints.get_by_id(written.id) == written


@pytest.mark.parametrize("resumable", [True, False, None])
def test_whether_a_checkpoint_resumes_a_training_has_three_answers(catalog: Catalog, resumable: bool | None) -> None:
    job_id = add_job(catalog)
    written = samples.checkpoint(
        kind=CheckpointKind.CAPTURED, job_id=job_id, job_name="train", facts=TrainingFacts(resumable=resumable)
    )
    with catalog.database.writing() as transaction:
        transaction.insert("checkpoints", row_of(written))
    assert catalog.checkpoints.get_by_id(written.id) == written
    assert [row.resumable for row in catalog.checkpoints.list_captured(job_id)] == [resumable]


def _with_facts(catalog: Catalog, job_id: str, name: str, facts: TrainingFacts) -> Checkpoint:
    checkpoint_id, lease = capture(catalog, job_id, name)
    content = store(catalog.blobs(STORE_ID), checkpoint_id, name.encode(), "a")
    return commit(catalog, checkpoint_id, lease, {"a": content}, facts)


def test_what_a_log_tells_is_added_by_steps_and_overwrites_nothing(catalog: Catalog) -> None:
    job_id, other = add_job(catalog), add_job(catalog, "other")
    own = TrainingFacts(step=10, train_loss=0.5, metrics={"loss": 0.5})
    known = _with_facts(catalog, job_id, "known", own)
    bare = _with_facts(catalog, job_id, "bare", TrainingFacts(step=20))
    without = _with_facts(catalog, job_id, "without", TrainingFacts())
    others = _with_facts(catalog, other, "others", TrainingFacts(step=10))
    logged = {10: {"loss": 9.0, "val_loss": 0.25}, 20: {"f1": 0.75}, 30: {"f1": 1.0}}
    for _ in range(2):
        catalog.checkpoints.add_metrics(job_id, logged, since=known.created_at)
    found = catalog.checkpoints.get_by_id(known.id).facts
    assert (dict(found.metrics), found.train_loss, found.eval_loss) == ({"loss": 0.5, "val_loss": 0.25}, 0.5, 0.25)
    assert catalog.checkpoints.get_by_id(bare.id).facts.metrics == {"f1": 0.75}
    assert not any(catalog.checkpoints.get_by_id(one.id).facts.metrics for one in (without, others))


def test_a_log_tells_nothing_of_what_was_captured_before_it(catalog: Catalog) -> None:
    job_id = add_job(catalog)
    earlier = _with_facts(catalog, job_id, "earlier", TrainingFacts(step=10))
    later = _with_facts(catalog, job_id, "later", TrainingFacts(step=10))
    catalog.checkpoints.add_metrics(job_id, {10: {"f1": 0.75}}, since=later.created_at)
    assert not catalog.checkpoints.get_by_id(earlier.id).facts.metrics
    assert catalog.checkpoints.get_by_id(later.id).facts.metrics == {"f1": 0.75}


def test_no_log_gives_a_checkpoint_more_metrics_than_it_can_have(catalog: Catalog) -> None:
    job_id = add_job(catalog)
    one = _with_facts(catalog, job_id, "one", TrainingFacts(step=10, metrics={"a": 1.0}))
    logged = {10: {f"m{number}": float(number) for number in range(200)}}
    catalog.checkpoints.add_metrics(job_id, logged, since=one.created_at)
    metrics = catalog.checkpoints.get_by_id(one.id).facts.metrics
    assert (len(metrics), metrics["a"]) == (200, 1.0)


def test_a_capture_that_was_given_up_is_gone_on_with_in_its_place_by_one_process(catalog: Catalog) -> None:
    job_id = add_job(catalog)
    first, lease = capture(catalog, job_id, "checkpoint-5")
    capture(catalog, job_id, "checkpoint-6")
    assert catalog.checkpoints.continue_capture(first) is None, "its process is at work on it"
    catalog.checkpoints.fail(first, lease, "a later save is stored first")
    taken = [one for one in at_once(lambda _: catalog.checkpoints.continue_capture(first)) if one is not None]
    assert len(taken) == 1
    continued, _ = taken[0]
    assert (continued.sequence, continued.status, continued.reason) == (1, CheckpointStatus.UPLOADING, "")
    assert [one.name for one in catalog.checkpoints.of_job(job_id)] == ["checkpoint-5", "checkpoint-6"]


def test_a_capture_that_is_finished_or_gone_is_not_gone_on_with(catalog: Catalog) -> None:
    job_id = add_job(catalog)
    first, lease = capture(catalog, job_id, "checkpoint-5")
    catalog.checkpoints.fail(first, lease, "no room")
    catalog.checkpoints.delete(parse_reference(first))
    assert catalog.checkpoints.continue_capture(first) is None
    assert catalog.checkpoints.continue_capture(new_id()) is None
