"""What flexai makes for itself is its owner's alone, also where the umask would let everyone in."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from tests.cli.program import Done, Program
from tests.support.trees import write_tree

# What is open in the home while the command runs, told by a command that then writes a checkpoint and fails.
_COMMAND = """
import os, pathlib
home = pathlib.Path(os.environ["FLEXAI_HOME"])
places = [home, *home.rglob("*")]
pathlib.Path("open.txt").write_text("".join(f"{place}\\n" for place in places if place.stat().st_mode & 0o077))
pathlib.Path("all.txt").write_text("".join(f"{place.name}\\n" for place in places))
checkpoint = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"], "checkpoint-1")
checkpoint.mkdir()
(checkpoint / "model.bin").write_bytes(b"weights")
raise SystemExit(1)
"""


def _run(program: Program, *arguments: str, code: int = 0) -> Done:
    done = program.run(*arguments, umask=0)
    assert done.code == code, done.err
    return done


def _open_below(folder: Path) -> set[Path]:
    return {place for place in [folder, *folder.rglob("*")] if stat.S_IMODE(place.lstat().st_mode) & 0o077}


@pytest.fixture
def pushed(program: Program) -> Program:
    """A home below missing folders, with a checkpoint, and with digests that are remembered."""
    program.home = program.home / "deep" / "home"
    program.environment["FLEXAI_HOME"] = str(program.home)
    write_tree(program.cwd / "run", {"config.json": b"{}", "deep/model.bin": b"weights"})
    for path in (program.cwd / "run").rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    _run(program, "checkpoint", "push", "llama", "--file", "run")
    return program


def test_a_home_is_its_owners_alone_whatever_the_umask(pushed: Program) -> None:
    assert (pushed.home / "stat-cache.db").exists()
    assert _open_below(pushed.home.parent.parent) == set()
    command = (sys.executable, "-c", _COMMAND)
    _run(pushed, "training", "run", "mistral", "--checkpoint", "llama", "--", *command, code=1)
    assert {"input", "output", "running.json", "log.txt", "model.bin"} <= {
        *(pushed.cwd / "all.txt").read_text().splitlines()
    }
    assert (pushed.cwd / "open.txt").read_text() == ""
    # What the command wrote has the modes that it gave it, in a folder that lets no other user in.
    places = _open_below(pushed.home)
    assert {place.name for place in places} == {"checkpoint-1", "model.bin"}
    assert {folder.parent.name for folder in places} <= {"output", "checkpoint-1"} | {
        place.name for place in pushed.home.glob("jobs/*/*/pins/*")
    }


def test_a_fetch_leaves_the_modes_that_the_umask_says_to_the_users_own_folder(pushed: Program) -> None:
    _run(pushed, "checkpoint", "fetch", "llama", "--destination", "out/deeper")
    modes = {stat.S_IMODE(place.stat().st_mode) for place in [pushed.cwd / "out", *(pushed.cwd / "out").rglob("*")]}
    assert modes == {0o777, 0o666}


@pytest.mark.slow
def test_prefect_s_home_is_closed_where_a_command_embeds_prefect(program: Program) -> None:
    (program.cwd / "share").mkdir()
    _run(program, "storage", "create", "lab", "--provider", "local", "--root", str(program.cwd / "share"))
    prefect = Path(program.environment["PREFECT_HOME"])
    assert (prefect / "prefect.db").exists()
    assert _open_below(prefect) == set()


def test_a_home_is_its_owners_alone_also_in_a_folder_of_a_group(program: Program) -> None:
    program.home.mkdir()
    program.home.chmod(0o2770)
    program.file("a.bin")
    for name, store in (("llama", ""), ("mistral", str(program.home / "named"))):
        program.environment["FLEXAI_STORE"] = store
        _run(program, "checkpoint", "push", name, "--file", "a.bin")
        _run(program, "checkpoint", "delete", name)
        (program.home / "catalog.db").unlink()
    assert _open_below(program.home) == {program.home}
