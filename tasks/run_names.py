"""What runs are called: what they do, to which checkpoint, and how large that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from prefect.tasks import TaskRunNameCallbackWithParameters

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.documents import short_size
from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.names import parse_reference


def size_of(reference: str) -> str:
    """How large a checkpoint is, as a run's name has it: `` (12 GB)``; empty where the catalog does not tell.

    Whether the checkpoint can be used at all is for the operation to say.
    """
    try:
        with Catalog.look() as catalog:
            return f" ({short_size(catalog.checkpoints.get(parse_reference(reference)).size)})"
    except CheckpointError:
        return ""


def _size_of_reference(parameters: dict[str, Any]) -> str:
    return size_of(parameters["reference"])


def sized(
    template: str, size: Callable[[dict[str, Any]], str] = _size_of_reference
) -> TaskRunNameCallbackWithParameters:
    """A task's run name of its parameters and ``{size}``, by default that of the parameter ``reference``."""

    def name(parameters: dict[str, Any]) -> str:
        return template.format(**parameters, size=size(parameters))

    # The protocol's static method is Prefect's own look at the signature.
    return cast(TaskRunNameCallbackWithParameters, name)
