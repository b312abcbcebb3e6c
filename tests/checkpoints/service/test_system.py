"""Which managed store the settings name."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from flexai.blocks import S3StorageProvider
from flexai.checkpoints.errors import CheckpointError, NotFoundError, SettingsError
from flexai.checkpoints.names import NIL_ID, Id
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.system import Connect, System, store_opener
from flexai.checkpoints.settings import load_settings
from flexai.checkpoints.storage.connection import RemotePath, split_bucket
from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.s3.bucket import S3Storage
from tests.servers.fixtures import GCSServer, S3Server


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names no cloud."""
    import os

    for name in [name for name in os.environ if name.startswith(("AWS_", "STORAGE_EMULATOR", "GOOGLE_"))]:
        monkeypatch.delenv(name)


class Share:
    """A connection to a directory."""

    connection_name = "models-share"
    connection_id: Id = NIL_ID

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, path: str) -> RemotePath:
        """Open a folder of the directory."""
        bucket, key = split_bucket(path)
        return RemotePath(LocalStorage(self.root / bucket), key)


@pytest.mark.parametrize("place", ["store", "./store", "/srv/store", "./a:b/c", "C:/store", "a:/b", "x:y"])
def test_a_directory_is_a_directory(place: str) -> None:
    store = store_opener(place)()
    assert isinstance(store.storage, LocalStorage)
    assert store.location == str(Path(place).absolute())


@pytest.mark.parametrize(
    ("place", "location"),
    [
        ("s3://my-bucket", "s3://my-bucket"),
        ("s3://my-bucket/", "s3://my-bucket"),
        ("s3://my-bucket/some/prefix/", "s3://my-bucket/some/prefix"),
        ("gs://my-bucket/prefix", "gs://my-bucket/prefix"),
    ],
)
def test_a_url_is_a_bucket(place: str, location: str) -> None:
    store = store_opener(place)()
    assert isinstance(store.storage, S3Storage if place.startswith("s3") else GCSStorage)
    assert store.location == location


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({"AWS_ENDPOINT_URL": "http://one:1"}, "http://one:1"),
        ({"AWS_ENDPOINT_URL": "http://one:1", "AWS_ENDPOINT_URL_S3": "http://two:2"}, "http://two:2"),
        ({"AWS_ENDPOINT_URL": "http://one:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ""),
    ],
)
def test_the_sdks_own_variables_name_the_endpoint(
    environment: dict[str, str], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**environment, "AWS_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    storage = store_opener("s3://my-bucket/prefix")().storage
    assert isinstance(storage, S3Storage)
    assert (storage.service.endpoint_url, storage.service.region) == (endpoint, "eu-west-1")


@pytest.mark.parametrize("emulator", ["http://127.0.0.1:9023", "127.0.0.1:9023"])
def test_the_emulator_is_spoken_to_without_credentials(emulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    storage = store_opener("gs://my-bucket/prefix")().storage
    assert storage.service_identity == "gcs:http://127.0.0.1:9023:anonymous"


@pytest.mark.parametrize(
    "place",
    [
        "http://my-bucket/prefix",
        "hf://org/repo",
        "file:///srv/store",
        "s3://",
        "s3:///prefix",
        "s3://my-bucket/../other",
        "s3://my-bucket//x",
        "my-conn:",
        "my-conn:my-bucket/../x",
    ],
)
def test_what_is_no_store_is_refused_in_words(place: str) -> None:
    with pytest.raises(SettingsError) as refused:
        store_opener(place, lambda name: Share(Path(name)))
    assert refused.value.hint.startswith("set FLEXAI_STORE to")


@pytest.mark.parametrize(
    "place",
    [
        "s3://me:5ecret@bucket//x",
        "s3://:5ecret@",
        "https://me:5ecret@host/x",
        "my-conn:5ecret@bucket//x",
        "my-conn:5ecret@bucket/x",
    ],
)
@pytest.mark.parametrize("connect", [None, lambda name: S3StorageProvider(anonymous=True)])
def test_a_refused_store_shows_no_password(place: str, connect: Connect | None) -> None:
    """``my-conn:5ecret@bucket`` may be USER:PASSWORD@BUCKET, whatever connections there are."""
    with pytest.raises(CheckpointError) as refused:
        store_opener(place, connect)()
    assert "5ecret" not in f"{refused.value} {refused.value.hint}"


def test_without_connections_a_connections_store_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", store="models-share:store/prod")
    with pytest.raises(SettingsError, match="in the bucket of a connection") as refused:
        System.open(settings)
    assert "./models-share:store/prod" in refused.value.hint
    assert not (tmp_path / "home").exists()


def test_a_connection_is_loaded_only_where_the_store_is_used(tmp_path: Path) -> None:
    asked = []

    def connect(name: str) -> Share:
        asked.append(name)
        return Share(tmp_path / "share")

    (tmp_path / "file").write_text("content")
    settings = load_settings(home=tmp_path / "home", store="models-share:bucket/prod")
    with System.open(settings, connect=connect) as system:
        push(system, PushRequest("my-model", (str(tmp_path / "file"),)))
    asked.clear()
    with System.open(settings, connect=connect) as system:
        assert system.catalog.checkpoints is not None
        assert asked == []
        push(system, PushRequest("other-model", (str(tmp_path / "file"),)))
    assert asked == ["models-share"]
    assert (tmp_path / "share" / "bucket" / "prod" / "store.json").is_file()


def test_a_connection_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    def connect(name: str) -> Any:
        raise NotFoundError(f"there is no storage provider connection {name!r}")

    settings = load_settings(home=tmp_path / "home", store="models-share:bucket/prod")
    with System.open(settings, connect=connect) as system, pytest.raises(NotFoundError, match="models-share"):
        _ = system.store_id


def test_two_catalogs_of_one_bucket_know_one_store(
    tmp_path: Path, seaweedfs: S3Server, fake_gcs: GCSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweedfs.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_access_key)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake_gcs.url)
    for scheme, bucket in (("s3", seaweedfs.bucket), ("gs", fake_gcs.bucket)):
        place = f"{scheme}://{bucket}/{uuid.uuid4().hex}"
        ids = set()
        for home in ("one", "two"):
            with System.open(load_settings(home=tmp_path / scheme / home, store=place)) as system:
                ids.add(system.store_id)
        assert len(ids) == 1


def test_the_database_s_password_is_not_shown(tmp_path: Path) -> None:
    url = "postgresql://someone:s3cr3t-word@db.example/catalog"
    with System.open(load_settings(home=tmp_path, database_url=url)) as system:
        assert "s3cr3t-word" not in repr(system)
        assert system.database_url == url
