"""Connections that an earlier version saved, or a form of the UI that was left half empty."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from pydantic import BeforeValidator

from flexai.blocks import (
    PROVIDERS,
    GCSStorageProvider,
    HuggingFaceStorageProvider,
    LocalStorageProvider,
    MinIOStorageProvider,
    R2StorageProvider,
    S3StorageProvider,
    StorageProvider,
    load_connection,
)
from tests.servers.prefect import PrefectServer
from tests.servers.tokens import service_account_key

from .samples import least_fields
from .saved import save_document

ACCOUNT = "0123456789abcdef0123456789abcdef"
KEY = service_account_key("https://oauth2.googleapis.com/token")
PAIR = {"access_key_id": "a", "secret_access_key": "b"}

OLD: list[tuple[type[StorageProvider], dict[str, Any], str]] = [
    (S3StorageProvider, {}, "AWS"),
    (S3StorageProvider, {"region": "eu-west-1", **PAIR}, "AWS eu-west-1"),
    (
        S3StorageProvider,
        {"endpoint_url": "http://minio:9000/", "schema_version": 1, "capabilities": {"put": "passed"}},
        "http://minio:9000",
    ),
    (
        S3StorageProvider,
        {"secret_access_key": None, "session_token": None, "profile": None, "capabilities": None},
        "AWS",
    ),
    (R2StorageProvider, {"account_id": ACCOUNT, **PAIR}, f"https://{ACCOUNT}.r2.cloudflarestorage.com"),
    (MinIOStorageProvider, {"endpoint_url": "http://minio:9000", **PAIR}, "http://minio:9000"),
    (GCSStorageProvider, {}, "GCS"),
    (GCSStorageProvider, {"project": None, "service_account_info": None}, "GCS"),
    (GCSStorageProvider, {"project": "my-project", "service_account_info": json.dumps(KEY)}, "GCS, project my-project"),
    (HuggingFaceStorageProvider, {}, "https://huggingface.co"),
    (HuggingFaceStorageProvider, {"token": "hf_old", "endpoint_url": None}, "https://huggingface.co"),
    (LocalStorageProvider, {"root": "/mnt/models"}, "/mnt/models"),
    *((kind, least_fields(provider), "") for provider, kind in PROVIDERS.items()),
]
"""Kinds, what was saved, and where the connection leads; of each kind, the least that there is."""


@pytest.mark.parametrize(("kind", "document", "location"), OLD)
def test_a_document_with_fewer_fields_loads(
    prefect_api: PrefectServer, kind: type[StorageProvider], document: dict[str, Any], location: str
) -> None:
    name = f"old-{uuid.uuid4().hex[:12]}"
    save_document(prefect_api, kind, name, document)
    loaded = load_connection(name)
    assert type(loaded) is kind
    assert (loaded.connection_name, loaded.location) == (name, location or loaded.location)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_field_has_a_default_or_looks_at_what_was_saved_before_it_is_judged(provider: str) -> None:
    kind = PROVIDERS[provider]
    validators = kind.__pydantic_decorators__.field_validators.values()
    looked_at = {name for one in validators if one.info.mode == "before" for name in one.info.fields}
    for name, field in kind.model_fields.items():
        has_own = any(isinstance(one, BeforeValidator) for one in field.metadata)
        assert not field.is_required() or has_own or name in looked_at, name
