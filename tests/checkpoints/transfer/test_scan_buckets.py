"""What a path on a provider means where keys are odd: markers of folders, empty parts, names that cannot be pushed."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest

from flexai.checkpoints.errors import SourceError, UnsafePathError
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from flexai.checkpoints.transfer.scan import scan_local, scan_remote
from tests.servers.fixtures import S3Server
from tests.support.trees import write_tree


class Bucket:
    """A folder of a bucket whose keys may be anything."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.client = server.client()
        self.prefix = uuid.uuid4().hex
        credentials = S3Credentials(server.access_key_id, server.secret_access_key)
        self.storage = S3Storage(S3Service(endpoint_url=server.url, credentials=credentials), server.bucket)

    def put(self, **objects: bytes) -> None:
        for key, content in objects.items():
            self.client.put_object(Bucket=self.server.bucket, Key=self.prefix + key, Body=content)

    def paths(self, key: str = "", *, is_folder: bool = False, exclude: tuple[str, ...] = ()) -> list[str]:
        place = RemotePath(self.storage, self.prefix + key)
        return [source.path for source in scan_remote(place, is_folder=is_folder, exclude=exclude)]


@pytest.fixture
def bucket(moto: S3Server) -> Bucket:
    return Bucket(moto)


def test_an_empty_object_with_the_name_of_a_folder_is_its_marker(bucket: Bucket) -> None:
    bucket.put(**{"": b"", "/": b"", "/a": b"", "/a/": b"", "/a/x": b"x", "/a/b": b"", "/a/b/y": b"y"})
    assert bucket.paths() == ["a/b/y", "a/x"]
    assert bucket.paths("/a") == ["b/y", "x"]


def test_an_empty_object_that_is_no_folders_is_a_file(bucket: Bucket) -> None:
    bucket.put(**{"/a": b"", "/ab/x": b"x"})
    assert bucket.paths("/a") == ["a"]
    assert bucket.paths() == ["a", "ab/x"]


def test_an_object_that_is_not_empty_is_meant_by_its_key_and_a_folder_by_a_slash_behind_it(bucket: Bucket) -> None:
    bucket.put(**{"/a": b"content", "/a/x": b"x"})
    assert bucket.paths("/a") == ["a"]
    assert bucket.paths("/a", is_folder=True) == ["x"]
    with pytest.raises(UnsafePathError, match="is both a file and a folder") as raised:
        bucket.paths()
    assert raised.value.hint.startswith("--exclude '/a/' leaves 'a/' out")
    assert bucket.paths(exclude=("/a/",)) == ["a"]


def test_a_folder_that_is_not_there_is_said_to_be_one(bucket: Bucket) -> None:
    bucket.put(**{"/a": b"content"})
    with pytest.raises(SourceError, match=rf"no object below .*{bucket.prefix}/a/$"):
        bucket.paths("/a", is_folder=True)


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        ("/a//x", "a//x"),
        ("//x", "/x"),
        ("/a/../x", "a/../x"),
        ("/a/aux.json", "a/aux.json"),
        ("/a/what?", "a/what?"),
        ("/it's [new]: a*b", "it?s ?new?? a?b"),
        ("/a/e\u0301", "a/e?"),
        ("/" + "n" * 201, "n" * 201),
    ],
)
def test_a_key_that_cannot_be_pushed_is_named_with_the_way_out(bucket: Bucket, key: str, pattern: str) -> None:
    bucket.put(**{key: b"odd", "/model.bin": b"m"})
    with pytest.raises(UnsafePathError) as raised:
        bucket.paths()
    assert repr(f"{bucket.storage.location}/{bucket.prefix}{key}") in raised.value.message
    found = re.search(r"--exclude '(.*)' leaves it out", raised.value.hint)
    assert found is not None
    assert found[1] == pattern
    assert bucket.paths(exclude=(found[1],)) == ["model.bin"]


def test_a_bucket_whose_keys_begin_with_a_slash_names_them(bucket: Bucket, moto: S3Server) -> None:
    key = f"/{bucket.prefix}/x"
    bucket.client.put_object(Bucket=moto.other_bucket, Key=key, Body=b"x")
    storage = S3Storage(bucket.storage.service, moto.other_bucket)
    with pytest.raises(UnsafePathError) as raised:
        scan_remote(RemotePath(storage, ""))
    assert repr(f"{storage.location}/{key}") in raised.value.message
    bucket.client.delete_object(Bucket=moto.other_bucket, Key=key)


def test_a_folder_of_this_machine_is_treated_alike(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "run", {"model.bin": b"m", "logs/a.txt": b"a", "logs/b.bin": b"b", "con": b"odd"})
    (root / "link").symlink_to("model.bin")
    with pytest.raises(UnsafePathError) as raised:
        scan_local([str(root)], exclude=["link"])
    assert repr(str(root / "con")) in raised.value.message
    assert raised.value.hint.startswith("--exclude 'con' leaves it out")
    left = [source.path for source in scan_local([str(root)], exclude=["con", "link", "logs/*.txt"])]
    assert left == ["logs/b.bin", "model.bin"]
    assert [source.path for source in scan_local([str(root)], exclude=["con", "l*"])] == ["model.bin"]
    assert [source.path for source in scan_local([f"{root}=sub"], exclude=["con", "link", "sub/logs"])] == [
        "sub/model.bin"
    ]
    with pytest.raises(SourceError, match="holds no file that is not excluded"):
        scan_local([str(root)], exclude=["*"])
    with pytest.raises(SourceError, match="all is excluded"):
        scan_local([str(root / "model.bin")], exclude=["*.bin"])


def test_nothing_left_of_a_provider_is_an_error(tmp_path: Path) -> None:
    write_tree(tmp_path / "run", {"model.bin": b"m"})
    for key in ("run", "run/model.bin"):
        with pytest.raises(SourceError, match="that is not excluded"):
            scan_remote(RemotePath(LocalStorage(tmp_path), key), exclude=["*.bin"])
