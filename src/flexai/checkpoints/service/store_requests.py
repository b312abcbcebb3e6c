"""What can be asked for of many checkpoints, or of the whole store; see ``flexai.checkpoints.service.requests``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from flexai.checkpoints.errors import RequestError, UsageError
from flexai.checkpoints.names import parse_reference


@dataclass(frozen=True, slots=True)
class MirrorRequest:
    """A set of checkpoints to be kept at a storage provider as well, each in a folder of its own.

    Args:
        storage_provider: The name of a storage provider connection.
        destination_path: ``BUCKET[/PREFIX]`` on that provider.
        names: A pattern of the names of pushed checkpoints (``*`` stands for any letters, ``?`` for one): all of them
            where nothing else is said.
        checkpoints: Instead of it: NAME, UUID or JOB/PATH of each checkpoint.
        job: Instead of it: NAME or UUID of the training job whose checkpoints are meant.
        overwrite: Replace objects that are there with other content.

    Raises:
        RequestError: Both checkpoints and a job are given.
    """

    storage_provider: str
    destination_path: str
    names: str = "*"
    checkpoints: Sequence[str] = ()
    job: str = ""
    overwrite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoints", tuple(self.checkpoints))
        if self.checkpoints and self.job:
            raise RequestError(
                "{} and {} cannot be used together",
                "checkpoints",
                "job",
                hint="give one of: {names}; {checkpoints}; {job}",
            )


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """Checkpoints whose content is to be read and compared with its digests.

    Args:
        references: NAME, UUID or JOB/PATH of each checkpoint; the whole store where none is named.
        repair: Put content of an export in the place of all that is known to be damaged; only what cannot be repaired
            is an error then.

    Raises:
        UsageError: InvalidNameError for a reference.
    """

    references: Sequence[str] = ()
    repair: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", tuple(self.references))
        for reference in self.references:
            parse_reference(reference)


@dataclass(frozen=True, slots=True)
class ScrubRequest:
    """A part of the store to be verified, what was not read for the longest time first.

    Args:
        budget: Bytes to read, about.
        repair: Put content of an export in the place of what is damaged.

    Raises:
        UsageError: The budget is nothing.
    """

    budget: int
    repair: bool = True

    def __post_init__(self) -> None:
        if self.budget <= 0:
            raise UsageError("there is nothing to be read in a budget of 0 bytes", hint="give some gigabytes: 10GiB")


@dataclass(frozen=True, slots=True)
class GarbageRequest:
    """What deleted checkpoints, and pushes that were interrupted and never continued, have left: it is to go.

    Args:
        grace_period: Take only what was deleted or abandoned longer ago than this; the setting ``grace_period`` where
            left out.
        unreferenced: Take blobs too that neither the catalog nor any manifest in the store knows, and that were stored
            longer ago than that by the store's own times.
    """

    grace_period: timedelta | None = None
    unreferenced: bool = False
