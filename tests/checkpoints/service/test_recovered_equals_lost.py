"""A recovered catalog equals the lost one, whatever has happened before it was lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flexai.checkpoints.catalog.changes import write_due
from flexai.checkpoints.errors import CheckpointError, ConflictError, StorageUnavailableError
from flexai.checkpoints.models import CheckpointStatus, JobStatus, TrainingFacts, now
from flexai.checkpoints.names import parse_name, parse_reference
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, protect, undelete
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push_requests import NameRequest
from flexai.checkpoints.service.recover import recover
from tests.support.faults import Fault
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import (
    Machine,
    check_nothing_is_torn,
    copy_home,
    copy_of_catalog,
    fast_folder,
    lose_catalog,
    restored,
)

_LEASES = ("claim_token", "claim_host", "claim_pid", "claim_started", "claim_until")
_NAMES = ("llama", "Mistral", "phi-3")
_JOBS = ("train", "tune")


def _push(machine: Machine, name: str, number: int) -> None:
    source = machine.write(f"source-{number}", {"a.bin": b"a" * (number % 3), f"{number}.bin": b"x" * 99})
    (source / f"{number}.bin").chmod(0o755 if number % 2 else 0o644)
    (source / f"empty-{number}").mkdir(exist_ok=True)
    machine.push(name, source)


def _capture(machine: Machine, name: str, number: int) -> None:
    job = machine.system.catalog.jobs.find(parse_name(_JOBS[number % 2]))
    if job is None:
        job = begin_job(machine, _JOBS[number % 2])
    facts = TrainingFacts(step=number, metrics={"eval_loss": number / 2}, model=name)
    captured = capture_files(machine, job, f"step-{number}", {"model.bin": b"m" * number}, facts=facts)
    machine.system.catalog.checkpoints.set_pointers(captured.id, ["last.ckpt"])


def _measure(machine: Machine, name: str, number: int) -> None:
    for job in machine.system.catalog.jobs.list():
        since = now() - timedelta(days=1)
        machine.system.catalog.checkpoints.add_metrics(job.id, {number: {"accuracy": 0.5}}, since=since)


def _train_again(machine: Machine, name: str, number: int) -> None:
    begin_job(machine, _JOBS[number % 2], status=JobStatus.FAILED)


_ACTIONS: dict[str, Callable[[Machine, str, int], object]] = {
    "push": _push,
    "name": lambda machine, name, number: name_checkpoint(machine.system, NameRequest(f"copy-{number}", name)),
    "delete": lambda machine, name, number: delete(machine.system, DeleteRequest(name)),
    "undelete": lambda machine, name, number: undelete(machine.system, UndeleteRequest(name)),
    "undelete under another name": lambda machine, name, number: undelete(
        machine.system, UndeleteRequest(name, f"back-{number}")
    ),
    "protect": lambda machine, name, number: protect(machine.system, ProtectRequest([name])),
    "unprotect": lambda machine, name, number: protect(machine.system, ProtectRequest([name], protected=False)),
    "export": lambda machine, name, number: machine.export(name, f"bucket/place-{number % 3}", overwrite=True),
    "capture": _capture,
    "measure": _measure,
    "protect a capture": lambda machine, name, number: protect(
        machine.system, ProtectRequest([f"{_JOBS[number % 2]}/step-{number}"])
    ),
    "delete a capture": lambda machine, name, number: delete(
        machine.system, DeleteRequest(f"{_JOBS[number % 2]}/step-{number}")
    ),
    "train again": _train_again,
    "delete a job": lambda machine, name, number: machine.system.catalog.jobs.delete(
        parse_reference(_JOBS[number % 2])
    ),
    "collect": lambda machine, name, number: machine.collect(),
}

_HISTORY = st.lists(
    st.tuples(st.sampled_from(list(_ACTIONS)), st.sampled_from(_NAMES), st.integers(0, 5)), min_size=1, max_size=12
)


def _known(machine: Machine) -> dict[str, list[dict[str, Any]]]:
    """All that a catalog knows but for leases, for its own numbers, and for what never became available."""
    found = {}
    with machine.system.catalog.database.reading() as transaction:
        for table, order in (
            ("checkpoints", "id"),
            ("jobs", "id"),
            ("job_nodes", "job_id, node"),
            ("exports", "id"),
            ("files", "checkpoint_id, path"),
            ("history", "at, subject_id, action"),
        ):
            rows = transaction.records(f"SELECT * FROM {table} ORDER BY {order}")
            found[table] = [
                {name: value for name, value in row.items() if name not in _LEASES + _NUMBERS.get(table, ())}
                for row in rows
            ]
    found["checkpoints"] = [
        row | {"metrics": json.loads(row["metrics"])}
        for row in found["checkpoints"]
        if row["manifest_digest"] is not None
    ]
    there = {row["id"] for row in found["checkpoints"] + found["jobs"]}
    # What only a manifest tells of is told in fewer words.
    for row in found["history"]:
        if row["action"] in {"push", "capture"}:
            row |= dict.fromkeys(("at", "host", "before", "after"))
    found["history"] = [row for row in found["history"] if row["subject_id"] in there]
    return found


_NUMBERS = {"history": ("id",), "files": ("content_id",), "jobs": ("updated_at", "stop_requested")}


_SETTINGS = settings(
    max_examples=int(os.environ.get("FLEXAI_CHAOS_HISTORIES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@contextmanager
def _lived(home_template: Path, history: list[tuple[str, str, int]]) -> Iterator[Machine]:
    """A machine on which this has happened; what could not be done is no part of its history."""
    with TemporaryDirectory(prefix="flexai-", dir=fast_folder()) as folder:
        copy_home(home_template, Path(folder))
        machine = Machine.start(Path(folder))
        for action, name, number in history:
            with suppress(CheckpointError):
                _ACTIONS[action](machine, name, number)
        # As the next command that stores something does.
        write_due(machine.system.catalog.database)
        yield machine


def _check_recovery(machine: Machine) -> None:
    before = _known(machine)
    with lose_catalog(machine) as recovered:
        assert recover(recovered.system).problems == {}
        after = _known(recovered)
        for table, rows in before.items():
            assert after[table] == rows, table
        check_nothing_is_torn(recovered)


@_SETTINGS
@given(history=_HISTORY)
def test_a_recovered_catalog_equals_the_lost_one(home_template: Path, history: list[tuple[str, str, int]]) -> None:
    with _lived(home_template, history) as machine:
        _check_recovery(machine)


@_SETTINGS
@given(
    history=_HISTORY,
    cut_off=st.lists(
        st.tuples(
            st.sampled_from([name for name in _ACTIONS if name not in {"push", "name", "capture", "train again"}]),
            st.integers(1, 6),
            st.sampled_from([Fault.BEFORE, Fault.AFTER]),
        ),
        min_size=1,
        max_size=3,
    ),
)
@example(history=[("push", "llama", 0)], cut_off=[("protect", 2, Fault.AFTER), ("delete", 2, Fault.BEFORE)])
@example(
    history=[("capture", "llama", 0)],
    cut_off=[("protect a capture", 2, Fault.AFTER), ("measure", 1, Fault.BEFORE)],
)
@example(history=[("push", "llama", 0), ("delete", "llama", 0)], cut_off=[("collect", 6, Fault.BEFORE)])
def test_changes_that_break_off_anywhere_leave_no_record_that_says_too_much(
    home_template: Path, history: list[tuple[str, str, int]], cut_off: list[tuple[str, int, Fault]]
) -> None:
    with _lived(home_template, history) as machine:
        for action, call, fault in cut_off:
            machine.storage.reset()
            machine.storage.faults = {call: fault}
            with suppress(CheckpointError):
                _ACTIONS[action](machine, *history[-1][1:])
        machine.storage.reset()
        with pytest.MonkeyPatch.context() as later:
            # The processes that broke off are long gone.
            later.setattr("flexai.checkpoints.catalog.changes.now", lambda: now() + timedelta(hours=2))
            write_due(machine.system.catalog.database)
        if "collect" in {action for action, _, _ in cut_off}:
            # What one that broke off has let go of is in the store until the next one: deleted, and not yet forgotten.
            machine.collect()
        _check_recovery(machine)


@pytest.mark.parametrize("grace", [timedelta(0), timedelta(days=7)])
def test_what_an_older_copy_of_the_catalog_does_not_know_is_kept(machine: Machine, grace: timedelta) -> None:
    """The copy says that no checkpoint needs what a later push, or an undeletion, has come to need."""
    source = machine.write("source", {"model.bin": b"m" * 50_000})
    machine.push("first", source)
    machine.push("second", machine.write("other", {"model.bin": b"o" * 50_000}))
    delete(machine.system, DeleteRequest("first"))
    delete(machine.system, DeleteRequest("second"))
    with machine.system.catalog.database.writing() as transaction:
        transaction.rows("SELECT 1")
    copy = copy_of_catalog(machine)
    machine.push("again", source)
    undelete(machine.system, UndeleteRequest("second"))
    machine = restored(machine, copy)
    report = machine.collect(grace)
    assert len(report.newer) == 2 or grace
    assert (report.blobs, report.checkpoints) == (0, 0 if grace else 1)
    recover(machine.system)
    assert machine.fetched("again") == {"model.bin": b"m" * 50_000}
    assert machine.fetched("second") == {"model.bin": b"o" * 50_000}
    check_nothing_is_torn(machine)


def _push_two(machine: Machine) -> None:
    machine.push("llama", machine.write("source", {"model.bin": b"m" * 50_000}))
    machine.push("phi-3", machine.write("other", {"model.bin": b"o" * 50_000}))
    delete(machine.system, DeleteRequest("phi-3"))
    machine.push("mistral", machine.root / "other")


_LATER: dict[str, Callable[[Machine], object]] = {
    "protected": lambda machine: protect(machine.system, ProtectRequest(["llama"])),
    "exported": lambda machine: machine.export("llama", "bucket/place"),
    "deleted and back": lambda machine: (
        delete(machine.system, DeleteRequest("llama")),
        undelete(machine.system, UndeleteRequest("llama")),
    ),
    "back under another name": lambda machine: (
        delete(machine.system, DeleteRequest("llama")),
        undelete(machine.system, UndeleteRequest("llama", "lama")),
    ),
}

_CHANGES: dict[str, Callable[[Machine], object]] = {
    "delete": lambda machine: delete(machine.system, DeleteRequest("llama")),
    "protect": lambda machine: protect(machine.system, ProtectRequest(["llama"])),
    "unprotect": lambda machine: protect(machine.system, ProtectRequest(["llama"], protected=False)),
    "export": lambda machine: machine.export("llama", "bucket/elsewhere"),
}


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
@pytest.mark.parametrize("later", _LATER.values(), ids=_LATER)
def test_a_catalog_that_was_copied_a_moment_ago_changes_nothing_that_the_store_knows_more_of(
    machine: Machine, later: Callable[[Machine], object], change: Callable[[Machine], object]
) -> None:
    """So short a time ago that the store names no later change of the catalog."""
    _push_two(machine)
    copy = copy_of_catalog(machine)
    later(machine)
    before = _records(machine)
    after = _known(machine)
    machine = restored(machine, copy)
    for _ in range(2):
        with pytest.raises(ConflictError, match="older copy") as refused:
            change(machine)
        assert "flexai checkpoint recover" in refused.value.hint
    assert _records(machine) == before
    recover(machine.system)
    known = _known(machine)
    for table in ("checkpoints", "exports", "files"):
        assert known[table] == after[table], table
    with suppress(CheckpointError):  # it may be protected, and have another name
        change(machine)
    check_nothing_is_torn(machine)


def test_records_that_a_training_left_due_replace_none_that_knows_more(machine: Machine) -> None:
    _capture(machine, "", 1)
    copy = copy_of_catalog(machine)  # in which the record of the pointer is due
    protect(machine.system, ProtectRequest(["tune/step-1"]))
    before = _records(machine)
    machine = restored(machine, copy)
    assert write_due(machine.system.catalog.database) == 0
    assert _records(machine) == before
    recover(machine.system)
    assert machine.system.available("tune/step-1").is_protected


def test_a_change_that_was_cut_off_before_the_catalogs_word_is_made_again(machine: Machine) -> None:
    _push_two(machine)
    machine.storage.reset()
    machine.storage.faults = {2: Fault.AFTER}
    with pytest.raises(StorageUnavailableError):
        protect(machine.system, ProtectRequest(["llama"]))
    assert [call.name for call in machine.storage.calls] == ["get", "put"]
    assert len(_records(machine)) == 2
    machine = machine.again()
    assert recover(machine.system).recovered == {}
    delete(machine.system, DeleteRequest("llama"))
    with lose_catalog(machine) as recovered:
        recover(recovered.system)
        assert {one.name for one in recovered.checkpoints(CheckpointStatus.AVAILABLE)} == {"mistral"}


def _records(machine: Machine) -> dict[str, bytes]:
    folder = machine.store_folder / "records"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}
