"""Inspect: everything that the catalog says of a checkpoint or a training job, as the document that programs read."""

from __future__ import annotations

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.documents import Document, checkpoint_document, job_document
from flexai.checkpoints.names import parse_reference


def inspect_checkpoint(catalog: Catalog, reference: str) -> Document:
    """What ``checkpoint inspect`` shows of a NAME, UUID or JOB/PATH.

    Raises InvalidNameError for a text that can be none of them, NotFoundError where there is none.
    """
    checkpoint = catalog.checkpoints.get(parse_reference(reference))
    return checkpoint_document(
        checkpoint, catalog.checkpoints.list_files(checkpoint.id), catalog.checkpoints.exports_of(checkpoint.id)
    )


def inspect_training(catalog: Catalog, reference: str) -> Document:
    """What ``training inspect`` shows of a NAME or UUID; raises what ``inspect_checkpoint`` raises."""
    from flexai.checkpoints.catalog.jobs import parse_job_reference
    from flexai.checkpoints.training.job_files import as_it_ended

    return job_document(as_it_ended(catalog.jobs.get(parse_job_reference(reference))))
