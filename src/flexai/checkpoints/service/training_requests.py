"""What can be asked for of training jobs; see ``flexai.checkpoints.service.requests``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from flexai.checkpoints.choosing import Choice
from flexai.checkpoints.errors import RequestError, UsageError
from flexai.checkpoints.names import is_variable, parse_name, parse_reference
from flexai.checkpoints.service.requests import check_patterns
from flexai.checkpoints.storage.connection import SecretText
from flexai.checkpoints.training.launchers import this_node

OUTPUT_VARIABLE = "FLEXAI_OUTPUT_CHECKPOINT_DIR"
INPUT_VARIABLE = "FLEXAI_INPUT_CHECKPOINT_DIR"
"""The directory of the files that a command starts from."""
INPUT_UNIT_VARIABLE = "FLEXAI_INPUT_CHECKPOINT"
"""What of it a framework loads: the directory, a folder or a file in it, or the prefix of several files."""
JOB_VARIABLE = "FLEXAI_TRAINING_JOB"
"""The name of the training job that a command runs as."""
REPORTS_VARIABLE = "FLEXAI_REPORTS_DIR"
"""Where it reports what it has saved: see ``flexai.training.Run``."""


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """A command to be run as a training job, whose checkpoints are captured.

    Args:
        name: The training job's name.
        command: The program and its arguments; no shell is involved.
        checkpoint: NAME, UUID or JOB/PATH of the checkpoint to start from, or ``latest``, ``best`` or
            ``best:NAME[:min|max]`` of those that earlier attempts of this job have captured and that are not known to
            be unfit; from scratch where empty.
        env: Environment variables for the command, added to those of the process that runs this; a value may be a
            pydantic ``SecretStr``. They are stored nowhere: the catalog keeps only the names.
        output_dir: Where the command writes its checkpoints: empty, not there yet, or that of the job's last attempt. A
            folder of the job's own where left out. ``~`` is the home directory.
        strict: Fail the job of a command that succeeded where a version of a checkpoint was lost.
        reuse_succeeded: Return a job of this name that has succeeded already, instead of refusing it.
        grace: How long the command may take to save and end once it was told to, before it is killed; the setting
            ``grace`` where left out. After a notice that this machine goes away it is also the time in which what is
            saved has to be stored; where it is left out, the end that Slurm tells of counts, if that is near.
        preempt_signal: A signal that says, as SIGTERM does, that this machine goes away: ``USR1``, say. It is passed on
            to the command as any other.
        node_rank: Which of several machines this is, from 0.
        nodes: How many machines run the command together; each of them makes this request with its number.
        exclude: Patterns of what of the output directory is not captured, as in a ``.gitignore``; the directory's own
            are in its ``.flexaiignore``.

    Raises:
        UsageError: InvalidNameError for the name or the reference; a command that is none, a variable that cannot be
            set, a negative grace, a signal that cannot give notice, or an empty pattern.
    """

    name: str
    command: Sequence[str]
    checkpoint: str = ""
    env: Mapping[str, str | SecretText] | None = field(default=None, repr=False)
    output_dir: str = ""
    reuse_succeeded: bool = False
    strict: bool = False
    grace: timedelta | None = None
    preempt_signal: str = ""
    node_rank: int = 0
    nodes: int = 1
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        this_node(self.node_rank, self.nodes, {})
        object.__setattr__(self, "exclude", tuple(self.exclude))
        check_patterns(self, "exclude")
        object.__setattr__(self, "command", tuple(self.command))
        object.__setattr__(self, "env", dict(self.env or {}))
        parse_name(self.name, what="training job name")
        if self.checkpoint and Choice.read(self.checkpoint) is None:
            parse_reference(self.checkpoint)
        if not self.command or not self.command[0]:
            raise UsageError("there is no command to run", hint="flexai training run NAME -- COMMAND [ARGUMENT]…")
        if any("\0" in argument for argument in self.command):
            raise UsageError("an argument of the command has a NUL character")
        if self.grace is not None and self.grace < timedelta(0):
            raise UsageError("the grace is less than nothing", hint="give a duration, such as 30s or 2m")
        if self.preempt_signal:
            from flexai.checkpoints.training.runner import notice_of

            notice_of(self.preempt_signal)
        for variable, value in self.environment().items():
            _check_variable(variable, value)

    def environment(self) -> dict[str, str]:
        """The variables with their values in plain text."""
        values = self.env or {}
        return {name: value if isinstance(value, str) else value.get_secret_value() for name, value in values.items()}


def _check_variable(variable: str, value: str) -> None:
    if not is_variable(variable):
        raise UsageError(f"{variable!r} is no name of an environment variable", hint="--env NAME=VALUE")
    if variable in {OUTPUT_VARIABLE, INPUT_VARIABLE, INPUT_UNIT_VARIABLE, JOB_VARIABLE, REPORTS_VARIABLE}:
        raise UsageError(f"{variable} is set for the command by flexai itself", hint="leave it out of --env")
    if "\0" in value:
        raise UsageError(f"the value of {variable} has a NUL character")


@dataclass(frozen=True, slots=True)
class CaptureJobRequest:
    """A training job of whose attempts something is to be stored that they have left on this machine.

    Args:
        reference: NAME or UUID of the training job.
        watch: A directory that another program writes to: capture it until told to stop, as that job, which is made
            where there is none of that NAME. ``~`` is the home directory.
        node_rank: Which of several machines this is, from 0, where each watches a directory of its own.
        nodes: How many machines write the job's checkpoints together.
        exclude: Patterns of what of the directory is not captured, as in a ``.gitignore``; its own are in its
            ``.flexaiignore``. An attempt that has left something goes by its own.

    Raises:
        UsageError: InvalidNameError for a text that can be neither, or no name for a job to be made; patterns without a
            directory, or an empty one.
    """

    reference: str
    watch: str = ""
    node_rank: int = 0
    nodes: int = 1
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        this_node(self.node_rank, self.nodes, {})
        object.__setattr__(self, "exclude", tuple(self.exclude))
        check_patterns(self, "exclude")
        if self.exclude and not self.watch:
            raise RequestError(
                "{} needs {}: what an attempt has left is stored as it was begun",
                "exclude",
                "watch",
                hint="name the directory to capture",
            )
        if self.watch:
            parse_name(self.reference, what="training job name")


@dataclass(frozen=True, slots=True)
class DeleteJobRequest:
    """A training job to be deleted, with its log and the checkpoints that it wrote.

    Args:
        reference: NAME or UUID of the training job.
        keep_checkpoints: Keep the checkpoints that it wrote, under their UUIDs.
        discard: Do not store first what is whole and could not be stored so far: delete it as well.
        force: Delete it also where another user made it.
    """

    reference: str
    keep_checkpoints: bool = False
    discard: bool = False
    force: bool = False
