"""A look at the catalog says what the catalog says and changes nothing, on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy.exc import DBAPIError

from flexai.checkpoints.catalog.catalog import Catalog, open_database
from flexai.checkpoints.catalog.checkpoint_rows import INTERRUPTED
from flexai.checkpoints.catalog.database import HEAD_REVISION
from flexai.checkpoints.catalog.job_nodes import RUNNER_GONE
from flexai.checkpoints.catalog.jobs import BegunJob
from flexai.checkpoints.catalog.leases import Lease
from flexai.checkpoints.catalog.sqlite import sqlite_errors
from flexai.checkpoints.errors import (
    AccessDeniedError,
    InvalidNameError,
    NotFoundError,
    SettingsError,
    StorageError,
)
from flexai.checkpoints.models import (
    Checkpoint,
    CheckpointStatus,
    ExportRecord,
    JobStatus,
    ListedCheckpoint,
    TrainingFacts,
    TrainingJob,
    now,
    plain,
    to_text,
)
from flexai.checkpoints.names import new_id, parse_job_reference, parse_name, parse_reference
from tests.checkpoints.catalog.steps import begin, capture, commit, push, set_columns, store
from tests.checkpoints.samples import OWNER

T = TypeVar("T")

STORE_ID = "11111111-2222-3333-4444-555555555555"


class Looks:
    """Looks at the catalog afresh with every question, as every command does."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, question: Callable[[Catalog], T]) -> T:
        with Catalog.look(self._url) as catalog:
            return question(catalog)

    def checkpoint(self, reference: str) -> Checkpoint:
        return self.ask(lambda catalog: catalog.checkpoints.get(parse_reference(reference)))

    def job(self, reference: str) -> TrainingJob:
        return self.ask(lambda catalog: catalog.jobs.get(parse_job_reference(reference)))

    def jobs(self) -> list[TrainingJob]:
        return self.ask(lambda catalog: catalog.jobs.list())

    def pushed_checkpoints(self) -> list[ListedCheckpoint]:
        return self.ask(lambda catalog: catalog.checkpoints.list_pushed())

    def deleted_checkpoints(self) -> list[ListedCheckpoint]:
        return self.ask(lambda catalog: catalog.checkpoints.list_deleted())

    def captured_checkpoints(self, job_id: str) -> list[ListedCheckpoint]:
        return self.ask(lambda catalog: catalog.checkpoints.list_captured(job_id))


@pytest.fixture
def reader(catalog: Catalog, database_url: str) -> Looks:
    return Looks(database_url)


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
    checkpoint_id, lease = capture(catalog, job_id, name)
    content = store(catalog.blobs(STORE_ID), checkpoint_id, name.encode() or b"root")
    return commit(catalog, checkpoint_id, lease, {"model.bin": content}, facts)


def test_pushed_checkpoints_are_listed_oldest_first(catalog: Catalog, reader: Looks) -> None:
    names = ["zebra", "llama", "Mistral"]
    for name in names:
        push(catalog, name, {"a.bin": b"a" * 10, "b.bin": b"b"})
    rows = reader.pushed_checkpoints()
    assert [row.name for row in rows] == names
    assert {(row.file_count, row.size, row.status, row.kind) for row in rows} == {(2, 11, "available", "pushed")}
    assert {row.deleted_at for row in rows} == {None}


def test_captured_and_deleted_checkpoints_are_not_listed_with_the_pushed_ones(catalog: Catalog, reader: Looks) -> None:
    captured = _captured(catalog, str(_begin_job(catalog).job.id))
    push(catalog, "kept")
    push(catalog, "gone")
    catalog.checkpoints.delete(parse_reference("gone"))
    catalog.checkpoints.delete(parse_reference(captured.id))
    assert [row.name for row in reader.pushed_checkpoints()] == ["kept"]
    assert [row.title for row in reader.deleted_checkpoints()] == ["gone", "train/checkpoint-5"]
    assert all(row.deleted_at for row in reader.deleted_checkpoints())


def test_a_deleted_checkpoint_that_cannot_come_back_is_not_listed(catalog: Catalog, reader: Looks) -> None:
    push(catalog, "gone")
    catalog.checkpoints.delete(parse_reference("gone"))
    catalog.garbage(STORE_ID).purge_deleted(before=now())
    assert reader.deleted_checkpoints() == []


def test_a_checkpoint_is_found_by_its_name_in_any_case_and_by_its_id_in_any_case(
    catalog: Catalog, reader: Looks
) -> None:
    pushed = push(catalog, "Llama")
    for reference in ("Llama", "LLAMA", pushed.id, pushed.id.upper()):
        assert reader.checkpoint(reference).id == pushed.id


def test_details_are_those_of_the_catalog(catalog: Catalog, reader: Looks) -> None:
    job = _begin_job(catalog).job
    facts = TrainingFacts(
        step=5,
        train_loss=2.5,
        eval_loss=0.1,
        model="GPT2",
        version="4.57",
        inference_ready=True,
        resumable=False,
        resumable_missing=("optimizer.pt",),
        metrics={"accuracy": 0.5},
    )
    captured = _captured(catalog, job.id, facts=facts)
    for expected in (catalog.checkpoints.get_by_id(captured.id), push(catalog, "pushed")):
        found = reader.checkpoint(str(expected.id))
        assert found == expected
        assert type(found.facts.inference_ready) is bool
        assert type(found.facts.resumable) is type(expected.facts.resumable)


def test_the_lists_say_what_the_records_say(catalog: Catalog, reader: Looks) -> None:
    job = _begin_job(catalog).job
    facts = TrainingFacts(step=5, train_loss=2.5, eval_loss=0.1, model="GPT2", version="4.57", inference_ready=True)
    captured, pushed = _captured(catalog, job.id, facts=facts), push(catalog, "pushed")
    catalog.checkpoints.protect([parse_reference("pushed"), parse_reference(captured.id)])
    begin(catalog, "unfinished")
    rows = [*reader.pushed_checkpoints(), *reader.captured_checkpoints(job.id)]
    assert [row.id for row in rows[::2]] == [pushed.id, captured.id]
    for reference in ("pushed", captured.id):
        catalog.checkpoints.protect([parse_reference(reference)], protected=False)
        catalog.checkpoints.delete(parse_reference(reference))
    for row in [*rows, *reader.deleted_checkpoints()]:
        record = catalog.checkpoints.get_by_id(row.id)
        if row in rows:
            record = replace(record, status=CheckpointStatus(row.status), is_protected=row.is_protected)
        document = plain(record) | plain(record.facts)
        for field in row._fields:
            if field in {"updated_at", "deleted_at"} and row in rows:
                continue
            expected = document[field]
            if field.endswith("_at"):
                expected = to_text(getattr(record, field))
            assert plain(getattr(row, field)) == expected, field
            assert type(plain(getattr(row, field))) is type(expected), field


@pytest.mark.parametrize("reference", ["unknown", "00000000-1111-2222-3333-444444444444"])
def test_what_is_not_there_is_said_as_the_catalog_says_it(catalog: Catalog, reader: Looks, reference: str) -> None:
    for ours, theirs in (
        (reader.checkpoint, lambda text: catalog.checkpoints.get(parse_reference(text))),
        (reader.job, lambda text: catalog.jobs.get(parse_job_reference(text))),
    ):
        with pytest.raises(NotFoundError) as found:
            ours(reference)
        with pytest.raises(NotFoundError) as expected:
            theirs(reference)
        assert (found.value.message, found.value.hint) == (expected.value.message, expected.value.hint)


def test_a_deleted_checkpoint_is_not_there(catalog: Catalog, reader: Looks) -> None:
    pushed = push(catalog, "gone")
    catalog.checkpoints.delete(parse_reference("gone"))
    for reference in ("gone", pushed.id):
        with pytest.raises(NotFoundError):
            reader.checkpoint(reference)


@pytest.mark.parametrize("reference", ["", "a b", "x", "../x", "a'; DROP TABLE checkpoints; --"])
def test_a_text_that_is_no_reference_is_refused(reader: Looks, reference: str) -> None:
    for look_up in (reader.checkpoint, reader.job):
        with pytest.raises(InvalidNameError):
            look_up(reference)


def test_files_come_in_the_order_of_their_paths_with_their_digests(catalog: Catalog, reader: Looks) -> None:
    pushed = push(catalog, "llama", {"b/Z": b"1", "b.x": b"22", "C": b"333", "a": b"1"})
    expected = catalog.blobs(STORE_ID).files_of(pushed.id)
    found = reader.ask(lambda catalog: catalog.checkpoints.list_files(pushed.id))
    assert [file.path for file in found] == ["C", "a", "b.x", "b/Z"]
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.content.digest is not None
        assert (mine.path, mine.size, mine.digest) == (theirs.path, theirs.content.size, theirs.content.digest.hex())
    assert reader.ask(lambda catalog: catalog.blobs(STORE_ID).files_of(pushed.id)) == expected
    assert reader.ask(lambda catalog: catalog.checkpoints.list_files(pushed.id, first=2)) == found[:2]
    assert reader.ask(lambda catalog: catalog.checkpoints.list_files(pushed.id, first=9)) == found


def test_sql_in_a_path_is_a_path(catalog: Catalog, reader: Looks) -> None:
    path = "a'); DROP TABLE checkpoints; --"
    pushed = push(catalog, "llama", {path: b"1"})
    assert [file.path for file in reader.ask(lambda catalog: catalog.checkpoints.list_files(pushed.id))] == [path]
    assert reader.checkpoint("llama").id == pushed.id


def test_exports_come_oldest_first(catalog: Catalog, reader: Looks) -> None:
    pushed = push(catalog, "llama")
    for place in ("bucket/z", "bucket/a"):
        catalog.exports.record(
            ExportRecord(
                id=new_id(),
                checkpoint_id=pushed.id,
                storage_provider="aws",
                destination_path=place,
                manifest_digest="ab" * 32,
                exported_at=now(),
            )
        )
    found = reader.ask(lambda catalog: catalog.checkpoints.list_exports(pushed.id))
    assert [(export.storage_provider, export.destination_path) for export in found] == [
        ("aws", "bucket/z"),
        ("aws", "bucket/a"),
    ]


def test_the_checkpoints_of_a_job_come_in_the_order_of_their_capture(catalog: Catalog, reader: Looks) -> None:
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


def test_jobs_are_those_of_the_catalog(catalog: Catalog, reader: Looks) -> None:
    first, second = _begin_job(catalog, "zebra"), _begin_job(catalog, "llama")
    _captured(catalog, first.job.id)
    pushed = push(catalog, "base")
    catalog.jobs.set_input(second.job.id, second.lease, pushed.id)
    catalog.jobs.finish(second.job.id, second.lease, status=JobStatus.FAILED, exit_code=3, reason="it broke")
    rows = reader.jobs()
    assert [row.name for row in rows] == ["zebra", "llama"]
    assert [(row.checkpoint_count, row.input_checkpoint_name) for row in rows] == [(1, ""), (0, "base")]
    for row, expected in zip(rows, catalog.jobs.list(), strict=True):
        assert row == expected == catalog.jobs.get_by_id(row.id)
        assert (row.checkpoint_count, row.input_checkpoint_name) == (
            expected.checkpoint_count,
            expected.input_checkpoint_name,
        )
        assert (row.command, row.env_names) == (("python", "train.py", "--lr=1e-3"), ("A", "WANDB_MODE"))


def test_a_job_is_found_by_name_and_by_id_until_it_is_deleted(catalog: Catalog, reader: Looks) -> None:
    begun = _begin_job(catalog, "Train")
    job_id = begun.job.id
    assert {reader.job(reference).id for reference in ("train", "TRAIN", job_id, job_id.upper())} == {job_id}
    _captured(catalog, job_id)
    catalog.jobs.finish(job_id, begun.lease, status=JobStatus.SUCCEEDED, exit_code=0, reason="")
    catalog.jobs.delete(parse_reference("Train"))
    for reference in ("Train", job_id):
        with pytest.raises(NotFoundError):
            reader.job(reference)
    assert (reader.jobs(), reader.ask(lambda catalog: catalog.jobs.names())) == ([], [])


def test_a_push_whose_process_is_gone_shows_as_failed(catalog: Catalog, reader: Looks) -> None:
    begin(catalog, "alive")
    checkpoint_id, _ = begin(catalog, "dead")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    set_columns(catalog, checkpoint_id, claim_pid=dead.pid, claim_started="1")
    statuses = {row.name: (row.status, row.reason) for row in reader.pushed_checkpoints()}
    assert statuses == {"alive": ("uploading", ""), "dead": ("failed", INTERRUPTED)}
    assert reader.checkpoint("dead").status == "failed"
    assert reader.checkpoint("alive").status == "uploading"


def test_a_push_of_another_machine_is_alive_until_its_lease_runs_out(catalog: Catalog, reader: Looks) -> None:
    checkpoint_id, _ = begin(catalog, "remote")
    set_columns(catalog, checkpoint_id, claim_host="elsewhere/boot/ns")
    assert reader.checkpoint("remote").status == "uploading"
    set_columns(catalog, checkpoint_id, claim_until="2020-01-01T00:00:00.000000Z")
    assert reader.checkpoint("remote").status == "failed"


def test_a_job_whose_process_is_gone_shows_as_interrupted_to_every_reader(
    catalog: Catalog, reader: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    _begin_job(catalog)
    assert reader.job("train").status == catalog.jobs.list()[0].status == "in progress"
    monkeypatch.setattr(Lease, "is_alive", False)
    expected = catalog.jobs.list()[0]
    found = reader.job("train")
    assert (found.status, found.reason) == (expected.status, expected.reason) == ("interrupted", RUNNER_GONE)


def test_completion_gets_names_and_ids(catalog: Catalog, reader: Looks) -> None:
    job_id = str(_begin_job(catalog).job.id)
    first, second = _captured(catalog, job_id, "checkpoint-5"), _captured(catalog, job_id, "")
    push(catalog, "kept")
    push(catalog, "gone")
    catalog.checkpoints.delete(parse_reference("gone"))
    assert reader.ask(lambda catalog: catalog.checkpoints.pushed_names()) == ["kept"]
    assert reader.ask(lambda catalog: catalog.jobs.names()) == ["train"]
    titles = reader.ask(lambda catalog: catalog.checkpoints.captured_titles())
    assert list(titles.items()) == [(second.id, "train/."), (first.id, "train/checkpoint-5")]


def _ask_everything(catalog: Catalog) -> list[object]:
    """The answers to what one can ask of a catalog by reading alone."""
    blobs, unknown = catalog.blobs(STORE_ID), new_id()
    return [
        *(catalog.checkpoints.list_pushed(), catalog.checkpoints.list_deleted(), catalog.checkpoints.list_captured("")),
        *(catalog.checkpoints.pushed_names(), catalog.checkpoints.captured_titles()),
        *(catalog.checkpoints.list_files(unknown), catalog.checkpoints.list_exports(unknown)),
        *(catalog.checkpoints.of_store(STORE_ID), catalog.checkpoints.names_of([unknown])),
        *(catalog.jobs.list(), catalog.jobs.names(), catalog.at_work({unknown})),
        *(blobs.totals(), blobs.files_of(unknown), blobs.uses_of(unknown), blobs.unneeded(), blobs.known(["a"])),
        *(blobs.find_by_digest(["ab"]), blobs.find_by_origin(["a"]), blobs.find_sizes([1]), blobs.unfinished(unknown)),
        catalog.garbage(STORE_ID).plan(before=now()).checkpoints,
    ]


def test_a_catalog_that_is_not_there_yet_reads_as_empty_and_is_not_made(tmp_path: Path) -> None:
    place = tmp_path / "home" / "catalog.db"
    with Catalog.look(f"sqlite:///{place}") as catalog:
        assert not any(_ask_everything(catalog))
        assert catalog.soundness(STORE_ID).verification().contents == 0
        with pytest.raises(NotFoundError):
            catalog.checkpoints.get(parse_reference("unknown"))
    assert not place.parent.exists()


def test_a_catalog_without_tables_reads_as_empty_and_stays_as_it_is(empty_database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "home" / "catalog.db"
    if is_file := empty_database_url.startswith("sqlite"):
        file.parent.mkdir()
        file.touch()
    with Catalog.look(empty_database_url) as catalog:
        assert not any(_ask_everything(catalog))
    assert not is_file or [(path.name, path.stat().st_size) for path in file.parent.iterdir()] == [(file.name, 0)]
    # As a new one: its tables are made by the first that writes.
    open_database(empty_database_url).close()
    with Catalog.look(empty_database_url) as catalog:
        assert catalog.checkpoints.list_pushed() == []


def test_a_look_writes_nothing(catalog: Catalog, database_url: str) -> None:
    pushed = push(catalog, "llama")
    (file,) = catalog.blobs(STORE_ID).files_of(pushed.id)
    with Catalog.look(database_url) as look:
        for write in (
            lambda: look.checkpoints.delete(parse_reference("llama")),
            lambda: look.checkpoints.protect([parse_reference("llama")]),
            look.jobs.forget_deleted,
            look.database.migrate,
        ):
            with pytest.raises(TypeError, match="only looked at"):
                write()
        with look.database.reading() as transaction, pytest.raises((StorageError, DBAPIError, sqlite3.Error)):
            transaction.change("DELETE FROM checkpoints")
        look.blobs(STORE_ID).learn(file.content)
    assert catalog.checkpoints.get_by_id(pushed.id) == pushed


def test_a_catalog_of_a_newer_form_is_refused(sqlite_template: Path, tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(sqlite_template.read_bytes())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(SettingsError, match=f"9999.*{HEAD_REVISION}"), Catalog.look(f"sqlite:///{path}"):
        pass


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:", ""])
def test_a_url_that_cannot_be_a_catalog_is_refused_as_the_database_refuses_it(url: str) -> None:
    with pytest.raises(SettingsError) as found, Catalog.look(url):
        pass
    with pytest.raises(SettingsError) as expected:
        open_database(url)
    assert found.value.message == expected.value.message


def test_a_file_that_is_no_database_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(b"this is no database, and long enough not to be mistaken for an empty one" * 20)
    with pytest.raises(StorageError, match=r"catalog\.db"), Catalog.look(f"sqlite:///{path}"):
        pass


@pytest.mark.parametrize("name", ["with space.db", "with#hash.db", "with%20percent.db", "ünïcode.db"])
def test_a_catalogs_path_may_hold_any_character(sqlite_template: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    catalog = Catalog.open(f"sqlite:///{path}")
    push(catalog, "llama")
    catalog.close()
    with Catalog.look(f"sqlite:///{path}") as look:
        assert [row.name for row in look.checkpoints.list_pushed()] == ["llama"]


def test_a_url_with_options_is_left_to_sqlalchemy(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db?timeout=5"
    catalog = Catalog.open(url)
    push(catalog, "llama")
    catalog.close()
    with Catalog.look(url) as look:
        assert [row.name for row in look.checkpoints.list_pushed()] == ["llama"]


def test_one_look_is_of_one_moment_while_others_write(catalog: Catalog, database_url: str) -> None:
    push(catalog, "first")
    with Catalog.look(database_url) as look:
        before = look.checkpoints.list_pushed()
        second = push(catalog, "second")
        assert look.checkpoints.list_pushed() == before
        assert look.checkpoints.list_files(second.id) == []
    with Catalog.look(database_url) as look:
        assert len(look.checkpoints.list_pushed()) == 2


def test_what_a_writer_has_not_merged_yet_is_read(database_url: str) -> None:
    if not database_url.startswith("sqlite"):
        return
    catalog = Catalog.open(database_url)
    push(catalog, "llama")
    assert Path(database_url.removeprefix("sqlite:///") + "-wal").stat().st_size > 0
    with Catalog.look(database_url) as look:
        assert [row.name for row in look.checkpoints.list_pushed()] == ["llama"]
    catalog.close()


def test_a_catalog_in_a_folder_that_cannot_be_written_to_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    monkeypatch.setattr("flexai.checkpoints.catalog.sqlite.os.access", lambda *_: False)
    with (
        pytest.raises(AccessDeniedError, match="in a folder that cannot be written to"),
        sqlite_errors(tmp_path / "db"),
    ):
        raise error
