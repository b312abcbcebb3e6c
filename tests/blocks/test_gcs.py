"""Connections to Google Cloud Storage, against fake-gcs-server and a stand-in for Google's token endpoint."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flexai.blocks import GCSStorageProvider, Probe, ProbeOutcome, check_connection, load_connection, save_connection
from flexai.checkpoints.errors import AccessDeniedError, CheckpointError, UsageError
from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.protocol import BytesBody
from flexai.checkpoints.storage.retry import RetryPolicy
from tests.servers.fixtures import GCSServer
from tests.servers.keeper import free_ports
from tests.servers.prefect import PrefectServer
from tests.servers.proxy import faulty
from tests.servers.tokens import TokenServer, serve_tokens, service_account_key

from .saved import GcpCredentials, save


@pytest.fixture(autouse=True)
def no_credentials_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any credentials of Google's."""
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "CLOUDSDK_", "GCE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    # In a thread of its own the SDK would ask Google where the account may be used.
    monkeypatch.setattr(
        "google.auth.credentials.CredentialsWithRegionalAccessBoundary._maybe_start_regional_access_boundary_refresh",
        lambda *_: None,
    )


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    """Google's token endpoint."""
    with serve_tokens() as server:
        yield server


def scratch(server: GCSServer) -> str:
    return f"{server.bucket}/{uuid.uuid4().hex}"


def named(found: list[Probe], outcome: ProbeOutcome) -> set[str]:
    return {probe.name for probe in found if probe.outcome is outcome}


def put_and_read(provider: GCSStorageProvider, path: str) -> bytes:
    place = provider.open(path)
    place.storage.put(place.prefix + "object", BytesBody(b"content"))
    return b"".join(bytes(block) for block in place.storage.get(place.prefix + "object"))


KEY = service_account_key("https://oauth2.googleapis.com/token")


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ({}, "GCS"),
        ({"project": "my-project"}, "GCS, project my-project"),
        ({"endpoint_url": "HTTP://Emulator:4443/"}, "http://emulator:4443"),
    ],
)
def test_its_location_is_the_endpoint_or_the_project(fields: dict[str, Any], location: str) -> None:
    assert GCSStorageProvider(**fields).location == location


def test_a_key_may_be_given_as_a_document_or_as_text() -> None:
    as_text = GCSStorageProvider.model_validate({"service_account_info": json.dumps(KEY)})
    as_document = GCSStorageProvider.model_validate({"service_account_info": KEY})
    assert as_text.service_account_info == as_document.service_account_info


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"project": "My Project"}, "a project is given by its ID"),
        ({"service_account_info": "canary"}, "it is not even JSON"),
        ({"service_account_info": '{"canary": 1}'}, "type service_account"),
        ({"service_account_info": KEY | {"token_uri": "http://metadata/"}}, ""),
        ({"service_account_info": KEY | {"token_uri": "http://169.254.169.254/canary"}}, "token_uri"),
        ({"service_account_info": KEY, "anonymous": True}, "a service account's key or anonymous access, not both"),
        ({"credentials_block": "b", "anonymous": True}, "a credentials block or anonymous access"),
        ({"credentials_block": "aws-credentials/b"}, "of type gcp-credentials"),
        ({"endpoint_url": "https://storage.googleapis.com/canary"}, "the bucket is part of the path"),
        ({"endpoint_url": "http://[fe80::1]"}, "credentials"),
        ({"service_acount": "canary"}, "there is no field"),
    ],
)
def test_fields_that_make_no_sense_are_refused_without_being_quoted(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((ValidationError, UsageError)) as refused:
        GCSStorageProvider.model_validate(fields).verify()
    assert message in str(refused.value)
    assert "canary" not in str(refused.value)
    assert "PRIVATE KEY" not in str(refused.value)


@pytest.mark.parametrize("path", ["", "/", "b", "buc ket/x", "a..b/c", "bucket/../key"])
def test_a_path_without_a_proper_bucket_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        GCSStorageProvider(anonymous=True).open(path)


def test_a_connection_gives_googles_client_for_all_else(fake_gcs: GCSServer) -> None:
    client = GCSStorageProvider(endpoint_url=fake_gcs.url, anonymous=True, project="my-project").get_client()
    blob = client.bucket(fake_gcs.bucket).blob(f"{scratch(fake_gcs).partition('/')[2]}/mine")
    blob.upload_from_string(b"content")
    assert (client.project, blob.download_as_bytes()) == ("my-project", b"content")


def test_no_client_is_made_where_there_are_no_credentials() -> None:
    with pytest.raises(AccessDeniedError):
        GCSStorageProvider(project="my-project").get_client()


def test_a_check_tries_everything_and_leaves_nothing_behind(fake_gcs: GCSServer) -> None:
    path = scratch(fake_gcs)
    provider = GCSStorageProvider(endpoint_url=fake_gcs.url, anonymous=True, project="lab-project")
    found = provider.check(path)
    # The emulator takes no notice of the condition.
    assert named(found, ProbeOutcome.ABSENT) == {"conditional put", "part copy", "delete many"}
    assert named(found, ProbeOutcome.FAILED) == named(found, ProbeOutcome.NOT_TRIED) == set()
    assert {probe.name: probe.detail for probe in found}["checksums"] == "crc32c and md5 of an object are kept"
    assert found[0].detail.endswith("in project lab-project")
    place = provider.open(path)
    assert list(place.storage.list(place.prefix)) == []


def test_a_condition_that_is_honoured_is_found_out(fake_gcs: GCSServer) -> None:
    with faulty(fake_gcs.url) as proxy:
        proxy.add("answer", strikes=lambda r: "ifGenerationMatch=0" in r.query, status=412)
        found = GCSStorageProvider(endpoint_url=proxy.url, anonymous=True).check(scratch(fake_gcs))
    assert {probe.name: probe.outcome for probe in found}["conditional put"] is ProbeOutcome.PASSED


DENIED_JSON = b'{"error": {"code": 403, "message": "lab@ does not have access", "errors": [{"reason": "forbidden"}]}}'
DENIED = {
    "storage.objects.create": (lambda r: r.method == "POST" and r.path.startswith("/upload/"), {"put", "multipart"}),
    "storage.objects.get": (lambda r: r.method == "GET" and "/o/" in r.path, {"get", "range", "head"}),
    "storage.objects.list": (lambda r: r.method == "GET" and r.path.endswith("/o"), {"list", "clean up"}),
    "storage.objects.delete": (lambda r: r.method == "DELETE", {"delete", "clean up"}),
}


@pytest.mark.parametrize("permission", DENIED)
def test_a_missing_permission_is_called_by_its_name(fake_gcs: GCSServer, permission: str) -> None:
    strikes, probes = DENIED[permission]
    with faulty(fake_gcs.url) as proxy:
        proxy.add("answer", strikes=strikes, times=1000, status=403, body=DENIED_JSON)
        path = scratch(fake_gcs)
        put_and_read(GCSStorageProvider(endpoint_url=fake_gcs.url, anonymous=True), path)
        found = GCSStorageProvider(endpoint_url=proxy.url, anonymous=True, project="lab-project").check(path)
    failed = [probe for probe in found if probe.outcome is ProbeOutcome.FAILED]
    assert {probe.name for probe in failed} >= probes
    for probe in failed:
        assert probe.denied
        assert permission in probe.detail


def test_a_connection_that_may_only_read_is_tried_on_what_is_there(fake_gcs: GCSServer) -> None:
    path = scratch(fake_gcs)
    put_and_read(GCSStorageProvider(endpoint_url=fake_gcs.url, anonymous=True), path)
    with faulty(fake_gcs.url) as proxy:
        proxy.add("answer", strikes=lambda r: r.method != "GET", times=1000, status=403, body=DENIED_JSON)
        found = GCSStorageProvider(endpoint_url=proxy.url, anonymous=True, project="lab-project").check(path)
    assert named(found, ProbeOutcome.PASSED) == {"reach", "list", "head", "get", "range", "abort"}
    missing = {probe.name: probe.detail.partition(" is denied on")[0] for probe in found if probe.denied}
    assert missing == {
        "put": "storage.objects.create",
        "multipart": "storage.objects.create",
        "delete": "storage.objects.delete",
    }


def test_the_project_is_that_of_the_credentials_block_or_said_to_be_missing(
    prefect_api: PrefectServer, fake_gcs: GCSServer, tokens: TokenServer
) -> None:
    key = service_account_key(tokens.token_uri)
    named_by_both = save(GcpCredentials(service_account_info=key, project="of-the-block"))
    named_by_key = save(GcpCredentials(service_account_info=key))
    for name, project in ((named_by_both, "of-the-block"), (named_by_key, "lab-project")):
        provider = GCSStorageProvider(endpoint_url=fake_gcs.url, credentials_block=name)
        assert provider.reach().endswith(f" in project {project}")
    with faulty(fake_gcs.url) as proxy:
        proxy.add("answer", status=400, body=b'{"error": {"code": 400, "message": "Required parameter: project"}}')
        reached = GCSStorageProvider(endpoint_url=proxy.url, anonymous=True).reach()
    assert reached.endswith("its buckets are not listed, because no project is given")


def test_who_may_not_list_the_buckets_is_reached_all_the_same(fake_gcs: GCSServer) -> None:
    with faulty(fake_gcs.url) as proxy:
        proxy.add("answer", strikes=lambda r: r.path == "/storage/v1/b", times=10, status=403, body=DENIED_JSON)
        provider = GCSStorageProvider(endpoint_url=proxy.url, anonymous=True, project="lab-project")
        assert "storage.buckets.list" in provider.reach()
        assert named(provider.check(scratch(fake_gcs)), ProbeOutcome.FAILED) == set()


def test_a_server_that_is_something_else_is_said_to_be_none(fake_gcs: GCSServer) -> None:
    with faulty(fake_gcs.url) as proxy:
        proxy.add("answer", times=10, status=200, body=b"<html>Welcome</html>")
        found = GCSStorageProvider(endpoint_url=proxy.url, anonymous=True).check()
    assert found[0].detail.endswith("answers, but not like GCS (200)")


def test_a_server_that_is_not_there_is_said_so() -> None:
    (port,) = free_ports(1)
    found = GCSStorageProvider(endpoint_url=f"http://127.0.0.1:{port}", anonymous=True).check("bucket")
    assert (found[0].outcome, found[0].denied) == (ProbeOutcome.FAILED, False)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(fake_gcs: GCSServer, tokens: TokenServer, status: int) -> None:
    key = service_account_key(tokens.token_uri)
    with faulty(fake_gcs.url) as other, faulty(fake_gcs.url) as proxy:
        proxy.add("answer", times=1000, status=status, headers={"Location": f"{other.url}/stolen"})
        provider = GCSStorageProvider.model_validate({"endpoint_url": proxy.url, "service_account_info": key})
        storage = GCSStorage(provider.service(), fake_gcs.bucket, policy=RetryPolicy(attempts=1))
        for use in (
            lambda: list(storage.get("x")),
            lambda: storage.head("x"),
            lambda: storage.put("x", BytesBody(b"secret content")),
            provider.reach,
        ):
            with pytest.raises(CheckpointError):
                use()
        assert [one for verb in ("GET", "POST", "PUT", "HEAD") for one in other.seen(verb)] == []


def test_a_service_accounts_key_gets_a_token_and_another_when_it_expires(
    fake_gcs: GCSServer, tokens: TokenServer
) -> None:
    tokens.lifetime = 2
    key = service_account_key(tokens.token_uri)
    with faulty(fake_gcs.url) as proxy:
        provider = GCSStorageProvider.model_validate({"endpoint_url": proxy.url, "service_account_info": key})
        assert put_and_read(provider, scratch(fake_gcs)) == b"content"
        sent = [value for one in proxy.requests for name, value in one.headers.items() if name == "authorization"]
    assert len(tokens.asked) == len(set(sent)) > 1


def test_a_key_that_google_refuses_is_refused(fake_gcs: GCSServer, tokens: TokenServer) -> None:
    tokens.refuses = True
    key = service_account_key(tokens.token_uri)
    provider = GCSStorageProvider.model_validate({"endpoint_url": fake_gcs.url, "service_account_info": key})
    found = provider.check(fake_gcs.bucket)
    assert (found[0].outcome, found[0].denied) == (ProbeOutcome.FAILED, True)
    with pytest.raises(AccessDeniedError, match="no usable credentials"):
        put_and_read(provider, scratch(fake_gcs))


def test_a_key_that_is_damaged_is_refused(fake_gcs: GCSServer, tokens: TokenServer) -> None:
    key = service_account_key(
        tokens.token_uri, private_key="-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n"
    )
    provider = GCSStorageProvider.model_validate({"endpoint_url": fake_gcs.url, "service_account_info": key})
    with pytest.raises(AccessDeniedError, match="no usable credentials") as refused:
        put_and_read(provider, scratch(fake_gcs))
    assert "canary" not in refused.value.message


def test_without_a_key_the_machine_is_searched(
    fake_gcs: GCSServer, tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = GCSStorageProvider(endpoint_url=fake_gcs.url)
    with pytest.raises(AccessDeniedError, match="no usable credentials"):
        put_and_read(provider, scratch(fake_gcs))
    (tmp_path / "key.json").write_text(json.dumps(service_account_key(tokens.token_uri)))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    assert put_and_read(provider, scratch(fake_gcs)) == b"content"
    assert len(tokens.asked) == 1


def test_a_saved_connection_keeps_its_key_from_everybody(
    prefect_api: PrefectServer, fake_gcs: GCSServer, tokens: TokenServer
) -> None:
    name = f"gcs-{uuid.uuid4().hex[:12]}"
    key = service_account_key(tokens.token_uri)
    provider = GCSStorageProvider.model_validate({"endpoint_url": fake_gcs.url, "service_account_info": key})
    save_connection(provider, name)
    check_connection(name, scratch(fake_gcs))
    loaded = load_connection(name)
    assert isinstance(loaded, GCSStorageProvider)
    assert loaded.capabilities["put"] == "passed"
    assert put_and_read(loaded, scratch(fake_gcs)) == b"content"
    shown = prefect_api.get(f"/block_types/slug/flexai-gcs-storage-provider/block_documents/name/{name}")
    for text in (str(shown), repr(loaded), str(loaded.model_dump()), loaded.model_dump_json()):
        assert "PRIVATE KEY" not in text
