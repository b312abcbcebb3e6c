"""What the garbage collector looks through while a task transfers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexai.tasks.options import run_logger
from flexai.tasks.transfer_slots import transferring


@pytest.fixture(autouse=True)
def nothing_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home folder, and all objects before the garbage collector."""
    monkeypatch.setenv("FLEXAI_HOME", str(tmp_path / "home"))
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_a_transfer_sets_aside_the_objects_that_are_there_and_brings_them_back() -> None:
    before = len(gc.get_objects())
    with transferring(run_logger()):
        assert gc.get_freeze_count() > 0
        assert len(gc.get_objects()) < before / 2
    assert gc.get_freeze_count() == 0
    assert len(gc.get_objects()) > before / 2


def test_a_transfer_that_fails_brings_them_back() -> None:
    with pytest.raises(ZeroDivisionError), transferring(run_logger()):
        raise ZeroDivisionError
    assert gc.get_freeze_count() == 0


def test_what_a_program_has_set_aside_itself_stays_so() -> None:
    gc.freeze()
    with transferring(run_logger()):
        pass
    assert gc.get_freeze_count() > 0
