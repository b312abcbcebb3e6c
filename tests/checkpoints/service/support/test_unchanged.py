"""Finding out that a push would change nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flexai.checkpoints.errors import SourceError, StorageUnavailableError
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.support.unchanged import find_unchanged
from flexai.checkpoints.transfer.sources import LocalSource
from tests.support.machine import Machine
from tests.support.trees import noise

FILES = {"config.json": b"{}", "model.bin": noise(200_000), "deep/tokens.bin": noise(20_000, "tokens")}


def made_old(folder: Path) -> Path:
    """The folder, all of it written long ago: what was written just now is never remembered."""
    for path in folder.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return folder


@pytest.fixture
def source(machine: Machine) -> Path:
    return made_old(machine.write("run", FILES))


def found(machine: Machine, name: str, *specs: Path | str) -> str | None:
    checkpoint = find_unchanged(machine.system, PushRequest(name, [str(spec) for spec in specs], if_not_exists=True))
    return checkpoint.id if checkpoint else None


def test_what_was_pushed_and_has_not_changed_is_found_without_the_store_or_a_reading(
    machine: Machine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = machine.push("llama", source)
    monkeypatch.setattr(LocalSource, "open", lambda self: pytest.fail(f"{self.local_path} is read"))
    machine.storage.reset()
    assert found(machine, "LLAMA", source) == pushed.id
    assert machine.storage.calls == []


def test_a_name_that_is_free_is_no_checkpoint(machine: Machine, source: Path) -> None:
    assert found(machine, "llama", source) is None
    machine.push("other", source)
    assert found(machine, "llama", source) is None


def test_a_push_that_failed_is_no_checkpoint(machine: Machine, source: Path) -> None:
    machine.push("other", source)
    machine.storage.reset()
    machine.storage.down_from = 1
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    assert found(machine, "llama", source) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda source: (source / "more.txt").write_bytes(b""),
        lambda source: (source / "config.json").unlink(),
        lambda source: (source / "config.json").rename(source / "settings.json"),
        lambda source: (source / "config.json").write_bytes(b"[]"),
        lambda source: os.utime(source / "config.json", (1_000_000_001, 1_000_000_001)),
    ],
    ids=["added", "removed", "renamed", "rewritten", "touched"],
)
def test_a_folder_in_which_anything_changed_is_not_known_to_be_the_checkpoint(
    machine: Machine, source: Path, change: Callable[[Path], None]
) -> None:
    machine.push("llama", source)
    change(source)
    assert found(machine, "llama", source) is None


def test_files_that_were_written_just_before_they_were_pushed_are_not_known(machine: Machine) -> None:
    source = machine.write("run", FILES)
    machine.push("llama", source)
    assert found(machine, "llama", source) is None


def test_the_same_files_in_other_places_are_not_the_checkpoint(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    assert found(machine, "llama", f"{source}=below") is None


def test_files_that_changed_places_are_not_the_checkpoint(machine: Machine) -> None:
    source = made_old(machine.write("run", {"a.bin": noise(100, "a"), "b.bin": noise(100, "b")}))
    machine.push("llama", source)
    assert found(machine, "llama", f"{source / 'a.bin'}=b.bin", f"{source / 'b.bin'}=a.bin") is None


def test_a_missing_source_is_an_error_of_the_source(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    with pytest.raises(SourceError):
        found(machine, "llama", source / "nowhere")
