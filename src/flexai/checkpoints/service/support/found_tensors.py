"""The tensors of a checkpoint, from the headers of its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from flexai.checkpoints.documents import Document
from flexai.checkpoints.training.formats.folder import RangedFiles
from flexai.checkpoints.training.formats.tensors import TensorInfo, may_hold_tensors, read_tensors
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError


class FoundTensors(NamedTuple):
    """What the headers say."""

    told: Mapping[str, tuple[TensorInfo, ...]]
    """The tensors of each file that holds some, by its path."""
    untold: Mapping[str, str]
    """Why the tensors of a file cannot be told."""

    def to_dict(self) -> Document:
        """What the status of ``checkpoint inspect --tensors --json`` has besides."""
        return {
            "tensors": [
                {"path": path, "name": one.name, "dtype": one.dtype, "shape": list(one.shape), "sizeBytes": one.size}
                for path, tensors in self.told.items()
                for one in tensors
            ],
            "tensorsNotRead": [{"path": path, "reason": why} for path, why in self.untold.items()],
        }


def find_tensors(files: RangedFiles, *, but: Collection[str] = (), located: bool = False) -> FoundTensors:
    """The tensors in each of the files but those; ``located`` is that of ``read_tensors``. Raises what reading raises.

    A file that is damaged, or longer than is read here, is untold.
    """
    told: dict[str, tuple[TensorInfo, ...]] = {}
    untold: dict[str, str] = {}
    for path in files.files:
        if path in but or not may_hold_tensors(path):
            continue
        try:
            if tensors := read_tensors(files, path, located=located):
                told[path] = tuple(tensors)
        except (CannotTellError, NotWholeError) as error:
            untold[path] = str(error)
    return FoundTensors(told, untold)
