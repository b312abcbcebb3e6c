"""What an attempt at a training job is to do, decided before it begins."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flexai.checkpoints.catalog.jobs import BegunJob
from flexai.checkpoints.choosing import Choice
from flexai.checkpoints.errors import ConflictError, NotFoundError, UsageError
from flexai.checkpoints.local_paths import absolute
from flexai.checkpoints.models import Node
from flexai.checkpoints.names import Id, Name, in_unicode, parse_name
from flexai.checkpoints.own_folders import OwnFolders
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training_requests import CaptureJobRequest, TrainingRequest
from flexai.checkpoints.training.code_commit import find_code_commit
from flexai.checkpoints.training.job_files import AttemptPlaces, is_here
from flexai.checkpoints.training.launchers import this_node
from flexai.checkpoints.training.runner import OtherWriter, notice_of


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What is to be run, with all that is known before the job begins."""

    name: Name
    command: tuple[str, ...]
    checkpoint: str
    input_id: Id | None
    """The checkpoint to start from, where that is known before the job begins."""
    env: Mapping[str, str] = field(repr=False)
    output_dir: Path | None
    grace: float
    """Seconds that the command has to end in once it was told to."""
    is_grace_given: bool = False
    """Whether a user has given the grace for this very command."""
    notice: int = signal.SIGTERM
    """The signal that says, beside SIGTERM, that this machine goes away."""
    is_strict: bool = False
    """Whether a version of a checkpoint that is lost fails the job."""
    writer: OtherWriter | None = None
    """The program that writes to the output directory, where there is no command to be run."""
    node: Node | None = None
    """Which of several machines this is."""
    exclude: tuple[str, ...] = ()
    """Patterns of what of the output is not captured."""

    @classmethod
    def of_watch(cls, system: System, request: CaptureJobRequest, writer: OtherWriter) -> JobPlan:
        """What it takes to capture a directory that another program writes, from what is there already on.

        Raises UsageError for what is no directory, ConflictError for one that a running job uses.
        """
        name = parse_name(request.reference, what="training job name")
        node = this_node(request.node_rank, request.nodes, {})
        output = _check_output(system, None, request.watch, joins=name if node else None)
        return cls(
            name=name,
            node=node,
            command=writer.command or (f"(watching {output})",),
            checkpoint="",
            input_id=None,
            env={},
            output_dir=output,
            grace=system.settings.grace.total_seconds(),
            writer=writer,
            exclude=tuple(request.exclude),
        )

    @classmethod
    def of(cls, system: System, request: TrainingRequest) -> JobPlan:
        """Look up what a request needs. Raises NotFoundError for a missing checkpoint, UsageError for an output folder
        that is not empty and not this job's, ConflictError for one that a running job uses.
        """
        checkpoint = request.checkpoint
        parsed = parse_name(request.name, what="training job name")
        input_id = None
        choice = Choice.read(checkpoint)
        if checkpoint and choice is None:
            input_id = system.available(checkpoint).id
        node = this_node(request.node_rank, request.nodes, {})
        output = None
        if request.output_dir:
            output = _check_output(system, parsed, request.output_dir, joins=parsed if node else None)
        if choice is not None and choice.is_best and system.catalog.jobs.find(parsed) is None:
            raise NotFoundError(
                f"training job {parsed!r} has no checkpoints yet, so none is its best",
                hint="start from another checkpoint, or from scratch without --checkpoint",
            )
        return cls(
            name=parsed,
            command=tuple(request.command),
            checkpoint=checkpoint,
            input_id=input_id,
            env=request.environment(),
            node=node,
            output_dir=output,
            grace=(system.settings.grace if request.grace is None else request.grace).total_seconds(),
            is_grace_given=request.grace is not None,
            notice=notice_of(request.preempt_signal) if request.preempt_signal else signal.SIGTERM,
            is_strict=request.strict,
            exclude=tuple(request.exclude),
        )

    def begin(self, system: System) -> BegunJob:
        """Enter the job, or its next attempt, in the catalog."""

        def layout(job_id: Id, attempt: int) -> tuple[str, str]:
            places = AttemptPlaces.of(system.settings.jobs_path, job_id, attempt, self.output_dir, self.node)
            return str(places.output), str(places.log)

        return system.catalog.jobs.begin(
            self.name,
            owner=system.owner,
            command=self.command,
            env_names=tuple(self.env),
            layout=layout,
            code_commit=find_code_commit(Path()),
            # More epochs, say: the command begins where the job had ended.
            goes_on=Choice.read(self.checkpoint) is not None or (self.writer is not None and self.writer.reports),
            node=self.node,
        )


def _check_output(system: System, name: Name | None, output_dir: str, *, joins: Name | None) -> Path:
    """The directory that a user named: empty, or the one that the job's last attempt used; any, for no name.

    Several machines of the job ``joins`` may name one directory: they may share it, or each have one of that path.
    """
    path = absolute(output_dir)
    if in_unicode(str(path)) != str(path):
        raise UsageError(
            f"the output directory {str(path)!r} has a byte in its name that is no UTF-8",
            hint="name a directory whose path is UTF-8 throughout",
        )
    OwnFolders.of(system.settings).check("the output directory", path, may_hold=True)
    for other in system.catalog.jobs.running_in(str(path)):
        if other.name == joins:
            return path
        raise ConflictError(
            f"training job {other.name!r} is running with the output directory {path}",
            hint="name another directory: what two commands write into one is nothing that a framework can load",
        )
    hint = "name a directory that is empty or not there yet, or the one that the job's last attempt used"
    try:
        if any(path.iterdir()) and name is not None:
            last = system.catalog.jobs.find(name)
            was_its = last is not None and is_here(last) and last.output_dir == str(path)
            if last is not None and joins is not None:
                was_its |= any(one.output_dir == str(path) for one in last.nodes)
            if not was_its:
                raise UsageError(f"the output directory {path} is not empty", hint=hint)
    except FileNotFoundError:
        return path
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"the output directory {path} cannot be used: {reason}", hint=hint) from error
    return path
