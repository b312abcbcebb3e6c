"""A canary in every field that holds a secret must not be seen anywhere, whatever goes wrong, with all logs on."""

from __future__ import annotations

import logging
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import SecretStr

from flexai.blocks import (
    GCSStorageProvider,
    HuggingFaceStorageProvider,
    MinIOStorageProvider,
    R2StorageProvider,
    S3StorageProvider,
    StorageProvider,
    list_connections,
    save_connection,
)
from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.storage.protocol import BytesBody
from flexai.checkpoints.storage.retry import RetryPolicy
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.hub import Hub, serve_hub
from tests.servers.prefect import PrefectServer
from tests.servers.proxy import FaultProxy, faulty
from tests.servers.tokens import TokenServer, serve_tokens, service_account_key

from .saved import AwsCredentials, GcpCredentials, MinIOCredentials, Secret, save

CANARY = "canary"


@dataclass
class Surroundings:
    """Servers that fail in turn, and what secrets look like."""

    s3: FaultProxy
    gcs: FaultProxy
    hub: Hub
    tokens: TokenServer
    bucket: str
    key: dict[str, Any] = field(default_factory=dict)

    @property
    def secrets(self) -> list[str]:
        """What must not be seen: canaries, and any line of the private key."""
        return [CANARY, *str(self.key["private_key"]).splitlines()[1:3]]


@pytest.fixture
def around(
    seaweedfs: S3Server, fake_gcs: GCSServer, prefect_api: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Surroundings]:
    """Everything that the connections need."""
    monkeypatch.setattr(
        "google.auth.credentials.CredentialsWithRegionalAccessBoundary._maybe_start_regional_access_boundary_refresh",
        lambda *_: None,
    )
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    quick = RetryPolicy(attempts=2, base_delay=0.01, max_delay=0.01)
    for module in ("s3", "gcs"):
        monkeypatch.setattr(f"flexai.checkpoints.storage.{module}.RetryPolicy", lambda: quick)
    with ExitStack() as stack:
        tokens = stack.enter_context(serve_tokens())
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", tokens.url)
        hub = stack.enter_context(serve_hub())
        hub.add("org/model", {"config.json": b"{}"})
        yield Surroundings(
            s3=stack.enter_context(faulty(seaweedfs.url)),
            gcs=stack.enter_context(faulty(fake_gcs.url)),
            hub=hub,
            tokens=tokens,
            bucket=seaweedfs.bucket,
            key=service_account_key(tokens.token_uri, private_key_id="canary-key-id"),
        )


def _s3(around: Surroundings) -> StorageProvider:
    return S3StorageProvider(
        endpoint_url=around.s3.url,
        access_key_id="AKIA",
        secret_access_key=SecretStr("canary-secret"),
        session_token=SecretStr("canary-session-token"),
    )


def _minio(around: Surroundings) -> StorageProvider:
    return MinIOStorageProvider(
        endpoint_url=around.s3.url, access_key_id="AKIA", secret_access_key=SecretStr("canary-secret")
    )


class _LocalR2(R2StorageProvider):
    """R2, at another address."""

    _block_type_slug = "flexai-test-r2-elsewhere"
    url: str = ""

    @property
    def endpoint(self) -> str:
        """A server of this machine."""
        return self.url


def _r2(around: Surroundings) -> StorageProvider:
    return _LocalR2(
        account_id="0" * 32, url=around.s3.url, access_key_id="AKIA", secret_access_key=SecretStr("canary-secret")
    )


def _aws_block(around: Surroundings) -> StorageProvider:
    block = AwsCredentials(
        aws_access_key_id="AKIA",
        aws_secret_access_key=SecretStr("canary-secret"),
        aws_session_token="canary-session-token",
    )
    return S3StorageProvider(endpoint_url=around.s3.url, credentials_block=save(block))


def _aws_role(around: Surroundings) -> StorageProvider:
    block = AwsCredentials(
        aws_access_key_id="AKIA",
        aws_secret_access_key=SecretStr("canary-secret"),
        aws_session_token="canary-session-token",
        region_name="eu-west-1",
        assume_role_arn="arn:aws:iam::1:role/trainer",
    )
    return S3StorageProvider(endpoint_url=around.s3.url, credentials_block=save(block))


def _minio_block(around: Surroundings) -> StorageProvider:
    block = MinIOCredentials(minio_root_user="AKIA", minio_root_password=SecretStr("canary-secret"))
    return MinIOStorageProvider(endpoint_url=around.s3.url, credentials_block=save(block))


def _gcs(around: Surroundings) -> StorageProvider:
    return GCSStorageProvider.model_validate({"endpoint_url": around.gcs.url, "service_account_info": around.key})


def _gcs_block(around: Surroundings) -> StorageProvider:
    block = GcpCredentials.model_validate({"service_account_info": around.key})
    return GCSStorageProvider(endpoint_url=around.gcs.url, credentials_block=save(block))


def _hub(around: Surroundings) -> StorageProvider:
    return HuggingFaceStorageProvider(endpoint_url=around.hub.endpoint, token=SecretStr("hf_canary"))


def _hub_block(around: Surroundings) -> StorageProvider:
    name = save(Secret(value=SecretStr("hf_canary")))
    return HuggingFaceStorageProvider(endpoint_url=around.hub.endpoint, credentials_block=name)


KINDS: list[Callable[[Surroundings], StorageProvider]] = [
    _s3, _minio, _r2, _aws_block, _aws_role, _minio_block, _gcs, _gcs_block, _hub, _hub_block,
]  # fmt: skip


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__.strip("_"))
def test_no_secret_is_seen_whatever_goes_wrong(
    around: Surroundings, make: Callable[[Surroundings], StorageProvider], caplog: pytest.LogCaptureFixture
) -> None:
    provider = make(around)
    seen = [repr(provider), str(provider), provider.model_dump_json(), str(provider.model_dump()), provider.location]
    path = "org/model" if provider.provider == "huggingface" else f"{around.bucket}/{uuid.uuid4().hex}"
    caplog.set_level(logging.DEBUG)

    def use() -> None:
        seen.append(str(provider.check()))
        for operation in (_list, _put, _get):
            try:
                operation(provider, path)
            except CheckpointError as error:
                seen.append("".join(traceback.format_exception(error)))
                seen.append(repr(error))

    use()
    for proxy in (around.s3, around.gcs):
        for kind, details in (("answer", {"status": 500, "body": b"broken"}), ("reset", {}), ("cut the answer", {})):
            proxy.faults.clear()
            proxy.add(kind, times=1000, **details)  # type: ignore[arg-type]
            if proxy.url in provider.location:
                use()
        proxy.faults.clear()
    around.tokens.refuses = True
    use()
    name = f"bird-{uuid.uuid4().hex[:12]}"
    save_connection(provider, name)
    seen.extend(str(one.block or one.problem) for one in list_connections() if one.name == name)
    everything = "\n".join([*seen, caplog.text])
    assert len(caplog.records) > 10
    for secret in around.secrets:
        place = everything.find(secret)
        assert place < 0, everything[max(0, place - 500) : place + 100]


def _list(provider: StorageProvider, path: str) -> None:
    place = provider.open(path)
    list(place.storage.list(place.prefix))


def _put(provider: StorageProvider, path: str) -> None:
    place = provider.open(path)
    place.storage.put(place.prefix + "object", BytesBody(b"content"))


def _get(provider: StorageProvider, path: str) -> None:
    place = provider.open(path)
    list(place.storage.get(place.prefix + "config.json"))
