from __future__ import annotations

import os
import re
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from flexai.checkpoints.catalog import migrations, sqlite
from flexai.checkpoints.catalog.backup import back_up
from flexai.checkpoints.catalog.catalog import Catalog, open_database
from flexai.checkpoints.catalog.checkpoint_rows import row_of
from flexai.checkpoints.catalog.database import (
    HEAD_REVISION,
    ConstraintError,
    Transaction,
    begun_again,
    each_begun_again,
)
from flexai.checkpoints.catalog.tables import metadata
from flexai.checkpoints.errors import (
    BrokenOffError,
    SettingsError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)
from flexai.checkpoints.models import CheckpointKind, TrainingFacts
from flexai.checkpoints.names import new_id
from tests.checkpoints import samples
from tests.checkpoints.catalog.others import OtherProcesses
from tests.checkpoints.catalog.steps import STORE_ID, push
from tests.servers.postgresql import PostgreSQL

_BLOB = {"store_id": STORE_ID, "size": 1, "status": "stored", "created_at": "now"}
_JOB = {
    "name": "train",
    "name_key": "train",
    "creator_user_id": samples.OWNER.user_id,
    "owner_org_id": samples.OWNER.org_id,
    "status": "succeeded",
    "command": "[]",
    "env_names": "[]",
    "attempt": 1,
    "stop_requested": False,
    **dict.fromkeys(("reason", "output_dir", "log_path", "host", "code_commit"), ""),
    **dict.fromkeys(("created_at", "started_at", "updated_at"), "2025-02-03T13:14:37.730471Z"),
}


def _insertion(table: str, row: dict[str, Any]) -> str:
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"


def _engine(url: str) -> Engine:
    return sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))


@pytest.fixture
def plain(own_database_url: str) -> Iterator[Engine]:
    """A plain connection to a catalog's database, with none of our own settings."""
    engine = _engine(own_database_url)
    yield engine
    engine.dispose()


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return ScriptDirectory.from_config(config)


def _migrate(engine: Engine, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision) if revision == "base" else command.upgrade(config, revision)


def _shown(index: Any) -> str:
    """An index with the words of its conditions, which are objects."""
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return repr({**index, "dialect_options": options})


def _snapshot(engine: Engine) -> dict[str, Any]:
    """Everything that SQLAlchemy can read of a database's tables, and the texts that SQLite keeps of its own."""
    found: dict[str, Any] = {}
    inspector = sqlalchemy.inspect(engine)
    for table in inspector.get_table_names():
        if table == "alembic_version":
            continue
        found[table] = {
            "columns": [
                (column["name"], repr(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            ],
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": sorted(map(repr, inspector.get_foreign_keys(table))),
            "unique": sorted(map(repr, inspector.get_unique_constraints(table))),
            "checks": sorted(map(repr, inspector.get_check_constraints(table))),
            "indexes": sorted(map(_shown, inspector.get_indexes(table))),
        }
        if engine.dialect.name == "sqlite":
            with engine.connect() as connection:
                made = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = :name"), {"name": table})
                found[table]["without rowid"] = "WITHOUT ROWID" in str(made.scalar_one())
    return found


def _migrate_anew(engine: Engine) -> None:
    _migrate(engine, "base")
    assert _snapshot(engine) == {}
    _migrate(engine, "head")


def test_the_migrations_make_exactly_the_tables(plain: Engine) -> None:
    _migrate_anew(plain)
    with plain.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": metadata}
        )
        assert compare_metadata(context, metadata) == []
    assert set(sqlalchemy.inspect(plain).get_table_names()) == {*metadata.tables, "alembic_version"}


def test_the_migrations_make_what_a_new_catalog_has(plain: Engine) -> None:
    made = _snapshot(plain)
    _migrate_anew(plain)
    assert _snapshot(plain) == made


def test_a_new_catalog_is_made_without_alembic(empty_database_url: str) -> None:
    program = (
        "import sys; from flexai.checkpoints.catalog.catalog import Catalog; "
        "Catalog.open(sys.argv[1]).close(); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, empty_database_url], check=False).returncode == 0


def test_a_catalog_without_tables_in_a_database_of_others_leaves_theirs_alone(empty_database_url: str) -> None:
    engine = _engine(empty_database_url)
    if engine.dialect.name == "sqlite":
        Path(str(engine.url.database)).parent.mkdir(parents=True)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE others (number INTEGER)"))
    Catalog.open(empty_database_url).close()
    assert set(sqlalchemy.inspect(engine).get_table_names()) == {*metadata.tables, "alembic_version", "others"}
    engine.dispose()


def test_the_newest_revision_is_the_one_that_the_program_knows(plain: Engine) -> None:
    assert _scripts().get_heads() == [HEAD_REVISION]
    assert len(HEAD_REVISION) <= 32
    with plain.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [HEAD_REVISION]


def test_a_catalog_is_made_on_first_use_and_kept(empty_database_url: str) -> None:
    catalog = Catalog.open(empty_database_url)
    pushed = push(catalog)
    catalog.close()
    again = Catalog.open(empty_database_url)
    assert again.checkpoints.get_by_id(pushed.id) == pushed
    again.close()


def test_processes_that_open_an_empty_catalog_at_once_make_one(empty_database_url: str, others: OtherProcesses) -> None:
    processes = [others.start("open", empty_database_url) for _ in range(8)]
    assert [process.answer() for process in processes] == [0] * 8


def test_threads_that_open_an_empty_catalog_at_once_make_one(empty_database_url: str) -> None:
    barrier = threading.Barrier(6)

    def open_and_close() -> None:
        barrier.wait()
        Catalog.open(empty_database_url).close()

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(open_and_close) for _ in range(6)]:
            done.result()


def test_a_new_sqlite_file_that_another_one_is_making_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite itself does not wait while a file changes to the write-ahead log: it refuses at once."""
    other = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            other.execute("COMMIT")

    monkeypatch.setattr(sqlite, "time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
    Catalog.open(f"sqlite:///{tmp_path}/catalog.db").close()
    assert len(waited) == 3
    other.close()


def test_a_new_sqlite_file_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.05)
    other = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailableError, match="database is locked"):
        Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    other.close()


def test_a_process_that_was_forked_while_its_parent_used_an_sqlite_file_is_refused_it(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from flexai.checkpoints.catalog.sqlite import SqliteDatabase
from flexai.checkpoints.errors import StorageError

def opens(path):
    if (child := os.fork()):
        return not os.waitpid(child, 0)[1]
    try:
        SqliteDatabase.open(path)
    except StorageError as error:
        os._exit(1 if "was forked" in error.message else 2)
    os._exit(0)

used, other = Path({str(tmp_path)!r}, "used.db"), Path({str(tmp_path)!r}, "other.db")
database = SqliteDatabase.open(used)
with database.writing():
    found = [opens(used), opens(other)]
database.close()
print(*found, opens(used))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


def test_a_disk_without_room_for_the_catalog_is_told_of_as_such(tmp_path: Path) -> None:
    catalog = sqlite3.connect(":memory:")
    catalog.execute("CREATE TABLE t (x)")
    catalog.execute("PRAGMA max_page_count = 2")
    with pytest.raises(StorageFullError, match="disk is full") as caught, sqlite.sqlite_errors(tmp_path):
        catalog.execute("INSERT INTO t VALUES (zeroblob(99999))")
    assert "free some space" in caught.value.hint
    catalog.close()


def test_threads_that_make_different_catalogs_at_once_do_not_mix_them(tmp_path: Path) -> None:
    barrier = threading.Barrier(6)

    def make(number: int) -> None:
        barrier.wait()
        catalog = Catalog.open(f"sqlite:///{tmp_path}/{number}.db")
        push(catalog)
        catalog.close()

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(make, number) for number in range(6)]:
            done.result()


def test_a_catalog_of_a_newer_form_is_refused_and_left_alone(own_database_url: str, plain: Engine) -> None:
    with plain.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match=r"newer form \(9999\)") as caught:
        Catalog.open(own_database_url)
    assert "upgrade" in caught.value.hint
    with plain.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"


def test_a_catalog_whose_first_migration_was_cut_off_is_made_whole(empty_database_url: str) -> None:
    Catalog.open(empty_database_url).close()
    engine = _engine(empty_database_url)
    _migrate(engine, "base")
    assert sqlalchemy.inspect(engine).get_table_names() == ["alembic_version"]
    Catalog.open(empty_database_url).close()
    assert set(sqlalchemy.inspect(engine).get_table_names()) == {*metadata.tables, "alembic_version"}
    engine.dispose()


def test_a_catalog_of_the_first_form_keeps_its_rows_and_knows_no_metrics(plain: Engine, own_database_url: str) -> None:
    _migrate(plain, "base")
    _migrate(plain, "0001")
    job_id = new_id()
    told = ("Whether model.pt holds optimizer state as well cannot be told without unpickling it.",)
    captured = [
        samples.checkpoint(
            kind=CheckpointKind.CAPTURED,
            name=name,
            job_id=job_id,
            sequence=number,
            facts=TrainingFacts(step=number, resumable=False, resumable_missing=missing),
        )
        for number, (name, missing) in enumerate({"single": told, "torn": (*told, "It is torn."), "": ("No.",)}.items())
    ]
    with plain.begin() as connection:
        first_columns = {column["name"] for column in sqlalchemy.inspect(connection).get_columns("checkpoints")}
        job = _JOB | {"id": job_id}
        connection.execute(text(_insertion("jobs", job)), job)
        for one in captured:
            row = {name: value for name, value in row_of(one).items() if name in first_columns}
            connection.execute(text(_insertion("checkpoints", row)), row)
    catalog = Catalog.open(own_database_url)
    found = catalog.checkpoints.of_job(job_id)
    assert [(one.name, one.facts.step, one.facts.is_unfit) for one in found] == [
        ("single", 0, False),
        ("torn", 1, True),
        ("", 2, True),
    ]
    assert {(one.pointers, *one.facts.metrics) for one in found} == {((),)}
    assert catalog.jobs.get_by_id(job_id).lost == 0
    catalog.close()


def test_a_transaction_that_writes_is_undone_by_an_error(catalog: Catalog) -> None:
    with pytest.raises(RuntimeError, match="no"), catalog.database.writing() as transaction:
        transaction.insert("blobs", _BLOB | {"id": "a"})
        raise RuntimeError("no")
    with catalog.database.reading() as transaction:
        assert transaction.column("SELECT id FROM blobs") == []


def test_an_error_of_a_transaction_leaves_the_database_as_usable_as_before(catalog: Catalog) -> None:
    for _ in range(3):
        with pytest.raises(StorageError, match="cannot be used"), catalog.database.writing() as transaction:
            transaction.insert("blobs", _BLOB | {"id": "a"})
            transaction.rows("SELECT nothing FROM nowhere")
        with catalog.database.writing() as transaction:
            assert transaction.column("SELECT id FROM blobs") == []


def _insert_blobs(transaction: Transaction, *ids: str) -> None:
    transaction.insert("blobs", *(_BLOB | {"id": blob_id, "size": size} for size, blob_id in enumerate(ids)))


def test_a_value_that_is_a_list_stands_for_its_members(catalog: Catalog) -> None:
    with catalog.database.writing() as transaction:
        _insert_blobs(transaction, *"abcdefghijklmno")
        query = "SELECT size FROM blobs WHERE id IN :ids AND size > :least AND store_id IN :ids_of_stores ORDER BY size"
        members = {"ids_of_stores": [STORE_ID, "other"], "least": 0}
        assert transaction.column(query, ids=["a", "b", "c", "?"], **members) == [1, 2]
        assert transaction.column(query, ids=list("abcdefghijklmno"), **members) == list(range(1, 15))
        assert transaction.column(query, ids=[], **members) == []


def test_a_query_answers_with_rows_records_or_a_value(catalog: Catalog) -> None:
    query = "SELECT id, size FROM blobs WHERE size >= :least ORDER BY size"
    with catalog.database.writing() as transaction:
        _insert_blobs(transaction, "a", "b")
        assert [tuple(row) for row in transaction.rows(query, least=0)] == [("a", 0), ("b", 1)]
        assert tuple(transaction.row(query, least=1) or ()) == ("b", 1)
        assert transaction.records(query, least=1) == [{"id": "b", "size": 1}]
        assert transaction.record(query, least=0) == {"id": "a", "size": 0}
        assert (transaction.column(query, least=0), transaction.value(query, least=0)) == (["a", "b"], "a")
        assert transaction.row(query, least=2) is None
        assert transaction.record(query, least=2) is None
        assert transaction.value(query, least=2) is None


def test_a_change_says_how_many_rows_it_changed(catalog: Catalog) -> None:
    with catalog.database.writing() as transaction:
        assert transaction.insert("blobs") == 0
        assert transaction.insert("blobs", _BLOB | {"id": "a"}) == 1
        assert transaction.insert("blobs", _BLOB | {"id": "a"}, otherwise="ON CONFLICT DO NOTHING") == 0
        assert transaction.update("blobs", {"size": 7, "upload_id": "u"}, "size < :size", size=2) == 1
        assert transaction.update("blobs", {"size": 8}, "size < :size", size=2) == 0
        assert transaction.row("SELECT size, upload_id FROM blobs") == (7, "u")
        assert transaction.change("DELETE FROM blobs WHERE size = :size", size=7) == 1


def test_a_row_is_changed_only_while_it_is_as_it_was_read(catalog: Catalog) -> None:
    with catalog.database.writing() as transaction:
        transaction.insert("blobs", _BLOB | {"id": "a"})
        read = {"id": "a", "size": 1, "upload_id": None}
        assert transaction.update_as_read("blobs", {"size": 2}, read | {"upload_id": "u"}) == 0
        assert transaction.update_as_read("blobs", {"size": 2, "upload_id": "u"}, read) == 1
        assert transaction.update_as_read("blobs", {"size": 3}, read | {"size": 2}) == 0
        assert transaction.update_as_read("blobs", {"size": 3}, read | {"size": 2, "upload_id": "u"}) == 1


def test_a_violated_constraint_leaves_as_it_is(catalog: Catalog) -> None:
    with pytest.raises(ConstraintError), catalog.database.writing() as transaction:
        transaction.insert("blobs", _BLOB | {"id": "a", "status": "unknown"})


def test_foreign_keys_are_enforced(catalog: Catalog) -> None:
    with pytest.raises(ConstraintError), catalog.database.writing() as transaction:
        transaction.insert("blob_references", {"checkpoint_id": "nobody", "blob_id": "nothing"})


def test_a_reader_waits_for_no_writer_and_sees_nothing_half_written(catalog: Catalog) -> None:
    with catalog.database.writing() as transaction:
        transaction.insert("blobs", _BLOB | {"id": "a"})
        with catalog.database.reading() as reader:
            assert reader.column("SELECT id FROM blobs") == []
    with catalog.database.reading() as reader:
        assert reader.column("SELECT id FROM blobs") == ["a"]


def test_many_threads_write_without_an_error(catalog: Catalog) -> None:
    def write(number: int) -> None:
        with catalog.database.writing() as transaction:
            transaction.insert("blobs", _BLOB | {"id": str(number)})

    with ThreadPoolExecutor(40) as pool:
        for done in [pool.submit(write, number) for number in range(80)]:
            done.result()
    assert catalog.blobs(STORE_ID).totals() == {"stored": 80}


def test_what_must_be_done_once_is_done_by_one_at_a_time(catalog: Catalog) -> None:
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        with catalog.alone():
            inside += 1
            most = max(most, inside)
            time.sleep(0.002)  # long enough for another thread to come in, if it could
            inside -= 1

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work) for _ in range(16)]:
            done.result()
    assert most == 1


def test_an_sqlite_catalog_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "catalog.db"
    previous = os.umask(0)
    try:
        catalog = Catalog.open(f"sqlite:///{path}")
        push(catalog)
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        catalog.close()
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_sqlite_catalog_survives_a_power_cut(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/catalog.db")
    with database.reading() as transaction:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert transaction.value(f"PRAGMA {pragma}") == value
    database.close()


def test_a_catalog_in_a_folder_with_odd_characters_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "100% é #1?"
    catalog = Catalog.open(f"sqlite:///{folder}/catalog.db")
    push(catalog)
    catalog.close()


def test_a_writer_that_waits_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.05)
    catalog = Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    blocker = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailableError, match="database is locked"):
        push(catalog)
    blocker.close()
    push(catalog)
    catalog.close()


@pytest.mark.parametrize(
    "url",
    [
        "catalog.db",
        "",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://user:s3cr3t-word@host/db",
        "oracle://user:s3cr3t-word@host/db",
        "postgresql://user:s3cr3t-word@host:port/db",
        "://user:s3cr3t-word@host",
    ],
)
def test_a_url_that_cannot_be_used_is_an_error_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Catalog.open(url)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))
    assert "sqlite:////path" in caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cr3t-word@127.0.0.1:1/db",
        "postgresql+psycopg://user:s3cr3t-word@127.0.0.1:1/db",
        "postgresql+asyncpg://user:s3cr3t-word@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?user=user&password=s3cr3t-word&connect_timeout=2",
        "postgresql://user@127.0.0.1:1/db?sslpassword=s3cr3t-word&sslkey=%2Fs3cr3t.key",
    ],
)
def test_a_server_that_does_not_answer_is_an_error_without_its_password(url: str) -> None:
    with pytest.raises(StorageUnavailableError, match=r"127\.0\.0\.1") as caught:
        Catalog.open(url)
    assert "s3cr3t" not in caught.value.message + caught.value.hint
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_a_url_for_another_driver_means_the_same_database(tmp_path: Path, postgresql: PostgreSQL) -> None:
    name = postgresql.create_database()
    url = postgresql.url(name).removeprefix("postgresql")
    for number, driver in enumerate(("postgresql", "postgresql+psycopg", "postgresql+asyncpg")):
        _push_one_more(driver + url, already=number)
    postgresql.drop_database(name)
    for number, driver in enumerate(("sqlite", "sqlite+pysqlite", "sqlite+aiosqlite")):
        _push_one_more(f"{driver}:///{tmp_path}/catalog.db", already=number)


def _push_one_more(url: str, *, already: int) -> None:
    catalog = Catalog.open(url)
    assert len(catalog.checkpoints.of_store(STORE_ID)) == already
    push(catalog, f"name-{already}")
    catalog.close()


def test_a_catalog_of_a_relative_path_stays_where_it_is_when_the_process_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    catalog = Catalog.open("sqlite:///catalog.db")
    monkeypatch.chdir("elsewhere")
    # The second transaction needs a connection of its own.
    with catalog.database.reading(), catalog.database.reading() as transaction:
        assert transaction.column("SELECT id FROM checkpoints") == []
    catalog.close()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_option_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="could not convert string to float: 'soon'"):
        Catalog.open(f"sqlite:///{tmp_path}/catalog.db?timeout=soon")


def test_a_file_that_is_no_database_is_an_error_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(b"these are my notes" * 1000)
    with pytest.raises(StorageError, match=r"catalog\.db") as caught:
        Catalog.open(f"sqlite:///{path}")
    assert not isinstance(caught.value, StorageUnavailableError), "another try would not help"
    assert path.read_bytes() == b"these are my notes" * 1000


def test_a_catalog_below_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=re.escape(str(tmp_path / "file"))):
        Catalog.open(f"sqlite:///{tmp_path}/file/catalog.db")


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # the address of a socket is short


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, _make_socket])
def test_a_catalog_that_is_no_file_is_a_wrong_setting_and_keeps_no_command_waiting(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "catalog.db")
    url = f"sqlite:///{tmp_path}/catalog.db"
    for use in (Catalog.open, Catalog.look, partial(back_up, target=tmp_path / "copy.db")):
        with pytest.raises(SettingsError, match=r"catalog\.db is no file") as caught:
            use(url)
        assert "database_url" in caught.value.hint


@pytest.mark.parametrize("folder", ["100%", "a%20b", "with space", "plus+and#mark"])
def test_an_sqlite_catalog_lies_where_its_path_says(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "catalog.db"
    open_database(f"sqlite:///{path}").close()
    assert path.is_file()


def test_what_was_broken_off_begins_again_and_not_for_ever() -> None:
    calls = 0

    def succeed_after(failures: int) -> int:
        nonlocal calls
        calls += 1
        if calls <= failures:
            raise BrokenOffError("the catalog was changed meanwhile")
        return calls

    @each_begun_again
    class Counted:
        def method(self, failures: int) -> int:
            return succeed_after(failures)

    assert Counted().method(3) == 4
    assert begun_again(succeed_after)(7) == 8
    with pytest.raises(BrokenOffError):
        Counted().method(1000)
