"""Reading the JSON documents of a checkpoint, which may be torn, huge or hostile."""

from __future__ import annotations

import math
from typing import Any

from flexai.checkpoints.foreign_json import MAX_DOCUMENT, TooMuchError, parse_json
from flexai.checkpoints.training.formats.folder import RangedFiles, read_exactly
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown


def read_object(folder: RangedFiles, path: str, limit: int = MAX_DOCUMENT) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises NotWholeError when it is empty, cut off or not an object, CannotTellError when it is longer than
    `limit` bytes or has too many parts to be read.
    """
    size = folder.files[path]
    if size == 0:
        raise NotWholeError(f"{shown(path)} is empty")
    if size > limit:
        raise CannotTellError(f"{shown(path)} is longer than {limit // 1024**2} MiB and was not read")
    try:
        document = parse_json(read_exactly(folder, path, 0, size), lenient=True)
    except TooMuchError as error:
        raise CannotTellError(f"{shown(path)} was not read: {error}") from None
    except ValueError:
        raise NotWholeError(f"{shown(path)} is not valid JSON") from None
    if not isinstance(document, dict):
        raise NotWholeError(f"{shown(path)} does not hold a JSON object")
    return document


def whole_number(value: object) -> int | None:
    """`value` as a count that a database can hold, or None; `true` is not a number and 500.0 is 500."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    return None


def is_number(value: object) -> bool:
    """Whether `value` is a JSON number, NaN and the infinities included."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def finite(value: object) -> float | None:
    """`value` as a finite float, or None: NaN and the infinities have no place in JSON."""
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
