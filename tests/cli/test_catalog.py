"""``flexai catalog``: a backup of the file, and the roles of a team in PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.documents import flexai_size
from flexai.checkpoints.settings import DATABASE_FILE
from tests.cli.conftest import Run
from tests.cli.program import Done, Program
from tests.servers.postgresql import PostgreSQL, find_programs

MEMBERS = {"reader": "flexai_reader", "writer": "flexai_writer", "admin": "flexai_admin"}
TABLE = [
    # What is done, and who may do it.
    ("list", "reader writer admin", ("checkpoint", "list")),
    ("inspect", "reader writer admin", ("checkpoint", "inspect", "llama")),
    ("history", "reader writer admin", ("history",)),
    ("fetch", "reader writer admin", ("checkpoint", "fetch", "llama", "-d", "fetched")),
    ("dry run", "reader writer admin", ("checkpoint", "delete", "llama", "--dry-run")),
    ("push", "writer admin", ("checkpoint", "push", "{role}", "-f", "a.bin")),
    ("name", "writer admin", ("checkpoint", "push", "{role}-b", "--from-checkpoint", "llama")),
    ("verify", "writer admin", ("checkpoint", "verify", "llama")),
    ("protect", "writer admin", ("checkpoint", "protect", "llama")),
    ("unprotect", "writer admin", ("checkpoint", "unprotect", "llama")),
    ("train", "writer admin", ("training", "run", "{role}", "--", "sh", "-c", "{train}")),
    ("delete a job", "writer admin", ("training", "delete", "{role}")),
    ("delete", "writer admin", ("checkpoint", "delete", "of-{role}")),
    ("undelete", "writer admin", ("checkpoint", "undelete", "of-{role}")),
    ("gc", "admin", ("checkpoint", "gc", "--grace-period", "0")),
]
TRAIN = "mkdir $FLEXAI_OUTPUT_CHECKPOINT_DIR/checkpoint-5 && echo x > $FLEXAI_OUTPUT_CHECKPOINT_DIR/checkpoint-5/x"


def test_the_roles_may_do_what_their_table_says(
    postgresql: PostgreSQL, flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = postgresql.create_database()
    monkeypatch.setenv("FLEXAI_DATABASE_URL", postgresql.url(database))
    monkeypatch.setenv("FLEXAI_OWNER", "alice@lab")
    program.file("a.bin", b"x" * 2048)
    for name in ("llama", *(f"of-{member}" for member in MEMBERS)):
        assert flexai("checkpoint", "push", name, "-f", "a.bin").code == 0
    # As a copy of a provider's is that no process has read: a fetch of a reader cannot remember what it reads.
    postgresql.execute("UPDATE contents SET digest = NULL, part_digests = ''", database=database)
    sql = flexai("catalog", "grants").out
    for _ in range(2):  # as after an upgrade
        postgresql.execute(sql, database=database)
    for member, role in MEMBERS.items():
        postgresql.execute(f"DROP ROLE IF EXISTS {member}; CREATE ROLE {member} LOGIN; GRANT {role} TO {member}")

    def run(member: str, arguments: tuple[str, ...]) -> Done:
        url = postgresql.url(database).replace(f"//{postgresql.user}@", f"//{member}@")
        monkeypatch.setenv("FLEXAI_DATABASE_URL", url)
        return flexai(*(one.format(role=member, train=TRAIN) for one in arguments))

    found = {
        what: " ".join(member for member in MEMBERS if run(member, arguments).code == 0) for what, _, arguments in TABLE
    }
    assert found == {what: members for what, members, _ in TABLE}
    refused = run("reader", ("checkpoint", "delete", "of-reader"))
    assert (refused.code, "permission denied for table" in refused.error) == (5, True)
    for change in ("UPDATE history SET actor = 'bob'", "DELETE FROM history", "TRUNCATE history"):
        with pytest.raises(Exception, match="permission denied for table history"):
            postgresql.execute(f"SET ROLE admin; {change}", database=database)
    postgresql.drop_database(database)


def test_a_backup_is_the_catalog_as_it_was(flexai: Run, program: Program, tmp_path: Path) -> None:
    program.file("a.bin")
    flexai("checkpoint", "push", "llama", "-f", "a.bin")
    copy = tmp_path / "catalog copy.db"
    done = flexai("catalog", "backup", str(copy))
    assert (done.code, done.out) == (0, "")
    before = flexai("checkpoint", "list", "--json").json()
    flexai("checkpoint", "delete", "llama")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if "catalog" in path.name] == [copy.name]
    # As the page about teams tells: the copy in the place of the file, then what the store knows since.
    for name in (DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm"):
        (program.home / name).unlink(missing_ok=True)
    shutil.copy(copy, program.home / DATABASE_FILE)
    assert flexai("checkpoint", "list", "--json").json() == before
    assert flexai("checkpoint", "recover").code == 0
    assert flexai("checkpoint", "list", "--json").json() == []


def test_a_program_is_told_where_the_backup_is_and_how_large(flexai: Run, program: Program, tmp_path: Path) -> None:
    program.file("a.bin")
    flexai("checkpoint", "push", "llama", "-f", "a.bin")
    copy = tmp_path / "copy.db"
    done = flexai("catalog", "backup", str(copy), "--json")
    size = copy.stat().st_size
    assert (done.code, done.json()) == (0, {"file": str(copy), "size": flexai_size(size), "sizeBytes": size})
    again = flexai("catalog", "backup", str(copy), "--json")
    assert (again.code, again.out) == (4, "")


def test_a_backup_of_a_database_is_restored_by_its_own_program(
    flexai: Run, program: Program, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = find_programs()
    assert programs is not None, "the server runs"
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    first, second = postgresql.create_database(), postgresql.create_database()
    monkeypatch.setenv("FLEXAI_DATABASE_URL", postgresql.url(first).replace("postgresql:", "postgresql+psycopg:"))
    program.file("a.bin")
    flexai("checkpoint", "push", "llama", "-f", "a.bin")
    before = flexai("checkpoint", "list", "--json").json()
    dump = tmp_path / "flexai.dump"
    assert flexai("catalog", "backup", str(dump)).code == 0
    assert stat.S_IMODE(dump.stat().st_mode) == 0o600
    restored = postgresql.url(second)
    subprocess.run([programs / "pg_restore", f"--dbname={restored}", dump], check=True)
    monkeypatch.setenv("FLEXAI_DATABASE_URL", restored)
    assert flexai("checkpoint", "list", "--json").json() == before
    for database in (first, second):
        postgresql.drop_database(database)


def test_a_backup_is_taken_while_others_write(flexai: Run, program: Program, tmp_path: Path) -> None:
    program.file("a.bin")
    flexai("checkpoint", "push", "llama", "-f", "a.bin")
    url = f"sqlite:///{program.home / DATABASE_FILE}"
    is_over = threading.Event()

    def write() -> None:
        with Catalog.open(url) as catalog:
            while not is_over.is_set():
                catalog.database.actor = catalog.database.actor._replace(name="x" * 100)
                with catalog.database.writing() as transaction:
                    transaction.change("UPDATE checkpoints SET reason = reason || 'x'")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            assert flexai("catalog", "backup", str(tmp_path / f"{number}.db")).code == 0
    finally:
        is_over.set()
        writer.join()
    for number in range(5):
        with Catalog.look(f"sqlite:///{tmp_path}/{number}.db") as catalog:
            assert [row.name for row in catalog.checkpoints.list_pushed()] == ["llama"]


def test_a_backup_that_cannot_be_is_an_error_and_leaves_nothing(
    flexai: Run, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    target = str(folder / "catalog.db")
    assert flexai("catalog", "backup", target).code == 3
    assert not program.home.exists()
    program.file("a.bin")
    flexai("checkpoint", "push", "llama", "-f", "a.bin")
    assert flexai("catalog", "backup", str(folder)).code == 4
    done = flexai("catalog", "backup", str(folder / "none" / "catalog.db"))
    assert (done.code, done.hint) == (3, "make it first, or name another place")
    (program.home / DATABASE_FILE).write_bytes(b"garbage" * 5000)
    assert flexai("catalog", "backup", target).code == 1
    for other in (b"", None):  # empty, and another program's
        (program.home / DATABASE_FILE).write_bytes(other or b"")
        if other is None:
            with contextlib.closing(sqlite3.connect(program.home / DATABASE_FILE)) as database:
                database.execute("CREATE TABLE other (id)")
        done = flexai("catalog", "backup", target)
        assert (done.code, "there is no catalog in it" in done.error) == (1, True)
    assert list(folder.iterdir()) == []
    monkeypatch.setenv("FLEXAI_DATABASE_URL", "postgresql://alice:5ecret@localhost:1/flexai")
    monkeypatch.setenv("PATH", str(find_programs()), prepend=os.pathsep)
    refused = flexai("catalog", "backup", target)
    assert refused.code == 1
    assert "refused" in refused.error
    monkeypatch.setenv("PATH", str(folder))
    missing = flexai("catalog", "backup", target)
    assert (missing.code, "pg_dump" in missing.error) == (2, True)
    assert "5ecret" not in refused.err + missing.err
    assert list(folder.iterdir()) == []
