"""Shards that processes of one machine do, for a command of its own, and what happens when processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.task_runners import ProcessPoolTaskRunner
from sqlalchemy import func, select

from flexai.blocks import load_connection
from flexai.checkpoints.catalog.tables import blob_parts
from flexai.checkpoints.service.gc import collect_garbage
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.checkpoints.service.system import System
from flexai.flows.runners import task_runner, usable_cores
from tests.flows.test_sharding import MIB, SIZE, SOURCE, fetched, s3_connection, sizes, stored_bytes
from tests.servers.fixtures import S3Server
from tests.servers.prefect import PrefectServer
from tests.support.tables import tables_of
from tests.support.trees import write_tree
from tests.support.waiting import until

__all__ = ["sizes"]

PROGRAM = """
import sys

def main():
    from flexai.flows.export import export
    from flexai.flows.push import push
    from flexai.flows.forms import ExportForm, PushForm
    from flexai.tasks import shards

    how, name, source, *destination = sys.argv[1:]
    if how == "once":
        shards._DELAYS = ()
    push(PushForm.model_validate({"name": name, "source": {"files": [source]}}))
    if destination:
        connection, path = destination
        asked = {"checkpoint": name, "storage_provider": connection, "destination_path": path}
        document = export(ExportForm.model_validate(asked))
        print(f"exported {document['exportedFiles']} files, {document['movedBytes']} bytes")

if __name__ == "__main__":
    sys.exit(main())
"""
"""What an installed command looks like: a file without a suffix, which a process that is spawned runs again."""


@dataclass
class Running:
    """The program, and what it said."""

    process: subprocess.Popen[bytes]
    log: Path

    def end(self) -> int:
        """Wait for its end; returns its exit code."""
        return self.process.wait(120)

    @property
    def workers(self) -> list[int]:
        """The processes that it has started to do shards."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                status, command = (entry / "status").read_text(), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"\nPPid:\t{self.process.pid}\n" in status and b"spawn_main" in command:
                found.append(int(entry.name))
        return found

    def at_work(self) -> list[int]:
        """Its processes, once some parts have arrived."""
        until(lambda: arrived_parts() and len(self.workers) == 2, "a shard in each process")
        return self.workers


@dataclass
class Pushing:
    """Runs the program on a checkpoint of several shards."""

    folder: Path
    name: str = field(default_factory=lambda: f"processes-{uuid.uuid4().hex[:8]}")
    begun: list[Running] = field(default_factory=list)

    def begin(self, how: str = "patient", *destination: str) -> Running:
        """Start it."""
        log = self.folder / f"{len(self.begun)}.log"
        program, source = str(self.folder / "push-in-shards"), str(self.folder / "run")
        command = [sys.executable, program, how, self.name, source, *destination]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        self.begun.append(Running(process, log))
        return self.begun[-1]


@pytest.fixture
def pushing(
    prefect_api: PrefectServer, home: Path, sizes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pushing]:
    """The program, with two processes for its shards."""
    monkeypatch.setenv("FLEXAI_TASK_RUNNER", "processes:2")
    write_tree(tmp_path / "run", SOURCE)
    (tmp_path / "push-in-shards").write_text(PROGRAM)
    pushing = Pushing(tmp_path)
    # The catalog is there when the program is watched.
    with System.open():
        yield pushing
    for running in pushing.begun:
        running.process.kill()
        running.process.wait()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that take a while, so that there is a middle of them."""
    monkeypatch.setenv("FLEXAI_BANDWIDTH_LIMIT", str(8 * MIB))


def arrived_parts() -> int:
    """Parts that the catalog knows to have arrived."""
    with System.open(connect=load_connection) as system, tables_of(system.catalog.database) as connection:
        return int(connection.execute(select(func.count()).select_from(blob_parts)).scalar_one())


def is_running(process: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def check_content(pushing: Pushing) -> None:
    """What was pushed is there, and once; its digests are compared on the way."""
    assert fetched(pushing.name, pushing.folder) == SOURCE
    with System.open(connect=load_connection) as system:
        collect_garbage(system, GarbageRequest(grace_period=timedelta(0)))
    assert stored_bytes() == SIZE


@pytest.mark.slow
def test_processes_push_to_a_bucket_and_export_to_another(
    pushing: Pushing, juicefs: S3Server, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXAI_STORE", f"{s3_connection(juicefs)}:{juicefs.bucket}/store-{pushing.name}")
    prefix = f"to-{pushing.name}/"
    running = pushing.begin("patient", s3_connection(seaweedfs), f"{seaweedfs.bucket}/{prefix}")
    assert running.end() == 0, running.log.read_text()
    assert f"exported {len(SOURCE)} files, {SIZE} bytes" in running.log.read_text()
    check_content(pushing)
    client = seaweedfs.client()
    listed = client.list_objects_v2(Bucket=seaweedfs.bucket, Prefix=prefix)["Contents"]
    there = {one["Key"]: client.get_object(Bucket=seaweedfs.bucket, Key=one["Key"])["Body"].read() for one in listed}
    assert {path: there[prefix + path] for path in SOURCE} == SOURCE
    assert client.list_multipart_uploads(Bucket=seaweedfs.bucket, Prefix=prefix).get("Uploads", []) == []


@pytest.mark.slow
def test_processes_and_their_command_are_killed_and_the_next_push_goes_on(pushing: Pushing, slow: None) -> None:
    hopeless = pushing.begin("once")
    os.kill(hopeless.at_work()[0], signal.SIGKILL)
    assert hopeless.end() == 1
    assert "ProcessLostError: a process that ran a shard was killed" in hopeless.log.read_text()

    abandoned = pushing.begin()
    processes = abandoned.at_work()
    abandoned.process.kill()
    abandoned.end()
    until(lambda: not any(map(is_running, processes)), "the end of its processes")

    # One that is killed is replaced, where it is not one time too often.
    last = pushing.begin()
    os.kill(last.at_work()[0], signal.SIGKILL)
    assert last.end() == 0, last.log.read_text()
    assert "trying again in 2 s: a process that ran a shard was killed" in last.log.read_text()
    assert "already there" in last.log.read_text()
    check_content(pushing)


@pytest.mark.parametrize(("text", "count"), [("processes", usable_cores()), ("processes:3", 3)])
def test_the_deployment_chooses_how_many_processes(
    home: Path, monkeypatch: pytest.MonkeyPatch, text: str, count: int
) -> None:
    monkeypatch.setenv("FLEXAI_TASK_RUNNER", text)
    assert task_runner() == ProcessPoolTaskRunner(max_workers=count)
