"""Scrub, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document, short_size
from flexai.flows.flow_options import OPTIONS, rename_run
from flexai.flows.store_forms import ScrubRequest
from flexai.tasks import scrub_store

_USUAL = ScrubRequest()
_GIB = 1024**3


@flow(
    name="scrub-store",
    description="Verify a part of the store, the longest unread first, and repair rot from exports.",
    flow_run_name="scrub {request.budget_gib:g} GiB",
    **OPTIONS,
)
def scrub(request: ScrubRequest = _USUAL) -> Document:
    """Scrub the store: scheduled, its runs go through all of it, whatever one of them dies of.

    Args:
        request: How much to read, and whether to repair.

    Returns:
        What ``flexai.tasks.scrub_store`` returns.

    Raises:
        CheckpointError: IntegrityError for damage that is left.
    """
    done = scrub_store(max(1, round(request.budget_gib * _GIB)), repair=request.repair)
    found = f", {done['damagedContents']} damaged" if done["damagedContents"] else ""
    rename_run(f"scrub ({short_size(done['checkedBytes'])} verified{found})")
    return done
