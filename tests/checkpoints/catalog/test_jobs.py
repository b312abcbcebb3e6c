from __future__ import annotations

import copy
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.job_nodes import RUNNER_GONE
from flexai.checkpoints.catalog.jobs import BegunJob
from flexai.checkpoints.catalog.leases import Lease, this_host
from flexai.checkpoints.catalog.tables import jobs
from flexai.checkpoints.errors import CheckpointError, ConflictError, InvalidNameError, JobExistsError, NotFoundError
from flexai.checkpoints.models import JobStatus, Source, TrainingJob, now, to_text
from flexai.checkpoints.names import Id, new_id, parse_id, parse_job_reference, parse_name, parse_reference
from flexai.checkpoints.owner import Owner
from tests.checkpoints.catalog.steps import push
from tests.checkpoints.samples import OTHER_OWNER, OWNER
from tests.support.tables import tables_of

STORE_ID = parse_id(uuid.UUID(int=9))
ENDS = [JobStatus.FAILED, JobStatus.STOPPED, JobStatus.INTERRUPTED]


def layout(job_id: Id, attempt: int) -> tuple[str, str]:
    return f"/jobs/{job_id}/{attempt}/output", f"/jobs/{job_id}/{attempt}/log.txt"


def begin(
    catalog: Catalog, name: str = "train", *, owner: Owner = OWNER, command: tuple[str, ...] = ("true",)
) -> BegunJob:
    return catalog.jobs.begin(
        parse_name(name), owner=owner, command=command, env_names=("TOKEN", "LEVEL"), layout=layout
    )


def finish(
    catalog: Catalog, begun: BegunJob, status: JobStatus, *, exit_code: int = 0, reason: str = ""
) -> TrainingJob:
    return catalog.jobs.finish(begun.job.id, begun.lease, status=status, exit_code=exit_code, reason=reason)


def get(catalog: Catalog, reference: object = "train") -> TrainingJob:
    return catalog.jobs.get(parse_job_reference(str(reference)))


def kill_runner(catalog: Catalog, job: TrainingJob) -> None:
    """Make the job's runner a process of this machine that is gone."""
    set_columns(catalog, job, claim_pid=2**22 + 1)


def set_columns(catalog: Catalog, job: TrainingJob, **values: object) -> None:
    with tables_of(catalog.database) as connection:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(values))


def capture(catalog: Catalog, job: TrainingJob) -> str:
    """Announce a captured checkpoint whose capture then fails; returns its id."""
    checkpoint, lease = catalog.checkpoints.begin_capture(
        job_id=job.id,
        name="checkpoint-5",
        node="0",
        owner=OWNER,
        source=Source(),
        store_id=STORE_ID,
        parent_id=None,
    )
    catalog.checkpoints.fail(checkpoint.id, lease, "a test wanted it to")
    return checkpoint.id


def test_a_job_is_in_progress_from_its_beginning(catalog: Catalog) -> None:
    job = begin(catalog, command=("python", "train.py", "--epochs", "3")).job
    assert job == get(catalog)
    assert job.status is JobStatus.IN_PROGRESS
    assert job.command == ("python", "train.py", "--epochs", "3")
    assert (job.attempt, job.exit_code, job.reason, job.ended_at) == (1, None, "", None)
    assert (job.output_dir, job.log_path) == layout(job.id, 1)
    assert job.host == this_host().partition("/")[0]
    assert (job.creator_user_id, job.owner_org_id) == (OWNER.user_id, OWNER.org_id)


def test_names_of_variables_are_kept_and_values_are_not_even_taken(catalog: Catalog) -> None:
    assert begin(catalog).job.env_names == ("LEVEL", "TOKEN")


def test_a_job_is_found_by_its_name_in_any_case_and_by_its_id(catalog: Catalog) -> None:
    job = begin(catalog, "My-Run").job
    assert get(catalog, "my-run") == get(catalog, job.id.upper()) == job
    assert catalog.jobs.find(parse_name("MY-RUN")) == job
    assert catalog.jobs.find(parse_name("another")) is None


def test_a_job_that_is_not_there_is_not_found(catalog: Catalog) -> None:
    for reference in ("missing", new_id()):
        with pytest.raises(NotFoundError, match="there is no training job"):
            get(catalog, reference)


def test_a_reference_that_breaks_the_naming_rules_says_what_it_should_have_been() -> None:
    with pytest.raises(InvalidNameError, match="training job"):
        parse_job_reference("a b")


def test_a_running_job_holds_its_name(catalog: Catalog) -> None:
    begin(catalog)
    with pytest.raises(ConflictError, match=f"is being run by process {os.getpid()}") as caught:
        begin(catalog, "TRAIN")
    assert caught.value.exit_code == 4
    assert "flexai training stop train" in caught.value.hint


def test_a_job_that_has_succeeded_is_not_run_again(catalog: Catalog) -> None:
    job = finish(catalog, begin(catalog), JobStatus.SUCCEEDED)
    with pytest.raises(JobExistsError, match="already succeeded") as caught:
        begin(catalog)
    assert caught.value.existing == job
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("status", ENDS)
def test_a_job_that_did_not_succeed_begins_its_next_attempt(catalog: Catalog, status: JobStatus) -> None:
    first = finish(catalog, begin(catalog), status, exit_code=3, reason="no luck")
    begun = begin(catalog, command=("false",))
    assert begun.job.id == first.id
    assert (begun.job.attempt, begun.job.status) == (2, JobStatus.IN_PROGRESS)
    assert (begun.job.exit_code, begun.job.reason, begun.job.ended_at) == (None, "", None)
    assert begun.job.command == ("false",)
    assert (begun.job.output_dir, begun.job.log_path) == layout(first.id, 2)
    assert begun.job.created_at == first.created_at
    assert begun.job.started_at > first.started_at


def test_the_input_of_an_attempt_is_not_the_next_ones(catalog: Catalog) -> None:
    begun = begin(catalog)
    checkpoint_id = push(catalog).id
    assert catalog.jobs.set_input(begun.job.id, begun.lease, checkpoint_id).input_checkpoint_id == checkpoint_id
    finish(catalog, begun, JobStatus.FAILED)
    assert begin(catalog).job.input_checkpoint_id is None


def test_a_job_does_not_start_from_a_checkpoint_that_was_deleted_meanwhile(catalog: Catalog) -> None:
    begun = begin(catalog)
    checkpoint_id = push(catalog).id
    catalog.checkpoints.delete(parse_reference("llama"))
    with pytest.raises(NotFoundError, match="any more"):
        catalog.jobs.set_input(begun.job.id, begun.lease, checkpoint_id)
    assert get(catalog).input_checkpoint_id is None


def test_a_job_of_another_owner_is_left_alone(catalog: Catalog) -> None:
    finish(catalog, begin(catalog), JobStatus.FAILED)
    with pytest.raises(ConflictError, match="another owner"):
        begin(catalog, owner=OTHER_OWNER)


def test_a_job_whose_runner_is_gone_is_interrupted_to_every_reader(catalog: Catalog) -> None:
    job = begin(catalog).job
    kill_runner(catalog, job)
    seen = get(catalog)
    assert (seen.status, seen.reason) == (JobStatus.INTERRUPTED, RUNNER_GONE)
    assert catalog.jobs.list() == [seen] == [catalog.jobs.get_by_id(job.id)]


def test_a_job_whose_runner_is_gone_begins_its_next_attempt(catalog: Catalog) -> None:
    begun = begin(catalog)
    kill_runner(catalog, begun.job)
    assert get(catalog).status is JobStatus.INTERRUPTED
    assert begin(catalog).job.attempt == 2


def test_a_runner_elsewhere_is_gone_when_its_lease_has_run_out(catalog: Catalog) -> None:
    job = begin(catalog).job
    set_columns(catalog, job, claim_host="elsewhere/boot/space")
    assert get(catalog).status is JobStatus.IN_PROGRESS
    set_columns(catalog, job, claim_until=to_text(now() - timedelta(seconds=1)))
    assert get(catalog).status is JobStatus.INTERRUPTED


def test_a_runner_that_was_given_up_cannot_write_any_more(catalog: Catalog) -> None:
    begun = begin(catalog)
    kill_runner(catalog, begun.job)
    begin(catalog)
    job_id = begun.job.id
    assert not catalog.jobs.renew(job_id, begun.lease)
    with pytest.raises(ConflictError, match="taken over"):
        catalog.jobs.stop_requested(job_id, begun.lease)
    with pytest.raises(ConflictError, match="taken over"):
        finish(catalog, begun, JobStatus.SUCCEEDED)
    with pytest.raises(ConflictError, match="taken over"):
        catalog.jobs.set_input(job_id, begun.lease, new_id())
    assert get(catalog).attempt == 2


def test_a_renewed_claim_lasts_longer(catalog: Catalog) -> None:
    begun = begin(catalog)
    set_columns(catalog, begun.job, claim_until=to_text(now()))
    assert catalog.jobs.renew(begun.job.id, begun.lease)
    with tables_of(catalog.database) as connection:
        assert connection.execute(select(jobs.c.claim_until)).scalar_one() > to_text(now() + timedelta(seconds=30))


@pytest.mark.parametrize("status", [*ENDS, JobStatus.SUCCEEDED])
def test_an_end_is_recorded_and_the_claim_given_up(catalog: Catalog, status: JobStatus) -> None:
    begun = begin(catalog)
    job = finish(catalog, begun, status, exit_code=137, reason="the command was ended by SIGKILL")
    assert (job.status, job.exit_code, job.reason) == (status, 137, "the command was ended by SIGKILL")
    assert job.ended_at is not None
    assert job.host, "the machine is known after the end as well"
    with pytest.raises(ConflictError):
        finish(catalog, begun, status)


def test_a_stop_is_asked_for_and_noticed_by_the_runner(catalog: Catalog) -> None:
    begun = begin(catalog)
    job_id = begun.job.id
    assert not catalog.jobs.stop_requested(job_id, begun.lease)
    assert catalog.jobs.request_stop(parse_job_reference("train")).status is JobStatus.STOP_IN_PROGRESS
    assert catalog.jobs.request_stop(parse_job_reference(job_id)).status is JobStatus.STOP_IN_PROGRESS
    assert catalog.jobs.stop_requested(job_id, begun.lease)


def test_a_stop_is_forgotten_by_the_next_attempt(catalog: Catalog) -> None:
    begun = begin(catalog)
    catalog.jobs.request_stop(parse_job_reference("train"))
    finish(catalog, begun, JobStatus.STOPPED)
    later = begin(catalog)
    assert not catalog.jobs.stop_requested(later.job.id, later.lease)


def test_a_stop_of_a_job_whose_runner_is_gone_records_that_it_was_interrupted(catalog: Catalog) -> None:
    begun = begin(catalog)
    kill_runner(catalog, begun.job)
    job = catalog.jobs.request_stop(parse_job_reference("train"))
    assert (job.status, job.reason) == (JobStatus.INTERRUPTED, RUNNER_GONE)
    assert job.ended_at is not None
    with pytest.raises(ConflictError):
        finish(catalog, begun, JobStatus.SUCCEEDED)


@pytest.mark.parametrize("status", [*ENDS, JobStatus.SUCCEEDED])
def test_a_stop_of_a_job_that_has_ended_changes_nothing(catalog: Catalog, status: JobStatus) -> None:
    job = finish(catalog, begin(catalog), status)
    assert catalog.jobs.request_stop(parse_job_reference("train")) == job


def test_a_stop_of_no_job_is_not_found(catalog: Catalog) -> None:
    with pytest.raises(NotFoundError):
        catalog.jobs.request_stop(parse_job_reference("train"))


def test_jobs_are_listed_oldest_first(catalog: Catalog) -> None:
    names = ["zebra", "aardvark", "mole"]
    for name in names:
        begin(catalog, name)
    assert [job.name for job in catalog.jobs.list()] == names


def test_a_deleted_job_is_gone_and_its_name_free(catalog: Catalog) -> None:
    job = finish(catalog, begin(catalog), JobStatus.SUCCEEDED)
    assert catalog.jobs.delete(parse_job_reference("train")) == job
    for reference in ("train", job.id):
        with pytest.raises(NotFoundError):
            get(catalog, reference)
    assert catalog.jobs.list() == []
    assert begin(catalog).job.id != job.id


def test_a_job_that_runs_is_not_deleted(catalog: Catalog) -> None:
    begin(catalog)
    with pytest.raises(ConflictError, match="in progress") as caught:
        catalog.jobs.delete(parse_job_reference("train"))
    assert "flexai training stop train" in caught.value.hint


def test_a_job_whose_runner_is_gone_can_be_deleted(catalog: Catalog) -> None:
    kill_runner(catalog, begin(catalog).job)
    assert catalog.jobs.delete(parse_job_reference("train")).status is JobStatus.INTERRUPTED


def test_the_record_of_a_deleted_job_stays_as_long_as_a_checkpoint_names_it(catalog: Catalog) -> None:
    job = finish(catalog, begin(catalog), JobStatus.SUCCEEDED)
    checkpoint_id = capture(catalog, job)
    catalog.jobs.delete(parse_job_reference("train"))
    assert catalog.checkpoints.get(parse_reference(checkpoint_id)).job_name == "train"
    assert catalog.jobs.get_by_id(job.id).name == "train"
    catalog.checkpoints.discard_failed(checkpoint_id)
    catalog.jobs.forget_deleted()
    with pytest.raises(NotFoundError):
        catalog.jobs.get_by_id(job.id)


def test_records_of_jobs_that_were_not_deleted_are_not_forgotten(catalog: Catalog) -> None:
    job = finish(catalog, begin(catalog), JobStatus.SUCCEEDED)
    catalog.jobs.forget_deleted()
    assert get(catalog) == job


@pytest.mark.parametrize("is_new", [True, False], ids=["a new job", "the next attempt"])
def test_of_many_that_begin_one_job_at_the_same_time_one_does(catalog: Catalog, is_new: bool) -> None:
    if not is_new:
        finish(catalog, begin(catalog), JobStatus.FAILED)
    together = threading.Barrier(8)

    def try_to_begin(_number: int) -> str:
        together.wait()
        try:
            return begin(catalog).lease.token
        except CheckpointError as error:
            assert isinstance(error, ConflictError)
            return ""

    with ThreadPoolExecutor(8) as threads:
        tokens = [token for token in threads.map(try_to_begin, range(8)) if token]
    assert len(tokens) == 1
    assert get(catalog).attempt == (1 if is_new else 2)


def test_a_claim_is_of_this_process(catalog: Catalog) -> None:
    lease: Lease = begin(catalog).lease
    assert lease.is_alive
    assert lease.pid == os.getpid()


def test_an_error_about_a_taken_name_can_be_sent_to_another_process(catalog: Catalog) -> None:
    job = finish(catalog, begin(catalog), JobStatus.SUCCEEDED)
    error = copy.copy(JobExistsError(job))  # by the way that pickling takes
    assert (error.existing, error.hint) == (job, JobExistsError(job).hint)
