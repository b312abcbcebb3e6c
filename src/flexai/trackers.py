"""Tells the experiment trackers whose run is active in this process where a checkpoint lies: W&B and MLflow.

They get the address and the id, and no bytes. No tracker is imported here: one that the program has not imported has
no run. A thread tells them, so that the training waits for no server.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

__all__ = ["tell", "wait"]

_teller = ThreadPoolExecutor(1, thread_name_prefix="flexai-trackers")


def tell(job: str, step: int | None, url: str, checkpoint: str) -> None:
    """Add a reference to a stored checkpoint to the runs of W&B and MLflow that are active in this thread.

    W&B: the artifact ``JOB`` of the type ``checkpoint`` gets a version with the reference, the alias ``step-N``, and
    the step and the id in its metadata. MLflow: the run gets the tags ``flexai.job``, ``flexai.step-N.url`` and
    ``flexai.step-N.id``, and ``flexai.latest.url`` and ``flexai.latest.id``.

    Returns at once. What a tracker does not take is a RuntimeWarning.

    Args:
        job: The training job's name.
        step: The training's step; None where it was not told.
        url: The checkpoint's address, such as ``flexai://my-run/step-500``.
        checkpoint: The checkpoint's UUID.
    """
    for name, reference in (("wandb", _for_wandb), ("mlflow", _for_mlflow)):
        tracker = sys.modules.get(name)
        add = None if tracker is None else reference(tracker, job, step, url, checkpoint)
        if add is None:
            continue
        give = functools.partial(_give, name, tracker, url, add)
        try:
            _teller.submit(give)
        except RuntimeError:  # the interpreter ends
            give()


def wait() -> None:
    """Wait until the trackers know of all that they were to be told."""
    with suppress(RuntimeError):  # the interpreter ends, and has waited
        _teller.submit(bool).result()


def _give(name: str, tracker: Any, url: str, add: Callable[[], None]) -> None:
    # The trackers' own errors, and those of a connection or of a name that they do not allow.
    own = getattr(tracker, "Error", None) or tracker.exceptions.MlflowException
    try:
        add()
    except (own, OSError, ValueError, TypeError) as error:
        warnings.warn(f"{name} was not told of {url}: {error}", RuntimeWarning, stacklevel=2)


def _for_wandb(wandb: Any, job: str, step: int | None, url: str, checkpoint: str) -> Callable[[], None] | None:
    run = wandb.run
    if run is None:
        return None

    def add() -> None:
        artifact = wandb.Artifact(job, type="checkpoint", metadata={"step": step, "flexai_checkpoint": checkpoint})
        artifact.add_reference(url, name=url.rpartition("/")[2], checksum=False)
        run.log_artifact(artifact, aliases=["latest", *([] if step is None else [f"step-{step}"])])

    return add


def _for_mlflow(mlflow: Any, job: str, step: int | None, url: str, checkpoint: str) -> Callable[[], None] | None:
    run = mlflow.active_run()
    if run is None:
        return None
    client = mlflow.MlflowClient()
    names = ["latest", *([] if step is None else [f"step-{step}"])]
    tags = {f"flexai.{name}.{what}": value for name in names for what, value in (("url", url), ("id", checkpoint))}

    def add() -> None:
        for key, value in ({"flexai.job": job} | tags).items():
            client.set_tag(run.info.run_id, key, value)

    return add
