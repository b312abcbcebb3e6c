from __future__ import annotations

import pytest

from flexai.checkpoints.catalog.checkpoint_rows import CUT_OFF, INTERRUPTED
from flexai.checkpoints.catalog.leases import Lease
from flexai.checkpoints.models import CheckpointKind, CheckpointStatus, Source
from flexai.checkpoints.names import parse_name
from flexai.checkpoints.service.overview import overview
from tests.support.jobs import begin_job
from tests.support.machine import Machine


def test_what_a_dead_process_was_pushing_or_capturing_has_failed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.push("whole", machine.write("run", {"a.bin": b"a"}))
    system = machine.system
    checkpoints = system.catalog.checkpoints
    checkpoints.begin_push(
        parse_name("dead"),
        owner=system.owner,
        source=Source(),
        status=CheckpointStatus.UPLOADING,
        store_id=system.store_id,
        parent_id=None,
    )
    checkpoints.begin_capture(
        job_id=begin_job(machine, "train").id,
        name="checkpoint-5",
        node="0",
        owner=system.owner,
        source=Source(),
        store_id=system.store_id,
        parent_id=None,
    )
    assert overview(system).failed == []
    monkeypatch.setattr(Lease, "is_alive", False)
    found = overview(system)
    assert [(one.title, one.reason) for one in found.failed] == [
        ("dead", INTERRUPTED),
        ("train/checkpoint-5", CUT_OFF),
    ]
    assert [one.name for one in found.of(CheckpointKind.PUSHED, CheckpointStatus.AVAILABLE)] == ["whole"]
    assert found.of(CheckpointKind.PUSHED, CheckpointStatus.UPLOADING) == []
