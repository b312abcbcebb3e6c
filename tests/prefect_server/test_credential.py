"""The password of the server of ``flexai up``, and the folders that it and Prefect's database lie in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.private_folders import make_private_folder
from flexai.prefect_server.credential import credential_path, make_credential, read_credential
from flexai.prefect_server.home import close_prefect_home, open_places


@pytest.fixture(params=[0o000, 0o022, 0o277], ids=oct, autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_missing_parents_are_the_owners_alone_as_well(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b" / "c")
    assert {mode(tmp_path / each) for each in ("a", "a/b", "a/b/c")} == {0o700}


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private_folder(tmp_path)
    assert mode(tmp_path) == 0o755


def test_the_password_is_its_owners_alone_and_stays_the_same(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert read_credential(home) == ""
    made = make_credential(home)
    assert len(made) > 30
    assert make_credential(home) == read_credential(home) == made
    assert mode(credential_path(home)) & 0o077 == 0
    assert mode(home) == mode(credential_path(home).parent) == 0o700


def test_the_home_and_database_of_prefect_are_closed_to_others(tmp_path: Path) -> None:
    prefect = tmp_path / "prefect"
    prefect.mkdir()
    prefect.chmod(0o755)
    (prefect / "prefect.db").touch()
    (prefect / "prefect.db").chmod(0o644)
    assert len(open_places(tmp_path / "home", {"PREFECT_HOME": str(prefect)})) == 1
    close_prefect_home(prefect, {})
    assert open_places(tmp_path / "home", {"PREFECT_HOME": str(prefect)}) == []
    assert (mode(prefect), mode(prefect / "prefect.db")) == (0o700, 0o600)


def test_no_database_is_made_where_it_is_elsewhere(tmp_path: Path) -> None:
    close_prefect_home(tmp_path / "prefect", {"PREFECT_API_DATABASE_CONNECTION_URL": "postgresql://"})
    assert not (tmp_path / "prefect" / "prefect.db").exists()


def test_a_home_that_others_can_read_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    (told,) = open_places(tmp_path, {"PREFECT_HOME": str(tmp_path / "none")})
    assert told == f"{tmp_path} is open to other users (mode 0750): chmod go= {tmp_path}"
