"""``JOB/PATH``: which captured checkpoint it means, in every change and every look that takes a reference."""

from __future__ import annotations

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.models import JobStatus
from flexai.checkpoints.names import new_id, parse_reference
from tests.checkpoints.catalog.steps import STORE_ID, add_job, capture, commit, push, set_columns, store

FILE = "lightning_logs/version_0/checkpoints/epoch=0-step=100.ckpt"


def captured(catalog: Catalog, job_id: str, name: str) -> str:
    """An available checkpoint of a job; returns its id."""
    checkpoint_id, lease = capture(catalog, job_id, name)
    content = store(catalog.blobs(STORE_ID), checkpoint_id, checkpoint_id.encode())
    return commit(catalog, checkpoint_id, lease, {"w.bin": content}).id


def meant(catalog: Catalog, text: str) -> str:
    """The id of what a text means."""
    return catalog.checkpoints.get(parse_reference(text)).id


@pytest.mark.parametrize("name", ["checkpoint-5", FILE, "a b/é"])
def test_a_job_and_a_path_mean_the_checkpoint_that_was_captured_there(catalog: Catalog, name: str) -> None:
    job_id = add_job(catalog)
    for other in ("checkpoint-50", f"{name}/x", "x/checkpoint-5", ""):
        captured(catalog, job_id, other)
    captured(catalog, add_job(catalog, "other"), name)
    push(catalog, "checkpoint-5")
    wanted = captured(catalog, job_id, name)
    assert meant(catalog, f"train/{name}") == wanted
    assert meant(catalog, f"TRAIN/{name}") == wanted, "names of jobs are compared without regard to case"
    assert meant(catalog, f"{job_id}/{name}") == wanted


def test_the_output_directory_itself_is_a_dot(catalog: Catalog) -> None:
    assert captured(catalog, add_job(catalog), "") == meant(catalog, "train/.")


def test_of_several_of_one_path_the_one_that_was_there_last_and_can_be_used_is_meant(catalog: Catalog) -> None:
    job_id = add_job(catalog)
    captured(catalog, job_id, "last.ckpt")
    newest = captured(catalog, job_id, "last.ckpt")
    captured(catalog, job_id, "last.ckpt.old")
    failed, lease = capture(catalog, job_id, "last.ckpt")
    catalog.checkpoints.fail(failed, lease, "the store is full")
    capture(catalog, job_id, "last.ckpt")
    assert meant(catalog, "train/last.ckpt") == newest


def test_what_could_not_be_stored_is_meant_where_nothing_else_is_there(catalog: Catalog) -> None:
    failed, lease = capture(catalog, add_job(catalog), "last.ckpt")
    catalog.checkpoints.fail(failed, lease, "the store is full")
    assert meant(catalog, "train/last.ckpt") == failed


@pytest.mark.parametrize("text", ["train/checkpoint-6", "train/Checkpoint-5", "train/.", "other/checkpoint-5"])
def test_a_path_under_which_nothing_was_captured_is_not_found(catalog: Catalog, text: str) -> None:
    captured(catalog, add_job(catalog), "checkpoint-5")
    with pytest.raises(NotFoundError, match=f"there is no checkpoint '{text}'") as caught:
        catalog.checkpoints.get(parse_reference(text))
    assert caught.value.exit_code == 3
    assert f"flexai training checkpoints {text.partition('/')[0]} " in caught.value.hint


def test_a_captured_checkpoint_is_protected_deleted_and_brought_back_by_its_path(catalog: Catalog) -> None:
    job_id = add_job(catalog)
    reference = parse_reference(f"train/{FILE}")
    earlier, later = captured(catalog, job_id, FILE), captured(catalog, job_id, FILE)
    captured(catalog, add_job(catalog, "other"), FILE)
    assert [one.id for one in catalog.checkpoints.protect([reference])] == [later]
    catalog.checkpoints.protect([reference], protected=False)
    assert catalog.checkpoints.find_deletable(reference).id == later
    assert catalog.checkpoints.delete(reference).id == later
    assert meant(catalog, str(reference)) == earlier
    assert catalog.checkpoints.undelete(reference).id == later
    assert meant(catalog, str(reference)) == later
    for one in (later, earlier):
        assert catalog.checkpoints.delete(reference).id == one
    with pytest.raises(NotFoundError):
        catalog.checkpoints.delete(reference)


def test_checkpoints_that_a_deleted_job_left_are_meant_by_its_uuid(catalog: Catalog) -> None:
    job_id = add_job(catalog)
    kept = captured(catalog, job_id, "checkpoint-5")
    row = catalog.jobs.get_by_id(job_id)
    catalog.jobs.request_stop(parse_reference(job_id))
    assert catalog.jobs.get_by_id(job_id).status is JobStatus.INTERRUPTED, row.status
    catalog.jobs.delete(parse_reference(job_id))
    assert meant(catalog, f"{job_id}/checkpoint-5") == kept
    with pytest.raises(NotFoundError):
        meant(catalog, "train/checkpoint-5")
    with pytest.raises(NotFoundError):
        meant(catalog, f"{new_id()}/checkpoint-5")


def test_an_earlier_capture_is_meant_again_when_the_later_one_is_deleted(catalog: Catalog) -> None:
    job_id = add_job(catalog)
    earlier, later = captured(catalog, job_id, "last"), captured(catalog, job_id, "last")
    set_columns(catalog, later, deleted_at="2025-02-03T13:14:37.730471Z")
    assert meant(catalog, "train/last") == earlier
