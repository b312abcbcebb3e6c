"""Connections to S3, R2 and MinIO, against servers that really speak S3."""

from __future__ import annotations

import io
import socket
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from flexai.blocks import (
    MinIOStorageProvider,
    Probe,
    ProbeOutcome,
    R2StorageProvider,
    S3StorageProvider,
    StorageProvider,
    check_connection,
    list_connections,
    load_connection,
    save_connection,
)
from flexai.checkpoints.errors import AccessDeniedError, CheckpointError, SettingsError, UsageError
from flexai.checkpoints.storage.capabilities import Capabilities
from flexai.checkpoints.storage.protocol import BytesBody
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.checksums import end_body
from flexai.connections.s3_probes import capabilities_of
from tests.servers.certificates import Authority
from tests.servers.fixtures import S3Server
from tests.servers.gateway import sign_anew
from tests.servers.keeper import free_ports
from tests.servers.prefect import PrefectServer
from tests.servers.proxy import FaultProxy, Request, faulty

from .saved import save_document

ACCOUNT = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def no_credentials_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any credentials of AWS's."""
    import os

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))


def connection_to(server: S3Server, url: str = "", **fields: Any) -> S3StorageProvider:
    keys = {"access_key_id": server.access_key_id, "secret_access_key": server.secret_access_key}
    return S3StorageProvider(endpoint_url=url or server.url, **(keys | fields))


def scratch(server: S3Server) -> str:
    """A prefix of the test's own."""
    return f"{server.bucket}/{uuid.uuid4().hex}"


def outcomes(found: list[Probe]) -> dict[str, str]:
    return {probe.name: probe.outcome.value for probe in found}


def named(found: list[Probe], outcome: ProbeOutcome) -> set[str]:
    return {probe.name for probe in found if probe.outcome is outcome}


def put_and_read(provider: StorageProvider, path: str) -> bytes:
    place = provider.open(path)
    place.storage.put(place.prefix + "object", BytesBody(b"content"))
    return b"".join(bytes(block) for block in place.storage.get(place.prefix + "object"))


# What a connection is


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ({}, "AWS"),
        ({"region": "eu-west-1"}, "AWS eu-west-1"),
        ({"endpoint_url": " HTTPS://S3.Example.com:443/ "}, "https://s3.example.com"),
    ],
)
def test_its_location_is_the_endpoint_in_its_usual_form(fields: dict[str, Any], location: str) -> None:
    assert S3StorageProvider(**fields).location == location


def test_what_a_cleared_form_saves_means_the_default() -> None:
    cleared = S3StorageProvider.model_validate(dict.fromkeys(S3StorageProvider.model_fields))
    assert cleared.model_dump() == S3StorageProvider().model_dump()


def test_what_pasting_adds_is_taken_off() -> None:
    pasted = S3StorageProvider(access_key_id=" key\n", secret_access_key="secret\r\n", region=" eu-west-1 ")
    assert (pasted.access_key_id, pasted.region) == ("key", "eu-west-1")
    assert pasted.secret_access_key.get_secret_value() == "secret"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"access_key_id": "a"}, "the secret one is missing"),
        ({"secret_access_key": "canary"}, "the public one is missing"),
        ({"session_token": "canary"}, "a session token belongs to an access key"),
        (
            {"access_key_id": "a", "secret_access_key": "canary", "credentials_block": "b"},
            "an access key or a credentials block",
        ),
        ({"access_key_id": "a", "secret_access_key": "canary", "profile": "p"}, "an access key or a profile"),
        ({"profile": "p", "anonymous": True}, "a profile or anonymous access, not both"),
        ({"region": "eu west"}, "a region is a name"),
        ({"endpoint_url": "https://canary:canary@host"}, "a user name or password in it"),
        ({"endpoint_url": "https://host/bucket"}, "the bucket is part of the path"),
        ({"endpoint_url": "http://169.254.169.254"}, "credentials"),
        ({"endpoint_url": "http://2852039166"}, "unusual form"),
        ({"endpoint_url": "http://[::ffff:169.254.169.254]"}, "credentials"),
        ({"credentials_block": "gcp-credentials/b"}, "aws-credentials or minio-credentials"),
        ({"credentials_block": "a/b/c"}, "write TYPE/NAME"),
        ({"credentials_block": "a?b"}, "by its name"),
        ({"addressing_style": "other"}, "Input should be"),
        ({"endpoint": "https://host"}, "there is no field 'endpoint'"),
    ],
)
def test_fields_that_make_no_sense_are_refused_without_being_quoted(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        S3StorageProvider(**fields)
    assert message in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("kind", [R2StorageProvider, MinIOStorageProvider])
def test_r2_and_minio_need_credentials_of_their_own(kind: type[StorageProvider]) -> None:
    with pytest.raises(ValidationError, match="it needs an access key"):
        kind.model_validate({"account_id": ACCOUNT} if kind is R2StorageProvider else {"endpoint_url": "http://minio"})


@pytest.mark.parametrize(
    ("fields", "endpoint"),
    [
        ({}, f"https://{ACCOUNT}.r2.cloudflarestorage.com"),
        ({"account_id": f" {ACCOUNT.upper()} "}, f"https://{ACCOUNT}.r2.cloudflarestorage.com"),
        ({"jurisdiction": "eu"}, f"https://{ACCOUNT}.eu.r2.cloudflarestorage.com"),
        ({"jurisdiction": "fedramp"}, f"https://{ACCOUNT}.fedramp.r2.cloudflarestorage.com"),
    ],
)
def test_r2s_endpoint_is_made_of_the_account(fields: dict[str, Any], endpoint: str) -> None:
    given = {"account_id": ACCOUNT, "access_key_id": "a", "secret_access_key": "b"} | fields
    provider = R2StorageProvider.model_validate(given)
    assert provider.location == endpoint
    service = provider.service()
    assert (service.endpoint_url, service.region) == (endpoint, "auto")


@pytest.mark.parametrize("account", ["", "0123", f"{ACCOUNT}0", "https://x.r2.cloudflarestorage.com", f"{ACCOUNT}/x"])
def test_an_account_that_is_none_is_refused(account: str) -> None:
    with pytest.raises(ValidationError, match="32 hexadecimal digits"):
        R2StorageProvider(account_id=account, access_key_id="a", secret_access_key="b")


@pytest.mark.parametrize("path", ["", "/", "/key", "..", "bucket/../key", "b", "buc ket/x", "bucket?x/y", "a..b/c"])
def test_a_path_without_a_proper_bucket_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        S3StorageProvider(anonymous=True).open(path)


def test_a_name_that_leads_to_credentials_is_refused_before_each_use(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = S3StorageProvider(endpoint_url="http://innocent.example", access_key_id="a", secret_access_key="b")
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("169.254.169.254", 0))])
    for use in (provider.verify, provider.reach, lambda: provider.open("bucket/key")):
        with pytest.raises(UsageError, match="credentials"):
            use()
    assert provider.check("bucket")[0].outcome is ProbeOutcome.FAILED


def test_a_connection_gives_boto3s_client_for_all_else(seaweedfs: S3Server) -> None:
    key = f"{scratch(seaweedfs).partition('/')[2]}/tagged"
    client = connection_to(seaweedfs).get_client()
    client.upload_fileobj(io.BytesIO(b"content"), seaweedfs.bucket, key)
    client.put_object_tagging(Bucket=seaweedfs.bucket, Key=key, Tagging={"TagSet": [{"Key": "kind", "Value": "x"}]})
    client.delete_objects(Bucket=seaweedfs.bucket, Delete={"Objects": [{"Key": key}]})
    assert client.meta.endpoint_url == seaweedfs.url


def test_the_form_begins_with_what_the_kind_alone_asks_for() -> None:
    for kind, first in ((S3StorageProvider, "region"), (R2StorageProvider, "account_id")):
        schema = kind.model_json_schema()
        fields = list(schema["properties"])
        assert fields[0] == first
        assert not {"schema_version", "capabilities"} & set(fields), "the program keeps them"
        # The order that the UI goes by.
        assert [field["position"] for field in schema["properties"].values()] == list(range(len(fields)))


# What was saved before


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"schema_version": 2}, "it was saved by a newer version"),
        ({"colour": "blue"}, "there is no field 'colour'"),
        ({"endpoint_url": "http://169.254.169.254"}, "Endpoint: the endpoint is refused"),
        ({"secret_access_key": "canary"}, "an access key has two halves"),
    ],
)
def test_a_document_that_makes_no_sense_is_listed_with_its_problem(
    prefect_api: PrefectServer, document: dict[str, Any], problem: str
) -> None:
    name = f"odd-{uuid.uuid4().hex[:12]}"
    save_document(prefect_api, S3StorageProvider, name, document)
    with pytest.raises(SettingsError) as refused:
        load_connection(name)
    assert problem in refused.value.message
    (listed,) = [one for one in list_connections() if one.name == name]
    assert listed.block is None
    assert problem in listed.problem
    assert "canary" not in refused.value.message + listed.problem


def test_secrets_are_kept_by_prefect_and_never_shown(prefect_api: PrefectServer) -> None:
    name = f"secret-{uuid.uuid4().hex[:12]}"
    provider = S3StorageProvider(access_key_id="a", secret_access_key="canary-1", session_token="canary-2")
    save_connection(provider, name)
    shown = prefect_api.get(f"/block_types/slug/flexai-s3-storage-provider/block_documents/name/{name}")
    assert "canary" not in str(shown)
    loaded = load_connection(name)
    assert isinstance(loaded, S3StorageProvider)
    assert loaded.secret_access_key.get_secret_value() == "canary-1"
    assert loaded.session_token.get_secret_value() == "canary-2"
    for text in (repr(loaded), str(loaded), str(loaded.model_dump()), loaded.model_dump_json()):
        assert "canary" not in text


# What services can do

ABSENT = {
    "seaweedfs": set[str](),
    "juicefs": {"conditional put", "checksum crc32", "checksum crc32c", "checksum sha256", "checksum trailer"},
    "rclone": {
        "conditional put",
        "conditional get",
        "part copy",
        "metadata",
        "checksum crc32",
        "checksum crc32c",
        "checksum sha256",
        "checksum trailer",
    },
}


@pytest.fixture(params=list(ABSENT))
def server(request: pytest.FixtureRequest) -> S3Server:
    """Each of the servers that speak S3."""
    found: S3Server = request.getfixturevalue(request.param)
    return found


def test_a_check_finds_out_what_the_service_lacks_and_leaves_nothing_behind(server: S3Server) -> None:
    path = scratch(server)
    provider = connection_to(server)
    found = provider.check(path)
    assert named(found, ProbeOutcome.ABSENT) == ABSENT[server.name]
    assert named(found, ProbeOutcome.FAILED) == set()
    assert [probe.name for probe in found][:3] == ["reach", "put", "get"]
    place = provider.open(path)
    assert list(place.storage.list(place.prefix)) == []
    assert list(place.storage.list_uploads(place.prefix)) == []


def test_what_a_check_finds_is_saved_and_transfers_go_by_it(prefect_api: PrefectServer, rclone: S3Server) -> None:
    name = f"rclone-{uuid.uuid4().hex[:12]}"
    save_connection(connection_to(rclone), name)
    check_connection(name, scratch(rclone))
    storage = load_connection(name).open(rclone.bucket).storage
    assert isinstance(storage, S3Storage)
    assert storage.capabilities == Capabilities(
        conditional_get=False, part_copy=False, metadata=False, checksums=frozenset({"md5"})
    )


def test_what_is_sent_has_a_checksum_once_a_check_found_that_it_is_kept(
    prefect_api: PrefectServer, seaweedfs: S3Server
) -> None:
    name = f"seaweedfs-{uuid.uuid4().hex[:12]}"
    save_connection(connection_to(seaweedfs), name)

    def checksums() -> set[str]:
        storage = load_connection(name).open(seaweedfs.bucket).storage
        storage.put(f"{name}/object", BytesBody(b"content"))
        return set(storage.head(f"{name}/object").checksums or ())

    assert "crc32c" not in checksums()
    check_connection(name, scratch(seaweedfs))
    assert "crc32c" in checksums()


def test_what_was_not_tried_is_taken_to_be_as_usual() -> None:
    assert capabilities_of({}) == Capabilities()
    assert capabilities_of({"part copy": "not tried", "metadata": "failed", "else": "passed"}) == Capabilities()


def test_wrong_credentials_are_refused_and_called_so(server: S3Server) -> None:
    for wrong in ({"secret_access_key": "canary-secret"}, {"access_key_id": "nobody"}):
        provider = connection_to(server, **wrong)
        found = provider.check(server.bucket)
        assert (found[0].outcome, found[0].denied) == (ProbeOutcome.FAILED, True)
        assert "refused the credentials" in found[0].detail
        assert named(found[1:], ProbeOutcome.NOT_TRIED) == {probe.name for probe in found[1:]}
        with pytest.raises(AccessDeniedError) as refused:
            list(provider.open(server.bucket).storage.list(""))
        assert "canary" not in str(found) + refused.value.message


DENIED_XML = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"


def _is_upload(request: Request) -> bool:
    return "uploads" in request.query or "uploadId" in request.query


DENIED = {
    "s3:PutObject": (
        lambda r: (
            (r.method == "PUT" and "copy-source" not in str(r.headers).lower())
            or (r.method == "POST" and r.query.startswith("uploads"))
        ),
        {"put", "multipart"},
    ),
    "s3:GetObject": (lambda r: r.method == "GET" and "/object" in r.path, {"get", "range", "overwrite"}),
    "s3:ListBucket": (
        lambda r: r.method == "GET" and "list-type" in r.query,
        {"list", "delete", "delete many", "clean up"},
    ),
    "s3:DeleteObject": (
        lambda r: (r.method == "POST" and r.query.startswith("delete")) or (r.method == "DELETE" and not r.query),
        {"delete", "delete many", "clean up"},
    ),
    "s3:AbortMultipartUpload": (lambda r: r.method == "DELETE" and _is_upload(r), {"abort", "clean up"}),
    "s3:ListBucketMultipartUploads": (lambda r: r.method == "GET" and r.query.startswith("uploads"), {"abort"}),
}


@pytest.mark.parametrize("permission", DENIED)
def test_a_missing_permission_is_called_by_its_name(seaweedfs: S3Server, permission: str) -> None:
    strikes, probes = DENIED[permission]
    with faulty(seaweedfs.url) as proxy:
        proxy.add(
            "answer",
            strikes=strikes,
            times=1000,
            status=403,
            headers={"Content-Type": "application/xml"},
            body=DENIED_XML,
        )
        found = connection_to(seaweedfs, proxy.url).check(filled(seaweedfs))
    failed = [probe for probe in found if probe.outcome is ProbeOutcome.FAILED]
    assert {probe.name for probe in failed} >= probes
    for probe in failed:
        assert probe.denied
        assert permission in probe.detail


def filled(server: S3Server) -> str:
    """A prefix of the test's own with an object at it."""
    path = scratch(server)
    connection_to(server).open(path).storage.put(f"{path.partition('/')[2]}/model.bin", BytesBody(b"weights"))
    return path


def test_a_connection_that_may_only_read_is_tried_on_what_is_there(
    prefect_api: PrefectServer, seaweedfs: S3Server
) -> None:
    path = filled(seaweedfs)
    name = f"reader-{uuid.uuid4().hex[:12]}"
    with faulty(seaweedfs.url) as proxy:
        proxy.add("answer", strikes=lambda r: r.method not in {"GET", "HEAD"}, times=1000, status=403, body=DENIED_XML)
        save_connection(connection_to(seaweedfs, proxy.url), name)
        found = check_connection(name, path)
        assert load_connection(name).capabilities["get"] == "passed"
        assert load_connection(name).capabilities["copy"] == "not tried"
    assert named(found, ProbeOutcome.PASSED) == {"reach", "list", "head", "get", "range"}
    missing = {probe.name: probe.detail.partition(" is denied on")[0] for probe in found if probe.denied}
    assert missing == {
        "put": "s3:PutObject",
        "multipart": "s3:PutObject",
        "abort": "s3:AbortMultipartUpload",
        "delete": "s3:DeleteObject",
    }
    assert next(probe.detail for probe in found if probe.name == "get").endswith(
        "7 bytes of " + path.partition("/")[2] + "/model.bin"
    )


def test_a_wrong_checksum_that_is_refused_by_breaking_off_is_refused_all_the_same(seaweedfs: S3Server) -> None:
    with faulty(seaweedfs.url) as proxy:
        proxy.add("reset", strikes=lambda r: r.body.endswith(end_body(0)), times=1000)
        found = outcomes(connection_to(seaweedfs, proxy.url).check(scratch(seaweedfs)))
        assert found["checksum trailer"] == "passed"
        assert "failed" not in found.values()


def test_a_gateway_that_takes_a_trailer_for_content_has_none(seaweedfs: S3Server) -> None:
    def unaware(request: Request) -> Mapping[str, str]:
        headers = {**request.headers, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
        return sign_anew(replace(request, headers=headers), seaweedfs)

    with FaultProxy(seaweedfs.url, sign=unaware) as gateway:
        found = connection_to(seaweedfs, gateway.url).check(scratch(seaweedfs))
    assert named(found, ProbeOutcome.ABSENT) == {"checksum trailer"}
    assert named(found, ProbeOutcome.FAILED) == set()


def test_a_check_survives_passing_failures(seaweedfs: S3Server) -> None:
    with faulty(seaweedfs.url) as proxy:
        for name in ("condition", "checksum", "metadata", "source", "many/1"):
            ending = f"/{name}"
            proxy.add("reset", strikes=lambda r, ending=ending: r.path.endswith(ending))
        found = connection_to(seaweedfs, proxy.url).check(scratch(seaweedfs))
        assert named(found, ProbeOutcome.PASSED) == {probe.name for probe in found}


def test_who_may_not_list_the_buckets_is_reached_all_the_same(seaweedfs: S3Server) -> None:
    with faulty(seaweedfs.url) as proxy:
        proxy.add("answer", strikes=lambda r: r.path == "/", times=1000, status=403, body=DENIED_XML)
        provider = connection_to(seaweedfs, proxy.url)
        assert "s3:ListAllMyBuckets" in provider.reach()
        assert named(provider.check(scratch(seaweedfs)), ProbeOutcome.FAILED) == set()


def test_a_service_that_is_not_there_is_said_so() -> None:
    (port,) = free_ports(1)
    provider = S3StorageProvider(endpoint_url=f"http://127.0.0.1:{port}", anonymous=True)
    found = provider.check("bucket")
    assert (found[0].outcome, found[0].denied) == (ProbeOutcome.FAILED, False)
    assert "cannot be reached" in found[0].detail


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(seaweedfs: S3Server, status: int) -> None:
    with faulty(seaweedfs.url) as other, faulty(seaweedfs.url) as proxy:
        headers = {"Location": f"{other.url}/{seaweedfs.bucket}/stolen", "x-amz-bucket-region": "eu-west-1"}
        proxy.add("answer", times=1000, status=status, headers=headers)
        service = connection_to(seaweedfs, proxy.url).service()
        storage = S3Storage(service, seaweedfs.bucket, policy=RetryPolicy(attempts=1))
        for use in (
            lambda: list(storage.get("x")),
            lambda: storage.head("x"),
            lambda: storage.put("x", BytesBody(b"secret content")),
        ):
            with pytest.raises(CheckpointError):
                use()
        assert other.seen("GET") + other.seen("HEAD") + other.seen("PUT") == []


# Each way to have credentials


def test_r2_and_minio_are_spoken_to_like_s3(seaweedfs: S3Server, juicefs: S3Server) -> None:
    keys: dict[str, Any] = {
        "access_key_id": seaweedfs.access_key_id,
        "secret_access_key": seaweedfs.secret_access_key,
    }
    minio = MinIOStorageProvider(endpoint_url=juicefs.url, **keys)
    assert put_and_read(minio, scratch(juicefs)) == b"content"
    assert named(minio.check(scratch(juicefs)), ProbeOutcome.FAILED) == set()
    r2 = _LocalR2(account_id=ACCOUNT, url=seaweedfs.url, **keys)
    assert put_and_read(r2, scratch(seaweedfs)) == b"content"


class _LocalR2(R2StorageProvider):
    """R2, at another address."""

    _block_type_slug = "flexai-test-r2"
    url: str = ""

    @property
    def endpoint(self) -> str:
        """A server of this machine."""
        return self.url


@pytest.mark.parametrize("kind", [S3StorageProvider, MinIOStorageProvider])
def test_a_bucket_may_be_a_part_of_the_hosts_name(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch, kind: type[StorageProvider]
) -> None:
    look_up = socket.getaddrinfo

    def of_this_machine(host: Any, *rest: Any, **options: Any) -> Any:
        # Not every resolver knows the names below localhost.
        return look_up("127.0.0.1" if str(host).endswith(".localhost") else host, *rest, **options)

    monkeypatch.setattr("socket.getaddrinfo", of_this_machine)
    fields = {
        "endpoint_url": seaweedfs.url.replace("127.0.0.1", "localhost"),
        "access_key_id": seaweedfs.access_key_id,
        "secret_access_key": seaweedfs.secret_access_key,
    }
    sent = []
    for style in ("virtual", "path", "auto"):
        place = kind.model_validate({**fields, "addressing_style": style}).open(scratch(seaweedfs))
        assert isinstance(place.storage, S3Storage)
        place.storage.service.client.meta.events.register(
            "before-send.s3", lambda request, **_: sent.append(request.url)
        )
        place.storage.put(place.prefix + "object", BytesBody(b"content"))
        found = seaweedfs.client().get_object(Bucket=seaweedfs.bucket, Key=place.prefix + "object")
        assert found["Body"].read() == b"content"
    assert [seaweedfs.bucket in urlsplit(url).netloc for url in sent] == [True, False, False]


def test_without_a_key_the_environment_is_searched(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = S3StorageProvider(endpoint_url=seaweedfs.url)
    with pytest.raises(AccessDeniedError, match="no usable credentials"):
        put_and_read(provider, scratch(seaweedfs))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_access_key)
    assert put_and_read(provider, scratch(seaweedfs)) == b"content"


def test_a_profile_is_looked_up_where_the_connection_is_used(seaweedfs: S3Server, tmp_path: Path) -> None:
    provider = S3StorageProvider(endpoint_url=seaweedfs.url, profile="research")
    with pytest.raises(AccessDeniedError, match="research"):
        put_and_read(provider, scratch(seaweedfs))
    (tmp_path / "aws-credentials").write_text(
        f"[research]\naws_access_key_id={seaweedfs.access_key_id}\naws_secret_access_key={seaweedfs.secret_access_key}\n"
    )
    assert put_and_read(provider, scratch(seaweedfs)) == b"content"


@pytest.mark.parametrize(
    "way", ["endpoint_url = {url}", "services = lab\n[services lab]\ns3 =\n  endpoint_url = {url}"]
)
def test_a_profiles_endpoint_is_used_where_the_connection_has_none(
    seaweedfs: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (tmp_path / "aws-config").write_text(
        f"[profile lab]\naws_access_key_id={seaweedfs.access_key_id}\n"
        f"aws_secret_access_key={seaweedfs.secret_access_key}\nregion=eu-north-1\n" + way.format(url=seaweedfs.url)
    )
    provider = S3StorageProvider(profile="lab")
    assert put_and_read(provider, scratch(seaweedfs)) == b"content"
    service = provider.service()
    assert (service.endpoint_url, service.region) == (seaweedfs.url, "eu-north-1")
    assert service.identity == f"s3:{seaweedfs.url}:chain:lab"
    assert S3StorageProvider(profile="lab", endpoint_url="https://s3.example.com").endpoint == "https://s3.example.com"


@pytest.mark.parametrize("url", ["http://169.254.169.254", "https://canary@example.com", "ftp://example.com"])
def test_a_profiles_endpoint_obeys_the_rules_of_a_connections_own(tmp_path: Path, url: str) -> None:
    (tmp_path / "aws-config").write_text(f"[profile lab]\nendpoint_url = {url}\n")
    with pytest.raises(SettingsError, match="endpoint_url of profile 'lab'") as refused:
        S3StorageProvider(profile="lab").open("bucket/key")
    assert "canary" not in refused.value.message


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_sdks_variables_do_not_lead_a_connection_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://169.254.169.254")
    (tmp_path / "aws-config").write_text("[default]\nendpoint_url = http://169.254.169.254\n")
    provider = S3StorageProvider(region="eu-west-1", access_key_id="a", secret_access_key="b")
    service = provider.service()
    assert service.identity == "s3:AWS:key:a"
    assert service.client.meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"


def test_anonymous_requests_are_not_signed(seaweedfs: S3Server) -> None:
    with faulty(seaweedfs.url) as proxy:
        provider = S3StorageProvider(endpoint_url=proxy.url, anonymous=True)
        with pytest.raises(AccessDeniedError, match="s3:PutObject is denied"):
            put_and_read(provider, scratch(seaweedfs))
        assert [one for one in proxy.seen("PUT") if "authorization" in {name.lower() for name in one.headers}] == []


def test_a_server_with_a_certificate_of_its_own_is_trusted_when_told_so(seaweedfs: S3Server, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with faulty(seaweedfs.url, context=authority.server_context("127.0.0.1")) as proxy:
        path = scratch(seaweedfs)
        assert "no certificate that this machine trusts" in connection_to(seaweedfs, proxy.url).check(path)[0].detail
        assert put_and_read(connection_to(seaweedfs, proxy.url, ca_bundle=str(authority.bundle)), path) == b"content"
    with pytest.raises(SettingsError, match="not on this machine"):
        connection_to(seaweedfs, ca_bundle=str(tmp_path / "gone.pem")).open(path)


def test_two_connections_to_the_same_buckets_copy_without_this_machine(seaweedfs: S3Server) -> None:
    one, other = connection_to(seaweedfs), connection_to(seaweedfs)
    source, target = one.open(scratch(seaweedfs)), other.open(seaweedfs.other_bucket)
    source.storage.put(source.prefix + "object", BytesBody(b"content"))
    key = uuid.uuid4().hex
    assert target.storage.service_identity == source.storage.service_identity != ""
    target.storage.copy(source.storage, source.prefix + "object", key)
    assert b"".join(bytes(block) for block in target.storage.get(key)) == b"content"


def test_a_connection_can_be_sent_to_another_process(seaweedfs: S3Server) -> None:
    import cloudpickle  # type: ignore[import-untyped]

    provider = connection_to(seaweedfs)
    provider.open(seaweedfs.bucket)
    copy = cloudpickle.loads(cloudpickle.dumps(provider))
    assert put_and_read(copy, scratch(seaweedfs)) == b"content"
