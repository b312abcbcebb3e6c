"""Finding checkpoints by what is known of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.errors import NotFoundError, UsageError
from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.service.listing import ListRequest, list_checkpoints
from tests.checkpoints.catalog.steps import STORE_ID, add_job, begin, capture, commit, push, store


@pytest.fixture
def full(catalog: Catalog) -> Catalog:
    push(catalog, "llama-base", {"a": b"x" * 10})
    push(catalog, "mistral-500", {"a": b"y" * 30})
    push(catalog, "Llama-chat", {"a": b"z" * 20})
    begin(catalog, "unfinished")
    job_id = add_job(catalog)
    for step, loss in ((5, 0.5), (10, 0.25), (15, 0.75)):
        checkpoint_id, lease = capture(catalog, job_id, f"checkpoint-{step}")
        content = store(catalog.blobs(STORE_ID), checkpoint_id, str(step).encode())
        facts = TrainingFacts(step=step, eval_loss=loss, metrics={"accuracy": 1 - loss})
        commit(catalog, checkpoint_id, lease, {"w": content}, facts)
    return catalog


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"patterns": ["LLAMA"]}, ["llama-base", "Llama-chat"]),
        ({"patterns": ["*-base", "mistral"]}, ["llama-base", "mistral-500"]),
        ({"patterns": ["llama-????"], "limit": 1}, ["Llama-chat"]),
        ({"sort": "size", "status": "available"}, ["mistral-500", "Llama-chat", "llama-base"]),
        ({"sort": "size", "limit": 1}, ["mistral-500"]),
        ({"sort": "name", "limit": 2}, ["llama-base", "Llama-chat"]),
        ({"sort": "created", "limit": 1}, ["unfinished"]),
        ({"limit": 1}, ["unfinished"]),
        ({"status": "uploading"}, ["unfinished"]),
        ({"job": "train"}, ["train/checkpoint-5", "train/checkpoint-10", "train/checkpoint-15"]),
        ({"patterns": ["train/*-1?"]}, ["train/checkpoint-10", "train/checkpoint-15"]),
        (
            {"kind": "captured", "sort": "eval-loss"},
            ["train/checkpoint-10", "train/checkpoint-5", "train/checkpoint-15"],
        ),
        ({"kind": "captured", "sort": "accuracy", "limit": 1}, ["train/checkpoint-10"]),
        ({"kind": "captured", "sort": "accuracy:min", "limit": 1}, ["train/checkpoint-15"]),
        ({"kind": "all", "sort": "eval-loss", "limit": 1}, ["train/checkpoint-10"]),
        ({"kind": "all", "patterns": ["5"]}, ["mistral-500", "train/checkpoint-5", "train/checkpoint-15"]),
        ({"since": datetime(2999, 1, 1, tzinfo=UTC)}, []),
        ({"since": datetime(2001, 1, 1, tzinfo=UTC), "patterns": ["base"]}, ["llama-base"]),
        ({"owner": "nowhere"}, []),
    ],
    ids=str,
)
def test_checkpoints_are_found_by_what_is_asked(full: Catalog, asked: dict[str, Any], found: list[str]) -> None:
    assert [row.title for row in list_checkpoints(full, ListRequest(**asked))] == found


def test_a_user_is_found_with_a_machine_or_on_all(full: Catalog) -> None:
    creator = full.checkpoints.get(parse_reference("llama-base")).creator
    for owner in (creator, creator.partition("@")[0]):
        assert len(list_checkpoints(full, ListRequest(owner=owner))) == 4


def test_deleted_checkpoints_are_found_the_same_way(full: Catalog) -> None:
    for text in ("llama-base", "mistral-500", "train/checkpoint-5"):
        full.checkpoints.delete(parse_reference(text))
    titles = {
        str(asked): [row.title for row in list_checkpoints(full, ListRequest(deleted=True, **asked))]
        for asked in ({}, {"patterns": ["base"]}, {"job": "train"}, {"kind": "captured"})
    }
    assert list(titles.values()) == [
        ["llama-base", "mistral-500", "train/checkpoint-5"],
        ["llama-base"],
        ["train/checkpoint-5"],
        ["train/checkpoint-5"],
    ]


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ({"status": "gone"}, "it is one of uploading, syncing, available"),
        ({"kind": "exported"}, "it is one of pushed, captured, all"),
        ({"limit": -1}, "0 means all"),
        ({"kind": "captured", "sort": "f1"}, "there is eval-loss, accuracy"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused_with_what_can(full: Catalog, asked: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        list_checkpoints(full, ListRequest(**asked))
    assert caught.value.hint.startswith(hint)


def test_a_job_that_is_not_there_is_not_found(full: Catalog) -> None:
    with pytest.raises(NotFoundError, match="there is no training job 'other'"):
        list_checkpoints(full, ListRequest(job="other"))
