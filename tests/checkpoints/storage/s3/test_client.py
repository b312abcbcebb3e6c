"""Session tokens that are refused, and what is asked of the service that gives them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader

from flexai.checkpoints.errors import AccessDeniedError, StorageUnavailableError
from flexai.checkpoints.storage.protocol import BytesBody
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.storage.s3 import client
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from tests.servers.fixtures import S3Server
from tests.servers.proxy import FaultProxy, Request
from tests.servers.tokens import TokenServer, serve_tokens

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
BODY = BytesBody(b"content")


@pytest.fixture
def proxy(seaweedfs: S3Server) -> Iterator[FaultProxy]:
    """Answers every request itself, with success unless a test adds something else before."""
    with FaultProxy(seaweedfs.url) as proxy:
        yield proxy


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TokenServer]:
    """The container endpoint, which is all that the SDK's chain finds."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with serve_tokens() as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.container_uri)
        yield server


def storage(proxy: FaultProxy, credentials: S3Credentials | Callable[[], S3Credentials] | None = None) -> S3Storage:
    """A bucket behind the proxy; nothing is waited for."""
    service = S3Service(endpoint_url=proxy.url, credentials=credentials)
    return S3Storage(service, "bucket", policy=RetryPolicy(attempts=4, sleep=lambda _: None))


def refuse(proxy: FaultProxy, *tokens: str, **answer: Any) -> None:
    """Answer requests with these tokens so, all of them without tokens; and others with success."""

    def strikes(request: Request) -> bool:
        return not tokens or request.headers["x-amz-security-token"] in tokens

    proxy.add("answer", times=999, strikes=strikes, **{"status": 400, "body": EXPIRED, **answer})
    proxy.add("answer", times=999, status=200, headers={"ETag": '"0"'})


def used(proxy: FaultProxy) -> list[str]:
    """The tokens of the requests so far."""
    return [request.headers["x-amz-security-token"] for request in proxy.requests]


class Numbered:
    """A function whose credentials are others each time, or only every so many times."""

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.asked = 0

    def __call__(self) -> S3Credentials:
        self.asked += 1
        return S3Credentials("key", "secret", f"token-{(self.asked - 1) // self.every}")


def test_a_token_of_ones_own_that_has_expired_ends_the_matter(proxy: FaultProxy) -> None:
    refuse(proxy)
    with pytest.raises(AccessDeniedError, match="ExpiredToken"):
        storage(proxy, S3Credentials("key", "secret", "token")).put("file", BODY)
    assert used(proxy) == ["token"]


def test_a_function_that_has_another_token_by_now_is_asked_for_it(proxy: FaultProxy) -> None:
    credentials = Numbered()
    store = storage(proxy, credentials)
    refuse(proxy, f"token-{credentials.asked}")
    assert store.put("file", BODY).size == BODY.size
    assert len(set(used(proxy))) == len(used(proxy)) == 2


def test_a_function_that_has_no_other_token_ends_the_matter(proxy: FaultProxy) -> None:
    refuse(proxy)
    with pytest.raises(AccessDeniedError, match="ExpiredToken"):
        storage(proxy, Numbered(every=99)).put("file", BODY)
    assert used(proxy) == ["token-0"]


def test_the_chain_is_asked_anew_for_a_token_that_expired_too_soon(proxy: FaultProxy, tokens: TokenServer) -> None:
    refuse(proxy, "canary-container-token-1")
    assert storage(proxy).put("file", BODY).size == BODY.size
    assert used(proxy) == ["canary-container-token-1", "canary-container-token-2"]


def test_a_token_that_is_refused_when_it_is_new_ends_the_matter(proxy: FaultProxy, tokens: TokenServer) -> None:
    refuse(proxy)
    with pytest.raises(AccessDeniedError, match="ExpiredToken"):
        storage(proxy).put("file", BODY)
    assert used(proxy) == ["canary-container-token-1", "canary-container-token-2"]


@pytest.mark.parametrize("status", [400, 403])
def test_a_look_at_an_object_that_is_refused_without_a_word_is_tried_with_another_token(
    proxy: FaultProxy, tokens: TokenServer, status: int
) -> None:
    """An answer to HEAD has no body that could name the reason."""
    refuse(proxy, "canary-container-token-1", status=status, body=b"")
    assert storage(proxy).head("file").key == "file"
    # The SDK looks whether the bucket is in another region when it is told 400.
    assert len(proxy.seen("HEAD", "/bucket/file")) == 2


def test_a_look_at_an_object_that_is_denied_is_tried_once_more_at_most(proxy: FaultProxy, tokens: TokenServer) -> None:
    tokens.lifetime = 2
    refuse(proxy, status=403, body=b"")
    with pytest.raises(AccessDeniedError, match="s3:GetObject"):
        storage(proxy).head("file")
    assert len(proxy.requests) == 2


def test_a_missing_permission_is_no_reason_to_ask_for_another_token(proxy: FaultProxy, tokens: TokenServer) -> None:
    refuse(proxy, status=403, body=DENIED)
    with pytest.raises(AccessDeniedError, match="s3:PutObject is denied"):
        storage(proxy).put("file", BODY)
    assert len(proxy.requests) == len(tokens.asked) == 1


def test_many_threads_with_a_refused_token_ask_for_another_together(proxy: FaultProxy, tokens: TokenServer) -> None:
    refuse(proxy, "canary-container-token-1")
    store = storage(proxy)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: store.put(f"{number}", BODY), range(24)))
    assert set(used(proxy)) == {"canary-container-token-1", "canary-container-token-2"}
    assert len(tokens.asked) == 2


def test_credentials_that_have_expired_when_they_come_are_a_passing_failure(
    proxy: FaultProxy, tokens: TokenServer
) -> None:
    """A machine's clock may be ahead of theirs by a little."""
    tokens.lifetime = -5
    with pytest.raises(StorageUnavailableError, match="expired when they came"):
        storage(proxy).put("file", BODY)
    assert proxy.requests == []


def test_an_endpoint_that_gives_no_more_credentials_ends_the_matter(proxy: FaultProxy, tokens: TokenServer) -> None:
    refuse(proxy, "canary-container-token-1")
    store = storage(proxy)
    assert store.service.client is not None
    tokens.refuses = True
    with pytest.raises(AccessDeniedError, match="no usable credentials"):
        store.put("file", BODY)


def test_a_client_is_made_without_a_look_at_every_service_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    real = os.listdir

    def counting(path: str) -> list[str]:
        looked.append(path)
        return real(path)

    monkeypatch.setattr(os, "listdir", counting)
    client._data_loader.cache_clear()
    assert S3Service(endpoint_url="http://127.0.0.1:9", anonymous=True).client.meta.service_model.service_name == "s3"
    assert len(looked) < 20


@pytest.mark.parametrize(
    ("options", "looks"),
    [
        ({"endpoint_url": "http://127.0.0.1:9", "anonymous": True}, False),
        ({"endpoint_url": "http://127.0.0.1:9", "credentials": S3Credentials("key", "secret")}, False),
        ({"endpoint_url": "http://127.0.0.1:9"}, False),
        # Who gives the keys of a role is at AWS, and a profile can name a role.
        ({"endpoint_url": "http://127.0.0.1:9", "profile": "default"}, True),
        ({"region": "eu-west-1", "credentials": S3Credentials("key", "secret")}, True),
    ],
    ids=["open", "keys", "keys of the environment", "profile", "aws"],
)
def test_the_regions_of_aws_are_read_only_where_an_address_of_it_may_be_looked_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any], looks: bool
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    profiles = tmp_path / "credentials"
    profiles.write_text("[default]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    read = []
    real = JSONFileLoader.load_file

    def noting(self: JSONFileLoader, path: str) -> Any:
        read.append(Path(path).name)
        return real(self, path)

    monkeypatch.setattr(JSONFileLoader, "load_file", noting)
    client._data_loader.cache_clear()
    made = S3Service(**options).client
    assert ("endpoints" in read) is looks
    assert made.meta.region_name == options.get("region", "us-east-1")
