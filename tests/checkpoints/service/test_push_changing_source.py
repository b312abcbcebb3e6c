"""A push whose source does not stand still."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flexai.checkpoints.errors import SourceChangedError
from flexai.checkpoints.models import CheckpointStatus
from tests.checkpoints.service.pushes import SOURCE
from tests.support.faults import Call
from tests.support.machine import PART, Machine, check_all
from tests.support.trees import noise, read_tree


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - PART)


def _rewrite(path: Path) -> None:
    times = path.stat()
    with path.open("r+b") as file:
        file.write(b"other bytes")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))


def _replace(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    new.replace(path)


def _vanish(path: Path) -> None:
    path.unlink()


_CHANGES = [_grow, _shrink, _rewrite, _replace, _vanish]


@pytest.mark.parametrize("change", _CHANGES)
@pytest.mark.parametrize("when", ["put_part", "start_upload", "complete_upload"])
def test_a_large_source_that_changes_while_it_is_read_fails_the_push(
    machine: Machine, change: Callable[[Path], None], when: str
) -> None:
    source = machine.write("run", {"file.bin": noise(4 * PART), "config.json": b"{}"})

    def interfere(_number: int, call: Call) -> None:
        if call.name == when:
            machine.storage.before_call = None
            change(source / "file.bin")

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError, match=r"file\.bin") as caught:
        machine.push("llama", source)
    assert "nothing writes to the source" in caught.value.hint
    failed = machine.checkpoint("llama")
    assert (failed.status, failed.reason) == (CheckpointStatus.FAILED, caught.value.message)
    assert machine.checkpoints(CheckpointStatus.AVAILABLE) == []
    after = read_tree(source)
    again = machine.again()
    again.push("llama", source)
    check_all(again, ["llama"], after)


@pytest.mark.parametrize("change", [_grow, _rewrite, _replace, _vanish])
@pytest.mark.parametrize("name", ["a-large.bin", "a-small.bin"])
def test_a_source_that_changes_after_its_bytes_have_arrived_fails_the_push(
    machine: Machine, change: Callable[[Path], None], name: str
) -> None:
    # Files are stored largest first, packs last.
    files = {"a-large.bin": noise(3 * PART, 1), "b-large.bin": noise(2 * PART, 2), "a-small.bin": noise(50)}
    source = machine.write("run", files)

    def interfere(_number: int, call: Call) -> None:
        if call.name == "put" and call.key.startswith("blobs/"):
            change(source / name)

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError, match=name):
        machine.push("llama", source)
    assert machine.checkpoint("llama").status is CheckpointStatus.FAILED
    after = read_tree(source)
    again = machine.again()
    again.push("llama", source)
    check_all(again, ["llama"], after)


@pytest.mark.parametrize("change", [_rewrite, _replace, _vanish])
def test_a_source_that_changes_before_it_is_opened_fails_the_push(
    machine: Machine, change: Callable[[Path], None]
) -> None:
    source = machine.write("run", {"a.bin": noise(3 * PART, 1), "b.bin": noise(2 * PART, 2), "c.bin": b"small"})

    def interfere(_number: int, call: Call) -> None:
        if call.name == "start_upload":
            machine.storage.before_call = None
            change(source / "b.bin")

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError, match=r"b\.bin"):
        machine.push("llama", source)


def test_a_source_whose_folder_is_gone_when_it_is_checked_has_changed(machine: Machine) -> None:
    source = machine.write("run", {"deep/a.bin": noise(3 * PART)})

    def interfere(_number: int, call: Call) -> None:
        if call.name == "complete_upload":
            (source / "deep").rename(source / "gone")
            (source / "deep").write_bytes(b"a file now")

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError, match=r"a\.bin"):
        machine.push("llama", source)


def test_a_source_that_becomes_a_link_has_changed(machine: Machine) -> None:
    source = machine.write("run", {"a.bin": noise(3 * PART), "z.bin": noise(50)})
    secret = machine.write("other", {"secret": noise(50, "secret")}) / "secret"

    def interfere(_number: int, call: Call) -> None:
        if call.name == "start_upload":
            (source / "z.bin").unlink()
            (source / "z.bin").symlink_to(secret)

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError, match=r"z\.bin"):
        machine.push("llama", source)


def test_a_source_that_is_only_touched_by_reading_has_not_changed(machine: Machine, source: Path) -> None:
    def read(_number: int, _call: Call) -> None:
        for path in source.rglob("*.json"):
            os.utime(path, ns=(0, path.stat().st_mtime_ns))
            path.chmod(0o600)

    machine.storage.before_call = read
    machine.push("llama", source)
    check_all(machine, ["llama"], SOURCE)
