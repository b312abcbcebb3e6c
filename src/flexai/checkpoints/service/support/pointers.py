"""Pointers: what the links and files of a trainer call a checkpoint. They are kept with it when its job ends.

A pointer is no content. What it is called is written relative to the folder that the checkpoint lies in, as ``ls``
does: ``last.ckpt`` for a copy or a text, ``last.ckpt -> epoch=3-step=400.ckpt`` for a symbolic link. Links to a
checkpoint that is one file are made again where that file is fetched: frameworks resume from them.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

from flexai.checkpoints.models import Checkpoint, CheckpointStatus
from flexai.checkpoints.names import is_captured_name
from flexai.checkpoints.paths import is_path
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.beneath import Beneath

_MOST = 100
"""Pointers to one checkpoint that are kept."""


def record_pointers(system: System, job_id: str, output: Path, pointers: Mapping[str, str]) -> None:
    """Keep what was in an output directory with the checkpoints that a job captured from it.

    ``pointers`` are their paths below the directory, and the names of the checkpoints that they mean. Raises what the
    catalog raises.
    """
    if not pointers:
        return
    called: dict[str, list[str]] = {}
    for path, name in sorted(pointers.items()):
        shown = posixpath.relpath(path, posixpath.dirname(name) or ".")
        if is_captured_name(path):
            link = f" -> {posixpath.basename(name)}" if (output / path).is_symlink() else ""
            called.setdefault(name, []).append(shown + link)
    captured = {
        one.name: one
        for one in system.catalog.checkpoints.of_job(job_id)
        if one.status is CheckpointStatus.AVAILABLE and one.name in called
    }
    for name, checkpoint in captured.items():
        system.catalog.checkpoints.set_pointers(checkpoint.id, called[name][:_MOST])


def link_names(checkpoint: Checkpoint, paths: Sequence[str]) -> list[str]:
    """What the symbolic links to a checkpoint's one file are called; none where it has several."""
    if len(paths) != 1:
        return []
    (target,) = paths
    names = [shown.removesuffix(f" -> {target}") for shown in checkpoint.pointers if shown.endswith(f" -> {target}")]
    return [one for one in names if "/" not in one and is_path(one)]


def make_links(checkpoint: Checkpoint, paths: Sequence[str], destination: Path, progress: Progress) -> None:
    """Make the symbolic links to a checkpoint's one file again, beside it.

    What is there already stays, with a note where it is no such link.
    """
    for name in link_names(checkpoint, paths):
        target = paths[0]
        try:
            _make_link(Beneath(destination), name, target)
        except OSError as error:
            progress.note(f"the link {name!r} to {target!r} was not made: {(error.strerror or str(error)).lower()}")


def _make_link(tree: Beneath, name: str, target: str) -> None:
    folder = tree.folder("")
    try:
        os.symlink(target, name, dir_fd=folder.number)
    except FileExistsError:
        try:
            is_same = os.readlink(name, dir_fd=folder.number) == target
        except OSError:
            is_same = False
        if not is_same:
            raise
