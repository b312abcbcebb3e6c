"""What runs are called: what they do, to which checkpoint, and how large that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        try:
            told = size(parameters)
        except (AttributeError, TypeError):  # an argument of another type: for the task to say
            told = ""
        return template.format(**parameters, size=told)

    # The protocol's static method is Prefect's own look at the signature.
    return cast(TaskRunNameCallbackWithParameters, name)


def protecting(references: Sequence[str], *, protected: bool) -> str:
    """What a run is called that protects checkpoints, or takes that back."""
    first, *others = references or ("nothing",)
    more = f" and {len(others)} more" if others else ""
    return f"{'protect' if protected else 'unprotect'} {first}{more}"


def _protecting(parameters: dict[str, Any]) -> str:
    given = parameters["references"]
    # What is no list is for the task to refuse.
    return protecting(
        given if isinstance(given, list | tuple) else [str(given)], protected=bool(parameters["protected"])
    )


PROTECTING = cast(TaskRunNameCallbackWithParameters, _protecting)
"""The name of a task run that protects checkpoints."""
