"""Pushing 2 GiB to the local store against copying and syncing it, alternated."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.measure import Cost, alternate, flexai, print_costs, run

SIZE = 2 * 1024**3


def main() -> None:
    """Print the medians and the ratio to the copy; the digest is taken in the same pass."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = root / "weights.bin"
        block = os.urandom(64 * 1024**2)
        with source.open("wb") as file:
            for number in range(SIZE // len(block)):
                file.write(block[number:] + block[:number])
        home = root / "home"
        environment = {"FLEXAI_HOME": str(home), "PREFECT_API_URL": ""}

        def copy() -> Cost:
            target = root / "copy.bin"
            target.unlink(missing_ok=True)
            return run(["sh", "-c", 'cp --reflink=never "$1" "$2" && sync "$2"', "sh", str(source), str(target)], {})

        def push() -> Cost:
            shutil.rmtree(home, ignore_errors=True)
            return run([flexai(), "checkpoint", "push", "race", "-f", str(source)], environment)

        def push_again() -> Cost:
            run([flexai(), "checkpoint", "delete", "race"], environment)
            return run([flexai(), "checkpoint", "push", "race", "-f", str(source)], environment)

        costs = alternate({"cp and sync": copy, "push": push, "push again, unchanged": push_again}, rounds=5)
    print_costs("local store: one file of 2 GiB", costs, reference="cp and sync")
