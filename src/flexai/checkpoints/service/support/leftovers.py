"""What a job's attempts have left on this machine: whole checkpoints that could not be stored, and what is in the way.

An attempt leaves something when its runner dies, or when the store or the catalog is away, or full, until after its
end. The next attempt, ``training capture`` and ``training delete`` take it over: they store what is whole, record how
the attempt ended, and remove the rest. Each step can be cut off: the mark of the attempt goes last, and what is stored
already is not stored again.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flexai.checkpoints.errors import CheckpointError, SourceError, UsageError
from flexai.checkpoints.models import JobStatus, TrainingFacts, TrainingJob
from flexai.checkpoints.own_folders import OwnFolders
from flexai.checkpoints.paths import first_of
from flexai.checkpoints.service.support.job_captures import JobCaptures, OnCaptured
from flexai.checkpoints.service.support.job_rest import store_rest
from flexai.checkpoints.service.support.logged_metrics import LoggedMetrics
from flexai.checkpoints.service.support.parts import judge_part
from flexai.checkpoints.service.support.pointers import record_pointers
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.training.completeness.by_format import (
    Survey,
    completeness,
    is_temporary_path,
)
from flexai.checkpoints.training.completeness.candidates import Found, found_in
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.verdict import Outcome
from flexai.checkpoints.training.job_files import (
    AttemptPlaces,
    LeftAttempt,
    alone_with,
    as_it_ended,
    job_folder,
    left_attempts,
    nodes_as_they_ended,
)
from flexai.checkpoints.training.managed_capture import CaptureReport, salvage
from flexai.checkpoints.training.output_dir import Excluded, OutputTree
from flexai.checkpoints.training.pins import Pins
from flexai.checkpoints.training.reports import Reports
from flexai.checkpoints.training.storing import Store
from flexai.checkpoints.training.units import find_units

NOT_STORED = "the command succeeded, but not all of its checkpoints could be stored"
"""How the reason of such a job begins."""


@dataclass(slots=True)
class Taken:
    """What became of what was left."""

    stored: int = 0
    """Checkpoints that were stored now."""
    left: list[str] = field(default_factory=list)
    """What could not be stored yet, and why: a sentence for each."""


def tell_left_out(report: CaptureReport, places: AttemptPlaces, own: OwnFolders, tell: Callable[[str], None]) -> None:
    """Say what of an attempt's output is not captured because it is excluded, or flexai's own."""
    if own.met:
        tell(own.told())
    if report.left_out:
        fate = "" if places.is_users_output else "; it goes with the output directory, which is the job's own"
        tell(f"{first_of(report.left_out)} left out, as --exclude, .flexaiignore or the defaults say{fate}")


def record_end(system: System, job: TrainingJob) -> TrainingJob:
    """Record how a job's last attempt ended, where only this machine knows; returns the job as it is then."""
    for node, end in nodes_as_they_ended(job).items():
        as_ended = job._replace(
            status=end.status, exit_code=end.exit_code, reason=end.reason, ended_at=end.ended_at, lost=end.lost
        )
        job = system.catalog.jobs.correct_node(job, node, as_ended)
    ended = as_it_ended(job)
    return job if ended is job else system.catalog.jobs.correct(job, ended)


def record_all_stored(system: System, job: TrainingJob) -> TrainingJob:
    """Record that nothing is left of a job that failed for this alone; returns the job as it is then."""
    if job.status is not JobStatus.FAILED or not job.reason.startswith(NOT_STORED):
        return job
    return system.catalog.jobs.correct(job, job._replace(status=JobStatus.SUCCEEDED, reason=""))


def take_over(
    system: System,
    job: TrainingJob,
    *,
    before: int,
    grace: float,
    tell: Callable[[str], None],
    on_captured: OnCaptured,
    check: Callable[[], object] = lambda: None,
    in_use: Path | None = None,
    own: AttemptPlaces | None = None,
) -> Taken:
    """Store what is whole of what a job's attempts before one have left here, and remove what is of no more use.

    ``in_use`` is the folder to which a live trainer reports: it is emptied, and stays; for ``own`` see
    ``left_attempts``. ``check`` is called when no other process does the same. Raises what it raises, StorageError
    where the catalog cannot be asked, and OSError where the job's folder cannot be read.
    """
    taken = Taken()
    jobs_path = system.settings.jobs_path
    with alone_with(job_folder(jobs_path, job.id)):
        check()
        for left in left_attempts(jobs_path, job.id, before=before, own=own):
            left.end_command(grace)
            try:
                _take(system, job, left, taken, tell=tell, on_captured=on_captured, in_use=in_use)
            except (CheckpointError, OSError) as error:
                why = error.message if isinstance(error, CheckpointError) else str(error)
                taken.left.append(f"{left.name} could not be stored to its end: {why}")
        if job.attempt > 1 or before > 1:
            # What no attempt on this machine has gone on with.
            JobCaptures(system, job, tell=tell, on_captured=on_captured).remove_cut_off()
    return taken


def _take(
    system: System,
    job: TrainingJob,
    left: LeftAttempt,
    taken: Taken,
    *,
    tell: Callable[[str], None],
    on_captured: OnCaptured,
    in_use: Path | None,
) -> None:
    excluded = left.places.excluded(OwnFolders.of(system.settings))
    captures = JobCaptures(
        system,
        job,
        tell=tell,
        on_captured=on_captured,
        whose=f" of {left.name}",
        node=left.places.node,
        attempt=left.number,
        excluded=excluded,
    )
    captures.know()
    captures.go_on(since=left.started_at)

    def store(found: Found, facts: TrainingFacts) -> str | None:
        known = captures.of_name(found.name)
        may_be_mixed = left.end is None and len(found.stamps) > 1
        if may_be_mixed and known and known.created_at >= left.started_at and not captures.holds(found):
            # Captured by that attempt and different now: a mixture of two saves looks as whole as either of them.
            raise SourceError("it was being written again when its runner died")
        return captures.store(found, facts)

    places = left.places
    stored, failures = _store_found(left, store, tell, excluded)
    if failures:
        taken.stored += captures.count
        taken.left += failures
        return
    reports = Reports(places.reports)
    report = salvage(
        places.output,
        Pins(places.pins, tell),
        store=store,
        note=tell,
        reports=reports,
        identify=captures.id_of,
        judge=completeness if places.node is None else judge_part,
        excluded=excluded,
        stored=stored,
    )
    if left.host:
        LoggedMetrics(system, job.id, places.output, since=left.started_at, excluded=excluded).add()
    record_pointers(system, job.id, places.output, report.pointers)
    taken.stored += captures.count
    taken.left += report.failures
    if report.failures:
        places.clean(keep_output=True, keep_reports=places.reports == in_use)
        return
    captures.remove_left()
    tell_left_out(report, places, excluded.own, tell)
    captures.tell_secrets(report.rest)
    store_rest(system, job.id, places, report.rest, tell=tell)
    if not places.is_users_output:
        _set_aside(left, report, captures, tell, excluded)
    places.clean(keep_output=False, keep_reports=places.reports == in_use)
    places.unmark()


def _store_found(
    left: LeftAttempt, store: Store, tell: Callable[[str], None], excluded: Excluded
) -> tuple[list[Found], list[str]]:
    """Store what the attempt's own capture found whole, whatever its format; returns that, and what failed.

    That is what it has left pinned and, where the command succeeded, what it left in the output and no rule faults.
    """
    if left.end is None or not left.end.is_swept:
        return [], []
    pins = Pins(left.places.pins, tell)
    founds = [found for pin_set in pins.leftovers() for found in found_in(pin_set.adopt(excluded), pin_set)]
    held = pins.new_set()
    if left.end.exit_code == 0:
        beneath = Beneath(left.places.output)
        tree = OutputTree(beneath, excluded=excluded)
        tree.refresh()
        held.refresh(beneath, dict(tree.files()))
        of_output = list(found_in(tree, held))
        founds += [found for found in of_output if completeness(found.as_written).outcome is Outcome.UNKNOWN]
    stored, failures = [], []
    for found in founds:
        try:
            store(found, found.facts())
            stored.append(found)
        except UsageError as error:
            tell(f"{found.title} cannot be captured: {error.message}")
        except CheckpointError as error:
            failures.append(f"{found.title} could not be stored: {error.message}")
    held.release()
    return stored, failures


def _set_aside(
    left: LeftAttempt,
    report: CaptureReport,
    captures: JobCaptures,
    tell: Callable[[str], None],
    excluded: Excluded,
) -> None:
    """Keep what no rule knows and no capture took; what a rule calls torn goes with the output.

    So does what is left of a checkpoint that was captured, and whose deletion was cut off.
    """
    if not report.uncaptured:
        return
    unknown, torn = _sorted_out(left.places, report.uncaptured, captures, excluded)
    if left.places.node is not None:
        # What is missing in it may be on another machine.
        unknown, torn = [*unknown, *torn], []
    if torn:
        tell(f"{left.name} left {first_of(torn)}, which is no whole checkpoint, so it is removed")
    if unknown:
        place = left.places.set_aside(unknown)
        tell(f"{left.name} left {first_of(unknown)}, of which no rule knows whether it is whole: it is kept in {place}")


def _sorted_out(
    places: AttemptPlaces, paths: Iterable[str], captures: JobCaptures, excluded: Excluded
) -> tuple[list[str], list[str]]:
    """Which files may be of use, and which belong to what is torn, or has a temporary name."""
    beneath = Beneath(places.output)
    tree = OutputTree(beneath, excluded=excluded)
    tree.refresh()
    torn: set[str] = set()
    for unit in find_units(tree, lambda _path, _size: b"").units.values():
        files = {file: posixpath.join(unit.place, file) for file in unit.files}
        sizes = {file: stamp.size for file, path in files.items() if (stamp := tree.stamp(path)) is not None}
        others = {file: tree.stamp(posixpath.join(unit.place, file)) for file in unit.excluded}
        written = sizes | {file: stamp.size for file, stamp in others.items() if stamp is not None}
        at = partial(lambda place, file: beneath.at(posixpath.join(place, file)), unit.place)
        folder = CheckpointFolder(unit.name, written, at, excluded=unit.excluded)
        if _is_torn(folder) or captures.has_files(unit.name, sizes):
            torn |= set(files.values())
    torn |= {path for path in paths if is_temporary_path(path)}
    return [path for path in paths if path not in torn], [path for path in paths if path in torn]


def _is_torn(folder: CheckpointFolder) -> bool:
    """Whether files are broken, or all are known and the one that their layout writes last is missing."""
    verdict, survey = completeness(folder), Survey(folder)
    is_known = bool(verdict.rule) and not survey.unknown and not survey.unjudged
    return verdict.outcome is Outcome.PARTIAL or (verdict.outcome is Outcome.UNKNOWN and is_known)
