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

from flexai.blocks.api import use_found_api
from flexai.tasks.catalog_report import report_catalog
from flexai.tasks.delete import delete_checkpoint, undelete_checkpoint
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
    "prune_checkpoints",
    "push_checkpoint",
    "report_catalog",
    "run_training",
    "scrub_store",
    "undelete_checkpoint",
    "verify_checkpoints",
]
