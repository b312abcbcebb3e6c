"""A directory of this host, as rules and readers of formats see a checkpoint."""

from __future__ import annotations

from pathlib import Path

from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.output_dir import OutputTree


def local_folder(path: Path, name: str | None = None, *, nested: bool = True) -> CheckpointFolder:
    """List a directory once; ``name`` is its own unless given, ``nested=False`` leaves the folders in it out."""
    tree = OutputTree(Beneath(path))
    tree.refresh()
    sizes = {file: stamp.size for file, stamp in sorted(tree.files()) if nested or "/" not in file}
    return CheckpointFolder(path.name if name is None else name, sizes, Beneath(path).at)
