"""No room: a full file system at any moment, and files that may not grow."""

from __future__ import annotations

import random
import shutil

import pytest

from tests.chaos.conftest import NewStage
from tests.chaos.processes import Ended
from tests.chaos.stage import ROUNDS, Stage, checkpoint_files
from tests.support.machine import check_all, check_nothing_is_torn
from tests.support.small_disk import needs_tmpfs, small_disk
from tests.support.trees import Tree, read_tree

pytestmark = pytest.mark.slow

KIB = 1024


def _check_failure(ended: Ended) -> None:
    assert ended.code == 1, ended.text
    lines = [line for line in ended.text.splitlines() if line.startswith(("error: ", "hint: "))]
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"], ended.text
    assert "internal error" not in ended.text


def _size(files: Tree) -> int:
    return sum(map(len, files.values()))


@needs_tmpfs
def test_a_push_onto_a_full_disk_fails_clearly_and_is_finished_when_there_is_room(
    new_stage: NewStage, chance: random.Random
) -> None:
    files, small = checkpoint_files("push"), {"small.bin": b"x"}
    room = _size(files) // KIB
    template = new_stage()
    template.succeed("checkpoint", "push", "small", "-f", str(template.write("small", small)))
    for number in range(ROUNDS):
        stage = new_stage()
        source = stage.write("run", files)
        shutil.rmtree(stage.root / "home")
        used = 600
        with small_disk(stage.root / "home", used + room // ROUNDS * number + chance.randrange(64)) as disk:
            shutil.copytree(template.root / "home", stage.root / "home", dirs_exist_ok=True)
            ended = stage.run("checkpoint", "push", "llama", "-f", str(source))
            _check_failure(ended)
            disk.grow(used + 4 * room)
            with stage.look() as machine:
                check_nothing_is_torn(machine)
                assert machine.fetched("small") == small
            stage.succeed("checkpoint", "push", "llama", "-f", str(source))
            assert read_tree(source) == files
            with stage.look() as machine:
                check_all(machine, ["llama"], files)


@needs_tmpfs
def test_a_first_push_onto_a_full_disk_fails_clearly_and_is_finished_when_there_is_room(new_stage: NewStage) -> None:
    files = {"small.bin": b"x" * 100_000}
    for kibibytes in (4, 40, 100, 160, 220, 260):
        stage = new_stage()
        source = stage.write("run", files)
        shutil.rmtree(stage.root / "home")
        with small_disk(stage.root / "home", kibibytes) as disk:
            _check_failure(stage.run("checkpoint", "push", "llama", "-f", str(source)))
            disk.grow(4000)
            stage.succeed("checkpoint", "push", "llama", "-f", str(source))
            with stage.look() as machine:
                check_all(machine, ["llama"], files)


@needs_tmpfs
def test_a_fetch_onto_a_full_disk_fails_clearly_and_is_finished_when_there_is_room(
    new_stage: NewStage, chance: random.Random
) -> None:
    stage = new_stage()
    files = checkpoint_files("fetch")
    stage.succeed("checkpoint", "push", "llama", "-f", str(stage.write("run", files)))
    room = _size(files) // KIB
    for number in range(ROUNDS):
        out = stage.root / f"out-{number}"
        with small_disk(out, max(8, room // ROUNDS * number + chance.randrange(64))) as disk:
            fetch = ("checkpoint", "fetch", "llama", "-d", str(out))
            ended = stage.run(*fetch)
            _check_failure(ended)
            assert "no space is left" in ended.text
            found = read_tree(out)
            assert all(files.get(path) == text for path, text in found.items() if not path.endswith(".flexai-partial"))
            disk.grow(4 * room)
            stage.succeed(*fetch)
            assert read_tree(out) == files


@needs_tmpfs
def test_a_full_disk_is_no_reason_to_lose_what_is_kept_elsewhere(new_stage: NewStage) -> None:
    """The store is full, the catalog is on another disk: reading, deleting and collecting still work."""
    stage = new_stage()
    files = checkpoint_files("push")
    source = stage.write("run", files)
    shutil.rmtree(stage.root / "home" / "store")
    with small_disk(stage.root / "home" / "store", _size(files) // KIB + 200):
        stage.succeed("checkpoint", "push", "llama", "-f", str(source))
        ended = stage.run("checkpoint", "push", "other", "-f", str(stage.write("other", checkpoint_files("other"))))
        _check_failure(ended)
        assert "no space is left" in ended.text
        with stage.look() as machine:
            assert machine.fetched("llama") == files
        stage.succeed("checkpoint", "gc", "--grace-period", "0s")
        stage.succeed("checkpoint", "delete", "llama")
        stage.succeed("checkpoint", "gc", "--grace-period", "0s")
        stage.succeed("checkpoint", "push", "other", "-f", str(stage.root / "other"))
        with stage.look() as machine:
            check_all(machine, ["other"], checkpoint_files("other"))


@pytest.mark.parametrize("limit", [1 * KIB, 4 * KIB, 60 * KIB, 300 * KIB, 700 * KIB])
def test_a_push_whose_files_may_not_grow_fails_clearly_and_is_finished_when_they_may(
    new_stage: NewStage, limit: int
) -> None:
    stage = new_stage()
    files, small = checkpoint_files("push"), {"small.bin": b"x"}
    stage.succeed("checkpoint", "push", "small", "-f", str(stage.write("small", small)))
    push = ("checkpoint", "push", "llama", "-f", str(stage.write("run", files)))
    _check_failure(stage.run(*push, file_limit=limit))
    with stage.look() as machine:
        check_nothing_is_torn(machine)
        assert machine.fetched("small") == small
    stage.succeed(*push)
    with stage.look() as machine:
        check_all(machine, ["llama"], files)


@pytest.mark.parametrize("limit", [4 * KIB, 300 * KIB])
def test_a_fetch_whose_files_may_not_grow_fails_clearly_and_is_finished_when_they_may(
    new_stage: NewStage, limit: int
) -> None:
    stage: Stage = new_stage()
    files = checkpoint_files("fetch")
    stage.succeed("checkpoint", "push", "llama", "-f", str(stage.write("run", files)))
    fetch = ("checkpoint", "fetch", "llama", "-d", str(stage.root / "out"))
    _check_failure(stage.run(*fetch, file_limit=limit))
    stage.succeed(*fetch)
    assert read_tree(stage.root / "out") == files
