"""Mirror, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document, short_size
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.store_forms import MirrorForm
from flexai.tasks import mirror_checkpoints


@flow(
    name="mirror-checkpoints",
    description="Bring a set of checkpoints to a second storage provider; what is there already is left as it is.",
    flow_run_name="mirror to {request.storage_provider}",
    **OPTIONS,
)
def mirror(request: MirrorForm) -> Document:
    """Mirror checkpoints, each to a folder of its own below a path; run again, it copies what is new.

    One that fails does not stop the others; the run fails at its end and names them.

    Args:
        request: Which checkpoints, and where to.

    Returns:
        What ``flexai.tasks.mirror_checkpoints`` returns.

    Raises:
        CheckpointError: What ``flexai.tasks.mirror_checkpoints`` raises.
    """
    done = run_task(mirror_checkpoints, request.request())
    rename_run(
        f"mirror to {request.storage_provider}: {len(done['copied'])} copied ({short_size(done['movedBytes'])}),"
        f" {len(done['skipped'])} there already"
    )
    return done
