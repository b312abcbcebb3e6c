"""Peak memory of pushing and fetching a huge sparse file, and a folder of 100,000 small files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.measure import Cost, flexai, print_costs, run

SPARSE_SIZE = 16 * 1024**3
SMALL_FILES = 100_000


def main() -> None:
    """Print what each costs; the aim is a peak below 400 MiB."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sparse = root / "sparse"
        sparse.mkdir()
        with (sparse / "weights.bin").open("wb") as file:
            file.truncate(SPARSE_SIZE)
            file.seek(SPARSE_SIZE // 2)
            file.write(b"not only a hole")
        small = root / "small"
        for number in range(SMALL_FILES):
            directory = small / f"{number // 1000:03}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{number:06}.bin").write_bytes(os.urandom(16) * (number % 200))
        costs: dict[str, list[Cost]] = {}
        environment = {"FLEXAI_HOME": str(root / "home"), "PREFECT_API_URL": ""}
        for name, source in (("sparse-16gib", sparse), ("small-100k", small)):
            costs[f"push {name}"] = [run([flexai(), "checkpoint", "push", name, "-f", str(source)], environment)]
            fetched = root / f"fetched-{name}"
            costs[f"fetch {name}"] = [run([flexai(), "checkpoint", "fetch", name, "-d", str(fetched)], environment)]
            run(["diff", "--recursive", str(source), str(fetched)], {}) if source is small else _compare(
                sparse / "weights.bin", fetched / "weights.bin"
            )
    print_costs(f"memory: a sparse file of 16 GiB, and {SMALL_FILES:,} small files", costs)


def _compare(one: Path, other: Path) -> None:
    """Both have the same size and the same few bytes that are no hole."""
    for path in (one, other):
        with path.open("rb") as file:
            file.seek(SPARSE_SIZE // 2)
            assert file.read(15) == b"not only a hole"
        assert path.stat().st_size == SPARSE_SIZE
