"""What is left of a run that is told to stop: Prefect cancels a run by SIGTERM, and a machine shuts down by it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.names import parse_job_reference
from flexai.tasks import push_checkpoint
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until

pytestmark = pytest.mark.slow

SLOW_PUSH = """
    import time
    from pathlib import Path
    from prefect import flow
    from flexai.checkpoints.storage.local import LocalStorage
    from flexai.tasks import push_checkpoint

    put_part = LocalStorage.put_part

    def slowly(self, key, upload_id, *, number, offset, body):
        receipt = put_part(self, key, upload_id, number=number, offset=offset, body=body)
        if number > 3:
            Path("half-way").touch()
            time.sleep(1)
        return receipt

    LocalStorage.put_part = slowly

    @flow(flow_run_name={run!r})
    def push():
        push_checkpoint("mistral-500", files=["weights.bin"])

    push()
"""

TRAINING = """
    import sys
    from prefect import flow
    from flexai.tasks import run_training

    code = "import pathlib, time; pathlib.Path('half-way').touch(); time.sleep(600)"

    @flow(flow_run_name={run!r})
    def train():
        run_training("my-run", [sys.executable, "-c", code])

    train()
"""


@pytest.fixture
def run() -> str:
    """A name that no other test uses: all share one server."""
    return f"run-{uuid.uuid4().hex[:8]}"


def terminated(code: str, folder: Path) -> int:
    """Start a program, tell it to stop when it is half way, and return its exit code."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=folder)
    try:
        until(lambda: (folder / "half-way").exists() or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        return process.wait(120)
    finally:
        process.kill()
        process.wait()


def state_of(server: PrefectServer, run: str) -> str:
    """The type of a flow run's state once it has ended."""
    wanted = {"flow_runs": {"name": {"any_": [run]}}}
    running = {"PENDING", "RUNNING", "SCHEDULED"}
    until(lambda: server.post("/flow_runs/filter", wanted)[0]["state_type"] not in running)
    return str(server.post("/flow_runs/filter", wanted)[0]["state_type"])


def test_a_push_that_is_cancelled_has_failed_and_the_next_one_goes_on_with_it(
    prefect_api: PrefectServer,
    home: Path,
    tmp_path: Path,
    run: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in {"PART_SIZE": "64KiB", "PACK_THRESHOLD": "0", "CONCURRENCY": "1"}.items():
        monkeypatch.setenv(f"FLEXAI_{name}", value)
    (tmp_path / "weights.bin").write_bytes(b"".join(bytes([number]) * 65536 for number in range(8)))
    assert terminated(SLOW_PUSH.format(run=run), tmp_path) == -signal.SIGTERM
    assert state_of(prefect_api, run) == "CRASHED"
    with Catalog.look() as catalog:
        (row,) = catalog.checkpoints.list_pushed()
    assert row.status == "failed"

    document = push_checkpoint.fn("mistral-500", files=["weights.bin"])
    assert (document["metadata"]["id"], document["status"]["status"]) == (row.id, "available")
    (kept,) = [found for message in caplog.messages if (found := re.search(r"(\d+) KiB already there in", message))]
    assert int(kept[1]) >= 3 * 64, "what had arrived moved again"


def test_a_training_that_is_cancelled_is_stopped_and_its_run_has_not_failed(
    prefect_api: PrefectServer, home: Path, tmp_path: Path, run: str
) -> None:
    assert terminated(TRAINING.format(run=run), tmp_path) == -signal.SIGTERM
    assert state_of(prefect_api, run) == "CRASHED"
    with Catalog.look() as catalog:
        job = catalog.jobs.get(parse_job_reference("my-run"))
    assert (job.status, job.reason.partition(";")[0]) == ("stopped", "preempted by SIGTERM: no checkpoint was stored")
