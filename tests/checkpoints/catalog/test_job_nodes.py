"""A job that several machines run: who may join it, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import update

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.job_nodes import ranges
from flexai.checkpoints.catalog.jobs import BegunJob
from flexai.checkpoints.catalog.tables import job_nodes, jobs
from flexai.checkpoints.errors import ConflictError, JobExistsError
from flexai.checkpoints.models import JobStatus, Node, TrainingJob, now, to_text
from flexai.checkpoints.names import Id, new_id, parse_job_reference, parse_name
from tests.checkpoints.samples import OTHER_OWNER, OWNER
from tests.support.tables import tables_of

NO_PROCESS = 2**22 + 1


def begin(catalog: Catalog, rank: int, total: int = 2, *, goes_on: bool = False, place: str = "") -> BegunJob:
    def layout(job_id: Id, attempt: int) -> tuple[str, str]:
        folder = f"/jobs/{job_id}/{attempt}-{place or rank}"
        return f"{folder}/output", f"{folder}/log.txt"

    return catalog.jobs.begin(
        parse_name("train"),
        owner=OWNER,
        command=["train"],
        env_names=[],
        layout=layout,
        goes_on=goes_on,
        node=Node(rank, total),
    )


def finish(
    catalog: Catalog, begun: BegunJob, status: JobStatus = JobStatus.SUCCEEDED, *, reason: str = "", lost: int = 0
) -> TrainingJob:
    exit_code = int(status is JobStatus.FAILED)
    return catalog.jobs.finish(begun.job.id, begun.lease, status=status, exit_code=exit_code, reason=reason, lost=lost)


def present(catalog: Catalog) -> TrainingJob:
    return catalog.jobs.get(parse_job_reference("train"))


def set_node(catalog: Catalog, rank: int, **values: object) -> None:
    with tables_of(catalog.database) as connection:
        connection.execute(update(job_nodes).where(job_nodes.c.node == rank).values(values))


@pytest.mark.parametrize(
    ("nodes", "shown"), [([], ""), ([0], "0"), ([2, 0], "0,2"), ([3, 1, 0, 2], "0-3"), ([0, 1, 4, 6, 5], "0-1,4-6")]
)
def test_numbers_of_machines_are_shown_by_their_runs(nodes: Sequence[int], shown: str) -> None:
    assert ranges(nodes) == shown


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_machines_join_one_attempt_in_any_order(catalog: Catalog, order: Sequence[int]) -> None:
    begun = [begin(catalog, rank, 3) for rank in order]
    assert len({one.job.id for one in begun}) == 1
    job = present(catalog)
    assert (job.attempt, job.node_count, [one.node for one in job.nodes]) == (1, 3, [0, 1, 2])
    assert job.output_dir == f"/jobs/{job.id}/1-0/output", "what is said of the job's places is the first machine's"
    assert all(catalog.jobs.renew(one.job.id, one.lease) for one in begun)
    for one in begun:
        assert present(catalog).status is JobStatus.IN_PROGRESS
        assert finish(catalog, one).status is JobStatus.SUCCEEDED
    assert present(catalog).status is JobStatus.SUCCEEDED
    with pytest.raises(JobExistsError):
        begin(catalog, 0, 3)
    assert begin(catalog, 0, 3, goes_on=True).job.attempt == 2


@pytest.mark.parametrize(
    ("ends", "worst"),
    [
        ((JobStatus.SUCCEEDED, JobStatus.STOPPED), JobStatus.STOPPED),
        ((JobStatus.FAILED, JobStatus.STOPPED), JobStatus.FAILED),
        ((JobStatus.INTERRUPTED, JobStatus.FAILED), JobStatus.INTERRUPTED),
        ((JobStatus.STOPPED, JobStatus.STOPPED), JobStatus.STOPPED),
    ],
    ids=str,
)
def test_the_end_is_the_worst(catalog: Catalog, ends: Sequence[JobStatus], worst: JobStatus) -> None:
    both = [begin(catalog, rank) for rank in (0, 1)]
    for begun, end in zip(both, ends, strict=True):
        assert finish(catalog, begun, end, reason=f"why {end}", lost=2).status is end, "each is told its own"
    job = present(catalog)
    assert (job.status, job.lost) == (worst, 4)
    whose = "" if ends[0] is ends[1] else f"node {ends.index(worst)}: "
    assert job.reason == f"{whose}why {worst}"


def test_machines_that_are_told_to_stop_have_stopped_also_where_a_command_fails_for_want_of_the_others(
    catalog: Catalog,
) -> None:
    both = [begin(catalog, rank) for rank in (0, 1)]
    catalog.jobs.request_stop(parse_job_reference("train"))
    assert all(catalog.jobs.stop_requested(one.job.id, one.lease) for one in both)
    finish(catalog, both[0], JobStatus.FAILED, reason="no peer")
    finish(catalog, both[1], JobStatus.STOPPED, reason="stopped on request")
    job = present(catalog)
    assert (job.status, job.reason) == (JobStatus.STOPPED, "node 1: stopped on request")


def test_a_job_of_a_machine_that_died_is_interrupted_once_the_others_have_ended(catalog: Catalog) -> None:
    both = [begin(catalog, rank) for rank in (0, 1)]
    set_node(catalog, 1, claim_pid=NO_PROCESS)
    assert present(catalog).status is JobStatus.IN_PROGRESS
    assert [one.status for one in present(catalog).nodes] == [JobStatus.IN_PROGRESS, JobStatus.INTERRUPTED]
    finish(catalog, both[0])
    job = present(catalog)
    assert (job.status, job.reason) == (JobStatus.INTERRUPTED, "the process that ran node 1 is gone")
    again = begin(catalog, 1)
    assert (again.job.attempt, again.came_again) == (2, False)
    with pytest.raises(ConflictError, match="another process has taken over"):
        finish(catalog, both[1])
    assert begin(catalog, 0).job.attempt == 2


def test_a_lease_of_another_machine_has_to_run_out(catalog: Catalog) -> None:
    both = [begin(catalog, rank) for rank in (0, 1)]
    set_node(catalog, 1, claim_host="elsewhere", claim_pid=NO_PROCESS)
    finish(catalog, both[0])
    assert present(catalog).status is JobStatus.IN_PROGRESS
    set_node(catalog, 1, claim_until=to_text(now() - timedelta(seconds=1)))
    assert present(catalog).status is JobStatus.INTERRUPTED


def test_a_machine_that_died_comes_again_while_the_others_run(catalog: Catalog) -> None:
    begin(catalog, 0)
    before = begin(catalog, 1)
    set_node(catalog, 1, claim_pid=NO_PROCESS)
    again = begin(catalog, 1)
    assert (again.job.attempt, again.came_again) == (1, True)
    assert not catalog.jobs.renew(before.job.id, before.lease)
    with pytest.raises(ConflictError):
        catalog.jobs.stop_requested(before.job.id, before.lease)
    assert present(catalog).status is JobStatus.IN_PROGRESS


def test_a_machine_that_never_comes_counts_as_gone_after_a_while(catalog: Catalog) -> None:
    begun = begin(catalog, 0, 3)
    finish(catalog, begun)
    assert present(catalog).status is JobStatus.IN_PROGRESS, "the others may be on their way"
    set_node(catalog, 0, ended_at=to_text(now() - timedelta(minutes=2)))
    job = present(catalog)
    assert (job.status, job.reason) == (JobStatus.INTERRUPTED, "nodes 1-2 never came")
    assert begin(catalog, 2, 3).job.attempt == 2


def test_who_may_not_join_is_refused(catalog: Catalog) -> None:
    begin(catalog, 0)
    done = begin(catalog, 1)
    finish(catalog, done)
    for rank, total, why in (
        (0, 2, "node 0 of training job 'train' is being run by process"),
        (1, 2, "node 1 of training job 'train' has succeeded already"),
        (2, 3, "is being run on 2 machines, not on 3 machines"),
    ):
        with pytest.raises(ConflictError, match=why):
            begin(catalog, rank, total)
    for owner, node in ((OTHER_OWNER, Node(1, 2)), (OWNER, None)):
        with pytest.raises(ConflictError):
            catalog.jobs.begin(
                parse_name("train"),
                owner=owner,
                command=["train"],
                env_names=[],
                layout=lambda _job, _attempt: ("", ""),
                node=node,
            )
    assert present(catalog).attempt == 1


def test_a_job_of_one_machine_is_not_joined(catalog: Catalog) -> None:
    alone = catalog.jobs.begin(
        parse_name("train"), owner=OWNER, command=["train"], env_names=[], layout=lambda _job, _attempt: ("", "")
    )
    with pytest.raises(ConflictError, match="is being run by process"):
        begin(catalog, 1)
    finish(catalog, alone, JobStatus.FAILED)
    job = begin(catalog, 1).job
    assert (job.attempt, job.node_count) == (2, 2)


@pytest.mark.parametrize("first", [None, Id("0b6e7c1a-3f52-4d8e-9a41-5c7d2e8f9b10")])
def test_all_machines_start_from_what_the_first_has_chosen(catalog: Catalog, first: Id | None) -> None:
    both = [begin(catalog, rank) for rank in (0, 1)]
    chosen = (first, new_id())
    agreed = [
        catalog.jobs.agree_on_input(one.job.id, one.lease, choice)[1] for one, choice in zip(both, chosen, strict=True)
    ]
    assert agreed == [first, first]
    assert present(catalog).input_checkpoint_id == first


def test_an_end_that_the_catalog_was_not_told_is_recorded_later(catalog: Catalog) -> None:
    both = [begin(catalog, rank) for rank in (0, 1)]
    finish(catalog, both[0])
    running = present(catalog)
    ended = running._replace(status=JobStatus.SUCCEEDED, exit_code=0, reason="", ended_at=now(), lost=1)
    assert catalog.jobs.correct_node(running, 1, ended).status is JobStatus.IN_PROGRESS, "its process lives"
    set_node(catalog, 1, claim_pid=NO_PROCESS)
    for _ in range(2):
        job = catalog.jobs.correct_node(present(catalog), 1, ended)
        assert (job.status, job.lost) == (JobStatus.SUCCEEDED, 1)


def test_running_machines_keep_their_output_directories(catalog: Catalog) -> None:
    begin(catalog, 0, place="zero")
    job = begin(catalog, 1, place="one").job
    found = [catalog.jobs.running_in(f"/jobs/{job.id}/1-{place}/output") for place in ("zero", "one", "two")]
    assert [[one.name for one in running] for running in found] == [["train"], ["train"], []]
    assert catalog.at_work({str(job.id)}) == {str(job.id)}


def test_the_machines_of_a_job_go_with_it(catalog: Catalog) -> None:
    begun = begin(catalog, 0, 2)
    other = begin(catalog, 1, 2)
    finish(catalog, begun)
    finish(catalog, other)
    catalog.jobs.delete(parse_job_reference("train"))
    with catalog.database.reading() as transaction:
        assert transaction.column("SELECT node FROM job_nodes") == []
        assert transaction.column(f"SELECT id FROM {jobs.name}") == []
