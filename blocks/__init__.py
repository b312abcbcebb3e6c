"""Storage provider connections as Prefect blocks: where checkpoints come from and go to.

``prefect block register -m flexai.blocks`` makes them known to a Prefect server; a server in whose environment this
package is installed knows them by itself.
"""

from __future__ import annotations

from flexai.blocks.connections import (
    check_connection,
    delete_connection,
    list_connections,
    load_connection,
    save_connection,
)

# Prefect registers the blocks that it finds here, and flows import them from here.
from flexai.blocks.providers import (
    PROVIDERS,
    GCSStorageProvider,
    HuggingFaceStorageProvider,
    LocalStorageProvider,
    MinIOStorageProvider,
    R2StorageProvider,
    S3StorageProvider,
    StorageProvider,
)
from flexai.connections.probes import Probe, ProbeOutcome
from flexai.connections.saved import SavedConnection

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
