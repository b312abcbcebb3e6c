"""The training process at the other end of a pipe, which reports what it saves (``flexai.training.Run``)."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flexai.checkpoints.training.runner import CHECK_SECONDS, OtherWriter

_READ_BYTES = 64 * 1024


class ReportingTrainer(OtherWriter):
    """A training process that reports what it saves; this process is its child, and is told by a pipe how it ends.

    It is told lines of JSON: ``{"command": […]}`` first, ``{"resume": "latest"}`` where it is to fetch what the
    training starts from, and ``{"status": "succeeded", "reason": ""}`` at the end. A trainer that dies says nothing
    any more.
    """

    reports = True

    def __init__(self, words: int, answers: int, *, grace: float) -> None:
        """``words`` and ``answers`` are file descriptors; ``grace`` is in seconds, from a signal to the end.

        The trainer is waited for until it tells its command line first, or dies.
        """
        super().__init__()
        self._words = words
        self._answers = answers
        self._grace = grace
        self._stop_at = math.inf
        self._read = b""
        self._parent = os.getppid()
        self.status = ""
        word = self._next_word(None)
        self.command = () if word is None else tuple(map(str, word["command"]))

    @property
    def is_gone(self) -> bool:
        """Whether the trainer has died, or has nothing more to say."""
        poll = select.poll()
        poll.register(self._words, 0)  # that no process can write any more is told in any case
        return os.getppid() != self._parent or bool(poll.poll(0))

    def stop(self, _number: int = signal.SIGTERM) -> None:
        """Wait no longer than the grace; a second call ends the waiting. Called by signal handlers: takes no lock."""
        self.is_over = self._stop_at < math.inf
        self._stop_at = min(self._stop_at, time.monotonic() + self._grace)

    def end_by(self, deadline: float) -> None:
        """Wait until then. Called by signal handlers: takes no lock."""
        self._stop_at = deadline

    def wait(self, should_stop: Callable[[], bool]) -> None:
        """Wait until the trainer says that it ends, or dies; one that is to be stopped is told so by SIGTERM."""
        while not self.is_over and time.monotonic() < self._stop_at and os.getppid() == self._parent:
            word = self._next_word(min(CHECK_SECONDS, max(0.0, self._stop_at - time.monotonic())))
            if word is None:
                if self._stop_at == math.inf and should_stop():
                    os.kill(self._parent, signal.SIGTERM)
                    self.stop()
            elif "resume" in word:
                answer = json.dumps(self.resume(str(word["resume"])))
                with suppress(BrokenPipeError):  # the trainer has died meanwhile, and is found so next
                    os.write(self._answers, answer.encode() + b"\n")
            else:
                self.status, self.reason = str(word.get("status", "")), str(word.get("reason", ""))
                self.is_over = True

    def _next_word(self, seconds: float | None) -> Any:
        """What the trainer says next; None after so many seconds, or where it will say nothing any more."""
        while b"\n" not in self._read:
            if not select.select([self._words], [], [], seconds)[0]:
                return None
            data = os.read(self._words, _READ_BYTES)
            if not data:
                self.is_over = True
                return None
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return json.loads(line)
