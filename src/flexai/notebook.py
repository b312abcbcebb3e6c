"""A progress bar in a notebook."""

from __future__ import annotations

import html
import sys
from typing import Any

from flexai.checkpoints.names import printable
from flexai.checkpoints.progress import StageProgress

BRIEF = 1.0
"""Seconds below which a stage ends before a person wonders: it gets no bar."""


def is_notebook() -> bool:
    """Whether a notebook's kernel runs this, as IPython itself tells."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class NotebookBar:
    """Shows how far an operation is, below the cell that runs it; a stage that ends within a second shows nothing."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._stage: StageProgress | None = None

    def __call__(self, stage: StageProgress) -> None:
        """Show a stage, as ``progress`` of an operation."""
        if self._stage is not None and self._stage.seconds > stage.seconds:
            self._handle = None  # another stage has begun
        self._stage = stage
        if self._handle is not None:
            self._handle.update(self)
        elif stage.seconds >= BRIEF:
            from IPython.display import display

            self._handle = display(self, display_id=True)

    def __repr__(self) -> str:
        return printable(str(self._stage))

    def _repr_html_(self) -> str:
        assert self._stage is not None
        bar = f'<progress value="{self._stage.fraction:.3f}" max="1" style="width: 20em"></progress>'
        return f"{bar} {html.escape(printable(str(self._stage)))}"
