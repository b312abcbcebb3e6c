"""The hold that a test run has on the servers it uses; see ``keeper``."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from .keeper import PROGRAMS, Address

_VARIABLE = "FLEXAI_TEST_SERVERS"
_PREFIX = "flexai-servers-"
_STALE_SECONDS = 3600
_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Lease:
    """A run's folder of servers, and the lock that keeps them up."""

    directory: Path
    file: IO[str]

    @classmethod
    def begin(cls) -> Lease:
        """Begin a run: its processes find the folder in the environment."""
        _sweep()
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
        os.environ[_VARIABLE] = str(directory)
        return cls.join()

    @classmethod
    def join(cls) -> Lease:
        """Take part in the run that the environment names."""
        directory = Path(os.environ[_VARIABLE])
        file = (directory / "lease").open("a")
        fcntl.flock(file, fcntl.LOCK_SH)
        return cls(directory, file)

    def server(self, name: str) -> Address:
        """Where a server is; it is started if no process of this run has done so."""
        program = PROGRAMS[name]
        if not program.executable.exists():
            pytest.skip(f"{program.executable.name} is not installed")
        place = self.directory / f"{name}.json"
        with (self.directory / f"{name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.exists():
                keeper = subprocess.Popen(
                    [sys.executable, "-m", "tests.servers.keeper", name, str(self.directory)],
                    cwd=_ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
                while not place.exists() and keeper.poll() is None:
                    time.sleep(0.02)
        if not place.exists():
            pytest.fail(f"the keeper of {name} died")
        document = json.loads(place.read_text())
        if "error" in document:
            pytest.fail(f"{name} is not there: {document['error']}")
        return Address(**document)

    def end(self) -> None:
        """End the run: wait until every server has stopped."""
        self.leave()
        with (self.directory / "keepers").open("a") as keepers:
            fcntl.flock(keepers, fcntl.LOCK_EX)
        shutil.rmtree(self.directory, ignore_errors=True)

    def leave(self) -> None:
        """Let go of the servers."""
        self.file.close()


def _sweep() -> None:
    """Remove the folders of runs that were killed before they could."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (directory / "lease").open("r+") as lease:
            if time.time() - os.fstat(lease.fileno()).st_mtime > _STALE_SECONDS:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
