"""A catalog whose file is gone, empty or damaged, beside a store that has content."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program

WAY_OUT = "flexai checkpoint recover --move-aside"


def _lose(path: Path) -> None:
    for one in path.parent.glob("catalog.db*"):
        one.unlink()


def _empty(path: Path) -> None:
    _lose(path)
    path.touch()


def _database_without_tables(path: Path) -> None:
    _lose(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("VACUUM")


def _cut_off(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut_off_in_its_head(path: Path) -> None:
    _lose(path)
    path.write_bytes(b"SQLite format 3\0" + bytes(40))


def _garbage(path: Path) -> None:
    _lose(path)
    path.write_bytes(b"no database" * 1000)


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _without_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE blob_references")
        connection.execute("DROP TABLE files")
        connection.execute("DROP TABLE exports")
        connection.execute("DROP TABLE checkpoints")
        connection.execute("DROP TABLE jobs")
        connection.commit()


DAMAGES = [_lose, _empty, _database_without_tables, _cut_off, _cut_off_in_its_head, _garbage, _zeros, _without_a_table]
Damage = Callable[[Path], None]

COMMANDS = [
    "checkpoint list",
    "checkpoint list --json",
    "checkpoint list --deleted",
    "checkpoint inspect my-name",
    "checkpoint fetch my-name -d out",
    "checkpoint push other -f a.bin",
    "checkpoint push my-name -f a.bin",
    "checkpoint push my-name -f a.bin --dry-run",
    "checkpoint delete my-name",
    "checkpoint undelete my-name",
    "checkpoint protect my-name",
    "checkpoint prune --keep-last 1",
    "checkpoint prune --keep-last 1 --apply",
    "checkpoint verify",
    "checkpoint gc",
    "checkpoint gc --dry-run",
    "training list",
    "training inspect my-job",
    "training checkpoints my-job",
    "training logs my-job",
    "training delete my-job",
    "training run my-job -- true",
]


@pytest.fixture
def catalog_file(flexai: Run, program: Program) -> Path:
    """The catalog of a home whose store is elsewhere and has a checkpoint."""
    program.file("a.bin")
    assert flexai("checkpoint", "push", "my-name", "-f", "a.bin").code == 0
    return program.home / "catalog.db"


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_command_says_how_a_lost_catalog_comes_back(flexai: Run, catalog_file: Path, damage: Damage) -> None:
    damage(catalog_file)
    for command in COMMANDS:
        done = flexai(*command.split())
        assert (done.code, done.out) == (1, ""), command
        assert WAY_OUT in done.hint, command


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_catalog_is_moved_aside_and_made_anew(
    flexai: Run, program: Program, catalog_file: Path, damage: Damage
) -> None:
    damage(catalog_file)
    kept = catalog_file.read_bytes() if catalog_file.exists() else None
    done = flexai("checkpoint", "recover", "--move-aside")
    assert (done.code, done.out) == (0, "recovered my-name\n")
    aside = list(program.home.glob("catalog.db.*Z"))
    assert [path.read_bytes() for path in aside] == ([] if kept is None else [kept])
    assert all(str(path) in done.err for path in aside)
    assert flexai("checkpoint", "fetch", "my-name", "-d", "out").code == 0
    assert flexai("checkpoint", "push", "other", "-f", "a.bin").code == 0


def test_what_sqlite_keeps_beside_a_catalog_goes_aside_with_it(
    flexai: Run, program: Program, catalog_file: Path
) -> None:
    before = {"": b"no database" * 1000, "-wal": b"not merged yet", "-shm": b"an index"}
    for suffix, content in before.items():
        catalog_file.with_name(f"catalog.db{suffix}").write_bytes(content)
    assert flexai("checkpoint", "recover", "--move-aside").code == 0
    (aside,) = program.home.glob("catalog.db.*Z")
    assert {suffix: aside.with_name(aside.name + suffix).read_bytes() for suffix in before} == before


@pytest.mark.parametrize("damage", [_lose, _empty, _database_without_tables])
def test_recover_alone_fills_a_catalog_that_is_empty(flexai: Run, catalog_file: Path, damage: Damage) -> None:
    damage(catalog_file)
    assert flexai("checkpoint", "recover").out == "recovered my-name\n"


def test_a_new_catalog_beside_the_store_of_another_place_can_be_read(
    flexai: Run, catalog_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXAI_DATABASE_URL", f"sqlite:///{catalog_file.with_name('other.db')}")
    assert flexai("checkpoint", "list", "--json").json() == []


def test_a_catalog_stays_where_it_is_beside_a_store_that_another_one_uses(
    flexai: Run, catalog_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = catalog_file.with_name("other.db")
    monkeypatch.setenv("FLEXAI_DATABASE_URL", f"sqlite:///{other}")
    other.write_bytes(b"no database" * 1000)
    done = flexai("checkpoint", "recover", "--move-aside")
    assert (done.code, done.out) == (4, "")
    assert "--force" in done.hint
    assert other.read_bytes() == b"no database" * 1000
    assert list(other.parent.glob("other.db.*")) == []
    assert flexai("checkpoint", "recover", "--move-aside", "--force").out == "recovered my-name\n"


def test_a_training_does_not_begin_beside_the_store_of_another_catalog(
    flexai: Run, program: Program, catalog_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXAI_DATABASE_URL", f"sqlite:///{catalog_file.with_name('other.db')}")
    done = flexai("training", "run", "my-job", "--", "touch", "began")
    assert (done.code, done.out) == (4, "")
    assert "flexai store adopt" in done.hint
    assert not (program.cwd / "began").exists()
    assert flexai("training", "list", "--json").json() == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 1, "id": "no id"}'])
def test_a_damaged_name_of_the_store_says_how_it_is_made_anew(
    flexai: Run, program: Program, catalog_file: Path, content: str
) -> None:
    (name,) = program.home.parent.rglob("store.json")
    name.write_text(content)
    for command in ("push other -f a.bin", "fetch my-name -d out", "gc", "recover --move-aside"):
        done = flexai("checkpoint", *command.split())
        assert (done.code, done.out) == (1, ""), command
        assert WAY_OUT in done.hint, command
    assert list(program.home.glob("catalog.db.*Z")) == []
    name.unlink()
    assert flexai(*WAY_OUT.split()[1:]).out == "recovered my-name\n"
    assert flexai("checkpoint", "fetch", "my-name", "-d", "out").code == 0


def test_a_catalog_on_a_server_is_not_moved_aside(flexai: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_DATABASE_URL", "postgresql://user@127.0.0.1:1/none")
    done = flexai("checkpoint", "recover", "--move-aside")
    assert (done.code, done.error) == (2, "only a catalog in a file can be moved aside")
