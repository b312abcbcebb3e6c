"""Scrub, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document, short_size
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.store_forms import ScrubForm
from flexai.tasks import scrub_store

_USUAL = ScrubForm()


@flow(
    name="scrub-store",
    description="Verify a part of the store, the longest unread first, and repair rot from exports.",
    flow_run_name="scrub {request.budget_gib:g} GiB",
    **OPTIONS,
)
def scrub(request: ScrubForm = _USUAL) -> Document:
    """Scrub the store: scheduled, its runs go through all of it, whatever one of them dies of.

    Args:
        request: How much to read, and whether to repair.

    Returns:
        What ``flexai.tasks.scrub_store`` returns.

    Raises:
        CheckpointError: IntegrityError for damage that is left.
    """
    done = run_task(scrub_store, request.request())
    found = f", {done['damagedContents']} damaged" if done["damagedContents"] else ""
    rename_run(f"scrub ({short_size(done['checkedBytes'])} verified{found})")
    return done
