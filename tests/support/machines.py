"""Several machines that run one training job: processes with homes of their own, one catalog and one store."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flexai.checkpoints.owner import IDENTITY_FILE, new_owner
from tests.checkpoints.training.trainers import program
from tests.cli.program import Done, Program

NAME = "run"

DCP = """
rank = int(os.environ["THIS_NODE"])

def save_shards(step, *, ranks=1):
    folder = output() / f"step-{step}"
    mine = range(rank * ranks, (rank + 1) * ranks)
    save(folder, {f"__{one}_0.distcp": weights(step + one) for one in mine})
    if rank == 0:
        save(folder, {".metadata.tmp": b"metadata"})
        (folder / ".metadata.tmp").rename(folder / ".metadata")

def meet(name):
    place = Path(os.environ["MEETING"])
    (place / f"{name}-{rank}").touch()
    for other in range(int(os.environ["NODES"])):
        wait_for(place / f"{name}-{other}")
"""
"""Ranks that save as PyTorch DCP does, each into a folder of its own machine's."""


class Machines:
    """The machines of one job."""

    def __init__(self, folder: Path, count: int, **settings: str) -> None:
        """``settings`` are variables of all of them: where the catalog is, say."""
        self.count = count
        self.meeting = folder / "meeting"
        self.meeting.mkdir(parents=True)
        shared = {
            "FLEXAI_DATABASE_URL": f"sqlite:///{folder}/catalog.db",
            "FLEXAI_STORE": str(folder / "store"),
            "FLEXAI_QUIET_PERIOD": "0.3",
            "MEETING": str(self.meeting),
            "NODES": str(count),
        } | settings
        owner = new_owner()
        self.programs = [Program(folder / f"machine-{rank}") for rank in range(count)]
        for rank, one in enumerate(self.programs):
            one.environment |= shared | {"THIS_NODE": str(rank)}
            one.home.mkdir()
            (one.home / IDENTITY_FILE).write_text(f'{{"userID": "{owner.user_id}", "orgID": "{owner.org_id}"}}')
        self._started: list[subprocess.Popen[str]] = []

    def start(self, rank: int, text: str, *options: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the job's command on one machine, in a process group of its own."""
        which = () if env is not None else ("--node-rank", str(rank), "--nodes", str(self.count))
        return self.begin(rank, "training", "run", NAME, *which, *options, "--", *program(DCP + text), env=env)

    def begin(self, rank: int, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the program on one machine, in a process group of its own."""
        process = self.programs[rank].start(*arguments, env=env, start_new_session=True)
        self._started.append(process)
        return process

    def run(self, text: str, *options: str) -> list[Done]:
        """Run the job's command on all machines, and wait for its end."""
        return [finish(one) for one in [self.start(rank, text, *options) for rank in range(self.count)]]

    def flexai(self, *arguments: str) -> Done:
        """Run the program on the first machine."""
        return self.programs[0].run(*arguments)

    def job(self) -> dict[str, Any]:
        """What ``training inspect`` shows."""
        found: dict[str, Any] = self.flexai("training", "inspect", NAME, "--json").json()
        return found

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, status and node of the job's checkpoints, incomplete ones too."""
        done = self.flexai("training", "checkpoints", NAME, "--json")
        # Before the first machine has come there is no job.
        return [(one["name"], one["status"], one["node"]) for one in done.json()] if done.code == 0 else []

    def fetched(self, reference: str, *options: str) -> dict[str, bytes]:
        """The files of a checkpoint."""
        place = self.programs[0].cwd / f"fetched-{len(list(self.programs[0].cwd.iterdir()))}"
        done = self.flexai("checkpoint", "fetch", reference, "-d", str(place), *options)
        assert done.code == 0, done.err
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}

    def end(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            kill(process)


def finish(process: subprocess.Popen[str]) -> Done:
    """Wait for the end of a machine's program."""
    out, err = process.communicate(timeout=120)
    return Done(process.returncode, out, err)


def kill(process: subprocess.Popen[str]) -> None:
    """End a machine as a power cut would: the program and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.communicate()


@contextmanager
def machines(folder: Path, count: int, **settings: str) -> Iterator[Machines]:
    """The machines of a job, which are gone at the end of the block."""
    found = Machines(folder, count, **settings)
    try:
        yield found
    finally:
        found.end()
