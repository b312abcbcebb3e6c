"""Storage provider connections as Prefect blocks: where checkpoints come from and go to.

``prefect block register -m flexai.blocks`` makes them known to a Prefect server; a server in whose environment this
package is installed knows them by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexai.blocks.connections import (
    PROVIDERS,
    SavedConnection,
    check_connection,
    delete_connection,
    list_connections,
    load_connection,
    save_connection,
)
from flexai.blocks.probes import Probe, ProbeOutcome
from flexai.blocks.provider import StorageProvider

if TYPE_CHECKING:
    from flexai.blocks.gcs import GCSStorageProvider
    from flexai.blocks.huggingface import HuggingFaceStorageProvider
    from flexai.blocks.local import LocalStorageProvider
    from flexai.blocks.s3 import MinIOStorageProvider, R2StorageProvider, S3StorageProvider

# Prefect registers the blocks that it finds here, and flows import them from here.
globals().update({block.__name__: block for block in PROVIDERS.values()})

__all__ = [
    "PROVIDERS",
    "GCSStorageProvider",
    "HuggingFaceStorageProvider",
    "LocalStorageProvider",
    "MinIOStorageProvider",
    "Probe",
    "ProbeOutcome",
    "R2StorageProvider",
    "S3StorageProvider",
    "SavedConnection",
    "StorageProvider",
    "check_connection",
    "delete_connection",
    "list_connections",
    "load_connection",
    "save_connection",
]
