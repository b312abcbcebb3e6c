"""The name of what is pushed, and other names of what is here already."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flexai.checkpoints.errors import (
    AlreadyExistsError,
    InvalidNameError,
    NotFoundError,
    SourceError,
    StorageUnavailableError,
)
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.names import NIL_ID, parse_reference
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push_requests import NameRequest
from tests.checkpoints.service.pushes import SIZE, SOURCE, Reads, blob_writes
from tests.support.machine import PART, Machine, check_all
from tests.support.trees import flip_byte, noise


@pytest.mark.parametrize("name", ["", "a", "-ab", "a b", "latest", "best", "a" * 64, NIL_ID, "../etc"])
def test_a_name_that_breaks_the_rules_is_refused_before_anything_is_read(machine: Machine, name: str) -> None:
    with pytest.raises(InvalidNameError):
        machine.push(name, "/nowhere")


def test_a_source_whose_own_name_is_not_utf_8_is_pushed_all_the_same(machine: Machine) -> None:
    folder = machine.root / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights")
    pushed = machine.push("llama", folder)
    assert pushed.source.from_local_files == (str(machine.root / "caf?"),)
    assert machine.fetched("llama") == {"model.bin": b"weights"}


def test_a_missing_source_leaves_no_trace_of_the_name(machine: Machine) -> None:
    with pytest.raises(SourceError):
        machine.push("llama", machine.root / "nowhere")
    assert machine.checkpoints() == []
    assert machine.storage.calls == []


def test_a_name_that_is_available_with_the_same_content_is_refused_and_says_so(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    with pytest.raises(AlreadyExistsError, match="'llama' already exists with the same content") as caught:
        machine.push("LLAMA", source)
    assert "--if-not-exists" in caught.value.hint


def test_a_name_that_is_available_with_other_content_is_refused_and_says_so(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    (source / "tokens" / "one.bin").write_bytes(noise(5000, "other"))
    for if_not_exists in (False, True):
        with pytest.raises(AlreadyExistsError, match="'llama' already exists with other content") as caught:
            machine.push("llama", source, if_not_exists=if_not_exists)
        assert caught.value.hint == "use another name, or: flexai checkpoint delete llama"


@pytest.mark.parametrize(
    "change",
    [
        lambda source: (source / "more.txt").write_bytes(b""),
        lambda source: (source / "empty.txt").unlink(),
        lambda source: (source / "empty.txt").rename(source / "blank.txt"),
        lambda source: flip_byte(source / "model" / "a.safetensors", 3 * PART + 16),
        lambda source: os.truncate(source / "model" / "a.safetensors", 3 * PART),
    ],
)
def test_any_difference_makes_other_content(machine: Machine, source: Path, change: Callable[[Path], None]) -> None:
    machine.push("llama", source)
    change(source)
    with pytest.raises(AlreadyExistsError, match="with other content"):
        machine.push("llama", source, if_not_exists=True)


def test_if_not_exists_takes_the_same_content_for_done(machine: Machine, source: Path) -> None:
    done = machine.push("llama", source, if_not_exists=True)
    machine.storage.reset()
    assert machine.push("llama", source, if_not_exists=True) == done
    assert {call.name for call in machine.storage.calls} == {"head"}
    assert len(machine.storage.calls) == len(machine.blob_ids())


def test_a_large_difference_in_sizes_is_seen_without_reading(
    machine: Machine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.push("llama", source)
    (source / "config.json").write_bytes(b"{}")
    reads = Reads(monkeypatch)
    with pytest.raises(AlreadyExistsError):
        machine.push("llama", source)
    assert set(reads.of(source).values()) == {0}


def test_a_deleted_checkpoint_s_name_is_free(machine: Machine, source: Path) -> None:
    first = machine.push("llama", source)
    machine.system.catalog.checkpoints.delete(parse_reference("llama"))
    second = machine.push("llama", source / "tokens")
    assert first.id != second.id
    assert set(machine.fetched("llama")) == {"one.bin", "two.bin"}


# A checkpoint that is here already, under another name.


def test_a_checkpoint_gets_another_name_and_no_byte_moves(machine: Machine, source: Path) -> None:
    original = machine.push("llama", source)
    machine.storage.reset()
    for reference in ("llama", original.id):
        named = name_checkpoint(machine.system, NameRequest(f"copy-{reference}"[:20], reference))
        assert named.id != original.id
        assert named.parent_id == original.id
        assert named.manifest_digest == original.manifest_digest
        assert (named.size, named.file_count) == (SIZE, len(SOURCE))
        assert named.source == original.source
    assert blob_writes(machine) == []
    machine.system.catalog.checkpoints.delete(parse_reference("llama"))
    check_all(machine, ["copy-llama"], SOURCE)


def test_a_checkpoint_that_is_not_there_gets_no_other_name(machine: Machine) -> None:
    with pytest.raises(NotFoundError):
        name_checkpoint(machine.system, NameRequest("copy", "llama"))
    assert machine.checkpoints() == []


def test_a_name_of_the_same_checkpoint_is_taken_with_the_same_content(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    done = name_checkpoint(machine.system, NameRequest("copy", "llama"))
    with pytest.raises(AlreadyExistsError, match="same content"):
        name_checkpoint(machine.system, NameRequest("copy", "llama"))
    assert name_checkpoint(machine.system, NameRequest("copy", "llama", if_not_exists=True)) == done
    machine.push("other", source / "tokens")
    with pytest.raises(AlreadyExistsError, match="other content"):
        name_checkpoint(machine.system, NameRequest("copy", "other", if_not_exists=True))


def test_a_failed_push_s_name_can_be_given_to_a_checkpoint_that_is_here(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    broken = machine.again()
    broken.storage.down_from = 1
    with pytest.raises(StorageUnavailableError):
        broken.push("copy", machine.write("more", {"file": noise(5 * PART, "more")}))
    again = machine.again()
    name_checkpoint(again.system, NameRequest("copy", "llama"))
    check_all(again, ["llama", "copy"], SOURCE)


def test_a_manifest_that_cannot_be_written_leaves_the_name_failed(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.storage.reset()
    machine.storage.down_from = 1
    with pytest.raises(StorageUnavailableError):
        name_checkpoint(machine.system, NameRequest("copy", "llama"))
    assert machine.checkpoint("copy").status is CheckpointStatus.FAILED
    again = machine.again()
    name_checkpoint(again.system, NameRequest("copy", "llama"))
    check_all(again, ["llama", "copy"], SOURCE)
