"""A directory as a store: what holds beyond the conformance suite."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flexai.checkpoints.errors import (
    AccessDeniedError,
    DestinationExistsError,
    NotFoundError,
    SourceChangedError,
    StorageError,
    StorageFullError,
    UnsafePathError,
)
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.storage.local import LocalStorage, storage_error
from flexai.checkpoints.storage.protocol import (
    BLOCK_SIZE,
    ZERO_BLOCK,
    Block,
    BytesBody,
    ClonesFiles,
    ObjectStorage,
    PutsTogether,
)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "store")


def _read(storage: LocalStorage, key: str) -> bytes:
    return b"".join(bytes(block) for block in storage.get(key))


class _HollowBody:
    size = 4 * BLOCK_SIZE

    def blocks(self) -> Iterator[Block]:
        yield from [ZERO_BLOCK] * 4


def test_it_is_a_store_that_clones_files_and_puts_several_together(storage: LocalStorage) -> None:
    as_protocol: ObjectStorage = storage
    assert isinstance(as_protocol, ClonesFiles)
    assert isinstance(as_protocol, PutsTogether)


def test_an_object_is_a_plain_file_below_the_root(storage: LocalStorage) -> None:
    storage.put("folder/file", BytesBody(b"content"))
    assert (storage.root / "folder" / "file").read_bytes() == b"content"


def test_a_file_that_a_user_put_there_is_an_object(storage: LocalStorage) -> None:
    (storage.root / "folder").mkdir(parents=True)
    (storage.root / "folder" / "file").write_bytes(b"content")
    assert [info.key for info in storage.list("")] == ["folder/file"]
    assert _read(storage, "folder/file") == b"content"


def test_the_root_is_made_by_the_first_write_not_by_looking(storage: LocalStorage) -> None:
    assert list(storage.list("")) == []
    assert list(storage.list_uploads("")) == []
    storage.delete(["missing"])
    storage.abort_upload("missing", "0" * 32)
    assert not storage.root.exists()
    storage.put("file", BytesBody(b""))
    assert storage.root.is_dir()


def test_a_tilde_in_the_root_means_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LocalStorage(Path("~/store")).root == tmp_path / "store"


@pytest.mark.parametrize("umask", [0, 0o277], ids=oct)
def test_a_private_store_is_its_owners_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    storage = LocalStorage(tmp_path / "deep" / "store", private=True)
    before = os.umask(umask)
    try:
        storage.put("folder/file", BytesBody(b"content"))
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "deep", *(tmp_path / "deep").rglob("*")]}
    assert set(modes.values()) == {0o700, 0o600}
    assert modes[storage.root / "folder" / "file"] == 0o600


def test_other_stores_follow_the_umask(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "store")
    before = os.umask(0o027)
    try:
        storage.put("folder/file", BytesBody(b"content"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((storage.root / "folder").stat().st_mode) == 0o750
    assert stat.S_IMODE((storage.root / "folder" / "file").stat().st_mode) == 0o640


def test_nothing_half_written_has_its_final_name(storage: LocalStorage) -> None:
    upload_id = storage.start_upload("folder/file", size=10)
    storage.put_part("folder/file", upload_id, number=1, offset=0, body=BytesBody(b"12345"))
    (partial,) = (storage.root / "folder").iterdir()
    assert partial.name == f".file.{upload_id}{PARTIAL_SUFFIX}"


def test_a_failed_put_leaves_nothing_behind(storage: LocalStorage) -> None:
    class Broken:
        size = 10

        def blocks(self) -> Iterator[Block]:
            yield memoryview(b"12345")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.put("folder/file", Broken())
    assert list(storage.root.iterdir()) == []


def _noting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is made durable and named from now on, in order."""
    steps: list[str] = []
    named: Callable[..., None] = os.replace

    def synced(*_: object, **__: object) -> None:
        steps.append("folder")

    def name(source: str, target: str, **folders: int) -> None:
        steps.append("name")
        named(source, target, **folders)

    monkeypatch.setattr("flexai.checkpoints.storage.local.sync_data", lambda _: steps.append("file"))
    monkeypatch.setattr("flexai.checkpoints.storage.beneath.sync_directory", synced)
    monkeypatch.setattr(os, "replace", name)
    return steps


def test_of_objects_stored_together_each_is_durable_before_its_name_and_each_folder_once_after(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = {f"{folder}/{number}": f"{folder} {number}".encode() for folder in ("a", "b") for number in range(20)}
    storage.put_together({key: BytesBody(b"before") for key in objects})
    steps = _noting(monkeypatch)
    storage.put_together({key: BytesBody(content) for key, content in objects.items()})
    assert steps == ["file"] * 40 + ["name"] * 40 + ["folder"] * 2
    assert {key: _read(storage, key) for key in objects} == objects


def test_objects_of_which_one_cannot_be_stored_leave_nothing_unfinished(storage: LocalStorage) -> None:
    (storage.root / "folder").mkdir(parents=True)
    (storage.root / "folder" / "2").mkdir()
    with pytest.raises(StorageError, match="a folder is in its place"):
        storage.put_together({f"folder/{number}": BytesBody(b"content") for number in range(4)})
    assert list(storage.list_uploads("")) == []
    assert all(_read(storage, info.key) == b"content" for info in storage.list(""))


def test_objects_stored_together_outlive_others_that_empty_their_folder(storage: LocalStorage) -> None:
    ended = threading.Event()

    def empty() -> None:
        while not ended.is_set():
            storage.put("folder/other", BytesBody(b""))
            storage.delete(["folder/other"])

    with ThreadPoolExecutor(1) as pool:
        emptying = pool.submit(empty)
        try:
            for _ in range(50):
                objects = {f"folder/{number}": BytesBody(b"content") for number in range(4)}
                storage.put_together(objects)
                assert [_read(storage, key) for key in objects] == [b"content"] * 4
                storage.delete(objects)
        finally:
            ended.set()
        emptying.result()


def test_folders_that_a_deletion_empties_go_but_never_the_root_or_others(storage: LocalStorage) -> None:
    storage.put("a/b/c/file", BytesBody(b""))
    storage.put("a/file", BytesBody(b""))
    (storage.root / "kept").mkdir()
    storage.delete(["a/b/c/file"])
    assert sorted(path.name for path in storage.root.rglob("*")) == ["a", "file", "kept"]
    storage.delete(["a/file"])
    assert [path.name for path in storage.root.iterdir()] == ["kept"]


def test_deleting_the_last_object_keeps_the_root(storage: LocalStorage) -> None:
    storage.put("file", BytesBody(b""))
    storage.delete(["file"])
    assert storage.root.is_dir()


def test_deleting_a_folders_name_deletes_nothing(storage: LocalStorage) -> None:
    (storage.root / "empty").mkdir(parents=True)
    storage.delete(["empty"])
    assert (storage.root / "empty").is_dir()


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "dangling link"])
def test_a_link_below_the_root_is_never_followed(storage: LocalStorage, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    storage.root.mkdir()
    target = {"link to a file": outside / "secret", "link to a folder": outside, "dangling link": outside / "none"}
    (storage.root / "link").symlink_to(target[kind])
    with pytest.raises(UnsafePathError, match="symbolic link"):
        storage.head("link")
    with pytest.raises(UnsafePathError, match="symbolic link"):
        _read(storage, "link")
    with pytest.raises(UnsafePathError, match="symbolic link"):
        storage.copy(storage, "link", "copy")
    with pytest.raises(UnsafePathError, match="symbolic link"):
        list(storage.list(""))
    with pytest.raises(UnsafePathError, match="symbolic link"):
        list(storage.list("link/"))
    with pytest.raises(UnsafePathError, match="symbolic link"):
        _read(storage, "link/secret")
    with pytest.raises(UnsafePathError, match="symbolic link"):
        storage.put("link/new", BytesBody(b"x"))
    with pytest.raises(UnsafePathError, match="symbolic link"):
        storage.delete(["link/secret"])
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


def test_storing_over_a_link_replaces_the_link_not_its_target(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"target")
    storage.root.mkdir()
    (storage.root / "link").symlink_to(tmp_path / "target")
    storage.put("link", BytesBody(b"new"))
    assert (tmp_path / "target").read_bytes() == b"target"
    assert _read(storage, "link") == b"new"


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    storage = LocalStorage(tmp_path / "root")
    storage.put("folder/file", BytesBody(b"content"))
    assert [info.key for info in storage.list("")] == ["folder/file"]
    assert (tmp_path / "real" / "folder" / "file").is_file()


def test_a_pipe_or_a_folder_is_no_object_and_no_reader_waits_for_it(storage: LocalStorage) -> None:
    storage.root.mkdir()
    os.mkfifo(storage.root / "pipe")
    (storage.root / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(NotFoundError):
            storage.head(name)
        with pytest.raises(NotFoundError):
            _read(storage, name)
        with pytest.raises(NotFoundError):
            storage.copy(storage, name, "copy")
    assert list(storage.list("")) == []


def test_a_file_that_is_cut_while_it_is_read_has_changed(storage: LocalStorage) -> None:
    storage.put("file", BytesBody(bytes(range(256)) * 4096 * 3))
    blocks = storage.get("file")
    next(blocks)
    os.truncate(storage.root / "file", BLOCK_SIZE + 5)
    with pytest.raises(SourceChangedError):
        list(blocks)


def test_a_file_written_to_in_place_has_another_etag(storage: LocalStorage) -> None:
    etag = storage.put("file", BytesBody(b"content")).etag
    with (storage.root / "file").open("r+b") as file:
        file.write(b"CONTENT")
        os.utime(file.fileno(), ns=(0, 0))
    with pytest.raises(SourceChangedError):
        next(storage.get("file", etag=etag))


def test_a_hard_link_to_a_file_does_not_change_its_etag(storage: LocalStorage) -> None:
    etag = storage.put("file", BytesBody(b"content")).etag
    os.link(storage.root / "file", storage.root / "pin")
    assert storage.head("file").etag == etag


def test_a_hole_takes_no_room(storage: LocalStorage) -> None:
    storage.put("file", _HollowBody())
    assert (storage.root / "file").stat().st_size == 4 * BLOCK_SIZE
    assert (storage.root / "file").stat().st_blocks == 0


def test_a_hole_over_an_earlier_try_is_zeros_nevertheless(storage: LocalStorage) -> None:
    upload_id = storage.start_upload("file", size=4 * BLOCK_SIZE)
    first = BytesBody(b"x" * (4 * BLOCK_SIZE))
    storage.put_part("file", upload_id, number=1, offset=0, body=first)
    storage.put_part("file", upload_id, number=1, offset=0, body=_HollowBody())
    storage.complete_upload("file", upload_id, ())
    assert _read(storage, "file") == bytes(4 * BLOCK_SIZE)


def test_a_copied_hole_takes_no_room(storage: LocalStorage) -> None:
    storage.put("file", _HollowBody())
    storage.copy(storage, "file", "copy")
    assert (storage.root / "copy").stat().st_size == 4 * BLOCK_SIZE
    assert (storage.root / "copy").stat().st_blocks == 0


def test_cloning_shares_the_bytes_or_says_that_it_cannot(storage: LocalStorage, tmp_path: Path) -> None:
    content = os.urandom(2 * BLOCK_SIZE)
    (tmp_path / "source").write_bytes(content)
    upload_id = storage.start_upload("file", size=len(content))
    with (tmp_path / "source").open("rb") as source:
        cloned = storage.clone_part(
            "file", upload_id, offset=0, descriptor=source.fileno(), start=0, length=len(content)
        )
    held = b"".join(bytes(block) for block in storage.read_upload("file", upload_id, start=0, length=len(content)))
    assert held == (content if cloned else bytes(len(content)))


def test_an_unfinished_upload_can_be_read_and_one_that_is_gone_not(storage: LocalStorage) -> None:
    upload_id = storage.start_upload("file", size=10)
    storage.put_part("file", upload_id, number=2, offset=5, body=BytesBody(b"56789"))
    assert b"".join(bytes(block) for block in storage.read_upload("file", upload_id, start=5, length=3)) == b"567"
    storage.abort_upload("file", upload_id)
    with pytest.raises(NotFoundError):
        next(storage.read_upload("file", upload_id, start=5, length=3))


def test_an_upload_id_can_not_name_a_file_elsewhere(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / f"victim{PARTIAL_SUFFIX}").write_bytes(b"victim")
    storage.put("folder/file", BytesBody(b"x"))
    for upload_id in ("../../victim", "/../../../victim", "*", ""):
        assert not storage.has_upload("folder/file", upload_id)
        storage.abort_upload("folder/file", upload_id)
        with pytest.raises(NotFoundError):
            storage.complete_upload("folder/file", upload_id, ())
    assert (tmp_path / f"victim{PARTIAL_SUFFIX}").read_bytes() == b"victim"


def test_a_foreign_file_with_our_ending_is_neither_object_nor_upload(storage: LocalStorage) -> None:
    storage.root.mkdir()
    for name in (f"file{PARTIAL_SUFFIX}", f".file.short{PARTIAL_SUFFIX}"):
        (storage.root / name).write_bytes(b"x")
    assert list(storage.list("")) == []
    assert list(storage.list_uploads("")) == []


def test_the_longest_name_that_a_checkpoint_allows_can_be_uploaded(storage: LocalStorage) -> None:
    name = "é" * 100
    upload_id = storage.start_upload(name, size=1)
    assert [upload.key for upload in storage.list_uploads("é")] == [name]
    storage.put_part(name, upload_id, number=1, offset=0, body=BytesBody(b"x"))
    storage.complete_upload(name, upload_id, ())
    assert _read(storage, name) == b"x"


def test_a_name_that_the_file_system_cannot_hold_is_refused_with_its_reason(storage: LocalStorage) -> None:
    with pytest.raises(StorageError, match="too long"):
        storage.put("x" * 256, BytesBody(b""))


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, StorageFullError, "no space is left"),
        (errno.EDQUOT, StorageFullError, "no space is left"),
        (errno.EACCES, AccessDeniedError, "permission denied"),
        (errno.EPERM, AccessDeniedError, "not permitted"),
        (errno.EROFS, AccessDeniedError, "read-only"),
        (errno.ELOOP, UnsafePathError, "symbolic link"),
        (errno.EIO, StorageError, "input/output error"),
    ],
)
def test_an_error_of_the_system_is_said_in_our_words(
    tmp_path: Path, code: int, kind: type[Exception], words: str
) -> None:
    error = storage_error(OSError(code, os.strerror(code)), tmp_path / "folder" / "file")
    assert type(error) is kind
    assert words in str(error).lower()
    assert str(tmp_path / "folder" / "file") in str(error)


def test_an_object_too_large_for_the_file_system_leaves_nothing_behind(tmp_path: Path) -> None:
    # A limit of this process stands for that of a file system.
    storage = LocalStorage(tmp_path / "store")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match="too large"):
            storage.put("file", BytesBody(bytes(200_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(storage.root.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP])
def test_without_hard_links_what_should_be_new_is_stored_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", refuse)
    storage = LocalStorage(tmp_path)
    assert storage.put("folder/file", BytesBody(b"new"), only_new=True).size == 3
    assert (tmp_path / "folder" / "file").read_bytes() == b"new"
    assert list(storage.list_uploads("")) == []


def test_a_folder_or_a_link_is_not_replaced_by_what_should_be_new(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("folder", "link"):
        with pytest.raises(DestinationExistsError, match="is there already"):
            LocalStorage(tmp_path).put(name, BytesBody(b"new"), only_new=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]
