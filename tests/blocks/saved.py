"""Blocks of other collections, as their users have saved them, and documents as earlier versions did.

The fields are those of prefect-aws 0.7 and prefect-gcp 0.6 (their ``credentials.py``), which the tests do without: the
one holds boto3 back, the other is as large as all the rest.
"""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Any

import requests
from prefect.blocks.core import Block
from prefect.blocks.fields import SecretDict
from prefect.blocks.system import Secret
from prefect.exceptions import ObjectAlreadyExists
from pydantic import BaseModel, Field, SecretStr

from tests.servers.prefect import PrefectServer


class ClientParameters(BaseModel):
    """``AwsClientParameters``."""

    api_version: str | None = None
    use_ssl: bool = True
    endpoint_url: str | None = None
    config: dict[str, Any] | None = None


class AssumeRoleParameters(BaseModel):
    """``AssumeRoleParameters``."""

    RoleSessionName: str | None = None
    DurationSeconds: int | None = None
    ExternalId: str | None = None


class AwsCredentials(Block):
    """``prefect_aws.AwsCredentials``."""

    _block_type_name = "AWS Credentials"

    aws_access_key_id: str | None = None
    aws_secret_access_key: SecretStr | None = None
    aws_session_token: str | None = None
    profile_name: str | None = None
    region_name: str | None = None
    aws_client_parameters: ClientParameters = Field(default_factory=ClientParameters)
    assume_role_arn: str | None = None
    assume_role_kwargs: AssumeRoleParameters = Field(default_factory=AssumeRoleParameters)


class MinIOCredentials(Block):
    """``prefect_aws.MinIOCredentials``."""

    _block_type_name = "MinIO Credentials"

    minio_root_user: str
    minio_root_password: SecretStr
    region_name: str | None = None
    aws_client_parameters: ClientParameters = Field(default_factory=ClientParameters)


class GcpCredentials(Block):
    """``prefect_gcp.GcpCredentials``."""

    _block_type_name = "GCP Credentials"

    service_account_file: Path | None = None
    service_account_info: SecretDict | None = None
    project: str | None = None


def save(block: Block, name: str = "") -> str:
    """Save a block, replacing what has the name; returns the name."""
    name = name or f"saved-{uuid.uuid4().hex[:12]}"
    # Another process of this run may register the same kind at this very moment.
    with contextlib.suppress(ObjectAlreadyExists):
        block.register_type_and_schema()
    block.save(name, overwrite=True)
    return name


def save_document(server: PrefectServer, kind: type[Block], name: str, data: dict[str, Any]) -> None:
    """Save a document as an earlier version of ours, or a form of the UI, would have."""
    kind.register_type_and_schema()
    document = {
        "name": name,
        "data": data,
        "block_type_id": str(kind._block_type_id),
        "block_schema_id": str(kind._block_schema_id),
    }
    try:
        server.post("/block_documents/", document)
    except requests.HTTPError as error:
        # Two processes save a server's first blocks at one moment, and both make the key that it encrypts with.
        if error.response.status_code != requests.codes.conflict:
            raise
        server.post("/block_documents/", document)


__all__ = [
    "AssumeRoleParameters",
    "AwsCredentials",
    "ClientParameters",
    "GcpCredentials",
    "MinIOCredentials",
    "Secret",
    "save",
    "save_document",
]
