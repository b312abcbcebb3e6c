"""The operations on checkpoints as Prefect tasks, one each: thin wrappers around ``flexai.checkpoints.service``.

Each takes plain values and returns a plain dict (or a list of them) that serialises to JSON: the documents of the
``flexai`` command. Nothing is cached, because the store itself knows what is there already, and a cache could not know
what was deleted since. Nothing is persisted, because a result is a description and not the data.

A task is tried again only after a passing failure of a store. Those that ask or change the catalog end after five
minutes. Those that move bytes have no timeout of Prefect's, which could not interrupt a thread that waits for a
socket, and would fit no size: the stores' clients have connect and read timeouts of their own, part by part.

In no run, and without a Prefect API, a call runs the operation directly and says so once: see ``flexai.tasks.direct``.
The server of ``flexai up`` is such an API, for a script that imports this as for a command.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flexai.prefect_client import use_found_api

if TYPE_CHECKING:
    from flexai.tasks.catalog_report import report_catalog
    from flexai.tasks.delete import delete_checkpoint, protect_checkpoints, undelete_checkpoint
    from flexai.tasks.export import export_checkpoint
    from flexai.tasks.fetch import fetch_checkpoint
    from flexai.tasks.gc import collect_garbage
    from flexai.tasks.inspect import inspect_checkpoint, list_checkpoints
    from flexai.tasks.mirror import mirror_checkpoints
    from flexai.tasks.prune import prune_checkpoints
    from flexai.tasks.push import push_checkpoint
    from flexai.tasks.scrub import scrub_store
    from flexai.tasks.training import capture_training_job, delete_training_job, list_training_checkpoints, run_training
    from flexai.tasks.verify import verify_checkpoints

# Here, because a flow of the script's own would start before it calls a task.
use_found_api()

_MODULES = {
    "capture_training_job": "training",
    "collect_garbage": "gc",
    "delete_checkpoint": "delete",
    "delete_training_job": "training",
    "export_checkpoint": "export",
    "fetch_checkpoint": "fetch",
    "inspect_checkpoint": "inspect",
    "list_checkpoints": "inspect",
    "list_training_checkpoints": "training",
    "mirror_checkpoints": "mirror",
    "protect_checkpoints": "delete",
    "prune_checkpoints": "prune",
    "push_checkpoint": "push",
    "report_catalog": "catalog_report",
    "run_training": "training",
    "scrub_store": "scrub",
    "undelete_checkpoint": "delete",
    "verify_checkpoints": "verify",
}
"""The module of each task, imported when the task is first used: a command runs one, and waits for its imports."""

__all__ = [
    "capture_training_job",
    "collect_garbage",
    "delete_checkpoint",
    "delete_training_job",
    "export_checkpoint",
    "fetch_checkpoint",
    "inspect_checkpoint",
    "list_checkpoints",
    "list_training_checkpoints",
    "mirror_checkpoints",
    "protect_checkpoints",
    "prune_checkpoints",
    "push_checkpoint",
    "report_catalog",
    "run_training",
    "scrub_store",
    "undelete_checkpoint",
    "verify_checkpoints",
]


def __getattr__(name: str) -> Any:
    """A task, imported now."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
