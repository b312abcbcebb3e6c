"""What a caller may write for a checkpoint or a job: the beginning of a UUID, and a name that is not there."""

from __future__ import annotations

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.history import HistoryFilter
from flexai.checkpoints.errors import NotFoundError, UsageError
from flexai.checkpoints.names import parse_job_reference, parse_reference
from flexai.checkpoints.service.inspect import look_up_history
from tests.checkpoints.catalog.steps import add_job, push
from tests.checkpoints.catalog.test_captured_references import captured, meant

ID = "90c8f215-e131-4f9c-936c-12fe1fe9a6f1"
NEIGHBOUR = "90c8f215-ffff-4f9c-936c-12fe1fe9a6f1"


def with_id(catalog: Catalog, checkpoint_id: str, new: str) -> str:
    with catalog.database.writing() as transaction:
        transaction.change("DELETE FROM files")
        transaction.change("DELETE FROM blob_references")
        transaction.change("UPDATE checkpoints SET id = :new WHERE id = :id", new=new, id=checkpoint_id)
        transaction.change("UPDATE history SET subject_id = :new WHERE subject_id = :id", new=new, id=checkpoint_id)
    return new


@pytest.mark.parametrize("text", ["90c8f215", "90C8F215", "90c8f215-", "90c8f215-e131-4f"])
def test_the_first_eight_digits_of_a_uuid_and_more_mean_its_checkpoint(catalog: Catalog, text: str) -> None:
    with_id(catalog, push(catalog, "llama").id, ID)
    push(catalog, "mistral")
    assert meant(catalog, text) == ID
    assert look_up_history(catalog, HistoryFilter(), text)
    assert catalog.checkpoints.delete(parse_reference(text)).id == ID
    with pytest.raises(NotFoundError):
        meant(catalog, text)
    assert [entry.action for entry in look_up_history(catalog, HistoryFilter(), text)] == ["push", "delete"]
    assert catalog.checkpoints.undelete(parse_reference(text)).id == ID


def test_digits_that_several_uuids_begin_with_are_refused_with_a_list_of_them(catalog: Catalog) -> None:
    with_id(catalog, push(catalog, "llama").id, ID)
    with_id(catalog, push(catalog, "mistral").id, NEIGHBOUR)
    with pytest.raises(UsageError, match="the UUIDs of 2 checkpoints begin with '90c8f215'") as caught:
        meant(catalog, "90c8f215")
    assert f"{ID} (llama), {NEIGHBOUR} (mistral)" in caught.value.hint
    assert meant(catalog, "90c8f215-f") == NEIGHBOUR


def test_a_name_goes_before_a_uuid_that_begins_so(catalog: Catalog) -> None:
    with_id(catalog, push(catalog, "llama").id, ID)
    named = push(catalog, "90c8f215").id
    assert meant(catalog, "90c8f215") == named


def test_the_beginning_of_a_jobs_uuid_means_the_job_and_what_it_captured(catalog: Catalog) -> None:
    job_id = add_job(catalog)
    wanted = captured(catalog, job_id, "checkpoint-5")
    assert catalog.jobs.get(parse_job_reference(job_id[:8])).id == job_id
    assert meant(catalog, f"{job_id[:8]}/checkpoint-5") == wanted


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("lama-base", "did you mean 'llama-base'? flexai checkpoint list shows"),
        ("trian/checkpoint-5", "did you mean 'train'? "),
        ("train/checkpoint5", "did you mean 'train/checkpoint-5'? flexai training checkpoints train shows"),
        ("TRAIN", "'train' is a training job: flexai training checkpoints train shows"),
        ("zzz", "flexai checkpoint list shows"),
    ],
)
def test_a_name_that_is_not_there_asks_for_one_that_is_like_it(catalog: Catalog, text: str, asked: str) -> None:
    captured(catalog, add_job(catalog), "checkpoint-5")
    push(catalog, "llama-base")
    with pytest.raises(NotFoundError, match="there is no checkpoint") as caught:
        meant(catalog, text)
    assert caught.value.hint.startswith(asked)


def test_a_job_that_is_not_there_asks_for_one_that_is_like_it(catalog: Catalog) -> None:
    add_job(catalog)
    with pytest.raises(NotFoundError) as caught:
        catalog.jobs.get(parse_job_reference("trian"))
    assert caught.value.hint == "did you mean 'train'? flexai training list shows what there is"
