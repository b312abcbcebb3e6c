"""What several machines bring of one checkpoint, and what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from flexai.checkpoints.catalog.jobs import BegunJob
from flexai.checkpoints.errors import ConflictError, NotFoundError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus, JobStatus, Node, TrainingFacts
from flexai.checkpoints.names import parse_name
from flexai.checkpoints.service.capture import capture
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, protect, undelete
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.prune import PruneRequest, PruneScope, prune
from flexai.checkpoints.service.push_requests import NameRequest
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.support.job_input import captured_available
from flexai.checkpoints.service.support.parts import NodePart, combine
from flexai.checkpoints.service.support.retention import RetentionPolicy
from tests.checkpoints.training.trainers import weights
from tests.support.machine import Machine, check_nothing_is_left_over, check_nothing_is_torn, lose_catalog

SHARDS = {rank: {f"__{rank}_0.distcp": weights(rank)} for rank in range(4)}
SHARDS[0][".metadata"] = b"metadata"


def begin(machine: Machine, total: int = 2, *, rank: int = 0) -> BegunJob:
    """One of the machines of a job that starts its command."""
    return machine.system.catalog.jobs.begin(
        parse_name("run"),
        owner=machine.system.owner,
        command=["train"],
        env_names=[],
        layout=lambda job, attempt: (f"/out/{job}/{attempt}", f"/log/{job}/{attempt}"),
        node=Node(rank, total),
    )


def bring(
    machine: Machine,
    begun: BegunJob,
    rank: int,
    files: Mapping[str, bytes],
    *,
    name: str = "step-5",
    total: int = 2,
    step: int | None = None,
    is_whole: bool = False,
) -> Checkpoint:
    """Capture what a machine has of a checkpoint, and nothing more."""
    folder = machine.write(f"node-{rank}-{threading.get_ident()}-{len(list(machine.root.iterdir()))}", dict(files))
    return capture(
        machine.system,
        job=begun.job,
        name=name,
        node=str(rank),
        files={path: folder / path for path in files},
        facts=TrainingFacts(step=step),
        part=NodePart(Node(rank, total), begun.job.attempt, is_whole),
    )


def whole(machine: Machine) -> Checkpoint:
    """A checkpoint of two parts."""
    begun = begin(machine)
    bring(machine, begun, 0, SHARDS[0])
    found, is_new = combine(machine.system, bring(machine, begun, 1, SHARDS[1]).id)
    assert is_new
    return found


def listed(machine: Machine) -> list[tuple[str, str, str]]:
    job = machine.system.catalog.jobs.find(parse_name("run"))
    assert job is not None
    rows = machine.system.catalog.checkpoints.list_captured(job.id)
    return [(one.name, one.status, one.node) for one in rows]


def test_a_checkpoint_of_parts_is_the_union_of_their_files_and_moves_no_byte(machine: Machine) -> None:
    begun = begin(machine)
    first = bring(machine, begun, 1, SHARDS[1])
    assert (first.status, first.nodes, first.reason) == (
        CheckpointStatus.INCOMPLETE,
        "1",
        "node 0 has not brought a part of it",
    )
    assert combine(machine.system, first.id) == (first, False)
    second = bring(machine, begun, 0, SHARDS[0])
    assert second.id == first.id
    stored = machine.blob_ids()
    machine.storage.reset()
    found, is_new = combine(machine.system, first.id)
    assert (is_new, found.status, found.nodes, found.file_count) == (True, CheckpointStatus.AVAILABLE, "0-1", 3)
    assert machine.blob_ids() == stored
    assert machine.fetched(found.id) == SHARDS[0] | SHARDS[1]
    assert combine(machine.system, first.id) == (found, False)
    check_nothing_is_torn(machine)
    machine.collect()
    check_nothing_is_torn(machine)
    check_nothing_is_left_over(machine)


def test_parts_without_files_that_are_left_out_make_a_checkpoint_all_the_same(machine: Machine) -> None:
    begun = begin(machine)
    bring(machine, begun, 0, {"__0_0.distcp": weights(0)})
    last = bring(machine, begun, 1, SHARDS[1])
    assert combine(machine.system, last.id)[0].status is CheckpointStatus.INCOMPLETE, "its .metadata is missing"
    found, is_new = combine(machine.system, last.id, may_lack_files=True)
    assert (found.status, is_new) == (CheckpointStatus.AVAILABLE, True)
    assert machine.fetched(found.id) == {"__0_0.distcp": weights(0)} | SHARDS[1]


def test_of_machines_that_finish_at_the_same_moment_one_makes_it_available(machine: Machine) -> None:
    begun = begin(machine, 4)
    for name in ("step-5", "step-10", "step-15"):
        together = threading.Barrier(4)

        def finish(rank: int, name: str = name, together: threading.Barrier = together) -> tuple[str, bool]:
            together.wait()
            found, is_new = combine(machine.system, bring(machine, begun, rank, SHARDS[rank], name=name, total=4).id)
            return found.id, is_new

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(finish, range(4)))
        assert [is_new for _, is_new in found].count(True) == 1
        assert len({checkpoint_id for checkpoint_id, _ in found}) == 1
    assert listed(machine) == [(name, "available", "0-3") for name in ("step-5", "step-10", "step-15")]


def test_an_incomplete_checkpoint_is_never_chosen_nor_used(machine: Machine) -> None:
    found = bring(machine, begin(machine), 1, SHARDS[1], step=5)
    assert captured_available(machine.system, str(found.job_id)) == []
    for use in (
        lambda: machine.fetch("run/step-5"),
        lambda: machine.export("run/step-5"),
        lambda: name_checkpoint(machine.system, NameRequest("copy", "run/step-5")),
        lambda: protect(machine.system, ProtectRequest(["run/step-5"])),
    ):
        with pytest.raises(ConflictError, match="available"):
            use()
    assert machine.fetch("run/step-5", node=1).fetched_files == 1
    with pytest.raises(NotFoundError, match="node 0 has brought no part"):
        machine.fetch("run/step-5", node=0)


def test_pruning_counts_no_incomplete_checkpoint_and_removes_it_where_failed_ones_go(machine: Machine) -> None:
    begun = begin(machine)
    for name in ("step-5", "step-10"):
        for rank in (0, 1):
            combine(machine.system, bring(machine, begun, rank, SHARDS[rank], name=name, step=int(name[5:])).id)
    bring(machine, begun, 0, SHARDS[0], name="step-15", step=15)
    machine.system.catalog.jobs.finish(begun.job.id, begun.lease, status=JobStatus.FAILED, exit_code=1, reason="")
    scope = PruneScope(("run",))
    prune(machine.system, PruneRequest(RetentionPolicy(keep_last=1), scope, apply=True))
    assert listed(machine) == [("step-10", "available", "0-1"), ("step-15", "incomplete", "0")]
    prune(machine.system, PruneRequest(RetentionPolicy(keep_last=1, include_failed=True), scope, apply=True))
    assert listed(machine) == [("step-10", "available", "0-1")]
    machine.collect()
    check_nothing_is_torn(machine)
    check_nothing_is_left_over(machine)


def test_parts_go_and_come_back_with_their_checkpoint(machine: Machine) -> None:
    found = whole(machine)
    (_, part) = machine.system.catalog.parts.of(found.id)
    with pytest.raises(ConflictError, match="is a part of another one"):
        delete(machine.system, DeleteRequest(part.id))
    delete(machine.system, DeleteRequest(found.id))
    assert [one.title for one in machine.system.catalog.checkpoints.list_deleted()] == ["run/step-5"]
    undelete(machine.system, UndeleteRequest(found.id))
    assert machine.fetch(found.id, node=1).fetched_files == 1
    delete(machine.system, DeleteRequest(found.id))
    planned = machine.planned_garbage()
    report = machine.collect()
    assert report == planned
    assert (report.checkpoints, report.abandoned) == (1, 0)
    assert machine.blob_ids() == set()
    check_nothing_is_left_over(machine)


def test_what_is_incomplete_keeps_its_bytes_until_it_is_deleted(machine: Machine) -> None:
    found = bring(machine, begin(machine), 1, SHARDS[1])
    stored = machine.blob_ids()
    assert machine.collect() == machine.planned_garbage()
    assert machine.blob_ids() == stored
    assert machine.fetch(found.id, node=1).fetched_files == 1
    delete(machine.system, DeleteRequest("run/step-5"))
    assert machine.collect().checkpoints == 1
    assert machine.blob_ids() == set()


def test_a_lost_catalog_knows_again_what_was_available(machine: Machine) -> None:
    found = whole(machine)
    bring(machine, begin(machine, rank=1), 0, SHARDS[0], name="step-10")
    again = lose_catalog(machine)
    assert list(recover(again.system).recovered.values()) == ["run/step-5"]
    assert again.fetched(found.id) == SHARDS[0] | SHARDS[1]
    assert listed(again) == [("step-5", "available", "0-1")]


def test_a_part_that_grows_takes_the_place_of_what_was_brought_before(machine: Machine) -> None:
    begun = begin(machine)
    bring(machine, begun, 1, SHARDS[1])
    bring(machine, begun, 1, SHARDS[1] | SHARDS[2])
    found, _ = combine(machine.system, bring(machine, begun, 0, SHARDS[0]).id)
    assert listed(machine) == [("step-5", "available", "0-1")]
    assert machine.fetched(found.id) == SHARDS[0] | SHARDS[1] | SHARDS[2]


def test_a_save_of_the_same_name_with_other_content_is_another_one(machine: Machine) -> None:
    begun = begin(machine)
    for salt in (b"", b"again"):
        for rank in (0, 1):
            files = {path: content + salt for path, content in SHARDS[rank].items()}
            combine(machine.system, bring(machine, begun, rank, files).id)
    assert listed(machine) == [("step-5", "available", "0-1")] * 2
    assert machine.fetched("run/step-5")["__1_0.distcp"] == SHARDS[1]["__1_0.distcp"] + b"again"


def test_parts_of_an_earlier_attempt_are_of_another_save(machine: Machine) -> None:
    begun = begin(machine)
    bring(machine, begun, 0, SHARDS[0])
    machine.system.catalog.jobs.finish(begun.job.id, begun.lease, status=JobStatus.FAILED, exit_code=1, reason="")
    other = begin(machine, rank=1)
    machine.system.catalog.jobs.finish(other.job.id, other.lease, status=JobStatus.FAILED, exit_code=1, reason="")
    again = begin(machine, rank=1)
    assert again.job.attempt == 2
    bring(machine, again, 1, SHARDS[1])
    assert listed(machine) == [("step-5", "incomplete", "0"), ("step-5", "incomplete", "1")]


@pytest.mark.parametrize(
    ("steps", "status"), [((5, 5), "available"), ((5, 10), "incomplete"), ((5, None), "incomplete")]
)
def test_a_name_that_is_written_over_needs_a_step(machine: Machine, steps: tuple[int | None, ...], status: str) -> None:
    begun = begin(machine)
    for rank, step in enumerate(steps):
        combine(machine.system, bring(machine, begun, rank, SHARDS[rank], name="last", step=step).id)
    assert {one[1] for one in listed(machine)} == {status}


def test_what_was_available_keeps_its_uuid_when_the_others_add_to_it(machine: Machine) -> None:
    begun = begin(machine, 3)
    model = {"model.safetensors": weights(1), "config.json": b"{}"}
    first, _ = combine(machine.system, bring(machine, begun, 0, model, total=3, is_whole=True).id)
    assert (first.status, first.nodes) == (CheckpointStatus.AVAILABLE, "0")
    protect(machine.system, ProtectRequest([first.id]))
    bring(machine, begun, 1, {"rng_state_1.pth": b"1"}, total=3)
    assert listed(machine) == [("step-5", "available", "0-1")]
    late = bring(machine, begun, 2, {"rng_state_2.pth": b"2"}, total=3)
    second, is_new = combine(machine.system, late.id)
    assert is_new
    assert second.id != first.id
    assert second.is_protected
    assert machine.fetched(first.id) == model
    assert machine.fetched("run/step-5").keys() == {*model, "rng_state_1.pth", "rng_state_2.pth"}
    assert listed(machine) == [("step-5", "available", "0-2")]
    check_nothing_is_torn(machine)


def test_the_same_content_of_two_machines_is_one_checkpoint_whatever_its_name(machine: Machine) -> None:
    begun = begin(machine)
    files = {"last.ckpt": b"content"}
    ids = {
        combine(machine.system, bring(machine, begun, rank, files, name="last.ckpt", is_whole=True).id)[0].id
        for rank in (0, 1)
    }
    assert len(ids) == 1
    assert listed(machine) == [("last.ckpt", "available", "0-1")]
