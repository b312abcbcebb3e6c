"""What runs are called: what they do, to which checkpoint, and how large that is."""

from __future__ import annotations

from typing import Any, cast

from prefect.tasks import TaskRunNameCallbackWithParameters

from flexai.checkpoints.catalog.reader import open_reader
from flexai.checkpoints.documents import short_size
from flexai.checkpoints.errors import CheckpointError


def size_of(reference: str) -> str:
    """How large a checkpoint is, as a run's name has it: `` (12 GB)``; empty where the catalog does not tell.

    Whether the checkpoint can be used at all is for the operation to say.
    """
    try:
        with open_reader() as reader:
            return f" ({short_size(reader.checkpoint(reference).size)})"
    except CheckpointError:
        return ""


def sized(template: str) -> TaskRunNameCallbackWithParameters:
    """A task's run name of its parameters and ``{size}``, that of the checkpoint in the parameter ``reference``."""

    def name(parameters: dict[str, Any]) -> str:
        return template.format(**parameters, size=size_of(parameters["reference"]))

    # The protocol's static method is Prefect's own look at the signature.
    return cast(TaskRunNameCallbackWithParameters, name)
