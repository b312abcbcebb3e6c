"""Real shards of torch's DCP, of ranks that torchrun starts on several machines with disks of their own."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Done
from tests.support.machines import NAME, Machines, finish, finish_all, kill, machines
from tests.support.training import wait_until

pytestmark = pytest.mark.frameworks

_PATIENCE = 400
"""Seconds: ``torchrun`` waits up to 300 at its own end for one of another machine that has died."""
TRAINER = Path(__file__).parent / "trainers" / "torch_nodes.py"


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Machines]:
    """Two machines."""
    with machines(tmp_path, 2) as found:
        yield found


def _start(
    at: Machines, frameworks: Path, last: int, *, dies_at: int = 0, options: tuple[str, ...] = ()
) -> list[subprocess.Popen[str]]:
    """Start a training of two ranks on each machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(at.count):
        launch = [frameworks / "bin/torchrun", "--nnodes", at.count, "--node-rank", rank, "--nproc-per-node", 2]
        launch += ["--master-addr", "127.0.0.1", "--master-port", port, TRAINER, last, at.meeting]
        which = ("--node-rank", str(rank), "--nodes", str(at.count))
        started.append(
            at.begin(
                rank,
                *("training", "run", NAME, *which, *options, "--", *map(str, launch)),
                env={"DIES_AT": str(dies_at if rank else 0), "OMP_NUM_THREADS": "1"},
            )
        )
    return started


def _check(done: list[Done]) -> None:
    assert [one.code for one in done] == [0] * len(done), "\n".join(one.out + one.err for one in done)


def test_shards_of_ranks_on_two_machines_make_checkpoints_that_a_training_goes_on_from_also_where_one_has_died(
    two: Machines, frameworks: Path
) -> None:
    _check(finish_all(_start(two, frameworks, 20), seconds=_PATIENCE))
    whole = [("step-10", "available", "0-1"), ("step-20", "available", "0-1")]
    assert two.rows() == whole
    assert two.fetched("run/step-20").keys() == {".metadata", *(f"__{rank}_0.distcp" for rank in range(4))}
    assert two.fetched("run/step-20", node=1).keys() == {"__2_0.distcp", "__3_0.distcp"}

    lives, dies = _start(two, frameworks, 40, dies_at=40, options=("--checkpoint", "latest"))
    whole.append(("step-30", "available", "0-1"))
    wait_until(lambda: two.rows() == whole and len(list(two.meeting.iterdir())) == 2)
    kill(dies)
    done = finish(lives)
    assert done.code != 0
    assert "resumed at 20" in done.out
    job = two.job()["runtime"]
    assert (job["status"], [one["status"] for one in job["nodes"]]) == ("interrupted", ["failed", "interrupted"])
    assert [row for row in two.rows() if row[1] == "available"] == whole

    again = finish_all(_start(two, frameworks, 40, options=("--checkpoint", "latest")), seconds=_PATIENCE)
    _check(again)
    assert "resumed at 30" in again[0].out
    assert two.rows()[-1] == ("step-40", "available", "0-1")
