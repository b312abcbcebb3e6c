"""Fetch, export, inspect, list, delete, protect and verify, as tasks' functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexai.blocks import LocalStorageProvider, save_connection
from flexai.checkpoints.errors import ConflictError, DestinationExistsError, IntegrityError, NotFoundError
from flexai.tasks import (
    delete_checkpoint,
    export_checkpoint,
    fetch_checkpoint,
    inspect_checkpoint,
    list_checkpoints,
    protect_checkpoints,
    push_checkpoint,
    verify_checkpoints,
)
from tests.servers.prefect import PrefectServer
from tests.tasks.conftest import as_json

SOUND = {
    "checkedContents": 2,
    "checkedBytes": 16406,
    "damagedContents": 0,
    "repairedContents": 0,
    "damaged": [],
    "repaired": [],
    "unrepaired": [],
}


@pytest.fixture
def pushed(home: Path, files: Path) -> str:
    """The id of a pushed checkpoint."""
    return str(push_checkpoint.fn("mistral-500", files=[str(files)])["metadata"]["id"])


def test_a_checkpoint_is_fetched_and_what_is_there_is_kept(pushed: str, files: Path, tmp_path: Path) -> None:
    first = fetch_checkpoint.fn("mistral-500", "restored")
    assert first == {
        "checkpoint": {"name": "mistral-500", "id": pushed, "job": ""},
        "destination": str(tmp_path / "restored"),
        "fetchedFiles": 2,
        "keptFiles": 0,
        "movedBytes": 16406,
        "unverifiedFiles": 0,
        "extraFiles": 0,
        "deletedFiles": 0,
        "leftOutFiles": 0,
        "leftOutBytes": 0,
    }
    assert (tmp_path / "restored" / "config.json").read_bytes() == (files / "config.json").read_bytes()
    again = fetch_checkpoint.fn(pushed, "restored")
    assert (again["fetchedFiles"], again["keptFiles"], again["movedBytes"]) == (0, 2, 0)
    assert as_json(first) == first


def test_other_content_is_replaced_only_where_that_is_wanted(pushed: str, tmp_path: Path) -> None:
    (tmp_path / "restored").mkdir()
    (tmp_path / "restored" / "config.json").write_text("mine")
    with pytest.raises(DestinationExistsError):
        fetch_checkpoint.fn("mistral-500", "restored")
    assert fetch_checkpoint.fn("mistral-500", "restored", overwrite=True)["fetchedFiles"] == 2


def test_a_checkpoint_is_exported_once(prefect_api: PrefectServer, pushed: str, tmp_path: Path) -> None:
    save_connection(LocalStorageProvider(root=str(tmp_path)), "export-test-share", overwrite=True)
    first = export_checkpoint.fn("mistral-500", "export-test-share", "bucket/models")
    assert (tmp_path / "bucket" / "models" / "config.json").is_file()
    assert (first["exportedFiles"], first["skippedFiles"], first["movedBytes"]) == (2, 0, 16406)
    assert (first["storageProvider"], first["destinationPath"]) == ("export-test-share", "bucket/models")
    assert as_json(first) == first
    again = export_checkpoint.fn("mistral-500", "export-test-share", "bucket/models")
    assert (again["exportedFiles"], again["skippedFiles"], again["movedBytes"]) == (0, 2, 0)
    exports = inspect_checkpoint.fn("mistral-500")["status"]["exports"]
    assert {entry["destinationPath"] for entry in exports} == {"bucket/models"}


def test_a_name_that_is_mistyped_is_said_before_the_connection_is_looked_at(pushed: str) -> None:
    with pytest.raises(NotFoundError, match="there is no checkpoint 'mistral-50'"):
        export_checkpoint.fn("mistral-50", "no-such-connection", "bucket/models")


def test_a_checkpoint_is_inspected_by_name_and_by_id(pushed: str) -> None:
    document = inspect_checkpoint.fn("mistral-500")
    assert document == inspect_checkpoint.fn(pushed) == as_json(document)
    assert document["kind"] == "Checkpoint"


def test_checkpoints_are_listed(pushed: str) -> None:
    push_checkpoint.fn("release-1", from_checkpoint="mistral-500")
    listed = list_checkpoints.fn()
    assert [row["name"] for row in listed] == ["mistral-500", "release-1"]
    assert as_json(listed) == listed


def test_a_catalog_that_is_not_there_yet_lists_nothing_and_is_not_made(home: Path) -> None:
    assert list_checkpoints.fn() == []
    assert not home.exists()


def test_a_deleted_checkpoint_is_gone(pushed: str) -> None:
    assert delete_checkpoint.fn("mistral-500") == {"name": "mistral-500", "id": pushed, "job": ""}
    assert list_checkpoints.fn() == []
    for missing in (inspect_checkpoint.fn, delete_checkpoint.fn, fetch_checkpoint.fn):
        with pytest.raises(NotFoundError):
            missing("mistral-500")


def test_a_protected_checkpoint_is_deleted_once_it_is_unprotected(pushed: str) -> None:
    known = {"name": "mistral-500", "id": pushed, "job": "", "title": "mistral-500"}
    assert protect_checkpoints.fn(["mistral-500"]) == {"checkpoints": [known | {"protected": True}]}
    with pytest.raises(ConflictError, match="is protected"):
        delete_checkpoint.fn("mistral-500")
    assert protect_checkpoints.fn([pushed], protected=False) == {"checkpoints": [known | {"protected": False}]}
    assert delete_checkpoint.fn("mistral-500")["id"] == pushed


def test_sound_content_is_verified(pushed: str) -> None:
    assert verify_checkpoints.fn() == SOUND
    assert verify_checkpoints.fn(["mistral-500"]) == SOUND


def test_damage_fails_the_task_and_every_damaged_file_is_logged(
    pushed: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (blob,) = [path for path in (home / "store").rglob("*") if path.is_file() and path.stat().st_size > 16000]
    content = bytearray(blob.read_bytes())
    content[10] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(content)
    with pytest.raises(IntegrityError):
        verify_checkpoints.fn()
    damaged = [message for message in caplog.messages if "is damaged, which is needed by" in message]
    assert len(damaged) == 1
