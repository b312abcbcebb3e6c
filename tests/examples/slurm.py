"""A stand-in for Slurm on this machine: it starts batch scripts and steps, and sends them what Slurm sends.

What is sent to which process is that of sbatch(1) (`--signal`), srun(1) and Slurm's page about preemption:

- `--signal=B:TERM@120`: two minutes before the time limit TERM reaches the batch shell, and no other process.
- A preemption with a grace: TERM reaches the processes that srun has started, and not the batch shell.
- srun hands TERM on to the processes of its step, on every machine, and exits with the highest code of them.
- A job that is requeued is ended, and its script begins again with the same id and SLURM_RESTART_COUNT.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# A line of `#!` takes no path with a space, so a shell starts it.
_SRUN = f"""#!/bin/sh
'''exec' "{sys.executable}" "$0" "$@"
'''
import os, signal, subprocess, sys
nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
steps = []
for node in range(nodes):
    of_step = os.environ | {{
        "SLURM_NODEID": str(node),
        "SLURM_PROCID": str(node),
        "SLURM_NNODES": str(nodes),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_NODES": str(nodes),
        "FLEXAI_HOME": os.environ["FLEXAI_HOME"] + f"-of-machine-{{node}}" * (nodes > 1),
    }}
    # A session of its own, as the daemon of each machine starts it: no signal of the shell's group gets there.
    steps.append(subprocess.Popen(sys.argv[1:], env=of_step, start_new_session=True))
    with open(os.environ["STAND_IN_STEPS"], "a") as file:
        print(steps[-1].pid, file=file)
signal.signal(signal.SIGTERM, lambda number, _: [step.send_signal(number) for step in steps])
codes = [step.wait() for step in steps]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
_SCONTROL = """#!/bin/sh
case "$1" in
    requeue) echo "$2" >>"$STAND_IN_REQUEUED" ;;
    show) echo "$3" | tr , '\\n' ;;
    *) exit 1 ;;
esac
"""


class Slurm:
    """A cluster on which one job runs at a time."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """``folder`` holds the commands that a script may call, and ``environment`` is that of its shell."""
        self._requeued = folder / "requeued"
        self._steps = folder / "steps"
        self.programs = folder / "bin"
        """What a script may call; another program can be put there."""
        self.programs.mkdir(parents=True)
        for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL)):
            (self.programs / name).write_text(text)
            (self.programs / name).chmod(0o755)
        self._environment = dict(environment) | {
            "PATH": f"{self.programs}{os.pathsep}{environment['PATH']}",
            "STAND_IN_REQUEUED": str(self._requeued),
            "STAND_IN_STEPS": str(self._steps),
        }

    @property
    def requeued(self) -> list[str]:
        """The ids with which the scripts have asked for another run, in order."""
        return self._requeued.read_text().split() if self._requeued.is_file() else []

    def start(
        self, script: Path, *, cwd: Path, restarts: int = 0, task: int | None = None, nodes: int | None = None
    ) -> Job:
        """Start a batch script, as ``sbatch`` would at its turn, with as many machines as it asks for."""
        options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script.read_text(), re.M))
        count = nodes or int(options.get("nodes", "1"))
        variables = {
            "SLURM_JOB_ID": "4242",
            "SLURM_JOB_NAME": options["job-name"],
            "SLURM_JOB_NUM_NODES": str(count),
            "SLURM_NNODES": str(count),
            "SLURM_JOB_NODELIST": ",".join(["localhost"] * count),
            "SLURM_NODEID": "0",
        }
        if restarts:
            variables["SLURM_RESTART_COUNT"] = str(restarts)
        if task is not None:
            # The last task of an array has the id of the array.
            variables |= {"SLURM_ARRAY_JOB_ID": "4242", "SLURM_ARRAY_TASK_ID": str(task)}
        self._steps.unlink(missing_ok=True)
        process = subprocess.Popen(
            ["bash", script],
            cwd=cwd,
            env=self._environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return Job(process, options, self._steps)


class Job:
    """A run of a batch script."""

    def __init__(self, process: subprocess.Popen[str], options: Mapping[str, str], steps: Path) -> None:
        self._process = process
        self._options = options
        self._steps = steps

    def wait_for(self, line: str, *, times: int = 1) -> None:
        """Read what the job prints up to a line, or to the last of several that are the same."""
        assert self._process.stdout is not None
        read = []
        for printed in self._process.stdout:
            read.append(printed)
            times -= printed == f"{line}\n"
            if not times:
                return
        raise AssertionError(f"the job has ended, and printed no {line!r}: {''.join(read)}")

    def near_the_time_limit(self) -> None:
        """Send what ``--signal`` says: to the batch shell alone."""
        whom, name = self._options["signal"].partition("@")[0].split(":")
        assert whom == "B"
        self._process.send_signal(signal.Signals[f"SIG{name}"])

    def preempt(self) -> None:
        """Send TERM to what srun has started, and not to the batch shell."""
        for pid in self._steps.read_text().split():
            os.kill(int(pid), signal.SIGTERM)

    def end(self) -> tuple[int, str]:
        """Wait for the job's end: its exit code, and what it has printed since."""
        out, _ = self._process.communicate()
        return self._process.returncode, out
