"""Lineage as Prefect knows it: training job → checkpoint → export, as assets and their materialization events.

``prefect.assets.materialize`` wants the keys before the task runs and gives all of a task's assets the same upstream;
here they are known when something has come into being. So the same events are sent one by one, in the form that
Prefect 3.8's own ``AssetContext`` gives them. Prefect Cloud draws them as a graph; a server of one's own keeps them
among its events.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.models import Checkpoint, CheckpointKind, TrainingJob
from flexai.checkpoints.names import name_key
from flexai.tasks import artifacts, events

MATERIALIZED = "prefect.asset.materialization.succeeded"
REFERENCED = "prefect.asset.referenced"
MATERIALIZED_BY = "flexai"

_MAX_KEY = 512
_REFUSED = re.compile(r"[^A-Za-z0-9._~/:@+,=()!*$;-]")
"""What Prefect refuses in a key, and what no URI holds as it is."""


def checkpoint_asset(checkpoint: Checkpoint) -> Asset:
    """A checkpoint: ``flexai://STORE/checkpoints/NAME``; a captured one has its UUID, for its name is not its alone."""
    name = name_key(checkpoint.name)
    if checkpoint.kind is CheckpointKind.CAPTURED:
        name = f"{name_key(checkpoint.job_name)}/{checkpoint.id}"
    properties = AssetProperties(
        name=checkpoint.title,
        description=f"{human_size(checkpoint.size)} in {checkpoint.file_count} files",
        url=artifacts.artifact_url(artifacts.checkpoint_key(checkpoint)) or None,
    )
    return Asset(key=_key(f"{checkpoint.store_id}/checkpoints/{name}"), properties=properties)


def job_asset(store_id: str, name: str) -> Asset:
    """A training job: ``flexai://STORE/jobs/NAME``."""
    return Asset(key=_key(f"{store_id}/jobs/{name_key(name)}"), properties=AssetProperties(name=f"training job {name}"))


def place_asset(storage_provider: str, path: str) -> Asset:
    """A place on a storage provider, exported to or pushed from: ``flexai://connections/CONNECTION/BUCKET/PREFIX``."""
    return Asset(
        key=_key(f"connections/{storage_provider}/{path}"),
        properties=AssetProperties(name=f"{storage_provider}:{path}"),
    )


def materialized(asset: Asset, upstream: Sequence[Asset]) -> None:
    """Tell Prefect that an asset has come into being from others; nothing without a run."""
    for one in upstream:
        events.emit(REFERENCED, AssetContext.asset_as_resource(one), payload={})
    related = [AssetContext.asset_as_related(one) for one in upstream]
    related.append(AssetContext.related_materialized_by(MATERIALIZED_BY))
    events.emit(MATERIALIZED, AssetContext.asset_as_resource(asset), related=related, payload={})


def checkpoint_materialized(checkpoint: Checkpoint, *, parent: Checkpoint | None, job: TrainingJob | None) -> None:
    """A checkpoint is available: from the checkpoint it was pushed from, its job, or a place on a provider."""
    upstream = []
    source = checkpoint.source
    if checkpoint.kind is CheckpointKind.CAPTURED:
        upstream.append(job_asset(checkpoint.store_id, checkpoint.job_name))
    elif parent is not None:
        upstream.append(checkpoint_asset(parent))
    elif source.storage_provider:
        upstream.append(place_asset(source.storage_provider, source.source_path))
    elif job is not None:
        upstream.append(job_asset(checkpoint.store_id, job.name))
    materialized(checkpoint_asset(checkpoint), upstream)


def _key(path: str) -> str:
    return f"flexai://{_REFUSED.sub('_', path)}"[:_MAX_KEY]
