"""What is said of versions of checkpoints that were whole once and are lost."""

from __future__ import annotations

import json

import pytest

from flexai.checkpoints.documents import lost_versions
from tests.checkpoints.training.trainers import program as trainer
from tests.cli.program import Program

TOO_FAST = trainer("for step in range(300): (output() / 'model.pt').write_bytes(archive(step))")
CALM = trainer("(output() / 'step-1.pt').write_bytes(archive(1))")


@pytest.mark.parametrize(("options", "code", "status"), [((), 0, "succeeded"), (("--strict",), 1, "failed")])
def test_lost_versions_are_counted_and_said_and_strictly_a_failure(
    program: Program, options: tuple[str, ...], code: int, status: str
) -> None:
    ran = program.run("training", "run", "run", *options, "--", *TOO_FAST)
    assert ran.code == code
    job = json.loads(program.run("training", "inspect", "run", "--json").out)
    lost = job["status"]["lost"]
    assert lost > 0
    assert job["runtime"]["status"] == status
    assert "a version of checkpoint 'model.pt' is lost" in job["runtime"]["reason"]
    assert len(job["runtime"]["reason"]) < 2000
    (last,) = [line for line in ran.err.splitlines() if line.startswith("training job 'run'")]
    assert " lost" in last
    log = program.run("training", "logs", "run").out
    assert "a version of checkpoint 'model.pt' is lost: it was written over too soon" in log
    assert lost_versions(lost) in log


def test_strictness_is_no_matter_where_nothing_is_lost(program: Program) -> None:
    ran = program.run("training", "run", "run", "--strict", "--", *CALM)
    assert "lost" not in ran.err
    assert json.loads(program.run("training", "inspect", "run", "--json").out)["status"] == {"lost": 0}
