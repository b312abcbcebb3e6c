"""What a shard costs besides its bytes: a small push in one task run and in many, on a Prefect server of its own.

From that follows the least size of a shard that is worth a task run of its own: ``python -m benchmarks.shards``.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

SHARDS = 40
FILE_SIZE = 64 * 1024
"""Bytes of each file, which is a shard of its own; the least that the setting allows."""
ROUNDS = 3
RATE = 1e9
"""Bytes a second that one process is taken to move."""
SHARE = 0.03
"""How much of a shard's time may go to its being one."""


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="flexai-bench-") as folder:
        os.environ |= {
            "FLEXAI_HOME": f"{folder}/home",
            "FLEXAI_PACK_THRESHOLD": str(FILE_SIZE),
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "ERROR",
        }
        # Not before: it reads its settings when it is imported.
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=180):
            _measure(Path(folder))


def _measure(folder: Path) -> None:
    from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

    from flexai.blocks import LocalStorageProvider, save_connection

    save_connection(LocalStorageProvider(root=str(folder / "share")), "bench", max_transfers=100)
    one: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=1)
    four: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=4)
    contestants: dict[str, tuple[TaskRunner[Any], bool]] = {
        "1 thread, local files": (one, False),
        "1 thread, a connection": (one, True),
        "4 threads, a connection": (four, True),
    }
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError:
        print("without Dask, which is not installed")
    else:
        cluster = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
        dask: TaskRunner[Any] = DaskTaskRunner(cluster_kwargs=cluster)
        contestants["2 Dask processes, a connection"] = (dask, True)
    print(f"\n{SHARDS} shards of {FILE_SIZE // 1024} KiB, and the same in one task run; medians of {ROUNDS}")
    print(f"  {'':32}{'in one s':>10}{'in shards s':>12}{'a shard s':>11}{'break-even GiB':>16}")
    for name, (runner, remote) in contestants.items():
        _push(folder, runner, remote=remote, shard_size="1GiB")  # a warm-up, without shards
        single = statistics.median(_push(folder, runner, remote=remote, shard_size="1GiB") for _ in range(ROUNDS))
        spread = statistics.median(
            _push(folder, runner, remote=remote, shard_size=str(FILE_SIZE)) for _ in range(ROUNDS)
        )
        cost = (spread - single) / SHARDS
        print(f"  {name:32}{single:10.2f}{spread:12.2f}{cost:11.3f}{cost / SHARE * RATE / 1024**3:16.1f}")


def _push(folder: Path, runner: Any, *, remote: bool, shard_size: str) -> float:
    from flexai.flows.forms import PushForm
    from flexai.flows.push import push

    name = f"bench-{uuid.uuid4().hex[:8]}"
    source = folder / "share" / name
    source.mkdir(parents=True)
    for number in range(SHARDS):
        (source / f"{number:03}.bin").write_bytes(os.urandom(FILE_SIZE))
    what = {"storage_provider": "bench", "source_path": name} if remote else {"files": [str(source)]}
    request = PushForm.model_validate({"name": name, "source": what, "shard_size": shard_size})
    started = time.monotonic()
    push.with_options(task_runner=runner)(request)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
