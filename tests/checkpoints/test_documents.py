from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints import documents
from flexai.checkpoints.contents import is_unverified
from flexai.checkpoints.documents import age, flexai_size, human_size, short_size
from flexai.checkpoints.models import (
    Checkpoint,
    CheckpointKind,
    CheckpointStatus,
    ExportRecord,
    JobStatus,
    ListedCheckpoint,
    ListedFile,
    Source,
    TrainingFacts,
    TrainingJob,
    from_text,
)
from flexai.checkpoints.names import new_id, parse_id
from flexai.checkpoints.transfer import first_reading

NOW = datetime(2025, 2, 19, 13, 14, 37, tzinfo=UTC)

# The example of https://docs.flex.ai/commands/checkpoint.
PUSHED = Checkpoint(
    id=parse_id("431a0ecb-cd8f-4508-8ae3-0990833a4f16"),
    kind=CheckpointKind.PUSHED,
    name="test-nanogpt-run-1",
    creator_user_id=parse_id("bd67af19-2599-4a57-832e-a1ac042f48be"),
    owner_org_id=parse_id("270a5476-b91a-442f-8a13-852ef7bb5b94"),
    source=Source(from_local_files=("output/checkpoint_20250203_130043/ckpt.pt",)),
    status=CheckpointStatus.AVAILABLE,
    size=360490229,
    file_count=1,
    manifest_digest="ab" * 32,
    creator="alice@lab",
    created_at=from_text("2025-02-03T13:14:37.730471Z"),
    updated_at=from_text("2025-02-03T13:14:54.591148Z"),
)
CAPTURED = replace(
    PUSHED,
    kind=CheckpointKind.CAPTURED,
    name="checkpoint-5",
    job_id=parse_id("90c8f215-e131-4f9c-936c-12fe1fe9a6f1"),
    job_name="my-run",
    node="1",
    sequence=3,
    facts=TrainingFacts(
        step=5,
        train_loss=2.5,
        model="GPT2LMHeadModel",
        version="4.57.1",
        inference_missing=("model.safetensors",),
        resumable=True,
    ),
)
FILE = ListedFile("ckpt.pt", 360490229, "cd" * 32)
EXPORT = ExportRecord(
    id=new_id(),
    checkpoint_id=PUSHED.id,
    storage_provider="aws",
    destination_path="bucket/x",
    manifest_digest="ef" * 32,
    exported_at=from_text("2025-02-04T00:00:00.000000Z"),
)
LISTED = ListedCheckpoint(
    id=PUSHED.id,
    kind="pushed",
    name="mistral-ft-owt",
    job_name="",
    status="available",
    reason="",
    size=122 * 1024**3,
    file_count=2,
    created_at="2025-02-03T13:14:37.730471Z",
    updated_at="2025-02-03T13:14:54.591148Z",
    deleted_at=None,
    is_protected=False,
)
LISTED_ROOT = LISTED._replace(kind="captured", name="", job_name="my-run", inference_ready=True)
JOB = TrainingJob(
    id=parse_id("90c8f215-e131-4f9c-936c-12fe1fe9a6f1"),
    name="my-run",
    creator_user_id=PUSHED.creator_user_id,
    owner_org_id=PUSHED.owner_org_id,
    status=JobStatus.SUCCEEDED,
    command=("python", "train.py"),
    env_names=("WANDB_MODE",),
    attempt=2,
    exit_code=0,
    output_dir="/out",
    log_path="/log",
    host="node-1",
    code_commit="0123456789" * 4 + "-dirty",
    checkpoint_count=3,
    created_at=from_text("2025-02-03T13:14:37.730471Z"),
    started_at=from_text("2025-02-03T13:14:40.000000Z"),
    ended_at=from_text("2025-02-03T15:14:40.000000Z"),
    updated_at=from_text("2025-02-03T15:14:41.000000Z"),
)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (725, "725 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (360490229, "343.79 MiB"),
        (17 * 1024**3, "17 GiB"),
        (int(2.1 * 1024**3), "2.1 GiB"),
        (1024**2 - 1, "1 MiB"),
        (1024**6, "1 EiB"),
        (5000 * 1024**6, "5000 EiB"),
    ],
)
def test_sizes_are_said_by_their_binary_units(size: int, shown: str) -> None:
    assert human_size(size) == shown
    assert flexai_size(size) == shown.replace("iB", "B"), "the reference's documents have them so"


@pytest.mark.parametrize(
    ("size", "shown"),
    [(17 * 1024**3 + 12345678, "17 GiB"), (122 * 1024**3, "122 GiB"), (int(2.14 * 1024**3), "2.1 GiB"), (9, "9 bytes")],
)
def test_a_column_of_sizes_has_few_digits(size: int, shown: str) -> None:
    assert short_size(size) == shown


@given(st.integers(0, 2**63))
def test_a_size_reads_back_as_what_it_was_within_its_digits(size: int) -> None:
    number, unit = human_size(size).split(" ")
    power = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB").index(unit.replace("byte", "bytes").replace("ss", "s"))
    assert abs(float(number) * 1024**power - size) <= 0.005 * 1024**power * 1.001
    assert float(number) < 1024 or unit == "EiB"


@pytest.mark.parametrize(
    ("ago", "shown"),
    [
        (timedelta(seconds=0), "0s"),
        (timedelta(seconds=59.9), "59s"),
        (timedelta(minutes=1), "1m"),
        (timedelta(minutes=59, seconds=59), "59m"),
        (timedelta(hours=2, minutes=59), "2h"),
        (timedelta(days=16, hours=23), "16d"),
        (timedelta(days=800), "800d"),
        (timedelta(seconds=-5), "0s"),
    ],
)
def test_ages_are_whole_units(ago: timedelta, shown: str) -> None:
    assert age(NOW - ago, NOW) == shown


def test_inspect_has_the_references_fields_in_its_nesting_and_order() -> None:
    document = documents.checkpoint_document(PUSHED, [FILE], [])
    assert list(document) == ["kind", "metadata", "spec", "status"]
    assert document["kind"] == "Checkpoint"
    assert document["metadata"] == {
        "name": "test-nanogpt-run-1",
        "id": "431a0ecb-cd8f-4508-8ae3-0990833a4f16",
        "creatorUserID": "bd67af19-2599-4a57-832e-a1ac042f48be",
        "ownerOrgID": "270a5476-b91a-442f-8a13-852ef7bb5b94",
        "creator": "alice@lab",
    }
    assert list(document["metadata"]) == ["name", "id", "creatorUserID", "ownerOrgID", "creator"]
    assert list(document["spec"])[:3] == ["fromLocalFiles", "storageProvider", "sourcePath"]
    assert document["spec"]["fromLocalFiles"] == ["output/checkpoint_20250203_130043/ckpt.pt"]
    assert document["spec"]["storageProvider"] == document["spec"]["sourcePath"] == ""
    status = document["status"]
    assert list(status)[:6] == ["status", "files", "storageProviderID", "size", "createdAt", "updatedAt"]
    assert (status["status"], status["size"]) == ("available", "343.79 MB")
    assert list(status["files"][0])[:2] == ["path", "size"]
    assert (status["files"][0]["path"], status["files"][0]["size"]) == ("ckpt.pt", "343.79 MB")
    assert status["storageProviderID"] == "00000000-0000-0000-0000-000000000000"
    assert (status["createdAt"], status["updatedAt"]) == ("2025-02-03T13:14:37.730471Z", "2025-02-03T13:14:54.591148Z")


def test_inspect_adds_bytes_digests_and_exports() -> None:
    status = documents.checkpoint_document(PUSHED, [FILE], [EXPORT])["status"]
    assert status["sizeBytes"] == status["files"][0]["sizeBytes"] == 360490229
    assert (status["files"][0]["digest"], status["files"][0]["digestOrigin"]) == ("cd" * 32, "computed")
    assert status["exports"] == [
        {
            "storageProvider": "aws",
            "destinationPath": "bucket/x",
            "manifestDigest": "ef" * 32,
            "exportedAt": "2025-02-04T00:00:00.000000Z",
            "isPart": False,
        }
    ]
    assert "metadata" not in status
    assert status["sizeBytesByRole"] == {"weights": 360490229}


def test_a_file_that_was_never_read_shows_its_providers_checksums() -> None:
    file = ListedFile("ckpt.pt", 1, None, {"crc32c": "01020304"})
    shown = documents.checkpoint_document(PUSHED, [file], [])["status"]["files"][0]
    assert (shown["digest"], shown["digestOrigin"], shown["checksums"]) == ("", "provider", {"crc32c": "01020304"})


def test_a_file_of_which_nothing_is_known_to_compare_it_with_is_unverified() -> None:
    file = ListedFile("ckpt.pt", 1, None, {"etag": "abc-2"})
    shown = documents.checkpoint_document(PUSHED, [file], [])["status"]["files"][0]
    assert (shown["digest"], shown["digestOrigin"], shown["checksums"]) == ("", "unverified", {"etag": "abc-2"})
    for checksum in first_reading.HASHERS:
        assert not is_unverified(None, {"etag": "abc-2", checksum: "01"})


def test_inspect_of_a_captured_checkpoint_says_what_it_is_of() -> None:
    document = documents.checkpoint_document(CAPTURED, [FILE], [])
    metadata = document["status"]["metadata"]
    assert list(metadata)[:8] == ["name", "node", "step", "trainLoss", "evalLoss", "model", "version", "inferenceReady"]
    assert (metadata["name"], metadata["node"], metadata["step"]) == ("checkpoint-5", "1", 5)
    assert (metadata["inferenceReady"], metadata["inferenceMissing"]) == (False, ["model.safetensors"])
    assert (metadata["resumable"], metadata["job"], metadata["jobID"]) == (True, "my-run", CAPTURED.job_id)


def test_a_loss_that_is_no_number_is_null_because_json_has_none() -> None:
    (row,) = documents.captured_list_document([LISTED_ROOT._replace(train_loss=2.5, eval_loss=float("nan"))])
    assert (row["trainLoss"], row["evalLoss"]) == (2.5, None)
    json.dumps(row, allow_nan=False)


def test_every_time_of_every_document_is_iso_8601() -> None:
    rows = [
        documents.checkpoint_document(CAPTURED, [FILE], [EXPORT]),
        documents.checkpoint_list_document([LISTED, LISTED._replace(deleted_at="2025-02-04T00:00:00.000000Z")]),
        documents.job_document(JOB),
        documents.job_list_document([JOB]),
        documents.captured_list_document([LISTED_ROOT]),
    ]
    times = re.findall(r'"(?:\w+At|timestamp)": "([^"]+)"', json.dumps(rows))
    assert len(times) >= 12
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time) for time in times)


def test_the_list_has_human_sizes_and_bytes_beside_them() -> None:
    (row,) = documents.checkpoint_list_document([LISTED])
    assert (row["name"], row["filesCount"], row["size"], row["sizeBytes"]) == (
        "mistral-ft-owt",
        2,
        "122 GB",
        130996502528,
    )
    assert (row["status"], row["createdAt"]) == ("available", "2025-02-03T13:14:37.730471Z")
    assert "deletedAt" not in row


def test_a_captured_checkpoint_is_called_by_its_job_and_its_folder() -> None:
    assert LISTED._replace(kind="captured", name="checkpoint-5", job_name="my-run").title == "my-run/checkpoint-5"
    assert LISTED_ROOT.title == "my-run/."
    assert LISTED.title == "mistral-ft-owt"


def test_the_checkpoint_of_the_output_directory_itself_has_the_empty_name() -> None:
    (row,) = documents.captured_list_document([LISTED_ROOT])
    assert (row["name"], row["node"]) == ("", "0")
    assert list(row)[:10] == [
        "id",
        "name",
        "node",
        "step",
        "trainLoss",
        "evalLoss",
        "model",
        "version",
        "inferenceReady",
        "timestamp",
    ]


def test_a_jobs_status_is_at_runtime_status() -> None:
    document = documents.job_document(JOB)
    assert document["runtime"]["status"] == "succeeded"
    assert document["runtime"]["exitCode"] == 0
    assert document["spec"] == {
        "command": ["python", "train.py"],
        "environment": ["WANDB_MODE"],
        "inputCheckpoint": "",
        "inputCheckpointID": "",
        "codeCommit": "0123456789012345678901234567890123456789-dirty",
    }


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 7200),
        ({"ended_at": None, "status": JobStatus.INTERRUPTED, "updated_at": from_text("2025-02-03T13:15:40Z")}, 60),
        ({"ended_at": None, "status": JobStatus.IN_PROGRESS, "started_at": from_text("2025-02-19T13:14:07Z")}, 30),
        ({"ended_at": None, "status": JobStatus.IN_PROGRESS, "started_at": from_text("2025-02-19T13:15:00Z")}, 0),
    ],
)
def test_a_job_has_run_until_its_end_or_until_it_was_last_heard_of(changes: dict[str, Any], seconds: float) -> None:
    assert documents.running_seconds(JOB._replace(**changes), NOW) == seconds
