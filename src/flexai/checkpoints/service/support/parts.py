"""Checkpoints that several machines write: each captures what its own disk has, and the catalog puts that together.

A checkpoint becomes available when all machines have brought their parts, or when one part can be used by itself: on a
file system that all share, or where one machine saves everything. Its manifest is the union of the parts' files; where
two have a file of one path, that of the machine with the lowest number stands. No byte moves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from flexai.checkpoints.catalog.leases import Lease
from flexai.checkpoints.choosing import losses_of
from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.models import MOST_METRICS, Checkpoint, CheckpointStatus, Node, TrainingFacts, now
from flexai.checkpoints.names import new_id
from flexai.checkpoints.paths import only_empty, parse_path
from flexai.checkpoints.service.support.code import stored_files
from flexai.checkpoints.service.support.manifest_writer import summarise, write_manifest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.training.completeness.by_format import Completeness, FileRole, Survey, completeness
from flexai.checkpoints.training.completeness.survey import base_name
from flexai.checkpoints.training.formats.facts import read_facts
from flexai.checkpoints.training.formats.folder import CheckpointFolder, RangedFiles
from flexai.checkpoints.training.formats.pickle_ends import dcp_storage
from flexai.checkpoints.training.formats.verdict import Outcome
from flexai.checkpoints.training.units import has_number

_OF_A_RANK = re.compile(
    r"(.*[^a-z])?(rank|shard|mp|tp|pp|dp|ep|process|worker|host|node)[-_.]?\d+(\D.*)?", re.IGNORECASE | re.DOTALL
)
"""The name of a file, or of a folder in a checkpoint, that each rank has of its own."""
_OWN_METADATA = re.compile(r"(.*/)?__\d+\.metadata", re.DOTALL)


class NodePart(NamedTuple):
    """What one of several machines has captured of a checkpoint."""

    node: Node
    attempt: int
    is_whole: bool
    """Whether it can be used without the others' parts."""


def judge_part(folder: CheckpointFolder) -> Completeness:
    """Judge what one of several machines wrote: what is missing in it may be on another one, so time has to tell.

    Shards of DCP without their `.metadata` may be brought also where the command was cut off: that is written when all
    shards are, and without it what all machines bring is not whole. (But not where each rank writes one of its own.)
    """
    verdict = completeness(folder)
    has_shards = bool(Survey(folder).dcp_folders)
    if verdict.outcome is not Outcome.PARTIAL:
        return replace(verdict, conclusive=verdict.conclusive and not has_shards)
    is_judged_together = has_shards and not any(map(_OWN_METADATA.fullmatch, folder.files))
    return Completeness(Outcome.WHOLE if is_judged_together else Outcome.UNKNOWN, reason=verdict.reason)


def is_whole_by_itself(folder: CheckpointFolder) -> bool:
    """Whether a part can be used without the others'.

    Where each rank writes files of its own, and none says which ones there are, that cannot be told.
    """
    survey = Survey(folder)
    if completeness(folder).outcome is not Outcome.WHOLE:
        return False
    if list(folder.files) == [base_name(folder.name)]:
        return True  # a file that is a checkpoint
    if survey.dcp_folders:
        named = (f"{place}/.metadata".lstrip("/") for place in survey.dcp_folders)
        return all(path in folder.files and dcp_storage(folder, path) for path in named)
    of_ranks = survey.of(FileRole.DEEPSPEED_MODEL, FileRole.DEEPSPEED_OPTIMIZER)
    return not of_ranks and not any(map(_OF_A_RANK.fullmatch, folder.files))


def commit_part(
    system: System,
    checkpoint: Checkpoint,
    lease: Lease,
    files: Sequence[StoredFile],
    part: NodePart,
    *,
    folders: Sequence[str],
    facts: TrainingFacts,
) -> Checkpoint:
    """Enter a part in the catalog; returns the checkpoint that it belongs to."""
    group = system.catalog.parts.commit(
        checkpoint,
        lease,
        node=part.node,
        attempt=part.attempt,
        manifest=summarise(files, folders),
        files=files,
        facts=facts,
        is_whole=part.is_whole,
        tells_save=has_number(checkpoint.name),
    )
    return system.catalog.checkpoints.get_by_id(group)


def combine(system: System, checkpoint_id: str, *, may_lack_files: bool = False) -> tuple[Checkpoint, bool]:
    """Make a checkpoint available of its parts where these suffice.

    ``may_lack_files`` says that the user has files left out: then no rule can fault what is not there.
    Returns it as it is then, or the one in its place, and whether this call has made it available. Raises what the
    catalog and the store raise.
    """
    while True:
        before = system.catalog.checkpoints.get_by_id(checkpoint_id)
        if before.part_of:
            checkpoint_id = before.part_of
            continue
        parts = system.catalog.parts.of(checkpoint_id)
        sufficient = None if before.deleted_at else _suffices(system, before, parts, may_lack_files=may_lack_files)
        if sufficient is None:
            return before, False
        files, folders = sufficient
        after = before
        if before.status is CheckpointStatus.AVAILABLE:
            after = replace(before, id=new_id(), created_at=now())
        facts = _facts(_Stored(before.name, stored_files(system.store, files)), parts)
        time = now()
        described = replace(
            after, facts=facts, folders=folders, status=CheckpointStatus.AVAILABLE, reason="", updated_at=time
        )
        manifest = write_manifest(system.store, described, files)
        if system.catalog.parts.complete(
            before,
            after,
            parts,
            manifest=manifest,
            files=files,
            facts=facts,
            time=time,
        ):
            if after.id != before.id:
                system.store.delete_manifest(before.id)
            return system.catalog.checkpoints.get_by_id(after.id), True
        if after.id != before.id:
            system.store.delete_manifest(after.id)


def _suffices(
    system: System, whole: Checkpoint, parts: Sequence[Checkpoint], *, may_lack_files: bool
) -> tuple[list[StoredFile], tuple[str, ...]] | None:
    """The files, and empty folders, that make a checkpoint available; None where there is nothing to do."""
    by_path: dict[str, StoredFile] = {}
    for part in reversed(parts):
        by_path |= {file.path: file for file in system.blobs.files_of(part.id)}
    union = list(by_path.values())
    folders = only_empty((parse_path(folder) for part in parts for folder in part.folders), by_path)
    is_all_there = len({part.node for part in parts}) == whole.parts
    usable = [part for part in parts if part.status is CheckpointStatus.AVAILABLE]
    if whole.status is CheckpointStatus.AVAILABLE:
        if not is_all_there or summarise(union, folders).digest == whole.manifest_digest:
            return None
        usable.clear()
    elif not is_all_there and not usable:
        return None
    verdict = completeness(_Stored(whole.name, stored_files(system.store, union)))
    # Each part was judged with what is left out, on its own machine.
    is_unknown = verdict.outcome is Outcome.UNKNOWN or may_lack_files
    if verdict.outcome is Outcome.WHOLE or (is_all_there and is_unknown):
        return union, folders
    if usable:
        return system.blobs.files_of(usable[0].id), usable[0].folders
    if is_all_there:
        system.catalog.parts.explain(
            whole.id, f"all parts are there, and together they are not whole: {verdict.reason}"
        )
    return None


def _facts(folder: CheckpointFolder, parts: Sequence[Checkpoint]) -> TrainingFacts:
    """What the files tell, but for what a machine's trainer has reported, and what only one machine knows."""
    facts = read_facts(folder)
    told = [part.facts for part in parts]
    reported = list(dict.fromkeys(name for one in told for name in one.reported))
    metrics: dict[str, float] = {}
    for one in (*told, facts):
        metrics = {name: one.metrics[name] for name in one.reported if name in one.metrics} | metrics
    for one in (facts, *told):
        metrics = metrics | {name: value for name, value in one.metrics.items() if name not in metrics}
    metrics = dict(list(metrics.items())[:MOST_METRICS])
    train_loss, eval_loss = losses_of(metrics)
    steps = [one.step for one in told if "step" in one.reported] + [facts.step] + [one.step for one in told]
    return replace(
        facts,
        step=next((step for step in steps if step is not None), None),
        metrics=metrics,
        train_loss=facts.train_loss if train_loss is None else train_loss,
        eval_loss=facts.eval_loss if eval_loss is None else eval_loss,
        best_by=facts.best_by or next((one.best_by for one in told if one.best_by), ""),
        reported=tuple(reported),
    )


class _Stored(CheckpointFolder):
    """Files in the store, as rules and readers of formats see a folder."""

    def __init__(self, name: str, files: RangedFiles) -> None:
        self.name = name
        self.files = files.files
        self._ranges = files

    def read(self, path: str, start: int, length: int) -> bytes:
        return self._ranges.read(path, start, length)
