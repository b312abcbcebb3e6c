"""A check of a connection whose service answers with anything but what it should: told, and no traceback."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from flexai.blocks import GCSStorageProvider, HuggingFaceStorageProvider, MinIOStorageProvider, StorageProvider
from flexai.connections.probes import ProbeOutcome
from tests.hostile.services import BODIES, KINDS, document, serve

ANSWERS = {
    name: BODIES[name]
    for name in (
        "200 OK, endless, with a negative length",
        "302 Found to /other, packed twice",
        "403 Forbidden, endless, with no length",
        "packed once",
        "endless trailers",
        "no HTTP",
    )
} | {
    str(body)[:60]: lambda body=body: document(body)
    for body in (
        b"[" * 1_000_000,
        b'{"items": 5',
        b"<ListAllMyBucketsResult><Buckets><Bucket>",
        b"<ListAllMyBucketsResult><Buckets><Bucket><CreationDate>x</CreationDate></Bucket></Buckets></ListAllMyBucketsResult>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><ListAllMyBucketsResult>&b;</ListAllMyBucketsResult>",
    )
}


def _provider(kind: str, endpoint: str) -> StorageProvider:
    if kind == "s3":
        return MinIOStorageProvider(endpoint_url=endpoint, access_key_id="key", secret_access_key=SecretStr("secret"))
    if kind == "gcs":
        return GCSStorageProvider(endpoint_url=endpoint, anonymous=True, project="my-project")
    return HuggingFaceStorageProvider(endpoint_url=endpoint)


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_check_tells_of_a_service_that_answers_with_anything(kind: str, name: str) -> None:
    with serve(lambda *_: ANSWERS[name]()) as server:
        (reach,) = _provider(kind, server.url).check()
    assert reach.detail
    if kind == "s3" and name.startswith("b'<"):
        assert reach.outcome is ProbeOutcome.FAILED


@pytest.mark.parametrize("kind", KINDS)
def test_a_check_of_every_ability_tells_of_a_service_that_answers_with_a_page(kind: str) -> None:
    with serve(lambda *_: document(b"<html><body>Log in, please</body></html>")) as server:
        path = "org/model" if kind == "hub" else "bucket/prefix"
        outcomes = {probe.name: probe.outcome for probe in _provider(kind, server.url).check(path)}
    assert ProbeOutcome.FAILED in outcomes.values()
    assert "put" in outcomes
