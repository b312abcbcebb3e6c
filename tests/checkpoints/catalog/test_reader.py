"""The fast reader says what the catalog says, on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.catalog import jobs as jobs_module
from flexai.checkpoints.catalog import reader as reader_module
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.claims import Claim
from flexai.checkpoints.catalog.jobs import BegunJob
from flexai.checkpoints.catalog.opening import open_database
from flexai.checkpoints.catalog.reader import CatalogReader, open_reader
from flexai.checkpoints.catalog.schema import HEAD_REVISION
from flexai.checkpoints.errors import (
    InvalidNameError,
    NotFoundError,
    SettingsError,
    StorageError,
    StorageUnavailableError,
)
from flexai.checkpoints.models import Checkpoint, ExportRecord, JobStatus, TrainingFacts, now, plain
from flexai.checkpoints.names import new_id, parse_name, parse_reference
from tests.checkpoints.catalog.steps import begin, capture, commit, push, set_columns, store
from tests.checkpoints.samples import OWNER

STORE_ID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def reader(catalog: Catalog, database_url: str) -> CatalogReader:
    """Reads the catalog afresh with every question, as every command does."""

    def ask(sql: str, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        with open_reader(database_url) as found:
            return found._query(sql, values)

    return CatalogReader(ask)


def _begin_job(catalog: Catalog, name: str = "train") -> BegunJob:
    return catalog.jobs.begin(
        parse_name(name),
        owner=OWNER,
        command=["python", "train.py", "--lr=1e-3"],
        env_names=["WANDB_MODE", "A"],
        layout=lambda job_id, attempt: (f"/out/{job_id}/{attempt}", f"/log/{attempt}"),
        code_commit="0123456789" * 4,
    )


def _captured(
    catalog: Catalog, job_id: str, name: str = "checkpoint-5", facts: TrainingFacts | None = None
) -> Checkpoint:
    checkpoint_id, claim = capture(catalog, job_id, name)
    content = store(catalog.blobs(STORE_ID), checkpoint_id, name.encode() or b"root")
    return commit(catalog, checkpoint_id, claim, {"model.bin": content}, facts)


def test_pushed_checkpoints_are_listed_oldest_first(catalog: Catalog, reader: CatalogReader) -> None:
    names = ["zebra", "llama", "Mistral"]
    for name in names:
        push(catalog, name, {"a.bin": b"a" * 10, "b.bin": b"b"})
    rows = reader.pushed_checkpoints()
    assert [row.name for row in rows] == names
    assert {(row.file_count, row.size, row.status, row.kind) for row in rows} == {(2, 11, "available", "pushed")}
    assert {row.deleted_at for row in rows} == {None}


def test_captured_and_deleted_checkpoints_are_not_listed_with_the_pushed_ones(
    catalog: Catalog, reader: CatalogReader
) -> None:
    captured = _captured(catalog, str(_begin_job(catalog).job.id))
    push(catalog, "kept")
    push(catalog, "gone")
    catalog.checkpoints.delete(parse_reference("gone"))
    catalog.checkpoints.delete(parse_reference(captured.id))
    assert [row.name for row in reader.pushed_checkpoints()] == ["kept"]
    assert [row.title for row in reader.deleted_checkpoints()] == ["gone", "train/checkpoint-5"]
    assert all(row.deleted_at for row in reader.deleted_checkpoints())


def test_a_deleted_checkpoint_that_cannot_come_back_is_not_listed(catalog: Catalog, reader: CatalogReader) -> None:
    push(catalog, "gone")
    catalog.checkpoints.delete(parse_reference("gone"))
    catalog.garbage(STORE_ID).purge_deleted(before=now())
    assert reader.deleted_checkpoints() == []


def test_a_checkpoint_is_found_by_its_name_in_any_case_and_by_its_id_in_any_case(
    catalog: Catalog, reader: CatalogReader
) -> None:
    pushed = push(catalog, "Llama")
    for reference in ("Llama", "LLAMA", pushed.id, pushed.id.upper()):
        assert reader.checkpoint(reference).id == pushed.id


def test_details_are_those_of_the_catalog(catalog: Catalog, reader: CatalogReader) -> None:
    job = _begin_job(catalog).job
    facts = TrainingFacts(
        step=5,
        train_loss=2.5,
        eval_loss=0.1,
        model="GPT2",
        version="4.57",
        inference_ready=True,
        resumable_missing=("optimizer.pt",),
    )
    captured = _captured(catalog, job.id, facts=facts)
    for expected in (catalog.checkpoints.get_by_id(captured.id), push(catalog, "pushed")):
        found = reader.checkpoint(str(expected.id))
        document = plain(expected)
        for field in (
            "id",
            "kind",
            "name",
            "creator_user_id",
            "owner_org_id",
            "source",
            "status",
            "reason",
            "size",
            "file_count",
            "manifest_digest",
            "parent_id",
            "job_id",
            "job_name",
            "node",
            "sequence",
        ):
            assert getattr(found, field) == document[field], field
        for field, value in document["facts"].items():
            assert getattr(found, field) == value, field
        assert type(found.inference_ready) is bool
        assert type(found.resumable) is bool
        assert found.created_at == expected.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert found.updated_at == expected.updated_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.mark.parametrize("reference", ["unknown", "00000000-1111-2222-3333-444444444444"])
def test_what_is_not_there_is_said_as_the_catalog_says_it(
    catalog: Catalog, reader: CatalogReader, reference: str
) -> None:
    for ours, theirs in (
        (reader.checkpoint, lambda text: catalog.checkpoints.get(parse_reference(text))),
        (reader.job, lambda text: catalog.jobs.get(jobs_module.parse_job_reference(text))),
    ):
        with pytest.raises(NotFoundError) as found:
            ours(reference)
        with pytest.raises(NotFoundError) as expected:
            theirs(reference)
        assert (found.value.message, found.value.hint) == (expected.value.message, expected.value.hint)


def test_a_deleted_checkpoint_is_not_there(catalog: Catalog, reader: CatalogReader) -> None:
    pushed = push(catalog, "gone")
    catalog.checkpoints.delete(parse_reference("gone"))
    for reference in ("gone", pushed.id):
        with pytest.raises(NotFoundError):
            reader.checkpoint(reference)


@pytest.mark.parametrize("reference", ["", "a b", "x", "../x", "a'; DROP TABLE checkpoints; --"])
def test_a_text_that_is_no_reference_is_refused(reader: CatalogReader, reference: str) -> None:
    for look_up in (reader.checkpoint, reader.job):
        with pytest.raises(InvalidNameError):
            look_up(reference)


def test_files_come_in_the_order_of_their_paths_with_their_digests(catalog: Catalog, reader: CatalogReader) -> None:
    pushed = push(catalog, "llama", {"b/Z": b"1", "b.x": b"22", "C": b"333", "a": b"1"})
    expected = catalog.blobs(STORE_ID).files_of(pushed.id)
    found = reader.files(pushed.id)
    assert [file.path for file in found] == ["C", "a", "b.x", "b/Z"]
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.content.digest is not None
        assert (mine.path, mine.size, mine.digest) == (theirs.path, theirs.content.size, theirs.content.digest.hex())
    assert reader.stored_files(pushed.id) == expected


def test_exports_come_oldest_first(catalog: Catalog, reader: CatalogReader) -> None:
    pushed = push(catalog, "llama")
    for place in ("bucket/z", "bucket/a"):
        catalog.checkpoints.record_export(
            ExportRecord(
                id=new_id(),
                checkpoint_id=pushed.id,
                storage_provider="aws",
                destination_path=place,
                manifest_digest="ab" * 32,
                exported_at=now(),
            )
        )
    found = reader.exports(pushed.id)
    assert [(export.storage_provider, export.destination_path) for export in found] == [
        ("aws", "bucket/z"),
        ("aws", "bucket/a"),
    ]


def test_the_checkpoints_of_a_job_come_in_the_order_of_their_capture(catalog: Catalog, reader: CatalogReader) -> None:
    job_id = str(_begin_job(catalog).job.id)
    other = str(_begin_job(catalog, "other").job.id)
    for name in ("checkpoint-10", "checkpoint-5", ""):
        _captured(catalog, job_id, name, TrainingFacts(step=7, resumable=True))
    _captured(catalog, other)
    rows = reader.captured_checkpoints(job_id)
    assert [row.name for row in rows] == ["checkpoint-10", "checkpoint-5", ""]
    assert {(row.step, row.resumable, row.inference_ready, row.node, row.status) for row in rows} == {
        (7, True, False, "0", "available")
    }


def test_jobs_are_those_of_the_catalog(catalog: Catalog, reader: CatalogReader) -> None:
    first, second = _begin_job(catalog, "zebra"), _begin_job(catalog, "llama")
    _captured(catalog, first.job.id)
    pushed = push(catalog, "base")
    catalog.jobs.set_input(second.job.id, second.claim, pushed.id)
    catalog.jobs.finish(second.job.id, second.claim, status=JobStatus.FAILED, exit_code=3, reason="it broke")
    rows = reader.jobs()
    assert [row.name for row in rows] == ["zebra", "llama"]
    assert [(row.checkpoint_count, row.input_checkpoint_name) for row in rows] == [(1, ""), (0, "base")]
    for row, expected in zip(rows, catalog.jobs.list(), strict=True):
        document = plain(expected)
        for field in (
            "id",
            "name",
            "creator_user_id",
            "owner_org_id",
            "status",
            "reason",
            "command",
            "env_names",
            "attempt",
            "exit_code",
            "input_checkpoint_id",
            "output_dir",
            "log_path",
            "host",
            "code_commit",
        ):
            assert getattr(row, field) == document[field], field
        assert row.started_at == expected.started_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert (row.ended_at is None) == (expected.ended_at is None)


def test_a_job_is_found_by_name_and_by_id_until_it_is_deleted(catalog: Catalog, reader: CatalogReader) -> None:
    begun = _begin_job(catalog, "Train")
    job_id = begun.job.id
    assert {reader.job(reference).id for reference in ("train", "TRAIN", job_id, job_id.upper())} == {job_id}
    _captured(catalog, job_id)
    catalog.jobs.finish(job_id, begun.claim, status=JobStatus.SUCCEEDED, exit_code=0, reason="")
    catalog.jobs.delete(parse_reference("Train"))
    for reference in ("Train", job_id):
        with pytest.raises(NotFoundError):
            reader.job(reference)
    assert (reader.jobs(), reader.job_names()) == ([], [])


def test_a_push_whose_process_is_gone_shows_as_failed(catalog: Catalog, reader: CatalogReader) -> None:
    begin(catalog, "alive")
    checkpoint_id, _ = begin(catalog, "dead")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    set_columns(catalog, checkpoint_id, claim_pid=dead.pid, claim_started="1")
    statuses = {row.name: (row.status, row.reason) for row in reader.pushed_checkpoints()}
    assert statuses == {"alive": ("uploading", ""), "dead": ("failed", reader_module.INTERRUPTED)}
    assert reader.checkpoint("dead").status == "failed"
    assert reader.checkpoint("alive").status == "uploading"


def test_a_push_of_another_machine_is_alive_until_its_lease_runs_out(catalog: Catalog, reader: CatalogReader) -> None:
    checkpoint_id, _ = begin(catalog, "remote")
    set_columns(catalog, checkpoint_id, claim_host="elsewhere/boot/ns")
    assert reader.checkpoint("remote").status == "uploading"
    set_columns(catalog, checkpoint_id, claim_until="2020-01-01T00:00:00.000000Z")
    assert reader.checkpoint("remote").status == "failed"


def test_a_job_whose_process_is_gone_shows_as_interrupted_to_every_reader(
    catalog: Catalog, reader: CatalogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    _begin_job(catalog)
    assert reader.job("train").status == catalog.jobs.list()[0].status.value == "in progress"
    monkeypatch.setattr(Claim, "is_alive", False)
    expected = catalog.jobs.list()[0]
    found = reader.job("train")
    assert (
        (found.status, found.reason)
        == (expected.status.value, expected.reason)
        == (
            "interrupted",
            reader_module.RUNNER_GONE,
        )
    )


def test_completion_gets_names_and_ids(catalog: Catalog, reader: CatalogReader) -> None:
    job_id = str(_begin_job(catalog).job.id)
    first, second = _captured(catalog, job_id, "checkpoint-5"), _captured(catalog, job_id, "")
    push(catalog, "kept")
    push(catalog, "gone")
    catalog.checkpoints.delete(parse_reference("gone"))
    assert reader.checkpoint_names() == ["kept"]
    assert reader.job_names() == ["train"]
    assert reader.captured_ids() == [(second.id, "train/."), (first.id, "train/checkpoint-5")]


def test_a_catalog_that_is_not_there_yet_reads_as_empty_and_is_not_made(tmp_path: Path) -> None:
    place = tmp_path / "home" / "catalog.db"
    with open_reader(f"sqlite:///{place}") as reader:
        assert [*reader.pushed_checkpoints(), *reader.deleted_checkpoints(), *reader.jobs()] == []
        with pytest.raises(NotFoundError):
            reader.checkpoint("unknown")
    assert not place.parent.exists()


def test_a_catalog_without_tables_is_migrated_first(empty_database_url: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    if empty_database_url.startswith("sqlite"):
        (tmp_path / "home" / "catalog.db").touch()
    with open_reader(empty_database_url) as reader:
        assert reader.pushed_checkpoints() == []
    open_database(empty_database_url).close()


def test_a_catalog_of_a_newer_form_is_refused(sqlite_template: Path, tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(sqlite_template.read_bytes())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(SettingsError, match=f"9999.*{HEAD_REVISION}"), open_reader(f"sqlite:///{path}"):
        pass


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:", ""])
def test_a_url_that_cannot_be_a_catalog_is_refused_as_the_database_refuses_it(url: str) -> None:
    with pytest.raises(SettingsError) as found, open_reader(url):
        pass
    with pytest.raises(SettingsError) as expected:
        open_database(url)
    assert found.value.message == expected.value.message


def test_a_file_that_is_no_database_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(b"this is no database, and long enough not to be mistaken for an empty one" * 20)
    with pytest.raises(StorageError, match=r"catalog\.db"), open_reader(f"sqlite:///{path}"):
        pass


@pytest.mark.parametrize("name", ["with space.db", "with#hash.db", "with%20percent.db", "ünïcode.db"])
def test_a_catalogs_path_may_hold_any_character(sqlite_template: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    catalog = Catalog.open(f"sqlite:///{path}")
    push(catalog, "llama")
    catalog.close()
    with open_reader(f"sqlite:///{path}") as reader:
        assert [row.name for row in reader.pushed_checkpoints()] == ["llama"]


def test_a_url_with_options_is_left_to_sqlalchemy(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db?timeout=5"
    catalog = Catalog.open(url)
    push(catalog, "llama")
    catalog.close()
    with open_reader(url) as reader:
        assert [row.name for row in reader.pushed_checkpoints()] == ["llama"]


def test_one_look_is_consistent_while_others_write(catalog: Catalog, database_url: str) -> None:
    push(catalog, "first")
    with open_reader(database_url) as reader:
        before = reader.pushed_checkpoints()
        push(catalog, "second")
        if database_url.startswith("sqlite"):
            assert reader.pushed_checkpoints() == before
    with open_reader(database_url) as reader:
        assert len(reader.pushed_checkpoints()) == 2


def test_what_a_writer_has_not_merged_yet_is_read(database_url: str) -> None:
    if not database_url.startswith("sqlite"):
        return
    catalog = Catalog.open(database_url)
    push(catalog, "llama")
    assert Path(database_url.removeprefix("sqlite:///") + "-wal").stat().st_size > 0
    with open_reader(database_url) as reader:
        assert [row.name for row in reader.pushed_checkpoints()] == ["llama"]
    catalog.close()


def test_a_catalog_that_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.mkdir()
    with pytest.raises(StorageUnavailableError, match=r"catalog\.db"), open_reader(f"sqlite:///{path}"):
        pass


def test_the_words_for_a_job_without_its_process_are_the_same_everywhere() -> None:
    assert reader_module.RUNNER_GONE == jobs_module.RUNNER_GONE
