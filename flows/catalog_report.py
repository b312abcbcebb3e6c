"""A report of the catalog, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document, short_size
from flexai.flows.flow_options import OPTIONS, rename_run
from flexai.flows.store_forms import ReportForm
from flexai.tasks import report_catalog

_USUAL = ReportForm()


@flow(
    name="report-catalog",
    description="Show what the catalog and the store hold: totals, jobs, the newest, the failed, the unverified.",
    flow_run_name="report the catalog",
    **OPTIONS,
)
def report(request: ReportForm = _USUAL) -> Document:
    """Attach a page and a table about the catalog to the run; their history shows how it grows.

    Args:
        request: How much to show.

    Returns:
        What ``flexai.tasks.report_catalog`` returns.

    Raises:
        CheckpointError: What the catalog and the store raise.
    """
    done = report_catalog(request.newest)
    rename_run(
        f"report: {done['pushed']} pushed, {done['captured']} captured ({short_size(done['storedBytes'])} stored)"
    )
    return done
