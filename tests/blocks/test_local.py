"""A directory as a storage provider."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from flexai.blocks import LocalStorageProvider
from flexai.checkpoints.errors import AccessDeniedError, NotFoundError, UnsafePathError, UsageError
from flexai.checkpoints.names import NIL_ID
from flexai.checkpoints.storage.protocol import BytesBody
from tests.hostile.swaps import swap
from tests.support.trees import read_tree, write_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "share"
    (root / "models").mkdir(parents=True)
    return root


def test_the_first_part_of_a_path_is_a_folder_of_the_root(root: Path) -> None:
    (root / "models" / "mistral").mkdir()
    (root / "models" / "mistral" / "config.json").write_text("{}")
    place = LocalStorageProvider(root=str(root)).open("models/mistral/")
    assert place.key == "mistral"
    assert [info.key for info in place.storage.list(place.prefix)] == ["mistral/config.json"]


def test_a_bucket_alone_is_a_path(root: Path) -> None:
    place = LocalStorageProvider(root=str(root)).open("models")
    assert (place.key, place.prefix) == ("", "")


def test_a_bucket_that_is_not_there_is_made_by_the_first_write_and_not_before(root: Path) -> None:
    place = LocalStorageProvider(root=str(root)).open("fresh/run")
    assert list(place.storage.list(place.prefix)) == []
    assert not (root / "fresh").exists()
    place.storage.put("run/a", BytesBody(b"content"))
    assert (root / "fresh" / "run" / "a").read_bytes() == b"content"


def test_buckets_are_not_made_where_that_is_switched_off(root: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no bucket 'fresh'") as caught:
        LocalStorageProvider(root=str(root), create_buckets=False).open("fresh/run")
    assert caught.value.hint == f"make it first: mkdir '{root / 'fresh'}'"


def test_a_root_that_is_not_there_is_never_made(tmp_path: Path) -> None:
    """It may be a share that is not mounted."""
    provider = LocalStorageProvider(root=str(tmp_path / "unmounted"))
    with pytest.raises(NotFoundError, match="is not there"):
        provider.open("models/run")
    assert not (tmp_path / "unmounted").exists()


@contextmanager
def powerless() -> Iterator[None]:
    """Root may read everything, so for a while the test is another user."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("mode", [0, 0o400])
def test_a_root_that_may_not_be_read_is_a_refusal(root: Path, mode: int) -> None:
    root.chmod(mode)
    try:
        with powerless(), pytest.raises(AccessDeniedError, match="permission denied"):
            LocalStorageProvider(root=str(root)).open("models/run")
    finally:
        root.chmod(0o755)


def test_a_linked_bucket_that_leaves_the_root_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AccessDeniedError, match="bucket 'linked' is a symbolic link that leaves"):
        LocalStorageProvider(root=str(root)).open("linked/run")


def test_a_bucket_that_is_swapped_for_a_link_once_it_is_open_is_not_followed(root: Path, tmp_path: Path) -> None:
    outside = write_tree(tmp_path / "outside", {"run/a": b"secret"})
    write_tree(root / "models", {"run/a": b"mine"})
    place = LocalStorageProvider(root=str(root)).open("models/run")
    swap(root / "models", outside)
    for act in (
        lambda: list(place.storage.list("run/")),
        lambda: list(place.storage.get("run/a")),
        lambda: place.storage.put("run/b", BytesBody(b"mine")),
        lambda: place.storage.delete(["run/a"]),
    ):
        with pytest.raises(UnsafePathError, match="models is a symbolic link"):
            act()
    assert read_tree(outside) == {"run/a": b"secret"}


def test_a_linked_bucket_inside_the_root_works(root: Path) -> None:
    (root / "alias").symlink_to("models")
    (root / "models" / "a").write_text("content")
    place = LocalStorageProvider(root=str(root)).open("alias")
    assert [info.key for info in place.storage.list("")] == ["a"]


def test_a_linked_root_works(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mount").symlink_to(root)
    (root / "models" / "a").write_text("content")
    place = LocalStorageProvider(root=str(tmp_path / "mount")).open("models")
    assert [info.key for info in place.storage.list("")] == ["a"]


def test_a_file_is_no_bucket(root: Path) -> None:
    (root / "notes.txt").write_text("")
    with pytest.raises(NotFoundError, match="is no bucket but a file"):
        LocalStorageProvider(root=str(root)).open("notes.txt/run")


@pytest.mark.parametrize("path", ["", "/", "..", "../etc/passwd", "models/../../etc", "./models", "models//run"])
def test_a_path_that_could_leave_the_root_is_refused(root: Path, path: str) -> None:
    with pytest.raises(UsageError):
        LocalStorageProvider(root=str(root)).open(path)


@pytest.mark.parametrize("path", ["mod\0els/run", "models/r\0un"])
def test_a_path_with_a_control_character_is_refused_before_it_reaches_the_file_system(root: Path, path: str) -> None:
    with pytest.raises(UnsafePathError):
        place = LocalStorageProvider(root=str(root)).open(path)
        place.storage.head(place.key)


@pytest.mark.parametrize("root", ["", "relative/folder", ".", "a\0b"])
def test_a_root_that_means_different_things_in_different_places_is_refused(root: str) -> None:
    with pytest.raises(ValidationError):
        LocalStorageProvider(root=root)


def test_a_root_is_kept_normalised(tmp_path: Path) -> None:
    assert LocalStorageProvider(root=f"{tmp_path}/a/../b/").root == str(tmp_path / "b")


def test_a_root_may_begin_with_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LocalStorageProvider(root="~/share").root == str(tmp_path / "share")


def test_a_connection_that_is_not_saved_has_no_name_and_the_nil_id(tmp_path: Path) -> None:
    provider = LocalStorageProvider(root=str(tmp_path))
    assert (provider.connection_name, provider.connection_id) == ("", NIL_ID)


def test_its_location_is_its_root(tmp_path: Path) -> None:
    assert LocalStorageProvider(root=str(tmp_path)).location == str(tmp_path)
