"""Pruning: what the catalog knows is judged by rules, and what goes is looked at once more."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text, update

from flexai.checkpoints.catalog.checkpoint_rows import row_of
from flexai.checkpoints.catalog.jobs import BegunJob
from flexai.checkpoints.catalog.leases import NO_LEASE
from flexai.checkpoints.catalog.tables import blob_references, blobs, checkpoints, jobs
from flexai.checkpoints.errors import NotFoundError, StorageUnavailableError, UsageError
from flexai.checkpoints.models import (
    Checkpoint,
    CheckpointKind,
    CheckpointStatus,
    TrainingFacts,
    TrainingJob,
    now,
    to_text,
)
from flexai.checkpoints.names import parse_name, parse_reference
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, protect, undelete
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.prune import PruneReport, PruneRequest, PruneScope, plan_prune, prune, prune_document
from flexai.checkpoints.service.push_requests import NameRequest
from flexai.checkpoints.service.support.retention import RetentionPolicy, Rule
from flexai.checkpoints.service.training import delete_job
from flexai.checkpoints.service.training_requests import DeleteJobRequest
from tests.checkpoints.samples import checkpoint as sample
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import Machine, check_nothing_is_left_over, check_nothing_is_torn
from tests.support.progress import Counter
from tests.support.tables import statements, tables_of
from tests.support.trees import noise

LAST = RetentionPolicy(keep_last=1)
DAY = timedelta(days=1)


@pytest.fixture
def job(machine: Machine) -> TrainingJob:
    return begin_job(machine, "train")


def captures(machine: Machine, job: TrainingJob, count: int, *, first: int = 1, **facts: Any) -> list[Checkpoint]:
    """Checkpoints of a job: a file of its own each, and one that they share."""
    return [
        capture_files(
            machine,
            job,
            f"checkpoint-{number}",
            {"model.bin": noise(40_000, f"{job.name} {number}"), "shared.bin": noise(30_000, job.name)},
            facts=TrainingFacts(**{"step": 100 * number, "eval_loss": 1.0 / number, "resumable": True} | facts),
        )
        for number in range(first, first + count)
    ]


def ids(found: list[Checkpoint]) -> list[str]:
    return [one.id for one in found]


def alive(machine: Machine) -> set[str]:
    return set(ids(machine.checkpoints(CheckpointStatus.AVAILABLE)))


def reasons(report: PruneReport, checkpoint: Checkpoint) -> list[Rule]:
    (decision,) = [one for one in report.plan.decisions if one.row.id == checkpoint.id]
    return [reason.rule for reason in decision.reasons]


def set_job(machine: Machine, job_id: object, **values: Any) -> None:
    with tables_of(machine.system.catalog.database) as connection:
        connection.execute(update(jobs).where(jobs.c.id == str(job_id)).values(values))


def run_job(machine: Machine, name: str = "running") -> BegunJob:
    """A job that this process runs."""
    return machine.system.catalog.jobs.begin(
        parse_name(name),
        owner=machine.system.owner,
        command=["train"],
        env_names=[],
        layout=lambda job_id, attempt: (str(machine.root / "output"), str(machine.root / "log")),
    )


def test_a_plan_changes_nothing(machine: Machine, job: TrainingJob) -> None:
    found = captures(machine, job, 4)
    report = prune(machine.system, PruneRequest(LAST))
    assert (report.applied, report.deleted, report.spared) == (False, (), {})
    assert [one.row.id for one in report.plan.deleted] == ids(found[:3])
    assert alive(machine) == set(ids(found))


def test_what_was_planned_is_deleted_and_frees_what_was_said(machine: Machine, job: TrainingJob) -> None:
    found = captures(machine, job, 4)
    planned = prune(machine.system, PruneRequest(LAST)).freed_bytes
    report = prune(machine.system, PruneRequest(LAST, apply=True))
    assert list(report.deleted) == ids(found[:3])
    assert alive(machine) == set(ids(found[3:]))
    assert planned == report.freed_bytes == 3 * 40_000
    assert machine.collect(DAY).freed_bytes == 0
    undelete(machine.system, UndeleteRequest(str(found[0].id)))
    delete(machine.system, DeleteRequest(str(found[0].id)))
    assert machine.collect().freed_bytes == planned
    check_nothing_is_torn(machine)
    check_nothing_is_left_over(machine)


def test_packs_and_copies_free_only_what_no_checkpoint_needs(machine: Machine, job: TrainingJob) -> None:
    small = {f"{number}.bin": noise(900, number) for number in range(5)}
    first = capture_files(machine, job, "a", small | {"large.bin": noise(20_000, "a")})
    # The pack of the first one is needed for one file of the second one.
    second = capture_files(machine, job, "b", {"0.bin": small["0.bin"], "large.bin": noise(20_001, "b")})
    third = capture_files(machine, job, "c", {"large.bin": noise(20_002, "c")})
    name_checkpoint(machine.system, NameRequest("copy", str(third.id)))
    fourth = capture_files(machine, job, "d", {"1.bin": small["1.bin"]})
    policy = RetentionPolicy(keep_last=1)
    planned = prune(machine.system, PruneRequest(policy))
    assert {one.row.id: one.freed_bytes for one in planned.plan.deleted} == {
        first.id: 20_000,
        second.id: 20_001,
        str(third.id): 0,
    }
    prune(machine.system, PruneRequest(policy, apply=True))
    assert machine.collect().freed_bytes == planned.freed_bytes == 40_001
    assert machine.fetched(str(fourth.id)) == {"1.bin": small["1.bin"]}
    delete(machine.system, DeleteRequest(str(fourth.id)))
    delete(machine.system, DeleteRequest("copy"))
    assert machine.collect().freed_bytes == 5 * 900 + 20_002


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_shared_gc_frees_what_the_plan_said(machine: Machine, seed: int) -> None:
    chance = random.Random(seed)
    # Some go into packs, some are blobs of their own.
    files = {f"{number}.bin": noise(chance.choice([300, 5000, 20_000, 90_000]), number) for number in range(12)}
    for number in range(12):
        chosen = dict(chance.sample(sorted(files.items()), chance.randint(1, 5)))
        machine.push(f"run-{number}", machine.write(f"run-{number}", chosen))
    before = {one.name: machine.fetched(one.name) for one in machine.checkpoints()}
    protect(machine.system, ProtectRequest([f"run-{chance.randrange(12)}"]))
    policy = RetentionPolicy(keep_last=chance.randint(1, 6))
    report = prune(machine.system, PruneRequest(policy, PruneScope(pushed=("run-*",)), apply=True))
    assert report.freed_bytes == report.plan.freed_bytes == machine.collect().freed_bytes
    check_nothing_is_torn(machine)
    check_nothing_is_left_over(machine)
    assert {name: machine.fetched(name) for name in (one.row.title for one in report.plan.kept)} == {
        one.row.title: before[one.row.title] for one in report.plan.kept
    }


def test_what_a_deleted_checkpoint_could_still_need_is_not_counted_as_freed(machine: Machine, job: TrainingJob) -> None:
    first, second, _ = captures(machine, job, 3)
    name_checkpoint(machine.system, NameRequest("copy", first.id))
    delete(machine.system, DeleteRequest("copy"))
    planned = {one.row.id: one.freed_bytes for one in prune(machine.system, PruneRequest(LAST)).plan.deleted}
    assert planned == {first.id: 0, second.id: 40_000}


def test_only_the_jobs_that_are_named_are_judged(machine: Machine, job: TrainingJob) -> None:
    other = begin_job(machine, "other")
    mine, theirs = captures(machine, job, 2), captures(machine, other, 2)
    machine.push("llama", machine.write("x", {"a": b"a"}))
    for reference in ("TRAIN", job.id):
        found = plan_prune(machine.system, PruneRequest(LAST, PruneScope(jobs=(reference,))))
        assert [one.row.id for one in found.decisions] == ids(mine)
    found = plan_prune(machine.system, PruneRequest(LAST))
    assert {one.row.id for one in found.decisions} == set(ids(mine + theirs))
    with pytest.raises(NotFoundError, match="unknown"):
        plan_prune(machine.system, PruneRequest(LAST, PruneScope(jobs=("unknown",))))


def test_pushed_checkpoints_are_judged_by_patterns_of_their_names(machine: Machine, job: TrainingJob) -> None:
    captures(machine, job, 2)
    for name in ("Mistral-1", "mistral-2", "mistral-3", "llama-1", "llama-2", "other"):
        machine.push(name, machine.write(name, {"a": name.encode()}))
    found = plan_prune(machine.system, PruneRequest(LAST, PruneScope(pushed=("mistral-*", "LLAMA-?"))))
    assert {one.row.title: one.keep for one in found.decisions} == {
        "Mistral-1": False,
        "mistral-2": False,
        "mistral-3": True,
        "llama-1": False,
        "llama-2": True,
    }
    both = plan_prune(machine.system, PruneRequest(LAST, PruneScope(jobs=("train",), pushed=("*",))))
    assert [one.row.title for one in both.kept] == ["train/checkpoint-2", "other"]


def test_a_copy_of_a_captured_checkpoint_is_judged_by_what_it_tells(machine: Machine, job: TrainingJob) -> None:
    best, other = captures(machine, job, 1, eval_loss=0.1), captures(machine, job, 1, first=2, eval_loss=0.5)
    for name, checkpoint in (("run-a", best[0]), ("run-b", other[0]), ("run-c", other[0])):
        name_checkpoint(machine.system, NameRequest(name, checkpoint.id))
    found = plan_prune(machine.system, PruneRequest(RetentionPolicy(keep_best=1), PruneScope(pushed=("run-*",))))
    assert [one.row.title for one in found.kept] == ["run-a", "run-c"]


def test_protected_and_exported_ones_stay(machine: Machine, job: TrainingJob) -> None:
    first, second, third, last = captures(machine, job, 4)
    protect(machine.system, ProtectRequest([first.id]))
    machine.export(second.id)
    report = prune(machine.system, PruneRequest(LAST, apply=True))
    assert reasons(report, first) == [Rule.PROTECTED]
    assert reasons(report, second) == [Rule.EXPORTED]
    assert report.deleted == (str(third.id),)
    report = prune(machine.system, PruneRequest(RetentionPolicy(keep_last=1, keep_exported=False), apply=True))
    assert report.deleted == (second.id,)
    assert alive(machine) == {first.id, str(last.id)}


def test_what_a_running_job_started_from_and_would_be_resumed_from_stays(machine: Machine, job: TrainingJob) -> None:
    found = captures(machine, job, 3)
    running = run_job(machine)
    machine.system.catalog.jobs.set_input(running.job.id, running.lease, found[0].id)
    own = captures(machine, running.job, 2) + captures(
        machine, running.job, 1, first=3, resumable=False, eval_loss=None
    )
    policy = RetentionPolicy(keep_last=1, drop_last=True, drop_best=True)
    report = prune(machine.system, PruneRequest(policy, apply=True))
    assert reasons(report, found[0]) == [Rule.IN_USE]
    assert reasons(report, own[1]) == [Rule.IN_USE]
    assert alive(machine) == set(ids([found[0], found[2], own[1], own[2]]))
    set_job(machine, running.job.id, **NO_LEASE)
    prune(machine.system, PruneRequest(policy, apply=True))
    assert alive(machine) == set(ids([found[2], own[2]]))


def test_checkpoints_of_a_deleted_job_that_were_kept_are_judged_too(machine: Machine, job: TrainingJob) -> None:
    found = captures(machine, job, 2)
    delete_job(machine.system, DeleteJobRequest("train", keep_checkpoints=True))
    assert prune(machine.system, PruneRequest(LAST, apply=True)).deleted == (str(found[0].id),)


def test_a_broken_push_goes_only_on_request(machine: Machine) -> None:
    machine.push("run-1", machine.write("a", {"a": b"a"}))
    broken = machine.again()
    broken.storage.down_from = 1
    with pytest.raises(StorageUnavailableError):
        broken.push("run-2", machine.write("b", {"b": noise(200_000, "b")}))
    fresh, scope = machine.again(), PruneScope(pushed=("run-*",))
    later = now() + 2 * DAY
    assert prune(fresh.system, PruneRequest(LAST, scope, apply=True), at=later).deleted == ()
    for young in (RetentionPolicy(keep_within=3 * DAY, include_failed=True),):
        assert prune(fresh.system, PruneRequest(young, scope, apply=True), at=later).deleted == ()
    policy = RetentionPolicy(keep_within=DAY, include_failed=True)
    assert len(prune(fresh.system, PruneRequest(policy, scope, apply=True), at=later).deleted) == 1
    assert [one.name for one in fresh.checkpoints(CheckpointStatus.AVAILABLE)] == ["run-1"]


def test_a_push_whose_process_died_counts_as_failed(machine: Machine) -> None:
    machine.push("run-1", machine.write("a", {"a": b"a"}))
    machine.push("run-2", machine.write("b", {"b": b"b"}))
    with tables_of(machine.system.catalog.database) as connection:
        connection.execute(update(checkpoints).where(checkpoints.c.name == "run-2").values(status="uploading"))
    scope = PruneScope(pushed=("run-*",))
    (gone,) = plan_prune(machine.system, PruneRequest(RetentionPolicy(keep_last=1, include_failed=True), scope)).deleted
    assert (gone.row.title, gone.row.status) == ("run-2", "failed")
    assert prune(
        machine.system, PruneRequest(RetentionPolicy(keep_last=1, include_failed=True), scope, apply=True)
    ).deleted


def test_no_rule_touches_nothing(machine: Machine, job: TrainingJob) -> None:
    captures(machine, job, 2)
    with pytest.raises(UsageError, match="no rule"):
        prune(machine.system, PruneRequest(RetentionPolicy(), apply=True))
    assert len(alive(machine)) == 2


def test_what_a_running_job_would_resume_is_its_latest_by_step_whatever_was_captured_last(machine: Machine) -> None:
    running = run_job(machine, "running").job
    (first,) = captures(machine, running, 1, step=900)
    (second,) = captures(machine, running, 1, first=2, step=100)
    policy = RetentionPolicy(keep_every_steps=10_000, drop_last=True, drop_best=True)
    report = prune(machine.system, PruneRequest(policy, apply=True))
    assert reasons(report, first) == [Rule.IN_USE]
    assert (report.deleted, alive(machine)) == ((second.id,), {first.id})


Change = Callable[[Machine, Checkpoint], object]


def _start_from(machine: Machine, checkpoint: Checkpoint) -> None:
    running = run_job(machine, "another")
    machine.system.catalog.jobs.set_input(running.job.id, running.lease, checkpoint.id)


def _resume_job(machine: Machine, checkpoint: Checkpoint) -> None:
    """A user deletes the newer ones and runs the job once more: `latest` is this one now."""
    for one in machine.system.catalog.checkpoints.of_job(str(checkpoint.job_id)):
        if one.sequence > checkpoint.sequence:
            machine.system.catalog.checkpoints.delete(parse_reference(one.id))
    set_job(machine, checkpoint.job_id, status="failed", name_key="train")
    run_job(machine, "train")


def _delete_the_others(machine: Machine, checkpoint: Checkpoint) -> None:
    for one in machine.system.catalog.checkpoints.of_job(str(checkpoint.job_id)):
        if one.id != checkpoint.id:
            machine.system.catalog.checkpoints.delete(parse_reference(one.id))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda machine, one: protect(machine.system, ProtectRequest([one.id])), "is protected"),
        (lambda machine, one: machine.export(one.id), "it was exported"),
        (_start_from, "training job 'another' has started from it"),
        (_resume_job, "training job 'train' would be resumed from it"),
        (_delete_the_others, "those that should stay in its place are gone"),
    ],
    ids=["protected", "exported", "started from", "resumed from", "the last one left"],
)
def test_what_changed_since_the_plan_stays(
    machine: Machine, job: TrainingJob, monkeypatch: pytest.MonkeyPatch, change: Change, why: str
) -> None:
    first, *_ = captures(machine, job, 3, eval_loss=None)

    def plan_and_change(*arguments: Any, **options: Any) -> Any:
        planned = plan_prune(*arguments, **options)
        change(machine.again(), first)
        return planned

    monkeypatch.setattr("flexai.checkpoints.service.prune.plan_prune", plan_and_change)
    progress = Counter()
    report = prune(machine.system, PruneRequest(LAST, apply=True), progress=progress)
    assert why in report.spared[first.id]
    assert first.id not in report.deleted
    assert progress.files == 2
    assert first.id in alive(machine)
    document = prune_document(report)
    assert document["sparedCount"] >= 1
    assert why in next(row["spared"] for row in document["checkpoints"] if row["id"] == first.id)


def test_what_another_process_deletes_first_is_no_failure(
    machine: Machine, job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = captures(machine, job, 3)

    def plan_and_delete(*arguments: Any, **options: Any) -> Any:
        planned = plan_prune(*arguments, **options)
        delete(machine.again().system, DeleteRequest(first.id))
        return planned

    monkeypatch.setattr("flexai.checkpoints.service.prune.plan_prune", plan_and_delete)
    told: list[Checkpoint] = []
    report = prune(machine.system, PruneRequest(LAST, apply=True), on_deleted=told.append)
    assert (report.deleted, report.spared) == ((second.id,), {})
    assert ids(told) == [second.id]


def test_the_document_says_everything(machine: Machine, job: TrainingJob) -> None:
    first, last = captures(machine, job, 2)
    document = prune_document(prune(machine.system, PruneRequest(LAST)))
    assert {key: value for key, value in document.items() if key != "checkpoints"} == {
        "applied": False,
        "keptCount": 1,
        "deletedCount": 1,
        "sparedCount": 0,
        "freed": "39.06 KiB",
        "freedBytes": 40_000,
    }
    gone, kept = document["checkpoints"]
    assert gone == {
        "id": first.id,
        "title": "train/checkpoint-1",
        "action": "delete",
        "reasons": [{"rule": "no-rule", "text": "no rule keeps it"}],
        "spared": "",
        "status": "available",
        "step": 100,
        "trainLoss": None,
        "evalLoss": 1.0,
        "size": "68.36 KB",
        "sizeBytes": 70_000,
        "freedBytes": 40_000,
        "createdAt": first.created_at.isoformat(),
    }
    assert (kept["action"], kept["id"]) == ("keep", str(last.id))


def test_ten_thousand_checkpoints_are_planned_by_three_queries(machine: Machine) -> None:
    start = datetime(2025, 1, 1, tzinfo=UTC)
    found = [begin_job(machine, f"job-{number}") for number in range(20)]
    rows, references, sizes = [], [], []
    for number in range(10_000):
        owner = found[number % len(found)]
        described = sample(
            kind=CheckpointKind.CAPTURED,
            name=f"checkpoint-{number}",
            job_id=owner.id,
            sequence=number + 1,
            store_id=machine.system.store_id,
            created_at=start + number * timedelta(minutes=10),
            facts=TrainingFacts(step=number, eval_loss=1.0 + number % 977, resumable=True),
        )
        rows.append(row_of(described))
        sizes.append({"id": f"{number:032x}", "store_id": machine.system.store_id, "size": 7, "status": "stored"})
        own = [number, number - number % 10]
        references += [{"checkpoint_id": str(described.id), "blob_id": f"{one:032x}"} for one in dict.fromkeys(own)]
    with tables_of(machine.system.catalog.database) as connection:
        connection.execute(insert(blobs), [one | {"created_at": to_text(start)} for one in sizes])
        connection.execute(insert(checkpoints), rows)
        connection.execute(insert(blob_references), references)
    policy = RetentionPolicy(keep_last=3, keep_best=2, keep_every_steps=1000, keep_every=7 * DAY)
    with statements() as asked:
        planned = plan_prune(machine.system, PruneRequest(policy, force=True))
    assert sum("FROM" in statement for statement, _ in asked) == 3
    assert len(planned.decisions) == 10_000
    assert 20 * 5 <= len(planned.kept) < 20 * (3 + 2 + 10 + 11 + 2)


def test_ages_are_counted_to_the_time_that_is_given(machine: Machine, job: TrainingJob) -> None:
    found = captures(machine, job, 2)
    policy = RetentionPolicy(keep_within=DAY)
    assert plan_prune(machine.system, PruneRequest(policy)).deleted == []
    planned = plan_prune(machine.system, PruneRequest(policy), at=now() + 2 * DAY)
    assert [one.row.id for one in planned.deleted] == ids(found[:1])


def test_a_second_prune_has_nothing_to_do(machine: Machine, job: TrainingJob, tmp_path: Path) -> None:
    captures(machine, job, 5)
    assert len(prune(machine.system, PruneRequest(LAST, apply=True)).deleted) == 4
    again = prune(machine.system, PruneRequest(LAST, apply=True))
    assert (again.deleted, again.freed_bytes) == ((), 0)


def test_what_goes_is_deleted_together_and_each_change_is_told(machine: Machine, job: TrainingJob) -> None:
    captures(machine, job, 12)
    with statements() as asked:
        report = prune(machine.system, PruneRequest(LAST, apply=True))
    assert len(report.deleted) == 11
    assert sum(sql.startswith("UPDATE checkpoints") for sql, _ in asked) == 2
    assert len(asked) < 40
    with tables_of(machine.system.catalog.database) as connection:
        told = connection.execute(text("SELECT subject_id FROM history WHERE action = 'delete'")).scalars().all()
    assert sorted(told) == sorted(report.deleted)
    assert set(report.deleted) <= {path.stem for path in (machine.store_folder / "records" / "checkpoint").iterdir()}
    check_nothing_is_torn(machine)
