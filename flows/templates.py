"""Names and paths made from templates such as ``{job}-{step}``, and nothing but the fields that are offered."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from flexai.checkpoints.errors import UsageError

_PADDING = "0[1-9][0-9]?d"
"""The one format: digits, of which there are at least so many. A width without a bound would fill the memory."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


def check_template(template: str, fields: frozenset[str]) -> frozenset[str]:
    """Return the fields that a template uses.

    Raises ValueError for a broken template and for anything but a plain field, or one of padded digits
    (``{step:06d}``): Python's own templates would reach into objects (``{job.__class__}``).
    """
    found = set()
    for _, field, specification, conversion in string.Formatter().parse(template):
        if field is None:
            continue
        if field not in fields or conversion:
            offered = ", ".join("{" + name + "}" for name in sorted(fields))
            raise ValueError(f"{template!r} may hold {offered}, but not {{{field}}}")
        if specification and not re.fullmatch(_PADDING, specification):
            raise ValueError(f"{template!r} may pad digits, as in {{step:06d}}, but not by {specification!r}")
        found.add(field)
    return frozenset(found)


def field_pattern(fields: frozenset[str]) -> str:
    """A regular expression for one field of a template, by which a form's schema refuses what is none of these."""
    return f"\\{{({'|'.join(sorted(fields))})(:{_PADDING})?\\}}"


def render(template: str, values: Mapping[str, str | int]) -> str:
    """Fill in a template whose fields were checked.

    Raises UsageError for a format that does not fit the value, as ``{step:06d}`` where a checkpoint tells no step.
    """
    try:
        return template.format_map(values)
    except ValueError as error:
        raise UsageError(
            f"{template!r} cannot be filled in: {str(error).lower()}", hint="leave out what follows the colon"
        ) from error


def name_part(text: str) -> str:
    """A text as a part of a name: what a name cannot hold becomes a dash."""
    return _NOT_IN_NAMES.sub("-", text).strip("-_")
