"""Connections are read without Prefect, and are what Prefect itself reads."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flexai.blocks import PROVIDERS
from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.storage.kinds import KINDS
from flexai.connections.s3 import S3Connection
from flexai.connections.saved import load_connection
from flexai.prefect_server.block_documents import UnsureError, saved_blocks
from tests.blocks.samples import least_fields
from tests.cli.program import Program
from tests.servers.prefect import PrefectServer

OLD = Path(__file__).parent / "databases/prefect-3.8.8.sql"
SECRET = "canary-secret"
S3 = KINDS["s3"].block

_SAVE = """
import json, os
from flexai import blocks
from flexai.prefect_client import with_api
from prefect.client.schemas.actions import BlockDocumentUpdate
prefix = os.environ["PREFIX"]
for provider, fields in json.loads(os.environ["FIELDS"]).items():
    saved = blocks.save_connection(blocks.PROVIDERS[provider](**fields), f"{prefix}-{provider}", overwrite=True)
    if provider == "r2":
        with_api(lambda client: client.update_block_document(saved, BlockDocumentUpdate(data={"no_such_field": 1})))
print(json.dumps([connection.document() for connection in blocks.list_connections()]))
"""


def save_each_kind(program: Program, prefix: str) -> list[dict[str, Any]]:
    """Save a connection of each kind, one with a field that is unknown; returns what Prefect reads of them."""
    fields = {provider: least_fields(provider, SECRET) for provider in PROVIDERS}
    printed = program.python(_SAVE, {"PREFIX": prefix, "FIELDS": json.dumps(fields)})
    return of_prefix(prefix, json.loads(printed.splitlines()[-1]))


def of_prefix(prefix: str, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The documents whose names begin so: others save theirs on the same server."""
    return [document for document in documents if document["metadata"]["name"].startswith(prefix)]


def assert_the_same_is_read_without_prefect(program: Program, prefix: str, expected: list[dict[str, Any]]) -> None:
    done = program.run("storage", "list", "--json", "--verbose")
    assert (done.code, "Prefect itself is asked" in done.err) == (0, False), done.err
    assert of_prefix(prefix, done.json()) == expected
    assert len(expected) == len(PROVIDERS)
    assert [bool(document["status"]["problem"]) for document in expected].count(True) == 1
    assert SECRET not in done.out + done.err


@pytest.mark.slow
def test_of_prefects_database_the_same_is_read_as_prefect_reads(program: Program) -> None:
    program.environment["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "true"
    assert_the_same_is_read_without_prefect(program, "mine", save_each_kind(program, "mine"))


def test_of_a_servers_api_the_same_is_read_as_prefect_reads(
    program: Program, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    prefix = f"t{abs(hash(str(tmp_path))) % 10**9}"
    program.environment |= prefect_server.environment(program.cwd / "prefect-home")
    assert_the_same_is_read_without_prefect(program, prefix, save_each_kind(program, prefix))


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The database of an earlier Prefect, in the Prefect home of this process, which has not imported Prefect."""
    path = tmp_path / "prefect/prefect.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "prefect")
    monkeypatch.delenv("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(path.parent))
    monkeypatch.setenv("FLEXAI_HOME", str(tmp_path / "home"))
    return path


def change(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(statement)


def no_other_blocks(kinds: object, name: str) -> list[Any]:
    raise AssertionError(f"block {name} is not needed")


def test_a_connection_of_an_earlier_prefects_database_is_read(database: Path) -> None:
    connection = load_connection("aws-old", saved_blocks(), no_other_blocks)
    assert isinstance(connection, S3Connection)
    assert (connection.connection_name, connection.region) == ("aws-old", "eu-west-1")
    assert connection.secret_access_key.get_secret_value() == "of-3.8.8"
    assert "of-3.8.8" not in repr(connection) + repr(saved_blocks().named(S3, "aws-old"))
    assert str(connection.connection_id) == "2bab6a4e-437b-4560-bd41-c190add01298"


def test_a_name_that_the_database_has_not_got_is_not_there(database: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no storage provider connection 'aws-new'"):
        load_connection("aws-new", saved_blocks(), no_other_blocks)


def test_where_prefect_was_never_used_nothing_is_saved_and_nothing_is_made(database: Path) -> None:
    database.unlink()
    assert saved_blocks().of_type(S3) == []
    assert list(database.parent.iterdir()) == []


def test_a_reader_closes_the_database_to_other_users(database: Path) -> None:
    database.chmod(0o644)
    assert saved_blocks().of_type(S3)
    assert database.stat().st_mode & 0o077 == 0


OTHER_FORMS = {
    "a column more": "ALTER TABLE block_document ADD COLUMN deleted DATETIME",
    "a column less": "ALTER TABLE block_type DROP COLUMN is_protected",
    "a table less": "DROP TABLE configuration",
    "no key": "DELETE FROM configuration",
    "another key": f"""UPDATE configuration SET value = '{{"fernet_key": "{"MDAw" * 10}MDA="}}'""",
    "a key in another form": """UPDATE configuration SET value = '{"aes_key": "x"}'""",
    "fields in another form": """UPDATE block_document SET data = '{"region": "eu-west-1"}'""",
    "fields that are no text": "UPDATE block_document SET data = x'00'",
    "a key that is none": """UPDATE configuration SET value = '{"fernet_key": "short"}'""",
    "an id that is none": "UPDATE block_document SET id = 7",
    "a time that is none": "UPDATE block_document SET created = 'soon'",
    "a block inside": """INSERT INTO block_document_reference (id, name, parent_block_document_id,
                         reference_block_document_id) SELECT 'x', 'credentials', id, 'another' FROM block_document""",
}


@pytest.mark.parametrize("statement", OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_of_a_database_in_another_form_nothing_is_told(database: Path, statement: str) -> None:
    change(database, statement)
    for ask in (lambda: saved_blocks().of_type(S3), lambda: saved_blocks().named(S3, "aws-old")):
        with pytest.raises(UnsureError):
            ask()


def test_of_a_file_that_is_no_database_nothing_is_told(database: Path) -> None:
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(UnsureError):
        saved_blocks().of_type(S3)


@pytest.mark.parametrize(
    "name",
    [
        "PREFECT_API_DATABASE_CONNECTION_URL",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL",
        "PREFECT_SERVER_DATABASE_HOST",
        "PREFECT_SERVER_EPHEMERAL_ENABLED",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE",
    ],
)
@pytest.mark.parametrize("place", ["environment", ".env", "prefect.toml", "profile"])
def test_where_prefect_is_told_of_another_database_or_of_none_nothing_is_told(
    database: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    if place == "environment":
        monkeypatch.setenv(name, "no")
    elif place == ".env":
        Path(".env").write_text(f"{name}=no\n")
    elif place == "prefect.toml":
        group, _, key = name.removeprefix("PREFECT_").lower().partition("_")
        Path("prefect.toml").write_text(f'[{group}]\n{key} = "no"\n')
    else:
        profiles = f'active = "mine"\n[profiles.mine]\n{name} = "no"\n'
        (database.parent / "profiles.toml").write_text(profiles)
    with pytest.raises(UnsureError, match=name):
        saved_blocks()


def test_a_process_that_has_imported_prefect_lets_prefect_read(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect", sys)
    with pytest.raises(UnsureError, match="Prefect is loaded"):
        saved_blocks()


def test_an_api_that_does_not_answer_is_left_to_prefect(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(UnsureError, match="does not answer"):
        saved_blocks().of_type(S3)
