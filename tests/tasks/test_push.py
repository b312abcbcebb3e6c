"""Push, as a task's function."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from flexai.blocks import LocalStorageProvider, save_connection
from flexai.checkpoints.errors import AlreadyExistsError, SourceError, UsageError
from flexai.tasks import push_checkpoint
from tests.servers.prefect import PrefectServer
from tests.tasks.conftest import as_json


def test_local_files_become_a_checkpoint(home: Path, files: Path) -> None:
    document = push_checkpoint.fn("mistral-500", files=[f"{files}=model"])
    assert document["metadata"]["name"] == "mistral-500"
    assert document["status"]["status"] == "available"
    assert [file["path"] for file in document["status"]["files"]] == ["model/config.json", "model/nested/weights.bin"]
    assert as_json(document) == document


def test_a_checkpoint_becomes_another_one_and_no_byte_moves(home: Path, files: Path) -> None:
    first = push_checkpoint.fn("mistral-500", files=[str(files)])
    second = push_checkpoint.fn("release-1", from_checkpoint="mistral-500")
    assert second["spec"]["fromCheckpoint"] == first["metadata"]["id"]
    assert second["status"]["manifestDigest"] == first["status"]["manifestDigest"]


def test_a_provider_is_pushed_from(prefect_api: PrefectServer, home: Path, files: Path, tmp_path: Path) -> None:
    files.rename(tmp_path / "bucket")
    save_connection(LocalStorageProvider(root=str(tmp_path)), "push-test-share", overwrite=True)
    document = push_checkpoint.fn("from-share", storage_provider="push-test-share", source_path="bucket/nested")
    assert document["spec"]["storageProvider"] == "push-test-share"
    assert [file["path"] for file in document["status"]["files"]] == ["weights.bin"]


def test_the_same_content_again_is_no_error_where_that_is_wanted(home: Path, files: Path) -> None:
    first = push_checkpoint.fn("mistral-500", files=[str(files)])
    again = push_checkpoint.fn("mistral-500", files=[str(files)], if_not_exists=True)
    assert again["metadata"]["id"] == first["metadata"]["id"]
    with pytest.raises(AlreadyExistsError):
        push_checkpoint.fn("mistral-500", files=[str(files)])


def test_links_are_followed_only_where_that_is_wanted(home: Path, files: Path) -> None:
    os.symlink("config.json", files / "link.json")
    with pytest.raises(SourceError):
        push_checkpoint.fn("mistral-500", files=[str(files)])
    document = push_checkpoint.fn("mistral-500", files=[str(files)], follow_symlinks=True)
    assert document["status"]["filesCount"] == 3


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({}, "there is nothing to push: no source is given"),
        ({"files": ["a"], "from_checkpoint": "other"}, "files and from_checkpoint cannot be used together"),
        ({"files": ["a"], "storage_provider": "share"}, "files and storage_provider cannot be used together"),
        ({"storage_provider": "share"}, "storage_provider needs source_path: what to push from it"),
        ({"source_path": "bucket/a"}, "source_path needs storage_provider: it is a path on a storage provider"),
    ],
)
def test_no_source_or_several_are_refused(home: Path, source: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        push_checkpoint.fn("mistral-500", **source)
    assert caught.value.message == problem
    assert "from_checkpoint" in caught.value.hint
