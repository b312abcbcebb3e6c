from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from flexai.checkpoints.errors import SettingsError, StorageFullError
from flexai.checkpoints.names import new_id, parse_id
from flexai.checkpoints.owner import IDENTITY_FILE, Owner, load_owner, login, parse_owner
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import load_settings

_LOAD = """
import sys, pathlib
from flexai.checkpoints.owner import load_owner
print("ready", flush=True)
sys.stdin.readline()
for home in sys.argv[1:]:
    owner = load_owner(pathlib.Path(home))
    print(owner.user_id, owner.org_id)
"""


def test_an_owner_is_made_once_and_found_again(tmp_path: Path) -> None:
    home = tmp_path / "not" / "yet" / "there"
    made = load_owner(home)
    assert load_owner(home) == made
    assert made.user_id != made.org_id
    assert uuid.UUID(made.user_id).version == uuid.UUID(made.org_id).version == 4


def test_two_homes_have_two_owners(tmp_path: Path) -> None:
    assert load_owner(tmp_path / "a") != load_owner(tmp_path / "b")


def test_an_owner_is_read_as_it_was_written(tmp_path: Path) -> None:
    owner = Owner(user_id=new_id(), org_id=new_id())
    document = {"userID": owner.user_id.upper(), "orgID": owner.org_id, "comment": "kept"}
    (tmp_path / IDENTITY_FILE).write_text(json.dumps(document))
    assert load_owner(tmp_path) == owner


def test_the_identity_is_its_owner_s_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    home = tmp_path / "home"
    load_owner(home)
    assert stat.S_IMODE((home / IDENTITY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [path.name for path in home.iterdir()] == [IDENTITY_FILE]


def test_processes_that_make_an_owner_at_once_agree(tmp_path: Path) -> None:
    homes = [str(tmp_path / str(number)) for number in range(50)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _LOAD, *homes], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    assert len(set(found)) == 1
    assert len(set(found[0].splitlines())) == len(homes)
    assert {path.name for path in tmp_path.glob("*/*")} == {IDENTITY_FILE}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'"text"',
        b"\xff\xfe",
        b'{"userID": "x", "orgID": "y"}',
        b'{"userID": 5, "orgID": 6}',
        b'{"userID": null, "orgID": null}',
        b'{"userID": [], "orgID": {}}',
        json.dumps({"userID": parse_id(uuid.UUID(int=1))}).encode(),
    ],
)
def test_a_damaged_identity_is_an_error_and_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / IDENTITY_FILE
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_owner(tmp_path)
    assert str(path) in caught.value.message
    assert "backup" in caught.value.hint
    assert path.read_bytes() == content
    path.unlink()  # the other way out that the hint names
    assert load_owner(tmp_path).name == login()


def test_an_identity_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / IDENTITY_FILE).mkdir()
    with pytest.raises(SettingsError, match=IDENTITY_FILE):
        load_owner(tmp_path)


def test_a_home_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="file"):
        load_owner(tmp_path / "file" / "home")


def test_a_disk_without_room_for_the_identity_is_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(StorageFullError, match=IDENTITY_FILE):
        load_owner(tmp_path)


def test_a_machine_whose_setting_names_the_owner_makes_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = load_owner(tmp_path / "mine")
    monkeypatch.setenv("FLEXAI_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("FLEXAI_OWNER", str(owner))
    assert System.open().owner == owner
    assert System.open(read_only=True).owner == owner
    assert not (tmp_path / "empty" / IDENTITY_FILE).exists()


def test_a_person_has_the_same_ids_on_each_machine_and_shares_the_organisation_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for machine, name in (("laptop", "alice@lab.example"), ("node", "alice@lab.example"), ("node", "bob@lab.example")):
        monkeypatch.setenv("FLEXAI_HOME", str(tmp_path / machine))
        monkeypatch.setenv("FLEXAI_OWNER", name)
        found.append(System.open().owner)
    on_laptop, on_node, bob = found
    assert (on_laptop, on_laptop.name) == (on_node, "alice@lab.example")
    assert bob.user_id != on_node.user_id
    assert bob.org_id == on_node.org_id
    assert on_node == parse_owner(str(on_node)), "the ids name the same owner"
    assert not (tmp_path / "node").exists()


def test_what_a_user_has_made_is_known_by_the_id_or_by_the_name() -> None:
    alice = parse_owner("alice@lab")
    assert alice.has_made(alice.user_id, "")
    assert alice.has_made(new_id(), "alice@lab")
    assert not alice.has_made(new_id(), "bob@lab")
    assert not alice.has_made(new_id(), "")


@pytest.mark.parametrize(
    "text", ["me", "ID", "ID/", "ID/ID/ID", "/", "@", "me@", "@lab", "me@lab@lab", "a b@lab", "a@lab\u202e", "a/b@lab"]
)
def test_an_owner_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_OWNER", text.replace("ID", new_id()))
    with pytest.raises(SettingsError, match="FLEXAI_OWNER"):
        load_settings()


def test_an_identity_that_is_a_fifo_is_an_error_and_keeps_no_command_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / IDENTITY_FILE)
    with pytest.raises(SettingsError, match="cannot be read or made: it is no file"):
        load_owner(tmp_path)
