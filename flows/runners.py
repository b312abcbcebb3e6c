"""Which task runner the flows that give out shards have: the deployment's choice, by the setting ``task_runner``."""

from __future__ import annotations

import atexit
import gc
import importlib
import multiprocessing
import os
import threading
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flexai.checkpoints.errors import SettingsError
from flexai.checkpoints.settings import load_settings

DEFAULT_THREADS = 2
"""Shards that one process does at a time; each moves as many parts at once as the setting ``concurrency`` says."""

_FORMS = (
    "FLEXAI_TASK_RUNNER is threads, threads:SHARDS, processes, processes:SHARDS, dask, dask:tcp://SCHEDULER:8786, ray"
    " or ray:ray://HEAD:10001"
)


def task_runner() -> TaskRunner[Any]:
    """The task runner that the settings name.

    Raises SettingsError for one that is not known or not installed.
    """
    kind, _, where = load_settings().task_runner.partition(":")
    if kind == "threads":
        return ThreadPoolTaskRunner(max_workers=_count(where) or DEFAULT_THREADS)
    if kind == "processes":
        return ProcessPoolTaskRunner(max_workers=_count(where) or usable_cores(), initializer=prepare_process)
    if kind == "dask":
        return _other("prefect_dask", "DaskTaskRunner", "dask", where)
    if kind == "ray":
        return _other("prefect_ray", "RayTaskRunner", "ray", where)
    raise SettingsError(f"there is no task runner {kind!r}", hint=_FORMS)


def usable_cores() -> int:
    """The cores that this process may use, which are fewer than the machine's where it is bound to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_process() -> None:
    """Have this process end quickly, and at once when the one that started it has gone.

    Without this, the processes of a flow run that was killed would finish their shards and then wait for ever.
    """
    # The hunt for garbage at the very end looks through all that was loaded, for a second, and frees what ends anyway.
    atexit.register(gc.freeze)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        # The catalog has what had arrived; no process is left to take anything else.
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _count(text: str) -> int:
    """A number of shards at a time; 0 where none is given."""
    if text and not (text.isascii() and text.isdigit() and int(text)):
        raise SettingsError(f"{text!r} is no number of shards at a time", hint=_FORMS)
    return int(text or 0)


def _other(module: str, name: str, extra: str, address: str) -> TaskRunner[Any]:
    try:
        kind = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise SettingsError(
            f"the task runner {extra!r} is not installed", hint=f"pip install 'flexai-checkpoints[{extra}]'"
        ) from error
    # Without an address it makes a cluster of this machine for each flow run.
    runner: TaskRunner[Any] = kind(address=address) if address else kind()
    return runner
