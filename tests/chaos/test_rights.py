"""Users who may not do what they try, and sources that go away."""

from __future__ import annotations

import os
import pwd
import random
from pathlib import Path

import pytest

from flexai.checkpoints.models import CheckpointStatus
from tests.chaos.conftest import NewStage
from tests.chaos.plays import play_vanishing_source
from tests.chaos.stage import ROUNDS, Stage, checkpoint_files
from tests.support.machine import check_all, check_nothing_is_torn
from tests.support.trees import read_tree

pytestmark = pytest.mark.slow


@pytest.fixture
def user() -> int:
    """A user whom permissions bind: root is not one."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()


def _hand_over(stage: Stage, user: int) -> None:
    """Give the stage to a user who can reach it."""
    stage.root.parent.chmod(0o755)
    for path in (stage.root, *stage.root.rglob("*")):
        if os.geteuid() == 0:
            os.chown(path, user, user)


def _close(folder: Path) -> None:
    """Take the right to write in a folder and below."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture
def read_only(new_stage: NewStage, user: int) -> Stage:
    """A stage whose store holds a checkpoint, and may be read but not written by its user."""
    stage = new_stage()
    stage.succeed("checkpoint", "push", "llama", "-f", str(stage.write("run", checkpoint_files("run"))))
    _hand_over(stage, user)
    _close(stage.root / "home" / "store")
    return stage


def test_a_push_into_a_read_only_store_is_refused(read_only: Stage, user: int) -> None:
    source = read_only.write("other", checkpoint_files("other"))
    ended = read_only.run("checkpoint", "push", "other", "-f", str(source), user=user)
    assert ended.code == 5, ended.text
    assert "permission denied" in ended.text
    assert "hint: check the permissions of" in ended.text
    with read_only.look() as machine:
        check_nothing_is_torn(machine)
        assert [one.name for one in machine.checkpoints()] == ["llama"], "a refused push leaves no name behind"
    for path in (read_only.root / "home" / "store").rglob("*"):
        path.chmod(0o755)
    (read_only.root / "home" / "store").chmod(0o755)
    read_only.succeed("checkpoint", "push", "other", "-f", str(source))
    with read_only.look() as machine:
        check_all(machine, ["other"], checkpoint_files("other"))


def test_a_read_only_store_can_be_read(read_only: Stage, user: int) -> None:
    ended = read_only.run("checkpoint", "fetch", "llama", "-d", str(read_only.root / "out"), user=user)
    assert ended.code == 0, ended.text
    assert read_tree(read_only.root / "out") == checkpoint_files("run")
    ended = read_only.run("checkpoint", "verify", user=user)
    assert ended.code == 0, ended.text


def test_a_deletion_and_a_collection_in_a_read_only_store_are_refused_and_done_later(
    read_only: Stage, user: int
) -> None:
    store = read_only.root / "home" / "store"
    ended = read_only.run("checkpoint", "delete", "llama", user=user)
    assert ended.code == 5, "the store could not be told, so a recovered catalog would have it back"
    with read_only.look() as machine:
        assert machine.checkpoint("llama").status is CheckpointStatus.AVAILABLE
    for path in (store, *store.rglob("*")):
        path.chmod(0o755)
    assert read_only.run("checkpoint", "delete", "llama", user=user).code == 0
    _close(store)
    ended = read_only.run("checkpoint", "gc", "--grace-period", "0s", user=user)
    assert ended.code == 5, ended.text
    for path in (store, *store.rglob("*")):
        path.chmod(0o755)
    read_only.succeed("checkpoint", "gc", "--grace-period", "0s")
    with read_only.look() as machine:
        assert machine.blob_ids() == set()


def test_a_fetch_into_a_read_only_directory_is_refused(new_stage: NewStage, user: int) -> None:
    stage = new_stage()
    stage.succeed("checkpoint", "push", "llama", "-f", str(stage.write("run", checkpoint_files("run"))))
    (stage.root / "out").mkdir()
    _hand_over(stage, user)
    _close(stage.root / "out")
    for folder in ("out", "out/deeper"):
        ended = stage.run("checkpoint", "fetch", "llama", "-d", str(stage.root / folder), user=user)
        assert ended.code == 5, ended.text
        assert "permission denied" in ended.text
    assert read_tree(stage.root / "out") == {}


def test_a_source_that_may_not_be_read_is_named(new_stage: NewStage, user: int) -> None:
    stage = new_stage()
    source = stage.write("run", checkpoint_files("run"))
    _hand_over(stage, user)
    for name in ("model/b.safetensors", "tokens/07.bin"):
        (source / name).chmod(0)
        ended = stage.run("checkpoint", "push", "llama", "-f", str(source), user=user)
        assert ended.code == 2, ended.text
        assert f"{source}/{name} cannot be read: permission denied" in ended.text
        (source / name).chmod(0o644)
    ended = stage.run("checkpoint", "push", "llama", "-f", str(source), user=user)
    assert ended.code == 0, ended.text


def test_a_source_that_vanishes_at_any_instant_is_never_half_a_checkpoint(
    new_stage: NewStage, chance: random.Random
) -> None:
    play_vanishing_source(new_stage(), chance, ROUNDS)
