"""Train, push what came out, export it: one flow that can be run again at any point and moves nothing twice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prefect import flow, runtime, task
from prefect.blocks.system import Secret
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import SecretStr

from flexai.blocks import load_connection
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.leases import LEASE_LENGTH
from flexai.checkpoints.documents import Document
from flexai.checkpoints.errors import NotFoundError, StorageUnavailableError, UsageError
from flexai.checkpoints.models import JobStatus
from flexai.checkpoints.names import parse_job_reference, parse_name
from flexai.checkpoints.service.push_requests import NameRequest
from flexai.checkpoints.service.requests import ExportRequest
from flexai.checkpoints.settings import load_settings
from flexai.checkpoints.storage.connection import split_bucket
from flexai.flows.approval import ApprovalAnswer, ask_for_approval
from flexai.flows.export import export_in_shards
from flexai.flows.flow_options import OPTIONS, rename_run
from flexai.flows.forms import span_of
from flexai.flows.runners import task_runner
from flexai.flows.selection import fields_of, name_checkpoints, select_checkpoints
from flexai.flows.templates import check_template, render
from flexai.flows.training_forms import PATH_FIELDS, ExportSpec, PushSpec, TrainingSpec, check_told_apart
from flexai.tasks import artifacts, list_training_checkpoints, run_training
from flexai.tasks.export import export_here
from flexai.tasks.options import RETRIED, TAGS, Logger, open_system, run_logger, telling
from flexai.tasks.push import name_here
from flexai.tasks.transfer_slots import transferring

_END_SECONDS = 30.0
"""How long an attempt takes at most to record its end, once its grace is over."""
_BEST = PushSpec()
_SAMPLE = {**PushSpec.SAMPLE, "name": "checkpoint-1"}


def _run_name() -> str:
    training = TrainingSpec.model_validate(runtime.flow_run.parameters["training"])
    return f"train {_job_name(training.name)}"


@flow(
    name="train-push-export",
    description="Train with a command, push the checkpoints that come out, and export them to a storage provider.",
    flow_run_name=_run_name,
    task_runner=task_runner(),
    **OPTIONS,
)
def train_push_export(training: TrainingSpec, push: PushSpec = _BEST, export: ExportSpec | None = None) -> Document:
    """Train, push the selected checkpoints under names of their own, and export them.

    Run again after a failure, it does what is not done yet: a job that has succeeded is not trained again, a checkpoint
    that is pushed or exported already is not moved again. What can be known to go wrong is checked before the training
    starts. It makes at most four task runs, however many checkpoints there are, and the shards of those whose export
    is worth more than one.

    With an approval it waits for a person between push and export: a run of a deployment gives its worker free
    meanwhile and is run again from its start when the answer is there, which the above makes cheap.

    Args:
        training: The command to train with.
        push: Which checkpoints to push, and under which names; the best by its eval loss where left out.
        export: Where to export them; nowhere where left out.

    Returns:
        ``job`` (the training job's document); ``checkpoints``: what was selected, each with its ``pushed`` name and id
        and with its ``export``, or None; ``approval``: a person's ``decision`` (``approve`` or ``decline``) and
        ``note``, or None where the run asked for none.

    Raises:
        CheckpointError: What the tasks raise; NotFoundError where no checkpoint fits the selection.
    """
    logger = run_logger()
    job = parse_name(_job_name(training.name), what="training job name")
    _check_ahead(job, push, export, logger)
    _wait_for_attempt_before(training, job, logger)
    document = run_training(
        job,
        training.command,
        checkpoint=_start_from(training, job, logger),
        env=_environment(training),
        reuse_succeeded=True,
        grace=span_of(training.grace),
        preempt_signal=training.preempt_signal,
        exclude=training.exclude,
        strict=training.strict,
    )
    selected = select_checkpoints(list_training_checkpoints(job), push, job=job)
    names = name_checkpoints(selected, push, job=job)
    pushed = push_selection(names)
    rows = [dict(row) | {"pushed": pushed[row["id"]], "export": None} for row in selected]
    summary: Document = {"job": document, "checkpoints": rows, "approval": None}
    if export is not None:
        places = {
            row["pushed"]["id"]: render(export.path_template, fields_of(row, job) | {"name": row["pushed"]["name"]})
            for row in rows
        }
        summary["approval"] = _approval(summary, places, export, logger)
        if summary["approval"] is None or summary["approval"]["decision"] == ApprovalAnswer.APPROVE:
            exported = _export_all(places, export)
            for row in rows:
                row["export"] = exported[row["pushed"]["id"]]
        else:
            rename_run(f"train {job} (export declined)")
    _show(summary, job, logger)
    return summary


def _approval(
    summary: Document, places: Mapping[str, str], export: ExportSpec, logger: Logger
) -> dict[str, str] | None:
    """What a person decided about the export; None where the run asks for no approval."""
    if export.approval is None:
        return None
    if _is_exported(places, export.storage_provider):
        logger.info("everything was exported before, so that there is nothing to approve")
        return None
    job = summary["job"]["metadata"]["name"]
    _show(summary, job, logger)
    where = "\n".join(
        f"- {artifacts.code(row['pushed']['name'])} to {_place(export.storage_provider, places[row['pushed']['id']])}"
        for row in summary["checkpoints"]
    )
    question = f"{describe_summary(summary)}\n**Export this?**\n\n{where}\n"
    answer = ask_for_approval(question, timeout_seconds=max(1, round(export.approval.timeout_hours * 3600)))
    note = f": {answer.note}" if answer.note else ""
    logger.info("the export was %s%s", "approved" if answer.decision is ApprovalAnswer.APPROVE else "declined", note)
    return {"decision": str(answer.decision), "note": answer.note}


def _export_all(places: Mapping[str, str], export: ExportSpec) -> dict[str, Document]:
    """Export checkpoints by UUID, each to its place: large ones in shards, the others in one task run."""
    exported: dict[str, Document] = {}
    for checkpoint_id, place in places.items():
        request = ExportRequest(checkpoint_id, export.storage_provider, place, export.overwrite)
        document = export_in_shards(request, shard_size=export.shard_size)
        if document is not None:
            exported[checkpoint_id] = document
    rest = {checkpoint_id: place for checkpoint_id, place in places.items() if checkpoint_id not in exported}
    if rest:
        exported |= export_selection(rest, export.storage_provider, overwrite=export.overwrite)
    return exported


def _is_exported(places: Mapping[str, str], storage_provider: str) -> bool:
    """Whether the catalog knows of all these exports, so that exporting again only looks whether all is there."""
    with Catalog.look() as catalog:
        return all(
            any(
                (known.storage_provider, known.destination_path) == (storage_provider, place) and not known.is_part
                for known in catalog.checkpoints.list_exports(checkpoint_id)
            )
            for checkpoint_id, place in places.items()
        )


def _show(summary: Document, job: str, logger: Logger) -> None:
    artifacts.create_markdown(
        artifacts.artifact_key("train-push-export", job),
        describe_summary(summary),
        description=f"What came out of training job {job}",
        logger=logger,
    )


@task(
    name="push-selection",
    description="Give captured checkpoints names of their own in the managed store; no byte moves.",
    tags=TAGS | {"push"},
    task_run_name="push selected checkpoints",
    **RETRIED,
)
def push_selection(names: Mapping[str, str]) -> dict[str, Document]:
    """Push checkpoints by UUID under names, and return which name and id each got.

    Args:
        names: The name for each UUID.

    Raises:
        CheckpointError: What ``push_checkpoint`` raises.
    """
    pushed = {}
    with telling(run_logger()), open_system() as system:
        for checkpoint_id, name in names.items():
            metadata = name_here(system, NameRequest(name, checkpoint_id, if_not_exists=True))["metadata"]
            pushed[checkpoint_id] = {"name": metadata["name"], "id": metadata["id"]}
    return pushed


@task(
    name="export-selection",
    description="Bring the files of checkpoints to a storage provider.",
    tags=TAGS | {"export"},
    task_run_name="export selected checkpoints to {storage_provider}",
    **RETRIED,
)
def export_selection(places: Mapping[str, str], storage_provider: str, overwrite: bool = False) -> dict[str, Document]:
    """Export checkpoints by UUID, one after the other: each uses all the bandwidth there is.

    Args:
        places: ``BUCKET/PREFIX`` for each UUID.
        storage_provider: The name of a storage provider connection.
        overwrite: Replace objects that are there with other content.

    Raises:
        CheckpointError: What ``export_checkpoint`` raises.
    """
    with transferring(run_logger(), storage_provider) as system:
        return {
            checkpoint_id: export_here(system, ExportRequest(checkpoint_id, storage_provider, place, overwrite))
            for checkpoint_id, place in places.items()
        }


def describe_summary(summary: Document) -> str:
    """The flow's result as a page of Markdown."""
    job = summary["job"]
    name = artifacts.code(job["metadata"]["name"])
    # The form that asks for an approval is too narrow for a column without content.
    exported = any(row["export"] for row in summary["checkpoints"])
    lines = [
        f"# Training job {name}",
        "",
        f"{job['runtime']['status']}, attempt {job['runtime']['attempt']},"
        f" {job['runtime']['checkpointsCount']} checkpoints captured",
        "",
        f"| Captured | Step | Train loss | Eval loss | Pushed as |{' Exported to |' if exported else ''}",
        f"|---|---:|---:|---:|---|{'---|' if exported else ''}",
    ]
    for row in summary["checkpoints"]:
        export = row["export"]
        place = _place(export["storageProvider"], export["destinationPath"]) if export else ""
        cells = [
            artifacts.code(row["name"] or "."),
            _cell(row["step"]),
            _cell(row["trainLoss"]),
            _cell(row["evalLoss"]),
            artifacts.code(row["pushed"]["name"]),
            *([place] if exported else ()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if (approval := summary["approval"]) is not None:
        verdict = "approved" if approval["decision"] == ApprovalAnswer.APPROVE else "declined"
        lines += [
            "",
            f"The export was {verdict}" + (f": {artifacts.code(approval['note'])}" if approval["note"] else "."),
        ]
    return "\n".join(lines) + "\n"


def _place(storage_provider: str, path: str) -> str:
    return artifacts.code(f"{storage_provider}:{path}")


def _cell(value: float | int | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _job_name(template: str) -> str:
    """The job's name; a retry of a scheduled run gives the same one."""
    scheduled: datetime = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    moment = scheduled.astimezone(UTC)
    return render(template, {"date": f"{moment:%Y%m%d}", "time": f"{moment:%H%M}"})


def _check_ahead(job: str, push: PushSpec, export: ExportSpec | None, logger: Logger) -> None:
    """Find what would fail after hours of training."""
    parse_name(render(push.name_template, {**_SAMPLE, "job": job}), what="checkpoint name")
    if export is None:
        return
    try:
        check_told_apart(check_template(export.path_template, PATH_FIELDS), push.select, export.path_template)
    except ValueError as error:
        raise UsageError(str(error), hint="my-bucket/checkpoints/{name}") from error
    _, key = split_bucket(render(export.path_template, {**_SAMPLE, "job": job}))
    if not key:
        raise UsageError(
            f"{export.path_template!r} names a bucket without a folder", hint="my-bucket/checkpoints/{name}"
        )
    try:
        logger.info("%s: %s", export.storage_provider, load_connection(export.storage_provider).reach())
    except StorageUnavailableError as error:
        logger.warning(
            "%s does not answer now, but may do when the training is over: %s", export.storage_provider, error
        )


def _wait_for_attempt_before(training: TrainingSpec, job: str, logger: Logger) -> None:
    """Where this run was begun before, on another machine, wait until that attempt has ended or its lease has.

    Prefect schedules a run again as soon as its machine gets notice, while the command still saves there.
    """
    if runtime.flow_run.run_count <= 1:
        return
    with Catalog.look() as catalog:
        grace = span_of(training.grace) or load_settings().grace
        deadline = time.monotonic() + (grace + LEASE_LENGTH).total_seconds() + _END_SECONDS
        name, is_said = parse_name(job, what="training job name"), False
        while (known := catalog.jobs.find(name)) is not None and not known.status.is_final:
            if time.monotonic() >= deadline:
                return  # what runs there is no attempt of this run
            if not is_said:
                logger.info(
                    "waiting for the end of attempt %d of training job %r on %s", known.attempt, job, known.host
                )
            is_said = True
            time.sleep(1.0)


def _start_from(training: TrainingSpec, job: str, logger: Logger) -> str:
    """The checkpoint to start from: what this job's broken attempt had reached, or else what was asked for."""
    try:
        with Catalog.look() as catalog:
            known = catalog.jobs.get(parse_job_reference(job))
            captured = catalog.checkpoints.list_captured(known.id)
    except NotFoundError:
        return training.checkpoint
    broken = {JobStatus.INTERRUPTED, JobStatus.STOPPED}
    if training.continue_failed:
        broken.add(JobStatus.FAILED)
    if known.status not in broken:
        return training.checkpoint
    available = [row for row in captured if row.status == "available"]
    # Where none is there yet, one may lie on the machine still: the next attempt stores it first.
    if any(row.resumable is not False for row in available) or not (available or training.checkpoint):
        logger.info("training job %r goes on from its latest checkpoint", job)
        return "latest"
    if available:
        logger.warning(
            "training job %r goes on from none of its %d checkpoints, as they are known to be unfit: flexai training"
            " checkpoints %s shows them",
            job,
            len(available),
            job,
        )
    return training.checkpoint


def _environment(training: TrainingSpec) -> dict[str, str | SecretStr]:
    found: dict[str, str | SecretStr] = dict(training.env)
    for variable, name in training.secrets.items():
        found[variable] = _secret(name)
    return found


def _secret(name: str) -> SecretStr:
    try:
        # Not `load`: that returns a coroutine where an asynchronous flow runs this one.
        secret: Secret[Any] = run_coro_as_sync(Secret.aload(name))
    except ValueError as error:
        raise NotFoundError(
            f"there is no Prefect Secret block {name!r}", hint="make it in Prefect's UI, under Blocks"
        ) from error
    return SecretStr(str(secret.get()))
