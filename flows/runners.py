"""Which task runner the flows that give out shards have: the deployment's choice, by the setting ``task_runner``."""

from __future__ import annotations

import importlib
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flexai.checkpoints.errors import SettingsError
from flexai.checkpoints.settings import load_settings

DEFAULT_THREADS = 2
"""Shards that one process does at a time; each moves as many parts at once as the setting ``concurrency`` says."""

_FORMS = "FLEXAI_TASK_RUNNER is threads, threads:SHARDS, dask, dask:tcp://SCHEDULER:8786, ray or ray:ray://HEAD:10001"


def task_runner() -> TaskRunner[Any]:
    """The task runner that the settings name.

    Raises SettingsError for one that is not known or not installed.
    """
    kind, _, where = load_settings().task_runner.partition(":")
    if kind == "threads":
        if where and not (where.isascii() and where.isdigit() and int(where)):
            raise SettingsError(f"{where!r} is no number of shards at a time", hint=_FORMS)
        return ThreadPoolTaskRunner(max_workers=int(where or DEFAULT_THREADS))
    if kind == "dask":
        return _other("prefect_dask", "DaskTaskRunner", "dask", where)
    if kind == "ray":
        return _other("prefect_ray", "RayTaskRunner", "ray", where)
    raise SettingsError(f"there is no task runner {kind!r}", hint=_FORMS)


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
