"""A canary in every field that holds a secret must not be seen anywhere, whatever goes wrong, with all logs on."""

from __future__ import annotations

import json
import logging
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from flexai.blocks import (
    PROVIDERS,
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
from flexai.checkpoints.storage.kinds import KINDS, SecretOption
from flexai.checkpoints.storage.protocol import BytesBody
from flexai.checkpoints.storage.retry import RetryPolicy
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.hub import Hub, serve_hub
from tests.servers.prefect import PrefectServer
from tests.servers.proxy import FaultProxy, faulty
from tests.servers.tokens import TokenServer, serve_tokens, service_account_key

from .samples import least_fields
from .saved import AwsCredentials, GcpCredentials, MinIOCredentials, Secret, save

CANARY = "canary"
RUN = uuid.uuid4().hex
"""Part of every secret that a block holds, so that it can be looked for in a database that other tests use too."""
SECRET = f"canary-secret-{RUN}"
SESSION_TOKEN = f"canary-session-token-{RUN}"
FOREIGN_TOKEN = "canary-foreign-session-token"
"""In a field of prefect-aws that is no secret to Prefect, which tells it in the event that the block was saved."""
HUB_TOKEN = f"hf_canary{RUN}"
KEY_ID = f"canary-key-id-{RUN}"


@dataclass
class Surroundings:
    """Servers that fail in turn, and what secrets look like."""

    s3: FaultProxy
    gcs: FaultProxy
    hub: Hub
    tokens: TokenServer
    bucket: str
    prefect: PrefectServer
    monkeypatch: pytest.MonkeyPatch
    folder: Path
    key: dict[str, Any] = field(default_factory=dict)

    @property
    def secrets(self) -> list[str]:
        """What must not be seen: canaries, and any line of the private key."""
        return [CANARY, *str(self.key["private_key"]).splitlines()[1:3]]


@pytest.fixture
def around(
    seaweedfs: S3Server,
    fake_gcs: GCSServer,
    prefect_api: PrefectServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Surroundings]:
    """Everything that the connections need."""
    monkeypatch.setattr(
        "google.auth.credentials.CredentialsWithRegionalAccessBoundary._maybe_start_regional_access_boundary_refresh",
        lambda *_: None,
    )
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    quick = RetryPolicy(attempts=2, base_delay=0.01, max_delay=0.01)
    for module in ("s3", "gcs"):
        monkeypatch.setattr(f"flexai.checkpoints.storage.{module}.bucket.RetryPolicy", lambda: quick)
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
            prefect=prefect_api,
            monkeypatch=monkeypatch,
            folder=tmp_path,
            key=service_account_key(tokens.token_uri, private_key_id=KEY_ID),
        )


def _s3(around: Surroundings) -> StorageProvider:
    return S3StorageProvider(
        endpoint_url=around.s3.url,
        access_key_id="AKIA",
        secret_access_key=SecretStr(SECRET),
        session_token=SecretStr(SESSION_TOKEN),
    )


def _minio(around: Surroundings) -> StorageProvider:
    return MinIOStorageProvider(
        endpoint_url=around.s3.url,
        access_key_id="AKIA",
        secret_access_key=SecretStr(SECRET),
        session_token=SecretStr(SESSION_TOKEN),
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
        account_id="0" * 32,
        url=around.s3.url,
        access_key_id="AKIA",
        secret_access_key=SecretStr(SECRET),
        session_token=SecretStr(SESSION_TOKEN),
    )


def _aws_block(around: Surroundings) -> StorageProvider:
    block = AwsCredentials(
        aws_access_key_id="AKIA",
        aws_secret_access_key=SecretStr(SECRET),
        aws_session_token=FOREIGN_TOKEN,
    )
    return S3StorageProvider(endpoint_url=around.s3.url, credentials_block=save(block))


def _aws_role(around: Surroundings) -> StorageProvider:
    block = AwsCredentials(
        aws_access_key_id="AKIA",
        aws_secret_access_key=SecretStr(SECRET),
        aws_session_token=FOREIGN_TOKEN,
        region_name="eu-west-1",
        assume_role_arn="arn:aws:iam::1:role/trainer",
    )
    return S3StorageProvider(endpoint_url=around.s3.url, credentials_block=save(block))


def _minio_block(around: Surroundings) -> StorageProvider:
    block = MinIOCredentials(minio_root_user="AKIA", minio_root_password=SecretStr(SECRET))
    return MinIOStorageProvider(endpoint_url=around.s3.url, credentials_block=save(block))


def _s3_container(around: Surroundings) -> StorageProvider:
    """No field: the keys come from the endpoint of the container that the transfer runs in."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        around.monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        around.monkeypatch.setenv(name, str(around.folder / "none"))
    around.monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", around.tokens.container_uri)
    # Between tries to ask an endpoint that refuses.
    around.monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    around.monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "canary-authorization")
    return S3StorageProvider(endpoint_url=around.s3.url)


def _s3_profile(around: Surroundings) -> StorageProvider:
    lines = ["[lab]", "aws_access_key_id=AKIA", f"aws_secret_access_key={SECRET}", f"aws_session_token={SESSION_TOKEN}"]
    (around.folder / "credentials").write_text("\n".join(lines))
    around.monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(around.folder / "credentials"))
    return S3StorageProvider(endpoint_url=around.s3.url, profile="lab")


def _gcs_file(around: Surroundings) -> StorageProvider:
    """No field: the key is in a file that a variable names."""
    (around.folder / "key.json").write_text(json.dumps(around.key))
    around.monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(around.folder / "key.json"))
    return GCSStorageProvider(endpoint_url=around.gcs.url)


def _gcs(around: Surroundings) -> StorageProvider:
    return GCSStorageProvider.model_validate({"endpoint_url": around.gcs.url, "service_account_info": around.key})


def _gcs_block(around: Surroundings) -> StorageProvider:
    block = GcpCredentials.model_validate({"service_account_info": around.key})
    return GCSStorageProvider(endpoint_url=around.gcs.url, credentials_block=save(block))


def _hub(around: Surroundings) -> StorageProvider:
    return HuggingFaceStorageProvider(endpoint_url=around.hub.endpoint, token=SecretStr(HUB_TOKEN))


def _hub_block(around: Surroundings) -> StorageProvider:
    name = save(Secret(value=SecretStr(HUB_TOKEN)))
    return HuggingFaceStorageProvider(endpoint_url=around.hub.endpoint, credentials_block=name)


def _without_server(provider: str) -> Callable[[Surroundings], StorageProvider]:
    """A connection of a kind for which no server is here, with all secrets that its options can give."""
    options, block = KINDS[provider].options, PROVIDERS[provider]
    secrets = {name: option for name, option in options.items() if isinstance(option, SecretOption)}
    beside = {option.beside: block.model_fields[option.beside].examples for option in secrets.values() if option.beside}
    values = {name: examples[0] for name, examples in beside.items() if examples} | dict.fromkeys(secrets, SECRET)

    def make(_around: Surroundings) -> StorageProvider:
        return block.model_validate(least_fields(provider) | values)

    make.__name__ = provider
    return make


MAKERS: list[Callable[[Surroundings], StorageProvider]] = [
    _s3, _minio, _r2, _aws_block, _aws_role, _minio_block, _s3_container, _s3_profile,
    _gcs, _gcs_block, _gcs_file, _hub, _hub_block,
    *(_without_server(provider) for provider in KINDS if provider not in {"s3", "minio", "r2", "gcs", "huggingface"}),
]  # fmt: skip


def test_every_secret_field_of_every_block_holds_a_canary(around: Surroundings) -> None:
    filled = {
        (kind.__name__, name)
        for block in (make(around) for make in MAKERS)
        for kind in type(block).__mro__
        for name in _secret_fields(type(block))
        if getattr(block, name).get_secret_value()
    }
    for kind in PROVIDERS.values():
        assert {(kind.__name__, name) for name in _secret_fields(kind)} <= filled


def _secret_fields(kind: type[BaseModel]) -> list[str]:
    return [name for name, field in kind.model_fields.items() if field.annotation is SecretStr]


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.strip("_"))
def test_no_secret_is_seen_whatever_goes_wrong(
    around: Surroundings, make: Callable[[Surroundings], StorageProvider], caplog: pytest.LogCaptureFixture
) -> None:
    provider = make(around)
    seen = [repr(provider), str(provider), provider.model_dump_json(), str(provider.model_dump()), provider.location]
    path = "org/model" if isinstance(provider, HuggingFaceStorageProvider) else f"{around.bucket}/{uuid.uuid4().hex}"
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
    # The record that a check leaves with the connection, made of what the service said.
    provider.capabilities = {probe.name: probe.outcome.value for probe in provider.check(path)}
    save_connection(provider, name)
    seen.extend(str(one.block or one.problem) for one in list_connections() if one.name == name)
    seen.extend(f"{one.block.model_dump_json()}" for one in list_connections() if one.name == name and one.block)
    everything = "\n".join([*seen, caplog.text])
    assert len(caplog.records) > 10
    for secret in around.secrets:
        place = everything.find(secret)
        assert place < 0, everything[max(0, place - 500) : place + 100]
    assert around.prefect.database_holds(name) != []
    for secret in (RUN, *around.secrets[1:]):
        assert around.prefect.database_holds(secret) == []


def _list(provider: StorageProvider, path: str) -> None:
    place = provider.open(path)
    list(place.storage.list(place.prefix))


def _put(provider: StorageProvider, path: str) -> None:
    place = provider.open(path)
    place.storage.put(place.prefix + "object", BytesBody(b"content"))


def _get(provider: StorageProvider, path: str) -> None:
    place = provider.open(path)
    list(place.storage.get(place.prefix + "config.json"))
