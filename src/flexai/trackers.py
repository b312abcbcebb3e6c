"""Tells the experiment trackers whose run is active in this process where a checkpoint lies: W&B and MLflow.

They get the address and the id, and no bytes. No tracker is imported here: one that the program has not imported has
no run. A thread tells them, so that the training waits for no server.
"""

from __future__ import annotations

import atexit
import functools
import math
import queue
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["tell", "wait"]

_LONGEST_SECONDS = 60.0
"""How long a tracker that does not answer is waited for."""

_untold: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
_tellers: list[threading.Thread] = []
"""The thread that tells them, behind those that have died of an error of a tracker's."""


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
        _start_teller()
        _untold.put(functools.partial(_give, name, tracker, url, add))


def wait(deadline: float = math.inf) -> None:
    """Wait until the trackers know of all that they were to be told; a minute, or until then on the monotonic clock."""
    if not _tellers:
        return
    _start_teller()
    is_told = threading.Event()
    _untold.put(is_told.set)
    is_told.wait(min(_LONGEST_SECONDS, max(0.0, deadline - time.monotonic())))


def _start_teller() -> None:
    """Start the thread, again where it has died of an error of a tracker's.

    It ends with the program, also while a tracker holds it up.
    """
    if not _tellers:
        atexit.register(wait)
    if not _tellers or not _tellers[-1].is_alive():
        _tellers.append(threading.Thread(target=_tell_all, name="flexai-trackers", daemon=True))
        _tellers[-1].start()


def _tell_all() -> None:
    while True:
        _untold.get()()


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
