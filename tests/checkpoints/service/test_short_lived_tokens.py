"""Long transfers with credentials that live two seconds."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flexai.blocks import GCSStorageProvider
from flexai.checkpoints.errors import AccessDeniedError
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import load_settings
from flexai.checkpoints.storage.connection import StorageConnection
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.gateway import bearer_token, gcs_gateway, s3_gateway, session_token
from tests.servers.proxy import FaultProxy, Request
from tests.servers.tokens import TokenServer, serve_tokens, service_account_key
from tests.support.trees import noise, read_tree, write_tree

pytestmark = pytest.mark.slow

LIFETIME = 2
"""Seconds."""
AN_HOUR = 3600
HELD = (4, 11)
"""Which of the requests that carry a part wait at the gateway until their tokens have expired."""
THREADS = 2
S3_PARTS, S3_PACE = 14, 0.9
GCS_PARTS, GCS_PACE = 32, 0.4
"""Parts, and the seconds that each of them waits at the gateway: both are well above three lifetimes."""


@dataclass
class Queue:
    """What makes requests wait at a gateway."""

    tokens: TokenServer
    token_of: Callable[[Request], str]
    is_part: Callable[[Request], bool]
    pace: float
    """Seconds."""
    holds: tuple[int, ...] = HELD
    held: list[Request] = field(default_factory=list)
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, request: Request) -> None:
        """Hold a request for a while, or until its token is no good any more."""
        if not self.is_part(request):
            return
        with self._lock:
            self._seen += 1
            is_held = self._seen in self.holds
            if is_held:
                self.held.append(request)
        time.sleep(self.pace)
        while is_held and self.tokens.is_good(self.token_of(request)):
            time.sleep(0.02)


@dataclass
class Lab:
    """A system whose store is behind a gateway."""

    system: System
    gateway: FaultProxy
    queue: Queue
    files: dict[str, bytes]

    def tokens_used(self) -> set[str]:
        """Those that were good enough for a request."""
        return {
            self.queue.token_of(request)
            for request in self.gateway.requests
            if self.queue.tokens.knows(self.queue.token_of(request))
        }


@contextmanager
def open_lab(
    kind: str, tokens: TokenServer, server: S3Server | GCSServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lab]:
    """Open a system with its store in a bucket; the credentials come from where they do in life."""
    prefix = uuid.uuid4().hex
    options = {"home": home, "concurrency": THREADS, "pack_threshold": 1024}
    if isinstance(server, S3Server):
        part, parts = 5 * 1024**2, S3_PARTS
        queue = Queue(
            tokens, session_token, lambda request: request.method == "PUT" and "partNumber" in request.query, S3_PACE
        )
        gateways = s3_gateway(server, tokens, queue.wait)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "none"))
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", tokens.container_uri)
    else:
        part, parts = 64 * 1024, GCS_PARTS
        queue = Queue(
            tokens, bearer_token, lambda request: request.method == "POST" and len(request.body) > 1024, GCS_PACE
        )
        gateways = gcs_gateway(server, tokens, queue.wait)
    with gateways as gateway:
        if kind == "s3":
            monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.url)
        key = service_account_key(tokens.token_uri)

        def connect(name: str) -> StorageConnection:
            return GCSStorageProvider.model_validate({"endpoint_url": gateway.url, "service_account_info": key})

        store = f"s3://{server.bucket}/{prefix}" if kind == "s3" else f"gcs-lab:{server.bucket}/{prefix}"
        with closing(System.open(load_settings(store=store, part_size=part, **options), connect=connect)) as system:
            yield Lab(system, gateway, queue, {"model.safetensors": noise(part * parts - 99), "config.json": b"{}"})


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    """Where credentials come from; they are good for two seconds."""
    with serve_tokens() as server:
        server.lifetime = LIFETIME
        yield server


@pytest.fixture(params=["s3", "gcs"])
def lab(
    request: pytest.FixtureRequest, tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lab]:
    """A system on each kind of provider."""
    monkeypatch.setattr(
        "google.auth.credentials.CredentialsWithRegionalAccessBoundary._maybe_start_regional_access_boundary_refresh",
        lambda *_: None,
    )
    server = request.getfixturevalue("seaweedfs" if request.param == "s3" else "fake_gcs")
    with open_lab(request.param, tokens, server, tmp_path / "home", monkeypatch) as lab:
        yield lab


def test_the_transfers_here_are_long() -> None:
    for parts, pace in ((S3_PARTS, S3_PACE), (GCS_PARTS, GCS_PACE)):
        assert parts * pace / THREADS > 3 * LIFETIME


@pytest.mark.parametrize("told", [LIFETIME, AN_HOUR], ids=["told", "not-told"])
@pytest.mark.xdist_group("waits")
def test_a_long_transfer_survives_tokens_that_live_two_seconds(lab: Lab, told: int, tmp_path: Path) -> None:
    """Also where the service that gives the tokens says that they are good for an hour."""
    lab.queue.tokens.lifetime, lab.queue.tokens.true_lifetime = told, LIFETIME
    source = write_tree(tmp_path / "run", lab.files)
    push(lab.system, PushRequest("llama", (str(source),)))
    assert len(lab.tokens_used()) >= 3
    # What was refused on its way came again with another token.
    assert len(lab.queue.held) == len(HELD)
    for held in lab.queue.held:
        tries = [one for one in lab.gateway.requests if (one.method, one.target) == (held.method, held.target)]
        assert len({lab.queue.token_of(one) for one in tries}) >= 2
        assert {one.body for one in tries} == {held.body}
    fetch(lab.system, FetchRequest("llama", str(tmp_path / "out")))
    assert read_tree(tmp_path / "out") == lab.files


def test_credentials_that_are_renewed_no_more_end_the_transfer(lab: Lab, tmp_path: Path) -> None:
    lab.queue.pace, lab.queue.holds = 0.0, ()
    source = write_tree(tmp_path / "run", lab.files)
    push(lab.system, PushRequest("small", (str(source / "config.json"),)))
    lab.queue.tokens.refuses = True
    time.sleep(LIFETIME)
    with pytest.raises(AccessDeniedError):
        push(lab.system, PushRequest("llama", (str(source),)))
    lab.queue.tokens.refuses = False
    push(lab.system, PushRequest("llama", (str(source),)))
