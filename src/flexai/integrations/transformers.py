"""A callback for transformers' Trainer, which reports each ``checkpoint-N`` as it is saved.

from flexai.integrations.transformers import FlexAICallback

callback = FlexAICallback("my-run")
trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[callback])
trainer.train(resume_from_checkpoint=callback.resume_path())
"""

from __future__ import annotations

import glob
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from flexai.integrations.callback import ReportingCallback, numbers
from flexai.training import Run

__all__ = ["FlexAICallback"]

_STATE, _INCOMPLETE = "trainer_state.json", "checkpoint-is-incomplete.txt"
"""Written last of all; there while Trainer saves because of a SIGTERM (``trainer_jit_checkpoint.py``)."""


class FlexAICallback(ReportingCallback, TrainerCallback):
    """Reports each checkpoint of a Trainer, with its step and the metrics that were logged at that step.

    It belongs to every process of a distributed training; one of each machine reports. What Trainer saves because of
    a SIGTERM (``enable_jit_checkpoint``) is reported too, and its job is ``stopped`` then. A training that fails has no
    event: its run ends with the program, or with the ``with`` of a Run that is given.

    Args:
        run: A Run, or the name of the training job. Below ``flexai training run`` it may be left out.
        output_dir: The directory below which Trainer saves; its ``output_dir`` where left out.
    """

    def __init__(self, run: Run | str = "", output_dir: str | os.PathLike[str] | None = None) -> None:
        super().__init__(run, output_dir)
        self._known: dict[str, tuple[int, int]] = {}
        """Checkpoints that were there before this training, or are reported, as they were."""
        self._earlier_handler: Any = None
        self._is_told_to_stop = False

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Learn where the Trainer saves."""
        if self._output_dir is None:
            self._output_dir = args.output_dir

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the run."""
        _ = self.run
        self._known = {path: _stamp(path) for path in _folders(args, state)}
        self._is_told_to_stop = False
        handler = signal.getsignal(signal.SIGTERM)
        if isinstance(self._given, str) and callable(handler) and threading.current_thread() is threading.main_thread():
            # Trainer has put its own handler there before, and gets the signal after this one.
            self._earlier_handler = handler
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report what was saved."""
        _wait_for_all(args)
        self._look(args, state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report what was saved because of a SIGTERM, before the end of the training deletes it.

        That save has no event. Trainer logs once more behind it.
        """
        if control.should_training_stop and args.world_size == 1:
            self._look(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report what was saved without an event, and close the run."""
        _wait_for_all(args)
        self._look(args, state)
        if self._earlier_handler is not None:
            if signal.getsignal(signal.SIGTERM) == self._on_sigterm:
                signal.signal(signal.SIGTERM, self._earlier_handler)
            self._earlier_handler = None
        if self._is_told_to_stop:
            self._end("stopped", "stopped by SIGTERM")
        else:
            self._end("succeeded")

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._is_told_to_stop = True
        self._earlier_handler(number, frame)

    def _look(self, args: TrainingArguments, state: TrainerState) -> None:
        """Report the checkpoints that are new. What a SIGTERM had saved may be that of the step before."""
        if args.local_process_index != 0:
            return
        for path in _folders(args, state):
            stamp = _stamp(path)
            if stamp == self._known.get(path) or Path(path, _INCOMPLETE).exists():
                continue
            self._known[path] = stamp
            step = int(path.rpartition("-")[2])
            rows = [row for row in state.log_history if row.get("step") == step]
            logged = {name: value for row in rows for name, value in row.items() if name not in {"step", "epoch"}}
            self.run.saved(path, step=step, metrics=numbers(logged))


def _folders(args: TrainingArguments, state: TrainerState) -> list[str]:
    """The checkpoints that are there; a search for parameters has a folder of its own for each trial."""
    trials = ["*"] if state.is_hyper_param_search else []
    output = glob.escape(os.fspath(args.output_dir or "."))
    found = glob.glob(os.path.join(output, *trials, f"{PREFIX_CHECKPOINT_DIR}-*"))  # noqa: PTH118, PTH207
    return [path for path in found if path.rpartition("-")[2].isdecimal()]


def _stamp(path: str) -> tuple[int, int]:
    """What changes with each save of a checkpoint. A machine may have the files of its processes alone."""
    state = Path(path, _STATE)
    status = (state if state.exists() else Path(path)).stat()
    return status.st_ino, status.st_mtime_ns


def _wait_for_all(args: TrainingArguments) -> None:
    """Wait until each process has written its part."""
    if args.world_size > 1 and args.distributed_state is not None:
        args.distributed_state.wait_for_everyone()
