"""Stores by what the SDKs find around them: credentials by their own chains, endpoints by their own variables.

For a managed store that is named by a URL alone, without a connection.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexai.checkpoints.storage.gcs.bucket import GCSStorage
    from flexai.checkpoints.storage.s3.bucket import S3Storage


def s3_bucket(bucket: str) -> S3Storage:
    """A bucket of S3, or of the service that ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL`` or the profile names."""
    from flexai.checkpoints.storage.capabilities import Capabilities
    from flexai.checkpoints.storage.s3.bucket import S3Storage
    from flexai.checkpoints.storage.s3.client import S3Service, find_configured

    endpoint, region = find_configured(is_ambient=True)
    # AWS has conditional writes; what another service has was not tried:
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html.
    capabilities = Capabilities(conditional_put=not endpoint)
    service = S3Service(endpoint_url=endpoint, region=region, is_ambient=True)
    return S3Storage(service, bucket, capabilities=capabilities)


def gcs_bucket(bucket: str) -> GCSStorage:
    """A bucket of GCS, or of the emulator that ``STORAGE_EMULATOR_HOST`` names, which wants no credentials."""
    from flexai.checkpoints.storage.gcs.bucket import GCSStorage
    from flexai.checkpoints.storage.gcs.session import GCSService

    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if emulator and "://" not in emulator:
        emulator = f"http://{emulator}"
    return GCSStorage(GCSService(endpoint_url=emulator, anonymous=bool(emulator)), bucket)
