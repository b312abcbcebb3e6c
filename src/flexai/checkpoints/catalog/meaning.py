"""What a caller may write for a checkpoint or a training job, and which one that means.

A name, a UUID, the first eight digits of one (or more), and ``JOB/PATH`` with any of them for the job. The texts are
read by ``names.parse_reference``. A name goes before a UUID that begins as it reads.
"""

from __future__ import annotations

from flexai.checkpoints.catalog.database import Transaction
from flexai.checkpoints.errors import NotFoundError, UsageError
from flexai.checkpoints.names import Reference, begins_id, did_you_mean, is_uuid, name_key, parse_id, some, title_of

HERE = "c.deleted_at IS NULL AND c.part_of IS NULL"
"""The condition of checkpoints that are there."""

NO_JOB = "flexai training list shows what there is"
"""The hint where a training job is not there."""
_MOST_TOLD = 5


def means(reference: Reference) -> str:
    """The condition that a checkpoint ``c`` is the one that a reference means."""
    if not reference.job:
        return "c.id = :id" if reference.id else "c.name_key = :key"
    # Of those that were written under one path it is what was there last and can be used.
    return f"""
        c.id = (
            SELECT p.id FROM checkpoints p JOIN jobs q ON q.id = p.job_id
            WHERE p.kind = 'captured' AND p.name = :path AND p.deleted_at IS NULL AND {is_of_job("q", reference)}
            ORDER BY CASE WHEN p.status = 'available' THEN 0 ELSE 1 END, p.sequence DESC LIMIT 1
        )
    """


def is_of_job(table: str, reference: Reference) -> str:
    """The condition that a job is that of a ``JOB/PATH``. A deleted job is known by its UUID alone."""
    return f"{table}.id = :job" if is_uuid(reference.job) else f"{table}.name_key = :job"


def meant(reference: Reference) -> dict[str, str]:
    """The values of the condition that ``means`` gives."""
    if reference.job:
        return {"job": name_key(reference.job), "path": reference.path}
    return {"id": reference.id} if reference.id else {"key": name_key(reference.text)}


def spelled_out(transaction: Transaction, reference: Reference, *, among: str = HERE) -> Reference | None:
    """The reference to a checkpoint with the whole UUID in the place of its beginning, for one that is no name.

    ``among`` is a condition of checkpoints ``c``. None where no UUID begins so. Raises UsageError where several do.
    """
    if reference.job:
        # Deleted ones as well: their checkpoints may be there.
        job = _only(reference.job, _beginning(transaction, reference.job, _JOB_IDS), "training job")
        return None if job is None else reference._replace(job=job)
    found = _beginning(transaction, reference.text, f"{_CHECKPOINT_IDS} AND {among}")
    checkpoint = _only(reference.text, found, "checkpoint")
    return None if checkpoint is None else reference._replace(id=parse_id(checkpoint))


def spelled_out_job(transaction: Transaction, reference: Reference) -> Reference | None:
    """As ``spelled_out`` of a reference to a training job that is there."""
    found = _beginning(transaction, reference.text, f"{_JOB_IDS} AND j.name_key IS NOT NULL")
    job = _only(reference.text, found, "training job")
    return None if job is None else reference._replace(id=parse_id(job))


def id_in_history(transaction: Transaction, reference: Reference) -> str | None:
    """The id of what was ever changed and has a UUID that begins as a reference; None where none begins so."""
    query = "SELECT DISTINCT subject_id, 'pushed', title, '' FROM history WHERE subject_id LIKE :start"
    return _only(reference.text, _beginning(transaction, reference.text, query), "thing")


_JOB_IDS = "SELECT j.id, 'pushed', j.name, '' FROM jobs j WHERE j.id LIKE :start"
_CHECKPOINT_IDS = """
    SELECT c.id, c.kind, c.name, COALESCE(j.name, '') FROM checkpoints c LEFT JOIN jobs j ON j.id = c.job_id
    WHERE c.id LIKE :start
"""


def _beginning(transaction: Transaction, text: str, query: str) -> dict[str, str]:
    """The ids that begin so, in order, each with the title of what has it."""
    if not begins_id(text):
        return {}
    rows = transaction.rows(f"{query} ORDER BY 1", start=f"{text.lower()}%")
    return {found: title_of(kind, name, job) for found, kind, name, job in rows}


def _only(text: str, found: dict[str, str], what: str) -> str | None:
    if len(found) > 1:
        told = [f"{one} ({title})" for one, title in found.items()]
        raise UsageError(
            f"the UUIDs of {len(found)} {what}s begin with {text!r}",
            hint=f"write more digits of one of: {some(told, _MOST_TOLD)}",
        )
    return next(iter(found), None)


def not_found(reference: Reference) -> NotFoundError:
    """The one error for "not there", whether the checkpoint never was or was deleted."""
    hint = f"flexai training checkpoints {reference.job} shows what that job captured" if reference.job else None
    return NotFoundError(f"there is no checkpoint {reference.text!r}", hint=hint)


def nothing_like(transaction: Transaction, reference: Reference) -> NotFoundError:
    """The error of ``not_found``, with what the caller may have meant instead."""
    error = not_found(reference)
    if reference.id:
        return error
    jobs = {name_key(name): name for name in transaction.column(_JOB_NAMES)}
    text = reference.job or reference.text
    job = jobs.get(name_key(text))
    if not reference.job and job is not None:
        error.hint = f"{job!r} is a training job: flexai training checkpoints {job} shows its checkpoints"
        return error
    known = [*jobs.values(), *([] if reference.job else transaction.column(_PUSHED_NAMES))]
    asked = did_you_mean(text, known)
    if job is not None:
        paths = transaction.column(f"{_PATHS} AND {is_of_job('j', reference)}", job=name_key(job))
        asked = did_you_mean(reference.text, [title_of("captured", path, job) for path in paths])
    error.hint = f"{asked} {error.hint}".lstrip()
    return error


def no_such_job(transaction: Transaction, reference: Reference) -> NotFoundError:
    """The error for a training job that is not there, with what the caller may have meant instead."""
    asked = "" if reference.id else did_you_mean(reference.text, transaction.column(_JOB_NAMES))
    return NotFoundError(f"there is no training job {reference.text!r}", hint=f"{asked} {NO_JOB}".lstrip())


_JOB_NAMES = "SELECT name FROM jobs WHERE name_key IS NOT NULL"
_PUSHED_NAMES = "SELECT name FROM checkpoints WHERE name_key IS NOT NULL"
_PATHS = """
    SELECT DISTINCT c.name FROM checkpoints c JOIN jobs j ON j.id = c.job_id
    WHERE c.kind = 'captured' AND c.deleted_at IS NULL
"""
