"""A callback for Lightning's Trainer, which reports each checkpoint as it is saved.

    from flexai.integrations.lightning import FlexAICallback

    callback = FlexAICallback("my-run", output_dir="out")
    trainer = Trainer(default_root_dir="out", callbacks=[callback])
    trainer.fit(model, ckpt_path=callback.resume_path())

It goes with both packages that Lightning comes in, ``lightning`` and ``pytorch_lightning``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flexai.integrations.callback import ReportingCallback, numbers
from flexai.training import Run

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    Callback = object

__all__ = ["FlexAICallback"]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_HIDDEN = "."
"""Begins the names of files that Lightning saves for itself and removes, such as ``.lr_find_….ckpt``."""


class FlexAICallback(ReportingCallback, Callback):
    """Reports each checkpoint that a Lightning Trainer saves, with its step and the metrics of that step.

    That is what ``trainer.save_checkpoint`` saves, whichever callback or program calls it; Lightning has no event
    after a save. A file that is written later, in the background, is reported when it is there. ``last.ckpt`` beside
    another save of the same step is left out. A training that is stopped or fails ends its run so.

    It belongs to every process of a distributed training; one of each machine reports.

    Args:
        run: A Run, or the name of the training job. Below ``flexai training run`` it may be left out.
        output_dir: The directory below which the Trainer saves; needed for a name.
    """

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Make one that is a Callback of the package, or the packages, that the program has imported."""
        return super().__new__(_made_for(cls, _callbacks()))  # type: ignore[arg-type]

    def __init__(self, run: Run | str = "", output_dir: str | os.PathLike[str] | None = None) -> None:
        super().__init__(run, output_dir)
        self._awaited: list[_Awaited] = []
        self._steps: set[int] = set()
        """Of which something is reported."""
        self._measured: dict[str, int] = {}
        """The step at which a metric of a validation or an epoch was measured; Lightning keeps it beside newer ones."""
        self._ending = ("succeeded", "")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let Lightning send it to processes that it starts, which open the run themselves."""
        return FlexAICallback, (self._given, self._output_dir)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the run, and see from now on what the Trainer saves."""
        if stage != "fit" or trainer.fast_dev_run:
            return
        _ = self.run
        self._awaited, self._steps, self._measured, self._ending = [], set(), {}, ("succeeded", "")
        save, strategy = trainer.save_checkpoint, trainer.strategy
        if getattr(save, "func", None) != self._save:
            trainer.save_checkpoint = functools.partial(self._save, trainer, save)
        # The Trainer calls this last of all, however the training ends; what it writes in the background is there then.
        strategy.teardown = functools.partial(self._teardown, trainer, strategy.teardown)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn which metrics a validation has measured."""
        self._measured |= dict.fromkeys(_running(trainer), trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn which metrics are those of an epoch alone."""
        names = _running(trainer)
        self._measured |= {name: trainer.global_step for name in names if f"{name}_epoch" not in names}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report what was written in the background."""
        self._look()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Learn how the training ends; other callbacks may still save."""
        if trainer.received_sigterm:
            self._ending = ("stopped", "stopped by SIGTERM")
        elif isinstance(exception, KeyboardInterrupt):
            self._ending = ("stopped", "stopped by SIGINT")
        else:
            reason = f"the training failed: {type(exception).__name__}: {exception}"
            self._ending = ("failed", reason.partition("\n")[0])

    def _save(
        self,
        trainer: Trainer,
        save: Callable[..., None],
        filepath: str | os.PathLike[str],
        *arguments: Any,
        **options: Any,
    ) -> None:
        """Save as the Trainer does, and report it."""
        path = os.fspath(filepath)
        before = _stamp(path)
        self._look()
        save(filepath, *arguments, **options)
        if self._run is None or trainer.local_rank != 0 or os.path.basename(path).startswith(_HIDDEN):  # noqa: PTH119
            return
        step = trainer.global_step
        lasts = [getattr(callback, "last_model_path", None) for callback in trainer.checkpoint_callbacks]
        if not (path in lasts and step in self._steps):
            self._steps.add(step)
            self._awaited.append(_Awaited(path, before, step, self._metrics(trainer, step)))
        # Behind this call the checkpoint before it is deleted.
        self._look()

    def _look(self) -> None:
        """Report what is written by now."""
        written = [save for save in self._awaited if _stamp(save.path) != save.before]
        for save in written:
            self._awaited.remove(save)
            self.run.saved(save.path, step=save.step, metrics=save.metrics)

    def _teardown(self, trainer: Trainer, teardown: Callable[[], None]) -> None:
        """Report what was written until the end, and close the run."""
        try:
            teardown()
        finally:
            del trainer.strategy.teardown
            self._look()
            if trainer.is_global_zero:
                for save in self._awaited:  # which says that it is not there
                    self.run.saved(save.path, step=save.step)
            self._awaited = []
            self._end(*self._ending)

    def _metrics(self, trainer: Trainer, step: int) -> dict[str, float]:
        """The metrics of this very step."""
        return numbers(
            {name: value for name, value in trainer.callback_metrics.items() if self._measured.get(name, step) == step}
        )


@dataclass(frozen=True)
class _Awaited:
    """One whose file may not be written yet."""

    path: str
    before: tuple[int, ...]
    """What was there before it."""
    step: int
    metrics: dict[str, float]


def _stamp(path: str) -> tuple[int, ...]:
    """What changes when a file is written; a folder is written when Lightning returns. Empty where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _running(trainer: Trainer) -> set[str]:
    """The names of the metrics that the loop measures which runs now."""
    # Lightning gives their values as new objects each time, beside the objects that earlier loops have left.
    before = dict(trainer.callback_metrics)
    return {name for name, value in trainer.callback_metrics.items() if value is not before.get(name)}


def _callbacks() -> tuple[type, ...]:
    """The class Callback of each of the two packages that the program has imported."""
    found = [name for name in _PACKAGES if name in sys.modules]
    for name in _PACKAGES:
        if not found and importlib.util.find_spec(name.partition(".")[0]) is not None:
            found = [name]
    return tuple(importlib.import_module(name).Callback for name in found)


@functools.cache
def _made_for(cls: type[Any], callbacks: tuple[type, ...]) -> type[Any]:
    missing = [callback for callback in callbacks if not issubclass(cls, callback)]
    return type(cls.__name__, (cls, *missing), {"__module__": cls.__module__, "__doc__": cls.__doc__})
