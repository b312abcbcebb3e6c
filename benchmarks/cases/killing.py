"""Completed saves that are lost where a training, or what captures it, is killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.cases.training import FROM_SOURCE, frameworks, has
from benchmarks.clients import PROGRAMS
from benchmarks.measure import FailedError, flexai
from benchmarks.own import Own
from benchmarks.results import Bar, Result

_KILLS, _NOTICES = 200, 20
_JOB = "killed"
_SEED = 14
_LATEST = 1.5
"""Seconds after a training's first save within which it is killed."""
_STARTS, _PAUSE = 60, 1.0
"""How often a training that fails as it starts is started again, as a scheduler would, and the seconds between."""
_NEEDS = {
    "numpy": (),
    "torch": ("torch",),
    "transformers": ("transformers", "accelerate"),
    "lightning": ("lightning",),
}
"""The modules that a framework's program needs of the environment of frameworks."""


def lost(bench: Bench) -> None:
    """Completed saves lost in 200 random kills of trainer, helper and runner, and steps lost where TERM comes first."""
    chance = random.Random(_SEED)
    for framework, needed in _NEEDS.items():
        if not bench.wants(framework):
            continue
        # One result for each, so that a run of some frameworks leaves in a file what another one has counted.
        result = Result(f"training-lost-{framework}", f"{framework}: saves lost in kills at random instants", {})
        result.notes.append("a save counts from the moment at which its framework has completed it, reported or not")
        bench.results.append(result)
        python = frameworks() if needed else sys.executable
        if needed and not has(python, "flexai.training", *needed):
            why = f"FLEXAI_TEST_FRAMEWORKS names no environment with {needed[0]} and what flexai needs"
            result.skipped = {framework: why}
            continue
        for is_below in (False, True):
            how = "below training run" if is_below else "by itself"
            with bench.disk_folder() as folder:
                play = _Play(folder, [python, str(PROGRAMS / "killed.py"), framework], is_below, chance)
                try:
                    result.figures[f"{how}: killed"] = play.kill(max(3, int(_KILLS * bench.scale)))
                    result.figures[f"{how}: told first"] = play.tell(max(2, int(_NOTICES * bench.scale)))
                except FailedError as error:
                    result.wrong[how] = [str(error)]
                finally:
                    play.close()
        for row, told in result.figures.items():
            for column in ("saves lost", "steps lost"):
                if column in told:
                    result.bars.append(Bar(f"{column}, {row}", told[column], 0))


class _Forked:
    """A training that was forked by a process which had imported its framework; as ``subprocess.Popen``."""

    returncode: int | None = None

    def __init__(self, parent: subprocess.Popen[str]) -> None:
        self._parent = parent
        self.pid = self._ask("")

    def _ask(self, line: str) -> int:
        assert self._parent.stdin and self._parent.stdout
        print(line, file=self._parent.stdin, flush=True)
        if not (answer := self._parent.stdout.readline()):
            raise FailedError("what forks trainings has ended")
        return int(answer)

    def poll(self) -> int | None:
        """How it ended; None where it runs."""
        if self.returncode is None and not _runs(self.pid):
            self.wait()
        return self.returncode

    def wait(self) -> int:
        """Wait for its end; returns how it ended."""
        if self.returncode is None:
            self.returncode = self._ask(str(self.pid))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


_Training = _Forked | subprocess.Popen[str]


@dataclass
class _Play:
    """One job, whose trainings are killed."""

    folder: Path
    program: Sequence[str]
    is_below: bool
    """Whether the training runs below `flexai training run`, or makes a Run of its own."""
    chance: random.Random

    def __post_init__(self) -> None:
        self._own = Own(self.folder / "home")
        self._output, self._truth = self.folder / "out", self.folder / "truth"
        self._failed_starts = 0
        # The framework is imported once, where the training is not the runner's to start.
        self._forking = None if self.is_below else self._popen("fork", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        """Let what forks trainings end."""
        if self._forking:
            self._forking.communicate()

    def kill(self, times: int) -> dict[str, float]:
        """Kill trainings, and count what was completed and is not there in the end. FailedError where one fails."""
        for _ in range(times):
            self._kill_one()
        saved = self._finish()
        lost = len(saved - self._captured())
        return {"kills": times, "saves": len(saved), "saves lost": lost, "failed starts": self._failed_starts}

    def tell(self, times: int) -> dict[str, float]:
        """Send trainings TERM, and count the steps between what each had trained and what is captured of it."""
        self._begin_anew()
        steps = 0
        for _ in range(times):
            told = len(self._lines("left at "))
            process = self._start()
            time.sleep(self.chance.uniform(0, _LATEST))
            process.send_signal(signal.SIGTERM)
            self._wait(process)
            left = self._lines("left at ")[told:]
            if not left:
                raise FailedError(f"a training that was told to end ended with {process.returncode}: {self._said()}")
            steps += int(left[-1]) - max(self._captured(), default=0)
        return {"kills": times, "saves": len(self._lines("saved ")), "steps lost": steps}

    def _begin_anew(self) -> None:
        for place in (self._output, self._own.home):
            shutil.rmtree(place, ignore_errors=True)
        for file in self.folder.glob("truth*"):
            file.unlink()

    def _popen(self, *how: str, **options: Any) -> subprocess.Popen[str]:
        """Start a program of trainings, whose words go to a file of their own."""
        *python, framework = self.program
        training = [*python, *how, framework, str(self._output), str(self._truth)]
        if self.is_below:
            job = [flexai(), "training", "run", _JOB, "--checkpoint", "latest", "--output-dir", str(self._output)]
            training = [*job, "--no-track", "--", *training]
        environment = os.environ | self._own.environment | FROM_SOURCE
        with (self.folder / "output").open("ab") as said:
            return subprocess.Popen(training, env=environment, text=True, **{"stdout": said, "stderr": said} | options)

    def _start(self) -> _Training:
        """Start a training, again where it fails as it starts, and wait until it has saved."""
        for _ in range(_STARTS):
            if process := self._try_to_start():
                return process
            self._failed_starts += 1
            time.sleep(_PAUSE)
        raise FailedError(f"{_STARTS} trainings in a row failed as they started: {self._said()}")

    def _try_to_start(self) -> _Training | None:
        before = len(self._lines("saved "))
        process = _Forked(self._forking) if self._forking else self._popen(stdin=subprocess.DEVNULL)
        while len(self._lines("saved ")) == before:
            if process.poll() is not None:
                return None
            time.sleep(0.01)
        return process

    def _kill_one(self) -> None:
        process = self._start()
        trainer = int(self._lines("runs ")[-1])
        time.sleep(self.chance.uniform(0, _LATEST))
        # What captures: the process above the trainer, or the one below it.
        captures = [process.pid] if self.is_below else list(_children(trainer))
        whom = self.chance.choice(["trainer", "captures", "both"])
        if whom != "trainer":
            _kill(captures)
            time.sleep(self.chance.uniform(0, _LATEST) * (whom == "captures"))
        _kill([trainer])
        process.wait()
        if self.chance.random() < 0.5:
            # Otherwise the next training begins while a helper still stores what this one has left.
            self._wait(process)

    def _finish(self) -> set[int]:
        """Run a training to its end, and return the steps of all that was completed."""
        end = self._truth.with_name(f"{self._truth.name}.end")
        end.touch()
        process = self._start()
        self._wait(process)
        if process.returncode:
            raise FailedError(f"the last training ended with {process.returncode}: {self._said()}")
        return {int(step) for step in self._lines("saved ")}

    def _wait(self, process: _Training) -> None:
        """Wait for a training's end, and for that of the helper that stores what it has left."""
        process.wait()
        while any(_is_helper(pid, self._output) for pid in _processes()):
            time.sleep(0.05)

    def _captured(self) -> set[int]:
        rows = self._own.ask(["training", "checkpoints", _JOB, "--json"])
        return {row["step"] for row in rows if row["status"] == "available"}

    def _lines(self, begin: str) -> list[str]:
        with suppress(FileNotFoundError):
            lines = self._truth.read_text().split("\n")[:-1]
            return [line.removeprefix(begin) for line in lines if line.startswith(begin)]
        return []

    def _said(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-1500:].strip()


def _kill(processes: Sequence[int]) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(process: int) -> Iterator[int]:
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            yield from map(int, (thread / "children").read_text().split())


def _runs(process: int) -> bool:
    """Whether a process has not ended, where its parent has not asked how."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _is_helper(process: int, output: Path) -> bool:
    """Whether a process captures what trainings leave in this directory."""
    with suppress(OSError):
        arguments = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        return b"--watch" in arguments and os.fsencode(output) in arguments
    return False
