"""Mirror, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document, short_size
from flexai.checkpoints.service.mirror import is_large
from flexai.checkpoints.service.store_requests import MirrorRequest
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.forms import shard_bytes
from flexai.flows.runners import task_runner
from flexai.flows.store_forms import MirrorForm
from flexai.tasks import mirror_checkpoints
from flexai.tasks.mirror import mirror_here
from flexai.tasks.shards import FlowShardRunner


@flow(
    name="mirror-checkpoints",
    description="Bring a set of checkpoints to a second storage provider; what is there already is left as it is.",
    flow_run_name="mirror to {request.storage_provider}",
    task_runner=task_runner(),
    **OPTIONS,
)
def mirror(request: MirrorForm) -> Document:
    """Mirror checkpoints, each to a folder of its own below a path; run again, it copies what is new.

    One that fails does not stop the others; the run fails at its end and names them.

    Args:
        request: Which checkpoints, and where to.

    Returns:
        What ``flexai.tasks.mirror_checkpoints`` returns.

    Raises:
        CheckpointError: What ``flexai.tasks.mirror_checkpoints`` raises.
    """
    asked = request.request()
    done = _mirror_in_shards(asked, shard_size=request.shard_size) or run_task(mirror_checkpoints, asked)
    rename_run(
        f"mirror to {request.storage_provider}: {len(done['copied'])} copied ({short_size(done['movedBytes'])}),"
        f" {len(done['skipped'])} there already"
    )
    return done


def _mirror_in_shards(request: MirrorRequest, *, shard_size: str) -> Document | None:
    """Mirror what is worth more than one shard; None for anything else, and for a job that cannot be found."""
    runner = FlowShardRunner.of(shard_bytes(shard_size))
    if not runner.is_worth(lambda system: is_large(system, request, runner.shard_size)):
        return None
    return runner.run(mirror_here, request)
