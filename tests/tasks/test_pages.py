"""What the pages about checkpoints and jobs say."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flexai.checkpoints.models import (
    Checkpoint,
    CheckpointKind,
    CheckpointStatus,
    ExportRecord,
    HistoryEntry,
    JobStatus,
    ListedCheckpoint,
    ListedFile,
    Source,
    TrainingFacts,
    TrainingJob,
)
from flexai.checkpoints.names import new_id, parse_id
from flexai.tasks import pages
from flexai.tasks.pages import Story, describe_checkpoint, describe_job

AT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
JOB = TrainingJob(
    id=parse_id("90c8f215-e131-4f9c-936c-12fe1fe9a6f1"),
    name="my-run",
    creator_user_id=parse_id(uuid.UUID(int=1)),
    owner_org_id=parse_id(uuid.UUID(int=2)),
    status=JobStatus.SUCCEEDED,
    command=("python", "train.py"),
    attempt=2,
    exit_code=0,
    output_dir="/out",
    log_path="/log",
    host="node-1",
    code_commit="0123456789" * 4 + "-dirty",
    checkpoint_count=2,
    created_at=AT - timedelta(hours=1),
    started_at=AT - timedelta(hours=1),
    ended_at=AT,
    updated_at=AT,
)
CHECKPOINT = Checkpoint(
    id=parse_id("3f0c3a4e-9d7b-4c58-8f0e-0c5d8b7a6e21"),
    kind=CheckpointKind.PUSHED,
    name="mistral-500",
    creator_user_id=parse_id(uuid.UUID(int=1)),
    owner_org_id=parse_id(uuid.UUID(int=2)),
    source=Source(storage_provider="share", source_path="bucket/models", revision="abc"),
    status=CheckpointStatus.AVAILABLE,
    size=16406,
    file_count=2,
    manifest_digest="ab" * 32,
    creator="alice@lab",
    facts=TrainingFacts(step=500, train_loss=1.25, eval_loss=1.5, model="tiny"),
    created_at=AT,
    updated_at=AT,
)
FILES = [ListedFile("config.json", 22, "cd" * 32), ListedFile("nested/weights.bin", 16384, None)]


def captured(step: int, loss: float, name: str = "") -> ListedCheckpoint:
    return ListedCheckpoint(
        id=parse_id(uuid.UUID(int=step)),
        kind="captured",
        job_name="my-run",
        name=name or f"checkpoint-{step}",
        node="0",
        step=step,
        train_loss=loss,
        eval_loss=None,
        model="",
        version="",
        inference_ready=False,
        resumable=True,
        status="available",
        reason="",
        size=1024,
        file_count=1,
        created_at="2026-01-31T11:30:00.000000Z",
        updated_at="2026-01-31T11:30:00.000000Z",
        deleted_at=None,
        is_protected=False,
    )


def test_a_checkpoints_page_says_what_it_is_and_where_it_comes_from() -> None:
    exports = [
        ExportRecord(
            id=new_id(),
            checkpoint_id=CHECKPOINT.id,
            storage_provider="share",
            destination_path="bucket/out",
            manifest_digest="ab" * 32,
            exported_at=AT,
        )
    ]
    exports.append(exports[0]._replace(destination_path="bucket/weights", is_part=True))
    text = describe_checkpoint(
        Story(CHECKPOINT, FILES, exports, None, JOB), "pushed", by="alice@lab", run="flow run [x](http://y)", at=AT
    )
    assert text.startswith(
        "# Checkpoint `mistral-500`\n\n**2026-01-31 12:00:00 UTC: pushed** by `alice@lab`, flow run [x](http://y)\n"
    )
    assert text.count("ab" * 32) == 1, "a digest in full stands in a block of its own"
    for line in (
        "| ID | `3f0c3a4e-9d7b-4c58-8f0e-0c5d8b7a6e21` |",
        "| Size | 16.02 KiB in 2 files |",
        "| Owner | `alice@lab` |",
        "flexai checkpoint fetch mistral-500 --destination mistral-500",
        "ab" * 32,
        "| Source | `share:bucket/models` at `abc` |",
        "| Training job | `my-run`, attempt 2 |",
        f"| Code commit | `{'0123456789' * 4}-dirty` |",
        "| Step | 500 |",
        "| Train loss | 1.25 |",
        "| Eval loss | 1.5 |",
        f"| `share:bucket/out` | 2026-01-31 12:00:00 | `{'ab' * 8}…` |",
        f"| `share:bucket/weights` (a part) | 2026-01-31 12:00:00 | `{'ab' * 8}…` |",
        f"| `config.json` | 22 bytes | `{'cd' * 8}…` |",
        "| `nested/weights.bin` | 16 KiB | (provider's checksum) |",
    ):
        assert line in text.splitlines(), line


def test_what_is_not_known_has_no_row() -> None:
    text = describe_checkpoint(Story(replace(CHECKPOINT, facts=TrainingFacts())), "pushed", at=AT)
    assert "loss" not in text and "Training job" not in text and "## Files" not in text


def test_a_long_list_of_files_is_cut_and_says_where_the_rest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SHOWN_FILES", 1)
    text = describe_checkpoint(Story(CHECKPOINT, FILES[:1]), "pushed")
    assert "weights.bin" not in text
    assert f"… and 1 more: `flexai checkpoint inspect {CHECKPOINT.id}`" in text


def test_names_of_others_are_no_marks_on_a_page() -> None:
    files = [ListedFile("a|b`c.bin", 1, "cd" * 32)]
    story = Story(replace(CHECKPOINT, reason="<b>|\n# no"), files)
    text = describe_checkpoint(story, "pushed")
    assert "``a\\|b`c.bin``" in text
    assert r"| Status | available: \<b\>\| \# no |" in text


def test_a_jobs_page_has_the_chart_and_its_checkpoints() -> None:
    text = describe_job(JOB, [captured(250, 2.0), captured(500, 1.0)])
    assert text.startswith(
        "# Training job `my-run`\n\n**succeeded, attempt 2**\n\n![losses by step](data:image/svg+xml"
    )
    assert "| `checkpoint-500` | 500 | 1 |  | 1 KiB | available |" in text


def test_a_jobs_page_has_the_metric_that_its_trainer_chooses_by() -> None:
    rows = [
        captured(step, 1.0)._replace(metrics={"eval_f1": 1 / step, "eval_acc": 0.5}, best_by="acc") for step in (2, 4)
    ]
    text = describe_job(JOB, rows)
    assert "| Checkpoint | Step | Train loss | Eval loss | `eval_acc` | `eval_f1` | Size | Status | ID |" in text
    assert "| `checkpoint-4` | 4 | 1 |  | 0.5 | 0.25 | 1 KiB | available |" in text


def test_a_checkpoints_page_has_its_metrics() -> None:
    facts = TrainingFacts(step=5, eval_loss=0.5, metrics={"eval_loss": 0.5, "eval_f1": 0.75, "lr": 0.001})
    text = describe_checkpoint(Story(replace(CHECKPOINT, facts=facts)), "captured")
    assert "| Metrics | `eval_f1` 0.75, `lr` 0.001 |" in text


def test_a_very_long_command_is_cut() -> None:
    job = JOB._replace(command=("python", "-c", "x" * 500))
    row = next(
        line for line in describe_checkpoint(Story(CHECKPOINT, job=job), "pushed").splitlines() if "Command" in line
    )
    assert len(row) < 300 and "…" in row


def test_a_checkpoints_page_has_its_history_the_last_change_first() -> None:
    pushed = HistoryEntry(
        AT, "alice@lab", "lab", "", "push", "checkpoint", CHECKPOINT.id, CHECKPOINT.name, before={}, after={}
    )
    later = pushed._replace(at=AT + timedelta(hours=1), actor="bob@lab", action="protect")
    lines = describe_checkpoint(Story(CHECKPOINT, history=[pushed, later]), "pushed").splitlines()
    place = lines.index("| 2026-01-31 13:00:00 | `bob@lab` | protect |")
    assert lines[place + 1] == "| 2026-01-31 12:00:00 | `alice@lab` | push |"


def test_only_what_can_be_fetched_has_the_command_for_it() -> None:
    gone = replace(CHECKPOINT, status=CheckpointStatus.FAILED)
    assert "flexai checkpoint fetch" not in describe_checkpoint(Story(gone), "push failed")
    captured_one = replace(CHECKPOINT, kind=CheckpointKind.CAPTURED, name="epoch 1/last", job_name="my-run")
    text = describe_checkpoint(Story(captured_one), "captured")
    assert f"flexai checkpoint fetch {CHECKPOINT.id} --destination last" in text.splitlines()
