"""What the README shows is typed as it stands there, in a clone's root and in order."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.prefect import PrefectServer

ROOT = Path(__file__).parents[2]
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def sessions(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands of a page's console blocks, each with the lines of output that the page shows."""
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = entry.rstrip().splitlines()
            yield command, shown


def masked(text: str) -> str:
    """A text without what differs from run to run: ids, sizes, losses."""
    return _NUMBER.sub("N", _UUID.sub("ID", text))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what a clone's root has, and what the README's reader has trained."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "output" / "checkpoint-500").mkdir(parents=True)
    (tmp_path / "output" / "checkpoint-500" / "ckpt.pt").write_bytes(os.urandom(1000))
    return tmp_path


@pytest.mark.slow
def test_the_readme_s_commands_do_what_it_shows(clone: Path, prefect_server: PrefectServer) -> None:
    environment = os.environ | {
        "FLEXAI_HOME": str(clone / "home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **prefect_server.environment(clone / "prefect"),
    }
    unique = f"share-{uuid.uuid4().hex[:8]}"
    for command, shown in sessions(ROOT / "README.md"):
        if match := _UUID.search(command):
            command = command.replace(match[0], best_of("digits", environment))
        # One Prefect API serves every test, so a connection needs a name, and a folder, of its own.
        command = command.replace("/tmp/share", str(clone / "mount")).replace(" share", f" {unique}")
        done = subprocess.run(
            command, shell=True, cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}\n{output}"
        for line in shown:
            assert masked(line) in masked(output), f"{command}\n{output}"


def best_of(job: str, environment: dict[str, str]) -> str:
    """The id of a job's checkpoint with the lowest eval loss."""
    listed = subprocess.run(
        ["flexai", "training", "checkpoints", job, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [row for row in json.loads(listed.stdout) if row["evalLoss"] is not None]
    return str(min(rows, key=lambda row: row["evalLoss"])["id"])
