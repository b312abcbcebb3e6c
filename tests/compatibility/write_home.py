"""Writes a home folder with everything in it that a version of flexai keeps, and what that version shows of it.

    python tests/compatibility/write_home.py path/to/flexai FOLDER

FOLDER then holds ``home``, ``sources`` and ``shown``. The first and the last, packed as ``home-VERSION.tar.gz``, let
later versions prove that they read and continue what this one has written (``test_older_homes.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SETTINGS = {"FLEXAI_PART_SIZE": "64KiB", "FLEXAI_PACK_THRESHOLD": "32KiB", "FLEXAI_PACK_SIZE": "64KiB"}
"""Small, so that little content has packs, blobs of several parts, and an upload to interrupt."""

SHOWN = {
    "list": ("checkpoint", "list", "--json"),
    "deleted": ("checkpoint", "list", "--deleted", "--json"),
    "small": ("checkpoint", "inspect", "small", "--json"),
    "large": ("checkpoint", "inspect", "large", "--json"),
    "again": ("checkpoint", "inspect", "again", "--json"),
    "slow": ("checkpoint", "inspect", "slow", "--json"),
    "jobs": ("training", "list", "--json"),
    "job": ("training", "inspect", "digits", "--json"),
    "captured": ("training", "checkpoints", "digits", "--json"),
}
"""What is shown of such a home: a name, and the command."""

_TRAIN = """
import json, os, pathlib
output = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"])
for step in (10, 20):
    folder = output / f".tmp-{step}"
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes([step]) * 2000)
    log = [{"loss": 1 / step, "step": step}, {"eval_loss": 2 / step, "step": step}]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))
    folder.rename(output / f"checkpoint-{step}")
raise SystemExit("out of memory")
"""


def content(seed: str, size: int) -> bytes:
    """Bytes that do not compress and are the same each time."""
    return b"".join(hashlib.sha256(f"{seed}{n}".encode()).digest() for n in range(-(-size // 32)))[:size]


def write_sources(folder: Path) -> None:
    """Write what is pushed."""
    (folder / "small" / "sub").mkdir(parents=True)
    (folder / "large").mkdir()
    for number in range(6):
        (folder / "small" / f"{number}.bin").write_bytes(content(f"small {number}", 1000 + number))
    (folder / "small" / "sub" / "config.json").write_text('{"hidden": 8}')
    (folder / "large" / "model.bin").write_bytes(content("large", 150_000))
    (folder / "large" / "notes.txt").write_text("notes")
    (folder / "slow.bin").write_bytes(content("slow", 300_000))
    (folder / "train.py").write_text(_TRAIN)


def environment(folder: Path) -> dict[str, str]:
    """The variables that the commands run with."""
    return os.environ | SETTINGS | {"FLEXAI_HOME": str(folder / "home"), "DO_NOT_TRACK": "1"}


def main() -> None:
    """Write the folder."""
    program, folder = sys.argv[1], Path(sys.argv[2])
    sources = folder / "sources"
    write_sources(sources)

    def run(*arguments: str, code: int = 0) -> bytes:
        done = subprocess.run(
            [program, *arguments], cwd=sources, env=environment(folder), check=False, stdout=subprocess.PIPE
        )
        assert done.returncode == code, arguments
        return done.stdout

    run("checkpoint", "push", "small", "-f", "small")
    run("checkpoint", "push", "large", "-f", "large")
    run("checkpoint", "push", "again", "--from-checkpoint", "small")
    run("checkpoint", "push", "gone", "-f", "large/notes.txt")
    run("checkpoint", "protect", "large")
    run("checkpoint", "delete", "gone")
    run("training", "run", "digits", "--", "python3", "train.py", code=1)
    slow = environment(folder) | {"FLEXAI_BANDWIDTH_LIMIT": "64KiB"}
    push = subprocess.Popen([program, "checkpoint", "push", "slow", "-f", "slow.bin"], cwd=sources, env=slow)
    time.sleep(3)
    push.send_signal(signal.SIGKILL)
    push.wait()
    (folder / "shown").mkdir()
    for name, command in SHOWN.items():
        document = json.loads(run(*command))
        (folder / "shown" / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
