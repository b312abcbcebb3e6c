"""A checkpoint manager for people who train models, built as a Prefect task collection.

::

    import flexai

    flexai.push("my-model", files="out")
    flexai.fetch("my-model", "restored")

The functions are in :mod:`flexai.api`; they, and what they return, are imported when they are first used.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "CheckpointDetails",
    "CheckpointSummary",
    "DeletedCheckpoint",
    "DiffReport",
    "ExportReport",
    "FetchReport",
    "OnProgress",
    "ProtectedCheckpoint",
    "RestoredCheckpoint",
    "StageProgress",
    "VerifyReport",
    "checkpoints",
    "delete",
    "diff",
    "errors",
    "export",
    "fetch",
    "inspect",
    "list_checkpoints",
    "protect",
    "push",
    "undelete",
    "unprotect",
    "verify",
]

if TYPE_CHECKING:
    from flexai import errors
    from flexai.api import (
        OnProgress,
        checkpoints,
        delete,
        diff,
        export,
        fetch,
        inspect,
        list_checkpoints,
        protect,
        push,
        undelete,
        unprotect,
        verify,
    )
    from flexai.checkpoints.progress import StageProgress
    from flexai.checkpoints.service.diff import DiffReport
    from flexai.checkpoints.service.export import ExportReport
    from flexai.checkpoints.service.fetch import FetchReport
    from flexai.checkpoints.service.results import (
        CheckpointDetails,
        CheckpointSummary,
        DeletedCheckpoint,
        ProtectedCheckpoint,
        RestoredCheckpoint,
    )
    from flexai.checkpoints.service.verify import VerifyReport
else:
    from flexai import checkpoints

    class _CallableModule(ModuleType):
        """The package ``flexai.checkpoints``, which is the function of that name as well."""

        def __call__(self, job: str) -> Any:
            return importlib.import_module("flexai.api").checkpoints(job)

    checkpoints.__class__ = _CallableModule

    _PLACES = {
        "CheckpointDetails": "checkpoints.service.results",
        "CheckpointSummary": "checkpoints.service.results",
        "DeletedCheckpoint": "checkpoints.service.results",
        "DiffReport": "checkpoints.service.diff",
        "ExportReport": "checkpoints.service.export",
        "FetchReport": "checkpoints.service.fetch",
        "ProtectedCheckpoint": "checkpoints.service.results",
        "RestoredCheckpoint": "checkpoints.service.results",
        "StageProgress": "checkpoints.progress",
        "VerifyReport": "checkpoints.service.verify",
    }
    """Where the names are that are in no ``flexai.api``."""

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "errors":
            return importlib.import_module("flexai.errors")
        module = importlib.import_module(f"flexai.{_PLACES.get(name, 'api')}")
        return globals().setdefault(name, getattr(module, name))

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
