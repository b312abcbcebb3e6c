"""Garbage collection, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document, short_size
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.store_forms import GarbageForm
from flexai.tasks.gc import collect_garbage as collect

_USUAL = GarbageForm()


@flow(
    name="collect-garbage",
    description="Free the bytes that no checkpoint needs any more, once the grace period is over.",
    flow_run_name="collect garbage",
    **OPTIONS,
)
def collect_garbage(request: GarbageForm = _USUAL) -> Document:
    """Free what deleted checkpoints and abandoned pushes have left; what another checkpoint shares stays.

    Args:
        request: How long ago something must have been deleted.

    Returns:
        What ``flexai.tasks.collect_garbage`` returns.

    Raises:
        CheckpointError: What the catalog and the store raise.
    """
    done = run_task(collect, request.request())
    rename_run(f"collect garbage ({short_size(done['freedBytes'])} freed)")
    return done
