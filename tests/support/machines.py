"""Several machines that run one training job: processes with homes of their own, one catalog and one store."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.owner import IDENTITY_FILE, new_owner
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.inspect import captured_rows, inspect_training
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import load_settings
from tests.checkpoints.training.trainers import program
from tests.cli.program import Done, Program
from tests.support.trees import read_tree

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
            "PYTHONFAULTHANDLER": "1",
        } | settings
        owner = new_owner()
        self._database_url, self._store = shared["FLEXAI_DATABASE_URL"], shared["FLEXAI_STORE"]
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
        return finish_all([self.start(rank, text, *options) for rank in range(self.count)])

    def flexai(self, *arguments: str) -> Done:
        """Run the program on the first machine."""
        return self.programs[0].run(*arguments)

    def job(self) -> dict[str, Any]:
        """What ``training inspect`` shows, read here: a program for each look would keep the processors busy."""
        with Catalog.look(self._database_url) as catalog:
            return dict(inspect_training(catalog, NAME))

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, status and node of the job's checkpoints, incomplete ones too; as ``training checkpoints`` has them."""
        with Catalog.look(self._database_url) as catalog:
            try:
                rows, _ = captured_rows(catalog, NAME)
            except NotFoundError:  # before the first machine has come
                return []
        return [(row.name, row.status, row.node) for row in rows]

    def fetched(self, reference: str, *, node: int | None = None) -> dict[str, bytes]:
        """The files of a checkpoint, or those that one machine has brought of it."""
        first = self.programs[0]
        settings = load_settings(home=first.home, database_url=self._database_url, store=self._store)
        with System.open(settings) as system, TemporaryDirectory(dir=first.cwd) as place:
            fetch(system, FetchRequest(reference, place, node=node))
            return read_tree(Path(place))

    def end(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            kill(process)


def finish(process: subprocess.Popen[str], *, seconds: float = 120) -> Done:
    """Wait for the end of a machine's program; AssertionError says where one that does not end stands."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        columns = "pid,ppid,pgid,stat,etimes,wchan:20,args"
        running = subprocess.run(["ps", "-eo", columns], check=False, capture_output=True, text=True).stdout
        process.send_signal(signal.SIGABRT)  # which has Python write down where each thread is
        out, err = process.communicate()
        raise AssertionError(f"the program did not end\n{out}\n{err}\n{running}") from None
    return Done(process.returncode, out, err)


def finish_all(processes: list[subprocess.Popen[str]], *, seconds: float = 120) -> list[Done]:
    """Wait for the end of all machines' programs; what one does not end for may stand in another one's words."""
    try:
        return [finish(one, seconds=seconds) for one in processes]
    except AssertionError as error:
        for one in processes:
            if not (one.stdout is None or one.stdout.closed):
                one.kill()
                error.add_note("\n".join(map(str, one.communicate())))
        raise


def kill(process: subprocess.Popen[str]) -> None:
    """End a machine as a power cut would: the program and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.communicate()


def lose_machine(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with all that it has started, whatever its group, as a machine does that is switched off."""
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    # Held still first, so that none starts another one meanwhile; each may end by itself at any moment.
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.suspend()
            family += one.children()
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(family)


@contextmanager
def machines(folder: Path, count: int, **settings: str) -> Iterator[Machines]:
    """The machines of a job, which are gone at the end of the block."""
    found = Machines(folder, count, **settings)
    try:
        yield found
    finally:
        found.end()
