"""What a training's logs say of its steps: CSV, JSON and JSON lines with a step in each row.

Loggers write them beside the checkpoints, often after those. Only the end of a long one is read.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.models import MOST_METRICS
from flexai.checkpoints.names import is_metric_name
from flexai.checkpoints.training.formats.folder import RangedFiles, read_exactly
from flexai.checkpoints.training.formats.json_object import finite, is_number, whole_number
from flexai.checkpoints.training.formats.verdict import NotWholeError

STEPS = (
    "global_step",
    "global_steps",
    "step",
    "iter_num",
    "iteration",
    "num_updates",
    "iter",
    "step_count",
    "train_step",
    "train_steps",
    "current_step",
    "num_timesteps",
    "time/total_timesteps",
    "steps",
)
"""What trainers call the number of steps, the surest first."""
NOT_MEASURED = frozenset({*STEPS, "epoch", "_step", "_runtime", "_timestamp", "timestamp", "time", "wall_time"})
"""Numbers of a row that are no metrics."""
INNER = ("metrics", "val_metrics", "eval_metrics", "test_metrics", "scores", "results")
"""Under which names the metrics of a row, or of a file, lie in an object of their own."""

_LOG = re.compile(r".*\.(csv|jsonl|ndjson)|(.*[-_.])?(metrics|log|history|results)\.json", re.IGNORECASE)
_LIGHTNING = re.compile(r"(?:.*/)?version_\d+/metrics\.csv")
_MOST_FILES = 50
_MOST_ROWS = 30_000
_MOST_STEPS = 50_000
_HEAD = 64 * 1024
_TAIL = 2 * 1024 * 1024


def metrics_by_step(files: RangedFiles) -> dict[int, dict[str, float]]:
    """The metrics that the logs among `files` give of each step, finite numbers only. Raises nothing.

    Within a log the last row of a step counts. Where two logs say different things of one step, two trainings wrote
    them, and neither is believed.
    """
    found: dict[int, dict[str, float]] = {}
    disputed: set[tuple[int, str]] = set()
    logs = [path for path in sorted(files.files) if is_log(path)]
    for path in logs[:_MOST_FILES]:
        for step, metrics in _of_log(files, path).items():
            if len(found) >= _MOST_STEPS and step not in found:
                continue
            known = found.setdefault(step, {})
            for name, value in metrics.items():
                if known.get(name, value) != value:
                    disputed.add((step, name))
                if len(known) < MOST_METRICS:
                    known[name] = value
    for step, name in disputed:
        found[step].pop(name, None)
    return found


def is_log(path: str) -> bool:
    """Whether a file's name is one of a log of metrics."""
    return _LOG.fullmatch(path.rpartition("/")[2]) is not None


def measured(row: Mapping[Any, Any]) -> Iterator[tuple[str, float]]:
    """The metrics of a row: its finite numbers, but for those that say when it was written."""
    for name, value in row.items():
        is_metric = isinstance(name, str) and name not in NOT_MEASURED and is_metric_name(name) and is_number(value)
        if is_metric and (number := finite(value)) is not None:
            yield name, number


def _of_log(files: RangedFiles, path: str) -> dict[int, dict[str, float]]:
    try:
        head, tail = _ends(files, path)
    except NotWholeError:
        return {}
    # Lightning's logger counts the batches before the one that it logs (`training_epoch_loop.py`,
    # `_batches_that_stepped`), and a checkpoint counts that one too.
    shift = 1 if _LIGHTNING.fullmatch(path) else 0
    found: dict[int, dict[str, float]] = {}
    rows = _csv_rows(head, tail) if path.lower().endswith(".csv") else _json_rows(head, tail)
    for row in rows:
        step = next((told for name in STEPS if (told := whole_number(row.get(name))) is not None), None)
        if step is not None:
            metrics = found.setdefault(step + shift, {})
            for inner in (row, *(row[name] for name in INNER if isinstance(row.get(name), dict))):
                metrics.update(measured(inner))
    return found


def _ends(files: RangedFiles, path: str) -> tuple[bytes, bytes]:
    """The start of a file, and its end from the first whole line on; the end is empty where the start is all."""
    size = files.files[path]
    if size <= _HEAD + _TAIL:
        return read_exactly(files, path, 0, size), b""
    tail = read_exactly(files, path, size - _TAIL, _TAIL)
    return read_exactly(files, path, 0, _HEAD), tail[tail.find(b"\n") + 1 :]


def _csv_rows(head: bytes, tail: bytes) -> Iterator[dict[str, Any]]:
    title, _, first = head.partition(b"\n")
    lines = (tail or first).splitlines()[-_MOST_ROWS:]
    try:
        for row in csv.DictReader(line.decode("utf-8", "replace").replace("\0", "") for line in (title, *lines)):
            yield {name: _number(text) for name, text in row.items() if name and isinstance(text, str)}
    except csv.Error:
        return


def _number(text: str) -> float | None:
    try:
        return float(text) if len(text) <= 40 else None
    except ValueError:
        return None


def _json_rows(head: bytes, tail: bytes) -> Iterator[dict[str, Any]]:
    """The objects of a document, or of its lines."""
    if not tail:
        try:
            document = parse_json(head, lenient=True)
        except ValueError:
            pass
        else:
            yield from _objects(document if isinstance(document, list) else [document])
            return
    for line in (tail or head).splitlines()[-_MOST_ROWS:]:
        try:
            yield from _objects([parse_json(line, lenient=True)])
        except ValueError:
            continue  # torn, or no JSON


def _objects(documents: Iterable[object]) -> Iterator[dict[str, Any]]:
    return (document for document in documents if isinstance(document, dict))
