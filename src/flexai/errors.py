"""Every error that flexai raises on purpose; :mod:`flexai.checkpoints.errors` draws their tree.

Each has ``message``, one sentence, ``hint``, what to try next, and ``exit_code``, what the command ends with.
"""

from __future__ import annotations

from flexai.checkpoints.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CheckpointError,
    ConflictError,
    DestinationExistsError,
    ExecutableContentError,
    IntegrityError,
    InterruptedByUserError,
    InvalidNameError,
    JobExistsError,
    JobFailedError,
    NameTakenError,
    NotFoundError,
    PostponedError,
    ProcessLostError,
    RequestError,
    SettingsError,
    SourceChangedError,
    SourceError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
    UnsafePathError,
    UnsupportedError,
    UsageError,
)

__all__ = [
    "AccessDeniedError",
    "AlreadyExistsError",
    "CheckpointError",
    "ConflictError",
    "DestinationExistsError",
    "ExecutableContentError",
    "IntegrityError",
    "InterruptedByUserError",
    "InvalidNameError",
    "JobExistsError",
    "JobFailedError",
    "NameTakenError",
    "NotFoundError",
    "PostponedError",
    "ProcessLostError",
    "RequestError",
    "SettingsError",
    "SourceChangedError",
    "SourceError",
    "StorageError",
    "StorageFullError",
    "StorageUnavailableError",
    "UnsafePathError",
    "UnsupportedError",
    "UsageError",
]
