"""What watching costs while a trainer computes: how often the watcher looks, and what a look does."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.training.completeness.by_time import Watch
from flexai.checkpoints.training.completeness.candidates import Fate, Found
from flexai.checkpoints.training.managed_capture import OutputCapture
from flexai.checkpoints.training.pins import Pins
from tests.checkpoints.training.trainers import save, trainer_files

KEPT = 100
"""Captured checkpoints that the trainer does not delete."""


def keep_many(output: Path) -> None:
    for step in range(1, KEPT + 1):
        save(output / f"checkpoint-{step}", trainer_files(step))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


def counting(calls: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose calls are counted; openings of folders are not those of files."""

    def counted(*arguments: Any, **options: Any) -> Any:
        if name != "open" or not arguments[1] & os.O_DIRECTORY:
            calls[name] += 1
        return function(*arguments, **options)

    return counted


def test_a_look_at_kept_checkpoints_lists_each_folder_once_and_opens_no_file(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Found] = []
    watch = Watch(output, Pins(tmp_path / "pins", print), quiet_period=60, take=taken.append, note=print)
    keep_many(output)
    for now in range(3):
        watch.look(now)
    assert len(taken) == KEPT
    for found in taken:
        found.fate = Fate.STORED
        found.pins.release()

    calls: Counter[str] = Counter()
    for name in ("scandir", "open", "link"):
        monkeypatch.setattr(os, name, counting(calls, name, getattr(os, name)))
    watch.look(10)
    assert calls == {"scandir": KEPT + 1}


def test_the_watcher_does_not_look_while_the_trainer_writes_nothing(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[str] = []

    def store(found: Found, _facts: TrainingFacts) -> None:
        stored.append(found.name)

    calls: Counter[str] = Counter()
    monkeypatch.setattr(Watch, "look", counting(calls, "look", Watch.look))
    capture = OutputCapture(output, Pins(tmp_path / "pins", print), quiet_period=60, store=store, note=print)
    capture.start()
    keep_many(output)
    while len(stored) < KEPT:
        time.sleep(0.01)
    time.sleep(0.5)  # the last notices come in
    calls.clear()
    begun = time.monotonic()
    time.sleep(1)
    looks, seconds = calls["look"], time.monotonic() - begun
    assert capture.finish(is_clean=True).lost == ()
    assert looks <= 1 + seconds // 5, "a look every five seconds is for what the kernel does not notice"
