"""Training jobs that a test needs only for their checkpoints."""

from __future__ import annotations

from pathlib import Path

from flexai.checkpoints.models import Checkpoint, JobStatus, TrainingFacts, TrainingJob
from flexai.checkpoints.names import parse_name
from flexai.checkpoints.service.capture import capture
from tests.support.machine import Machine
from tests.support.trees import Tree


def begin_job(machine: Machine, name: str, *, status: JobStatus = JobStatus.SUCCEEDED) -> TrainingJob:
    """A job that has already ended, so that no test waits for it."""
    jobs = machine.system.catalog.jobs
    begun = jobs.begin(
        parse_name(name),
        owner=machine.system.owner,
        command=["train"],
        env_names=[],
        layout=lambda job_id, attempt: (str(machine.root / "output"), str(machine.root / "log")),
    )
    jobs.finish(begun.job.id, begun.lease, status=status, exit_code=0, reason="")
    return jobs.get_by_id(begun.job.id)


def capture_files(
    machine: Machine, job: TrainingJob, name: str, files: Tree, *, node: str = "0", facts: TrainingFacts | None = None
) -> Checkpoint:
    """Capture files as a checkpoint of a job."""
    folder = machine.write(f"output/{name or 'root'}", files)
    return capture(
        machine.system,
        job=job,
        name=name,
        node=node,
        files={path: Path(folder, path) for path in files},
        facts=facts or TrainingFacts(),
    )
