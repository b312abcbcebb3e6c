"""Trying out a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from flexai.blocks import LocalStorageProvider, Probe, ProbeOutcome
from flexai.checkpoints.errors import AccessDeniedError, StorageError
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import Block, Body, ObjectInfo, PartReceipt
from flexai.connections import probes


class Forgetful(LocalStorage):
    """Says that it has stored things, and has not."""

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> Iterator[Block]:
        """Give back zeros."""
        size = sum(len(block) for block in super().get(key, start=start, length=length, etag=etag))
        yield memoryview(bytes(size))


class WithoutParts(LocalStorage):
    """Knows no multipart upload."""

    def put_part(self, key: str, upload_id: str, *, number: int, offset: int, body: Body) -> PartReceipt:
        """Refuse a second part."""
        if number > 1 or offset:
            raise StorageError("no parts here")
        return super().put_part(key, upload_id, number=number, offset=offset, body=body)


class Deleting(LocalStorage):
    """Knows a request only by its method: giving up an upload deletes the object."""

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Delete both."""
        super().abort_upload(key, upload_id)
        self.delete([key])


class WriteOnly(LocalStorage):
    """Lets nothing be deleted."""

    def delete(self, keys: Iterable[str]) -> None:
        """Refuse."""
        raise AccessDeniedError("nobody may delete here")


class ReadOnly(LocalStorage):
    """Lets nothing be written."""

    def put(self, key: str, body: Body, *, only_new: bool = False) -> ObjectInfo:
        """Refuse."""
        raise AccessDeniedError("nobody may write here")

    def start_upload(self, key: str, *, size: int) -> str:
        """Refuse."""
        raise AccessDeniedError("nobody may upload here")

    def delete(self, keys: Iterable[str]) -> None:
        """Refuse."""
        raise AccessDeniedError("nobody may delete here")


class Unlisted(ReadOnly):
    """Lets no caller list what there is."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Refuse."""
        raise AccessDeniedError("nobody may list here")


class Full(LocalStorage):
    """Has no room."""

    def put(self, key: str, body: Body, *, only_new: bool = False) -> ObjectInfo:
        """Fail."""
        raise StorageError("there is no room")


def outcomes(found: list[Probe]) -> dict[str, str]:
    return {probe.name: probe.outcome.value for probe in found}


def failed(found: list[Probe]) -> set[str]:
    return {probe.name for probe in found if probe.outcome is not ProbeOutcome.PASSED}


def test_a_directory_can_do_everything_and_is_empty_again_afterwards(tmp_path: Path) -> None:
    found = LocalStorageProvider(root=str(tmp_path)).check("bucket/somewhere")
    assert [probe.name for probe in found] == [
        "reach", "put", "get", "range", "head", "list", "overwrite", "copy", "multipart", "abort", "delete",
        "conditional put", "part copy", "delete many", "metadata", "checksums",
    ]  # fmt: skip
    assert failed(found) == {"part copy", "delete many", "metadata", "checksums"}
    assert all(probe.detail.startswith("no such operation") for probe in found if probe.name in failed(found))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_lies_below_the_path_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "object").write_text("somebody's")
    LocalStorageProvider(root=str(tmp_path)).check("bucket")
    assert [path.name for path in (tmp_path / "bucket").rglob("*")] == ["object"]
    assert (tmp_path / "bucket" / "object").read_text() == "somebody's"


def test_without_a_path_only_the_provider_is_touched(tmp_path: Path) -> None:
    assert outcomes(LocalStorageProvider(root=str(tmp_path)).check()) == {"reach": "passed"}
    assert list(tmp_path.iterdir()) == []


def test_a_provider_that_is_not_there_fails_and_nothing_else_is_tried(tmp_path: Path) -> None:
    found = outcomes(LocalStorageProvider(root=str(tmp_path / "gone")).check("bucket"))
    assert found.pop("reach") == "failed"
    assert set(found.values()) == {"not tried"}


def test_a_path_that_is_none_is_refused(tmp_path: Path) -> None:
    found = LocalStorageProvider(root=str(tmp_path)).check("../elsewhere")
    assert found[0].outcome is ProbeOutcome.FAILED
    assert "is no path on a storage provider" in found[0].detail


def test_a_store_that_returns_other_bytes_is_found_out(tmp_path: Path) -> None:
    found = probes.try_out(RemotePath(Forgetful(tmp_path), "scratch"))
    assert failed(found) == {"get", "range", "overwrite", "copy", "multipart"}
    assert next(probe.detail for probe in found if probe.name == "get") == "other bytes came back than were stored"


def test_a_store_without_multipart_uploads_fails_that_alone_and_keeps_nothing_unfinished(tmp_path: Path) -> None:
    storage = WithoutParts(tmp_path)
    assert failed(probes.try_out(RemotePath(storage, "scratch"))) == {"multipart"}
    assert list(storage.list_uploads("")) == []
    assert list(storage.list("")) == []


def test_a_store_that_takes_giving_up_an_upload_for_deleting_the_object_fails_that(tmp_path: Path) -> None:
    found = probes.try_out(RemotePath(Deleting(tmp_path), "scratch"))
    assert failed(found) == {"abort"}
    assert next(one.detail for one in found if one.name == "abort") == "the object of that key went with the upload"


def test_a_store_that_lets_nothing_be_deleted_fails_that_alone_and_what_is_left_is_named(tmp_path: Path) -> None:
    found = probes.try_out(RemotePath(WriteOnly(tmp_path), "scratch"))
    assert failed(found) == {"delete", "clean up"}
    assert found[-1].detail == (
        f"nobody may delete here; what the check stored is left below {WriteOnly(tmp_path).location}/scratch/"
    )
    assert found[-1].denied


def written(folder: Path, *names: str) -> list[str]:
    """Files that were there before."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(10 * number))
    return sorted(names)


@pytest.mark.parametrize("key", ["", "model", "model/b.bin"])
def test_where_nothing_can_be_written_what_is_there_is_read_and_each_refusal_has_its_reason(
    tmp_path: Path, key: str
) -> None:
    names = written(tmp_path, "model/empty", "model/b.bin", "model/c.bin", "model-2/a.bin")
    storage = ReadOnly(tmp_path)
    found = probes.try_out(RemotePath(storage, "model/.scratch"), source=RemotePath(storage, key))
    assert {probe.name for probe in found if probe.outcome is ProbeOutcome.PASSED} == {
        "list",
        "head",
        "get",
        "range",
        "abort",
    }
    assert {probe.name: probe.detail for probe in found if probe.outcome is ProbeOutcome.FAILED} == {
        "put": "nobody may write here",
        "multipart": "nobody may upload here",
        "delete": "nobody may delete here",
    }
    assert {probe.name for probe in found if probe.outcome is ProbeOutcome.NOT_TRIED} == {"overwrite", "copy"}
    details = {probe.name: probe.detail for probe in found}
    assert details["get"] == "10 bytes of model/b.bin"
    assert details["list"] == {"": "4 objects", "model": "3 objects", "model/b.bin": "1 object"}[key]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == names


def test_an_object_that_may_not_be_listed_is_read_by_its_key(tmp_path: Path) -> None:
    written(tmp_path, "empty", "model.bin")
    storage = Unlisted(tmp_path)

    def tried(key: str) -> dict[str, str]:
        return outcomes(probes.try_out(RemotePath(storage, "scratch"), source=RemotePath(storage, key)))

    by_key, blind = tried("model.bin"), tried("")
    for name in ("head", "get", "range"):
        assert (by_key[name], blind[name]) == ("passed", "not tried")
    assert by_key["list"] == blind["list"] == "failed"


def test_where_there_is_nothing_to_read_that_is_said(tmp_path: Path) -> None:
    storage = ReadOnly(tmp_path)
    found = probes.try_out(RemotePath(storage, "scratch"), source=RemotePath(storage, "nothing"))
    assert {probe.name for probe in found if probe.outcome is ProbeOutcome.NOT_TRIED} >= {"head", "get", "range"}
    assert next(probe.detail for probe in found if probe.name == "list").startswith("there is nothing at nothing in ")


def test_where_nothing_can_be_stored_for_another_reason_nothing_else_is_tried(tmp_path: Path) -> None:
    found = probes.try_out(RemotePath(Full(tmp_path), "scratch"))
    assert (found[0].outcome, found[0].detail) == (ProbeOutcome.FAILED, "there is no room")
    assert {probe.outcome for probe in found[1:]} == {ProbeOutcome.NOT_TRIED}


def test_an_error_that_is_none_of_a_stores_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LocalStorage, prefix: str) -> Iterator[ObjectInfo]:
        raise ZeroDivisionError

    monkeypatch.setattr(LocalStorage, "list", broken)
    with pytest.raises(ZeroDivisionError):
        probes.try_out(RemotePath(LocalStorage(tmp_path), "scratch"))


def test_an_unsafe_prefix_reaches_no_store(tmp_path: Path) -> None:
    found = probes.try_out(RemotePath(LocalStorage(tmp_path), "../outside"))
    assert failed(found) >= {"put"}
    assert not (tmp_path.parent / "outside").exists()
