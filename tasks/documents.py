"""What the tasks return, from the catalog."""

from __future__ import annotations

from flexai.checkpoints.catalog.reader import open_reader
from flexai.checkpoints.documents import Document, checkpoint_document, job_document
from flexai.checkpoints.models import Checkpoint
from flexai.checkpoints.service.system import System


def document_of_checkpoint(system: System, checkpoint: Checkpoint) -> Document:
    """A checkpoint as ``flexai checkpoint inspect --json`` shows it."""
    with open_reader(system.settings.effective_database_url) as reader:
        checkpoint_id = checkpoint.id
        return checkpoint_document(
            reader.checkpoint(checkpoint_id), reader.files(checkpoint_id), reader.exports(checkpoint_id)
        )


def document_of_job(system: System, reference: str) -> Document:
    """A training job as ``flexai training inspect --json`` shows it."""
    with open_reader(system.settings.effective_database_url) as reader:
        return job_document(reader.job(reference))
