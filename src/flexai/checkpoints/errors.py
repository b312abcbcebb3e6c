"""Every error the checkpoint system raises on purpose, in one tree.

::

    CheckpointError                    1  something failed
    ├── UsageError                     2  the request makes no sense
    │   ├── InvalidNameError           2  a name that breaks the naming rules
    │   ├── UnsafePathError            2  a path that could leave its root, or that two systems read differently
    │   ├── SourceError                2  a source that is missing, empty, unreadable, doubled or linked
    │   ├── SettingsError              2  a setting that cannot be used
    │   └── RequestError               2  options that make no sense together
    ├── NotFoundError                  3  no checkpoint, job, connection or object of that name
    ├── ConflictError                  4  the name is taken, or another process works on it
    │   ├── NotYoursError              4  what another user made, without --force
    │   ├── AlreadyExistsError         4  the name is taken by something finished
    │   │   ├── NameTakenError         4  … by a checkpoint that is available
    │   │   └── JobExistsError         4  … by a training job that has succeeded
    │   ├── DestinationExistsError     4  other content is already where the files should go
    │   └── ExtraFilesError            4  what --delete-extra would delete, without --force
    ├── AccessDeniedError              5  a provider or a database refused the credentials or a permission
    ├── IntegrityError                 6  content whose digest does not match
    ├── ExecutableContentError         1  content that runs code when it is loaded, where that was to be refused
    ├── SourceChangedError             1  a source that changed while it was read
    ├── PostponedError                 1  storing that gives way: a later save comes first, or the time is over
    ├── StorageError                   1  a store that failed: full, read-only, unreachable
    │   ├── StorageUnavailableError    1  a passing failure: worth another try
    │   │   ├── BrokenOffError         1  … a change of the catalog that lost its connection: nothing is changed
    │   │   └── StorageFullError       1  … once there is room, which takes a person
    │   └── UnsupportedError           1  what this store cannot do at all
    ├── JobFailedError                 1  a training command that did not succeed
    ├── ProcessLostError               1  a process that did a part of the work, and was killed
    └── InterruptedByUserError       130  stopped by a signal

Each class carries its exit code and a hint: the next thing to try. A hint given to an instance wins over
its class's. Messages are one sentence without a full stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from flexai.checkpoints.models import Checkpoint, TrainingJob
    from flexai.checkpoints.service.repair import Repair
    from flexai.checkpoints.service.verify import Damage


class CheckpointError(Exception):
    """Something failed."""

    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default pickling, which task runners in other processes use.
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[CheckpointError], message: str, hint: str) -> CheckpointError:
    return kind(message, hint=hint)


class UsageError(CheckpointError):
    """The request makes no sense: wrong flags, a wrong name, a wrong source."""

    exit_code = 2
    default_hint = "flexai --help shows the right form"


class InvalidNameError(UsageError):
    """A name that breaks the naming rules."""

    default_hint = "use 3 to 63 letters, digits, '-' or '_', beginning and ending with a letter or digit"


class UnsafePathError(UsageError):
    """A path inside a checkpoint that could leave its root, or that two systems read differently."""

    default_hint = "paths inside a checkpoint are relative, use '/', and have no '..' or reserved parts"


class SourceError(UsageError):
    """A source that is missing, empty, unreadable, given twice, or a link."""

    default_hint = "flexai checkpoint push NAME -f SOURCE[=DESTINATION]"


class SettingsError(UsageError):
    """A setting that cannot be used."""

    default_hint = "flexai config show prints the settings in force and where each came from"


class RequestError(UsageError):
    """Options that make no sense together, named as the fields of the request are that holds them.

    Each ``{}`` of the message stands for a field, and each ``{field}`` of the hint for the one of that name. ``worded``
    says the same in the words of the caller's own options.
    """

    def __init__(self, template: str, *fields: str, hint: str | None = None) -> None:
        super().__init__(template.format(*fields) if fields else template)
        self.template = template
        self.fields = fields
        self.hint_template = self.hint if hint is None else hint
        self.hint = self._worded_hint(str)

    def worded(self, word: Callable[[str], str], *, hint: str | None = None) -> UsageError:
        """The error with ``word`` of each field in its place; also in its hint, where no other one is given."""
        message = self.template.format(*map(word, self.fields)) if self.fields else self.template
        return UsageError(message, hint=self._worded_hint(word) if hint is None else hint)

    def _worded_hint(self, word: Callable[[str], str]) -> str:
        import re

        return re.sub(r"{(\w+)}", lambda field: word(field[1]), self.hint_template)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_request_error, (self.template, self.fields, self.hint_template))


def _rebuild_request_error(template: str, fields: tuple[str, ...], hint: str) -> RequestError:
    return RequestError(template, *fields, hint=hint)


class NotFoundError(CheckpointError):
    """No checkpoint, training job, connection or object of that name."""

    exit_code = 3
    default_hint = "flexai checkpoint list shows what there is"


class ConflictError(CheckpointError):
    """The name is taken, or another process works on it."""

    exit_code = 4
    default_hint = "try again when the other one has finished, or use another name"


class NotYoursError(ConflictError):
    """Another user made it, and it is changed only where the caller insists."""

    default_hint = "ask that user, or insist with --force"


class AlreadyExistsError(ConflictError):
    """The name is taken by something that is finished."""

    default_hint = "use another name, or delete the old one first"


class NameTakenError(AlreadyExistsError):
    """The name belongs to a finished checkpoint, which the caller may compare with what it meant to push."""

    def __init__(self, existing: Checkpoint) -> None:
        super().__init__(f"checkpoint {existing.name!r} already exists")
        self.existing = existing

    def __reduce__(self) -> tuple[object, ...]:
        return (NameTakenError, (self.existing,))


class JobExistsError(AlreadyExistsError):
    """The name belongs to a job that has succeeded, which the caller may take instead of running it again."""

    default_hint = (
        "use another name, go on from its latest checkpoint with --checkpoint latest, or delete it first: flexai"
        " training delete NAME"
    )

    def __init__(self, existing: TrainingJob) -> None:
        hint = self.default_hint.replace("NAME", existing.name)
        super().__init__(f"training job {existing.name!r} has already succeeded", hint=hint)
        self.existing = existing

    def __reduce__(self) -> tuple[object, ...]:
        return (JobExistsError, (self.existing,))


class DestinationExistsError(ConflictError):
    """Other content is already where the files should go."""

    default_hint = "choose another destination, or replace what is there with --overwrite"


class ExtraFilesError(ConflictError):
    """Files that are no part of a checkpoint would be deleted, which is done only where the caller insists."""

    default_hint = "--dry-run lists them, --force deletes them"

    def __init__(self, message: str, *, hint: str | None = None, paths: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.paths = tuple(paths)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_extra_files_error, (self.message, self.hint, self.paths))


def _rebuild_extra_files_error(message: str, hint: str, paths: Sequence[str]) -> ExtraFilesError:
    return ExtraFilesError(message, hint=hint, paths=paths)


class AccessDeniedError(CheckpointError):
    """A provider, a database or a file system refused the credentials or a permission."""

    exit_code = 5
    default_hint = "flexai storage check CONNECTION shows what the connection may do"


class IntegrityError(CheckpointError):
    """Content whose digest does not match what was recorded."""

    exit_code = 6
    default_hint = "flexai checkpoint verify names every damaged file and the checkpoints that need it"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        damaged: Sequence[Damage | Repair] = (),
        blob_id: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.blob_id = blob_id
        """The blob of the managed store that was found so; empty for what is none."""
        self.damaged = tuple(damaged)
        """What a verification found, or could not repair: each ``problem``, and the ``users`` that suffer from it."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_integrity_error, (self.message, self.hint, self.damaged, self.blob_id))


def _rebuild_integrity_error(
    message: str, hint: str, damaged: Sequence[Damage | Repair], blob_id: str = ""
) -> IntegrityError:
    return IntegrityError(message, hint=hint, damaged=damaged, blob_id=blob_id)


class ExecutableContentError(CheckpointError):
    """Content that runs code when it is loaded, where that was to be refused."""

    default_hint = "flexai checkpoint inspect --executable tells what each file of a checkpoint runs"


class SourceChangedError(CheckpointError):
    """A source that changed while it was read."""

    default_hint = "run the same command again once nothing writes to the source"


class PostponedError(CheckpointError):
    """Storing that gives way: a later save comes first, or the machine's time is over."""

    default_hint = "what has arrived stays: the job's next run on that machine continues it"


class StorageError(CheckpointError):
    """A store that failed: full, read-only or unreachable."""

    default_hint = "nothing stored so far is lost: run the same command again to continue"


class StorageUnavailableError(StorageError):
    """A passing failure of a store: worth another try."""

    retry_after: float = 0.0
    """Seconds that the store asked to be left alone."""


class BrokenOffError(StorageUnavailableError):
    """A change of the catalog that lost its connection and could not be done again; nothing of it is committed."""


class StorageFullError(StorageUnavailableError):
    """No room is left: worth another try once a person has made some, and not before."""

    default_hint = "free some space and run the same command again: what has arrived is kept"


class UnsupportedError(StorageError):
    """What this store cannot do at all."""

    default_hint = "flexai storage check CONNECTION shows what the provider can do"


class JobFailedError(CheckpointError):
    """A training command that did not succeed, or could not be started."""

    default_hint = "flexai training logs NAME shows what it printed"

    def __init__(self, message: str, *, hint: str | None = None, job: TrainingJob | None = None) -> None:
        if hint is None and job is not None:
            hint = self.default_hint.replace("NAME", job.name)
        super().__init__(message, hint=hint)
        self.job = job
        """The job as it ended; None where its command could not be started."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_job_failed_error, (self.message, self.hint, self.job))


def _rebuild_job_failed_error(message: str, hint: str, job: TrainingJob | None) -> JobFailedError:
    return JobFailedError(message, hint=hint, job=job)


class ProcessLostError(CheckpointError):
    """A process that did a part of the work, and was killed."""

    default_hint = "run the same again to continue; FLEXAI_TASK_RUNNER=processes:N with fewer needs less memory"


class InterruptedByUserError(CheckpointError):
    """Stopped by a signal."""

    exit_code = 130
    default_hint = "run the same command again to continue where it stopped"
