"""Stores by what the SDKs find around them: credentials by their own chains, endpoints by their own variables.

For a managed store that is named by a URL alone, without a connection.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexai.checkpoints.storage.gcs import GCSStorage
    from flexai.checkpoints.storage.s3 import S3Storage


def s3_bucket(bucket: str) -> S3Storage:
    """A bucket of S3, or of the service that ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL`` names.

    The variables are the SDK's (https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html). They are
    read here as well because buckets are addressed otherwise at AWS than elsewhere.
    """
    from flexai.checkpoints.storage.capabilities import Capabilities
    from flexai.checkpoints.storage.s3 import S3Storage
    from flexai.checkpoints.storage.s3_service import S3Service

    endpoint = ""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    # AWS has conditional writes; what another service has nobody has tried:
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html.
    capabilities = Capabilities(conditional_put=not endpoint)
    return S3Storage(S3Service(endpoint_url=endpoint, region=region), bucket, capabilities=capabilities)


def gcs_bucket(bucket: str) -> GCSStorage:
    """A bucket of GCS, or of the emulator that ``STORAGE_EMULATOR_HOST`` names, which wants no credentials."""
    from flexai.checkpoints.storage.gcs import GCSStorage
    from flexai.checkpoints.storage.gcs_service import GCSService

    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if emulator and "://" not in emulator:
        emulator = f"http://{emulator}"
    return GCSStorage(GCSService(endpoint_url=emulator, anonymous=bool(emulator)), bucket)
