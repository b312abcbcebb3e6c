"""How soon a training whose machine is lost trains on on another one."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests

from benchmarks.bench import GIB, Bench
from benchmarks.cases.training import FROM_SOURCE
from benchmarks.clients import PROGRAMS
from benchmarks.measure import FailedError
from benchmarks.own import Own
from benchmarks.results import Bar, Result
from flexai.checkpoints.owner import new_owner

_BEYOND = 5
"""Seconds."""
_PATIENCE = 300
_PARTS = ("schedule", "start", "fetch", "begin", "load", "step")


def back(bench: Bench) -> None:
    """From the kill of a worker to the first step on another one with an empty disk: 1 GiB, and Prefect's own start."""
    size = bench.size(GIB)
    runs: list[dict[str, float]] = []
    wrong: dict[str, list[str]] = {}
    with bench.disk_folder() as folder:
        play = _Play(bench, folder, size)
        for number in range(bench.rounds + bench.warm_up):
            try:
                measured = play.once(number)
            except FailedError as error:
                wrong.setdefault("flexai", []).append(str(error))
                continue
            if number or not bench.warm_up:
                runs.append(measured)
    result = Result(
        "training-back",
        f"from the kill of a worker to the first step on another one, {size / GIB:.3g} GiB (sink)",
        {},
        wrong=wrong,
    )
    if runs:
        middle = {column: statistics.median(run[column] for run in runs) for column in runs[0]}
        result.figures = {
            "flexai": {f"{part} s": middle[part] for part in (*_PARTS, "in all")},
            "an empty flow run": {"schedule s": middle["empty schedule"], "start s": middle["empty start"]}
            | {"in all s": middle["empty in all"]},
        }
        result.figures["flexai"]["in all s"] = result.figures["flexai"].pop("in all s")
        beyond = statistics.median(run["in all"] - run["empty in all"] for run in runs)
        result.bars.append(Bar("beyond an empty flow run", beyond, _BEYOND, " s"))
    result.notes += [
        "detect: none of it; the case asks for another run the moment it has killed the worker",
        "schedule: until the worker takes the run. Start: until the flow runs. Fetch: from the first byte on this disk"
        " to the last. Begin: the rest, until the training's first line; load and step: the training's own",
    ]
    bench.results.append(result)


class _Play:
    """A Prefect server, a pool, and two workers, each with a home of its own."""

    def __init__(self, bench: Bench, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._api = f"{bench.real.prefect().url}/api"
        self._pool = f"bench-{uuid.uuid4().hex[:8]}"
        self._own = Own(
            folder / "home",
            bench.sink,
            {
                "FLEXAI_OWNER": str(new_owner()),
                "FLEXAI_DATABASE_URL": f"sqlite:///{folder / 'catalog.db'}",
                "PREFECT_API_URL": self._api,
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                "DO_NOT_TRACK": "1",
            }
            | FROM_SOURCE,
        )
        self._times = folder / "times"
        self._ask("POST", "/work_pools/", {"name": self._pool, "type": "process"})
        deployed = subprocess.run(
            [sys.executable, str(PROGRAMS / "empty_flow.py"), self._pool],
            env=os.environ | self._own.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if deployed.returncode:
            raise FailedError(f"the flows cannot be deployed: {deployed.stderr.strip()[-500:]}")
        self._training, self._empty = deployed.stdout.split()[-2:]

    def once(self, number: int) -> dict[str, float]:
        """Train on one worker, kill it, and let the other one go on; the seconds of each part."""
        self._times.unlink(missing_ok=True)
        job = f"back-{self._pool}-{number}"
        command = [sys.executable, str(PROGRAMS / "resuming.py"), str(self._size), str(self._times)]
        parameters = {"training": {"name": job, "command": command}, "push": {"select": "latest"}}
        with self._worker("one") as kill_one:
            self._run(self._training, parameters)
            self._until(lambda: "stored" in self._noted(), "the first worker's save")
            with self._worker("two"):
                home = self._folder / "two"
                kill_one()
                asked = time.time()
                run = self._run(self._training, parameters)
                fetching = self._until(lambda: _first_input(home), "the fetch")
                self._until(lambda: "steps" in self._noted(), "the first step on the second worker")
                noted = self._noted()
                taken, running = self._states(run)
                self._until(lambda: self._is_over(run), "the run's end")
                empty_asked = time.time()
                empty = self._run(self._empty, {"times": str(self._times)})
                self._until(lambda: "empty" in self._noted(), "an empty run")
                empty_taken, _ = self._states(empty)
        began = self._noted()["empty"]
        fetched = noted["fetched"]
        return {
            "schedule": taken - asked,
            "start": running - taken,
            "fetch": fetched - fetching,
            "begin": (fetching - running) + (noted["loads"] - fetched),
            "load": noted["loaded"] - noted["loads"],
            "step": noted["steps"] - noted["loaded"],
            "in all": noted["steps"] - asked,
            "empty schedule": empty_taken - empty_asked,
            "empty start": began - empty_taken,
            "empty in all": began - empty_asked,
        }

    @contextmanager
    def _worker(self, name: str) -> Iterator[Callable[[], None]]:
        """A worker with an empty disk that is ready for work; yields what ends it and all that it has started."""
        import psutil

        home = self._folder / name
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        log = self._folder / f"{name}.log"
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", self._pool, "--name", name]
        own = {"FLEXAI_HOME": str(home), "PREFECT_HOME": str(self._folder / f"prefect-{name}")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=home,
                env=os.environ | self._own.environment | own,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        def kill() -> None:
            with suppress(psutil.NoSuchProcess):
                worker = psutil.Process(process.pid)
                family = [worker, *worker.children(recursive=True)]
                for one in family:
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
            process.wait()

        try:
            self._until(lambda: b"started" in log.read_bytes(), f"the start of worker {name}")
            yield kill
        finally:
            kill()

    def _run(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        made = self._ask("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def _states(self, run: str) -> tuple[float, float]:
        """When a worker took a run, and when its flow began."""
        from datetime import datetime

        states = self._ask("GET", f"/flow_run_states/?flow_run_id={run}")
        first: dict[str, float] = {}
        for state in states:
            first.setdefault(state["type"], datetime.fromisoformat(state["timestamp"]).timestamp())
        return first["PENDING"], first["RUNNING"]

    def _is_over(self, run: str) -> bool:
        state = self._ask("GET", f"/flow_runs/{run}")["state"]["type"]
        return state in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

    def _ask(self, method: str, path: str, document: Mapping[str, Any] | None = None) -> Any:
        answer = requests.request(method, f"{self._api}{path}", json=document, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def _noted(self) -> dict[str, float]:
        """What the training and the empty flow have noted; the last of each."""
        with suppress(FileNotFoundError):
            lines = self._times.read_text().split("\n")[:-1]
            return {what: float(at) for what, at in (line.split() for line in lines)}
        return {}

    def _until(self, happened: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + _PATIENCE
        while not (found := happened()):
            if time.monotonic() > deadline:
                logs = "\n".join(log.read_text(errors="replace")[-1500:] for log in self._folder.glob("*.log"))
                raise FailedError(f"{what} does not come: {logs}")
            time.sleep(0.005)
        return found


def _first_input(home: Path) -> float:
    """When a worker's fetch began, as this process sees it; 0 while it has not."""
    return time.time() if any(path.is_file() for path in home.glob("jobs/*/attempt-*/input/**/*")) else 0.0
