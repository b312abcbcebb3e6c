"""Credentials that lie in blocks of other collections, or expire while they are used."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from flexai.blocks import (
    GCSStorageProvider,
    HuggingFaceStorageProvider,
    MinIOStorageProvider,
    R2StorageProvider,
    S3StorageProvider,
)
from flexai.checkpoints.errors import (
    AccessDeniedError,
    ConflictError,
    NotFoundError,
    SettingsError,
    StorageUnavailableError,
)
from flexai.checkpoints.storage.protocol import BytesBody
from flexai.checkpoints.storage.s3.client import new_session
from flexai.connections.credentials import (
    AWS,
    GCP,
    MINIO,
    SECRET,
    SavedAWSCredentials,
    SavedCredentials,
    check_reference,
    parse_service_account,
    read_service_account,
    saved_google_credentials,
    saved_token,
)
from flexai.prefect_client import read_blocks
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.hub import serve_hub
from tests.servers.keeper import free_ports
from tests.servers.proxy import faulty
from tests.servers.tokens import TokenServer, serve_tokens, service_account_key

from .saved import (
    AssumeRoleParameters,
    AwsCredentials,
    ClientParameters,
    GcpCredentials,
    MinIOCredentials,
    Secret,
    save,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api")]


@pytest.fixture(autouse=True)
def no_credentials_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any credentials of its own."""
    import os

    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenServer]:
    """Who gives temporary credentials."""
    with serve_tokens() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        yield server


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def aws(name: str, **options: Any) -> SavedAWSCredentials:
    return SavedAWSCredentials(SavedCredentials(name, (AWS, MINIO), read_blocks, **options))


def keys_of(server: S3Server) -> AwsCredentials:
    return AwsCredentials(
        aws_access_key_id=server.access_key_id, aws_secret_access_key=SecretStr(server.secret_access_key)
    )


# Which block is meant


@pytest.mark.parametrize("text", ["prod", " prod ", "aws-credentials/prod", "minio-credentials/prod"])
def test_a_block_is_named_alone_or_with_its_type(text: str) -> None:
    assert check_reference(text, (AWS, MINIO)) == text.strip()


@pytest.mark.parametrize(
    "text", ["", "/", "aws-credentials/", "gcp-credentials/prod", "a/b/c", "../prod", "a?b", "a%2fb"]
)
def test_anything_else_is_no_blocks_name(text: str) -> None:
    with pytest.raises(ValueError, match="credentials block"):
        check_reference(text, (AWS, MINIO))


def test_a_block_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(NotFoundError, match="there is no credentials block 'nobodys'"):
        SavedCredentials("nobodys", (AWS, MINIO), read_blocks).read()


def test_a_name_that_two_blocks_have_needs_its_type() -> None:
    name = save(AwsCredentials(aws_access_key_id="a", aws_secret_access_key=SecretStr("b")))
    save(MinIOCredentials(minio_root_user="c", minio_root_password=SecretStr("d")), name)
    with pytest.raises(ConflictError) as refused:
        aws(name)()
    assert refused.value.hint == f"write aws-credentials/{name} or minio-credentials/{name}"
    assert aws(f"aws-credentials/{name}")().access_key_id == "a"
    assert aws(f"minio-credentials/{name}")().access_key_id == "c"


# What each kind gives, to real servers


def put_and_read(provider: Any, bucket: str) -> bytes:
    place = provider.open(f"{bucket}/{uuid.uuid4().hex}")
    place.storage.put(place.prefix + "object", BytesBody(b"content"))
    return b"".join(bytes(block) for block in place.storage.get(place.prefix + "object"))


def test_an_aws_block_gives_keys_to_s3_minio_and_r2(seaweedfs: S3Server) -> None:
    name = save(keys_of(seaweedfs))
    for provider in (
        S3StorageProvider(endpoint_url=seaweedfs.url, credentials_block=name),
        MinIOStorageProvider(endpoint_url=seaweedfs.url, credentials_block=f"aws-credentials/{name}"),
    ):
        assert put_and_read(provider, seaweedfs.bucket) == b"content"
    r2 = R2StorageProvider(account_id="0" * 32, credentials_block=name).service()
    assert r2.identity == f"s3:https://{'0' * 32}.r2.cloudflarestorage.com:function:block:{name}"


def test_a_minio_block_gives_keys(juicefs: S3Server) -> None:
    block = MinIOCredentials(
        minio_root_user=juicefs.access_key_id, minio_root_password=SecretStr(juicefs.secret_access_key)
    )
    provider = MinIOStorageProvider(endpoint_url=juicefs.url, credentials_block=save(block))
    assert put_and_read(provider, juicefs.bucket) == b"content"


def test_a_blocks_region_stands_in_for_a_missing_one() -> None:
    block = AwsCredentials(aws_access_key_id="a", aws_secret_access_key=SecretStr("b"), region_name="eu-north-1")
    name = save(block)
    assert S3StorageProvider(credentials_block=name).service().region == "eu-north-1"
    assert S3StorageProvider(credentials_block=name, region="eu-west-1").service().region == "eu-west-1"


def test_keys_for_another_endpoint_are_not_sent_to_aws() -> None:
    block = AwsCredentials(
        aws_access_key_id="a",
        aws_secret_access_key=SecretStr("b"),
        aws_client_parameters=ClientParameters(endpoint_url="https://s3.example.com"),
    )
    name = save(block)
    with pytest.raises(SettingsError, match="an endpoint of its own"):
        S3StorageProvider(credentials_block=name).open("bucket/key")
    S3StorageProvider(credentials_block=name, endpoint_url="http://127.0.0.1:9").open("bucket/key")


def test_a_blocks_profile_is_looked_up(tmp_path: Path) -> None:
    name = save(AwsCredentials(profile_name="research"))
    with pytest.raises(AccessDeniedError, match="research"):
        aws(name)()
    (tmp_path / "aws-credentials").write_text("[research]\naws_access_key_id=a\naws_secret_access_key=b\n")
    assert aws(name)().access_key_id == "a"


def test_a_block_without_keys_means_those_that_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    name = save(AwsCredentials())
    with pytest.raises(AccessDeniedError, match="names no keys"):
        aws(name)()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "found")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    assert aws(name)().access_key_id == "found"


def test_half_a_key_is_refused_by_what_is_missing() -> None:
    with pytest.raises(SettingsError, match="lacks aws_secret_access_key"):
        aws(save(AwsCredentials(aws_access_key_id="a")))()


def test_a_role_is_assumed_and_assumed_again_before_it_expires(tokens: TokenServer) -> None:
    block = AwsCredentials(
        aws_access_key_id="a",
        aws_secret_access_key=SecretStr("b"),
        region_name="eu-west-1",
        assume_role_arn="arn:aws:iam::123456789012:role/trainer",
        assume_role_kwargs=AssumeRoleParameters(ExternalId="lab", DurationSeconds=900),
    )
    credentials = aws(save(block))
    tokens.lifetime = 3600
    assert [credentials().session_token for _ in range(3)] == ["canary-role-token-1"] * 3
    assert tokens.asked[0]["RoleArn"] == "arn:aws:iam::123456789012:role/trainer"
    assert (tokens.asked[0]["ExternalId"], tokens.asked[0]["DurationSeconds"]) == ("lab", "900")
    tokens.lifetime = 2
    again = aws(credentials.saved.reference)
    assert len({again().session_token for _ in range(3)}) == 3


def test_a_role_that_is_refused_is_called_by_its_name(tokens: TokenServer) -> None:
    tokens.refuses = True
    block = AwsCredentials(
        aws_access_key_id="a",
        aws_secret_access_key=SecretStr("canary"),
        region_name="eu-west-1",
        assume_role_arn="arn:aws:iam::1:role/other",
    )
    with pytest.raises(AccessDeniedError, match=r"role arn:aws:iam::1:role/other .* is refused \(AccessDenied\)"):
        aws(save(block))()


def role(**fields: Any) -> AwsCredentials:
    """A block that names a role."""
    given = {"aws_access_key_id": "a", "aws_secret_access_key": SecretStr("canary"), "region_name": "eu-west-1"}
    return AwsCredentials(assume_role_arn="arn:aws:iam::1:role/trainer", **(given | fields))


def test_who_gives_a_roles_keys_may_be_away_for_a_while(
    monkeypatch: pytest.MonkeyPatch, tokens: TokenServer, seaweedfs: S3Server
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{port}")
    with pytest.raises(StorageUnavailableError, match="AWS STS cannot be reached"):
        aws(save(role()))()
    with faulty(tokens.url) as proxy, faulty(seaweedfs.url) as store:
        store.add("answer", times=9, status=200, headers={"ETag": '"0"'})
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", proxy.url)
        proxy.add("answer", status=503)
        place = S3StorageProvider(endpoint_url=store.url, credentials_block=save(role())).open("bucket")
        assert place.storage.put("object", BytesBody(b"content")).size == 7
        assert [request.headers["x-amz-security-token"] for request in store.requests] == ["canary-role-token-1"]


def test_a_role_without_a_region_is_a_block_that_lacks_something(tokens: TokenServer) -> None:
    with pytest.raises(SettingsError, match="names a role and no region"):
        aws(save(role(region_name=None)))()


@pytest.mark.parametrize("has_own", [True, False])
def test_the_stores_variable_does_not_say_who_gives_a_roles_keys(
    monkeypatch: pytest.MonkeyPatch, tokens: TokenServer, has_own: bool
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", tokens.url)
    if not has_own:
        monkeypatch.delenv("AWS_ENDPOINT_URL_STS")
    client = new_session().create_client("sts", region_name="eu-west-1")
    assert client.meta.endpoint_url == (tokens.url if has_own else "https://sts.eu-west-1.amazonaws.com")
    client = new_session(is_ambient=True).create_client("sts", region_name="eu-west-1")
    assert client.meta.endpoint_url == tokens.url


def test_a_secret_block_gives_the_hubs_token() -> None:
    name = save(Secret(value=SecretStr("hf_Canary")))
    with serve_hub() as hub:
        hub.readers = {"hf_Canary": {"org/private"}}
        hub.add("org/private", {"config.json": b"{}"}, is_private=True)
        provider = HuggingFaceStorageProvider(endpoint_url=hub.endpoint, credentials_block=name)
        place = provider.open("org/private")
        assert [info.key for info in place.storage.list("")] == ["config.json"]


def test_a_secret_block_without_a_text_is_refused() -> None:
    name = save(Secret(value=SecretStr(" ")))
    with pytest.raises(SettingsError, match="holds no text"):
        saved_token(SavedCredentials(name, (SECRET,), read_blocks))()


def test_a_gcp_block_gives_tokens_that_are_renewed(tokens: TokenServer, fake_gcs: GCSServer) -> None:
    tokens.lifetime = 2
    block = GcpCredentials(service_account_info=service_account_key(tokens.token_uri), project="lab")
    with faulty(fake_gcs.url) as proxy:
        provider = GCSStorageProvider(endpoint_url=proxy.url, credentials_block=save(block))
        storage = provider.open(fake_gcs.bucket).storage
        for _ in range(3):
            storage.put("tokens/object", BytesBody(b"content"))
        sent = [value for one in proxy.seen("POST") for name, value in one.headers.items() if name == "authorization"]
    # Each was used for one request alone, since it had two seconds left.
    assert sent == [f"Bearer canary-token-{number}" for number in (1, 2, 3)]


def test_a_gcp_block_may_name_a_file_of_this_machine(tokens: TokenServer, tmp_path: Path) -> None:

    file = tmp_path / "key.json"
    name = save(GcpCredentials(service_account_file=file))
    with pytest.raises(SettingsError, match="is not here"):
        read_service_account(SavedCredentials(name, (GCP,), read_blocks))
    os.mkfifo(file)
    with pytest.raises(SettingsError, match="is not here"):
        read_service_account(SavedCredentials(name, (GCP,), read_blocks))
    file.unlink()
    file.write_text(json.dumps(service_account_key(tokens.token_uri)))
    info, _ = read_service_account(SavedCredentials(name, (GCP,), read_blocks))
    assert info is not None
    assert info["client_email"].startswith("lab@")


def test_a_gcp_block_with_a_damaged_private_key_is_a_block_that_cannot_be_used(fake_gcs: GCSServer) -> None:
    damaged = "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n"
    key = service_account_key("https://oauth2.googleapis.com/token", private_key=damaged)
    name = save(GcpCredentials(service_account_info=key))
    storage = GCSStorageProvider(endpoint_url=fake_gcs.url, credentials_block=name).open(fake_gcs.bucket).storage
    with pytest.raises(SettingsError, match=f"the private key in credentials block '{name}' is damaged") as refused:
        storage.put("object", BytesBody(b"content"))
    assert "canary" not in refused.value.message


def test_a_gcp_block_without_a_key_means_what_is_found() -> None:
    name = save(GcpCredentials(project="lab"))
    assert read_service_account(SavedCredentials(name, (GCP,), read_blocks)) == (None, "lab")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "external_account"}, "type service_account"),
        ({"type": "authorized_user"}, "type service_account"),
        ({"private_key": ""}, "lacks private_key"),
        ({"client_email": 1}, "lacks client_email"),
        ({"token_uri": "http://169.254.169.254/token"}, "credentials"),
        ({"token_uri": "file:///etc/passwd"}, "token_uri"),
    ],
)
def test_a_key_that_is_no_service_accounts_is_refused(change: dict[str, Any], message: str) -> None:

    key = service_account_key("https://oauth2.googleapis.com/token") | change
    with pytest.raises(ValueError, match=message) as refused:
        parse_service_account(json.dumps(key))
    assert "PRIVATE KEY" not in str(refused.value)
    name = save(GcpCredentials(service_account_info=key))
    with pytest.raises(SettingsError, match=message):
        read_service_account(SavedCredentials(name, (GCP,), read_blocks))


@pytest.mark.parametrize("text", ["", "canary", "[]", '"canary"', "{}", "1"])
def test_what_is_no_json_object_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="no service account's key") as refused:
        parse_service_account(text)
    assert "canary" not in str(refused.value)


# Credentials that change while they are used


def test_keys_that_are_replaced_in_the_block_are_used_a_minute_later() -> None:
    name = save(AwsCredentials(aws_access_key_id="first", aws_secret_access_key=SecretStr("b")))
    clock = Clock()
    credentials = aws(name, clock=clock)
    assert credentials().access_key_id == "first"
    save(AwsCredentials(aws_access_key_id="second", aws_secret_access_key=SecretStr("b")), name)
    clock.now += 59
    assert credentials().access_key_id == "first"
    clock.now += 2
    assert credentials().access_key_id == "second"


def test_an_open_store_goes_on_with_the_keys_of_the_moment(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexai.connections.credentials.SavedCredentials._is_fresh", lambda self: False)
    name = save(AwsCredentials(aws_access_key_id="expired", aws_secret_access_key=SecretStr("expired")))
    storage = S3StorageProvider(endpoint_url=seaweedfs.url, credentials_block=name).open(seaweedfs.bucket).storage
    with pytest.raises(AccessDeniedError):
        storage.put("keys/object", BytesBody(b"content"))
    save(keys_of(seaweedfs), name)
    assert storage.put("keys/object", BytesBody(b"content")).size == 7


def test_a_session_token_that_is_refused_is_looked_up_in_the_block_at_once(seaweedfs: S3Server) -> None:
    def block(token: str) -> AwsCredentials:
        return AwsCredentials(aws_access_key_id="a", aws_secret_access_key=SecretStr("b"), aws_session_token=token)

    name = save(block("old"))
    body = BytesBody(b"content")
    with faulty(seaweedfs.url) as proxy:
        storage = S3StorageProvider(endpoint_url=proxy.url, credentials_block=name).open("bucket").storage
        proxy.add("answer", status=200, headers={"ETag": '"0"'})
        storage.put("object", body)
        save(block("new"), name)
        expired = b"<Error><Code>ExpiredToken</Code></Error>"
        proxy.add("answer", status=400, body=expired, strikes=lambda r: r.headers["x-amz-security-token"] == "old")
        proxy.add("answer", status=200, headers={"ETag": '"0"'})
        storage.put("object", body)
        assert [request.headers["x-amz-security-token"] for request in proxy.requests] == ["old", "old", "new"]


def test_a_role_is_assumed_again_once_its_token_is_refused(tokens: TokenServer) -> None:
    credentials = aws(save(role()))
    assert [credentials().session_token for _ in range(2)] == ["canary-role-token-1"] * 2
    credentials.forget()
    assert credentials().session_token == "canary-role-token-2"


def test_a_prefect_api_that_is_away_for_a_while_does_not_stop_a_transfer() -> None:
    clock = Clock()
    credentials = aws(save(AwsCredentials(aws_access_key_id="a", aws_secret_access_key=SecretStr("b"))), clock=clock)
    assert credentials().access_key_id == "a"
    clock.now += 100
    (port,) = free_ports(1)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        assert credentials().access_key_id == "a"
        with pytest.raises(StorageUnavailableError):
            aws(credentials.saved.reference)()


def test_a_block_is_read_by_one_thread_while_the_others_go_on() -> None:
    name = save(AwsCredentials(aws_access_key_id="a", aws_secret_access_key=SecretStr("b")))
    clock = Clock()
    reading, go_on = threading.Event(), threading.Event()
    reads = []

    class Slow(SavedCredentials):
        def _read(self) -> Any:
            reads.append(threading.get_ident())
            if len(reads) > 1:
                reading.set()
                assert go_on.wait(60)
            return super()._read()

    saved = Slow(name, (AWS,), read_blocks, clock=clock)
    saved.read()
    clock.now += 100
    with ThreadPoolExecutor(4) as threads:
        slow = threads.submit(saved.read)
        assert reading.wait(60)
        others = [threads.submit(saved.read).result(timeout=60) for _ in range(8)]
        go_on.set()
        assert slow.result(timeout=60) == others[0]
    assert len(reads) == 2


def test_google_credentials_look_at_the_block_for_each_new_token(tokens: TokenServer) -> None:
    from google.auth.transport.requests import Request

    clock = Clock()
    name = save(GcpCredentials(service_account_info=service_account_key(tokens.token_uri)))
    credentials = saved_google_credentials(SavedCredentials(name, (GCP,), read_blocks, clock=clock))
    request: Any = Request
    credentials.refresh(request())
    assert credentials.token == "canary-token-1"
    with serve_tokens() as others:
        save(GcpCredentials(service_account_info=service_account_key(others.token_uri)), name)
        clock.now += 100
        credentials.refresh(request())
        assert (len(tokens.asked), len(others.asked)) == (1, 1)
