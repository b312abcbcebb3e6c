"""Every call of push, fetch and export fails once, in every way; and every transaction of their catalog."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from flexai.checkpoints.errors import (
    AlreadyExistsError,
    CheckpointError,
    DestinationExistsError,
    IntegrityError,
    SourceChangedError,
)
from flexai.checkpoints.models import CheckpointStatus, ExportRecord
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.transfer import file_fetch
from tests.support.faults import READ_FAULTS, WRITE_FAULTS, Call, Fault, FaultyCatalog, is_injected
from tests.support.fixtures import NewMachine
from tests.support.machine import PART, Machine, check_all, check_nothing_is_torn
from tests.support.trees import Tree, noise, read_tree, write_tree

pytestmark = pytest.mark.slow

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "empty.txt": b"",
    "model/a.safetensors": noise(3 * PART + 17, "a"),
    "model/b.safetensors": noise(2 * PART, "b"),
    "model/twin.safetensors": noise(2 * PART, "b"),
    "tokens/one.bin": noise(5000, "one"),
}
SIZE = sum(map(len, SOURCE.values()))
# What the twin has is stored once.
NEW_BYTES = SIZE - 2 * PART
CATALOG_FAULTS = (Fault.BEFORE, Fault.SHORT, Fault.AFTER)


def _blob_bytes(calls: list[Call]) -> int:
    return sum(call.size for call in calls if call.name in {"put", "put_part"} and call.key.startswith("blobs/"))


def _broken_off(action: Callable[..., object], *arguments: object) -> CheckpointError | None:
    """The error with which an operation broke off; None where it did its work in spite of the fault."""
    try:
        action(*arguments)
    except CheckpointError as error:
        assert is_injected(error) or isinstance(error, (IntegrityError, SourceChangedError))
        return error
    return None


@pytest.mark.parametrize("fault", WRITE_FAULTS)
def test_a_push_survives_the_failure_of_any_call(new_machine: NewMachine, fault: Fault) -> None:
    for number in count(1):
        machine = new_machine()
        source = machine.write("run", SOURCE)
        machine.storage.faults = {number: fault}
        error = _broken_off(machine.push, "llama", source)
        calls = [*machine.storage.calls]
        machine.storage.reset()
        check_nothing_is_torn(machine)
        if number > len(calls):
            break
        with machine.again() as again:
            if error is not None:
                assert [one.status for one in again.checkpoints()] == [CheckpointStatus.FAILED]
                arrived = _blob_bytes(calls[: number - 1])
                again.push("llama", source)
                # What is in doubt, one part or one pack, may be sent again.
                assert _blob_bytes(again.storage.calls) <= NEW_BYTES - arrived + PART
            check_all(again, ["llama"], SOURCE)
    assert number > 10


@pytest.mark.parametrize("fault", CATALOG_FAULTS)
def test_a_push_survives_the_failure_of_any_transaction(new_machine: NewMachine, fault: Fault) -> None:
    for number in count(1):
        machine = new_machine()
        source = machine.write("run", SOURCE)
        catalog = FaultyCatalog(machine.system.catalog.database)
        catalog.faults = {number: fault}
        error = _broken_off(machine.push, "llama", source)
        transactions, catalog.faults = catalog.count, {}
        check_nothing_is_torn(machine)
        if number > transactions:
            break
        with machine.again() as again:
            if error is not None:
                # Where only the answer to the very last word was lost, it is there.
                available = again.checkpoints(CheckpointStatus.AVAILABLE)
                if available:
                    assert fault is Fault.AFTER
                    with pytest.raises(AlreadyExistsError, match="same content"):
                        again.push("llama", source)
                again.push("llama", source, if_not_exists=bool(available))
            check_all(again, ["llama"], SOURCE)
    assert number > 10


def test_a_push_is_tried_again_by_the_process_that_lost_its_catalog(new_machine: NewMachine) -> None:
    for number in count(1):
        machine = new_machine()
        source = machine.write("run", SOURCE)
        catalog = FaultyCatalog(machine.system.catalog.database)
        catalog.down_from = number
        error = _broken_off(machine.push, "llama", source)
        if error is None:
            break
        assert number == 1 or "could not be recorded" in "".join(error.__notes__)
        catalog.down_from = None
        machine.push("llama", source)
        check_all(machine, ["llama"], SOURCE)
    assert number > 10


@pytest.mark.parametrize(
    ("calls_to", "path", "fault"),
    [
        *(("store", "bucket/files", fault) for fault in WRITE_FAULTS),
        # What a provider sends of files without a known digest is what they are.
        *(("provider", "bucket/files", fault) for fault in READ_FAULTS if fault is not Fault.WRONG),
        *(("provider", "bucket/export", fault) for fault in READ_FAULTS),
    ],
)
def test_a_push_from_a_provider_survives_the_failure_of_any_call(
    new_machine: NewMachine, provider: Path, calls_to: str, path: str, fault: Fault
) -> None:
    for number in count(1):
        machine = _at(provider, new_machine())
        faulty = machine.buckets.storage if calls_to == "provider" else machine.storage
        faulty.faults = {number: fault}
        error = _broken_off(machine.push_from, "llama", path)
        arrived = _blob_bytes(machine.storage.calls)
        calls = len(faulty.calls)
        machine.storage.reset()
        check_nothing_is_torn(machine)
        if number > calls:
            break
        with _at(provider, machine.again()) as again:
            if error is not None:
                assert again.checkpoints(CheckpointStatus.AVAILABLE) == []
                again.push_from("llama", path)
                # What is in doubt, one part or one pack, may be sent again.
                assert _blob_bytes(again.storage.calls) <= SIZE - arrived + PART
            check_all(again, ["llama"], SOURCE)
    assert number > 10


@pytest.fixture
def provider(new_machine: NewMachine) -> Path:
    """A provider's buckets, with the files in one folder and an export of them in another."""
    machine = _at(None, new_machine())
    machine.push("llama", write_tree(machine.buckets.root / "bucket" / "files", SOURCE))
    machine.export("llama", "bucket/export")
    return machine.buckets.root


def _at(provider: Path | None, machine: Machine) -> Machine:
    """A machine with a provider that has versions, as all have but a directory."""
    machine.buckets.root = provider or machine.buckets.root
    machine.buckets.storage.service_identity = "lab"
    return machine


@pytest.mark.parametrize("several", [False, True], ids=["part by part", "several parts by one request"])
@pytest.mark.parametrize("fault", READ_FAULTS)
def test_a_fetch_survives_the_failure_of_any_call(
    pushed: Machine, monkeypatch: pytest.MonkeyPatch, fault: Fault, several: bool
) -> None:
    monkeypatch.setattr(file_fetch, "REQUEST_SECONDS", 3600.0 if several else 0.0)
    for number in count(1):
        out = pushed.root / f"out-{number}"
        pushed.storage.reset()
        pushed.storage.faults = {number: fault}
        broken = _broken_off(pushed.fetch, "llama", out.name)
        found = read_tree(out)
        published = {path: text for path, text in found.items() if not path.endswith(PARTIAL_SUFFIX)}
        assert published.items() <= SOURCE.items()
        if number > len(pushed.storage.calls):
            break
        if broken is not None:
            pushed.storage.reset()
            pushed.fetch("llama", out.name)
            kept = sum(map(len, published.values()))
            assert pushed.storage.delivered <= SIZE - kept
        assert read_tree(out) == SOURCE
    assert number > (5 if several else 7)


@pytest.mark.parametrize("fault", WRITE_FAULTS)
def test_an_export_survives_the_failure_of_any_call_to_the_provider(pushed: Machine, fault: Fault) -> None:
    storage = pushed.buckets.storage
    for number in count(1):
        place = f"bucket/place-{number}"
        storage.reset()
        storage.faults = {number: fault}
        broken = _broken_off(pushed.export, "llama", place)
        arrived = pushed.buckets.tree(place)
        if number > len(storage.calls):
            break
        storage.reset()
        if broken is not None:
            assert place not in {one.destination_path for one in _exports(pushed)}
            whole = {path: text for path, text in arrived.items() if not path.endswith(PARTIAL_SUFFIX)}
            assert whole.items() <= SOURCE.items()
            report = pushed.export("llama", place)
            assert report.skipped_files == len(whole)
        _check_export(pushed, place)
    assert number > 15


def test_what_a_provider_spoiled_while_it_took_an_export_never_passes_for_sound(
    pushed: Machine, new_machine: NewMachine
) -> None:
    """A provider that acknowledges other bytes than it got: the digests of the manifest tell, when these are read."""
    storage = pushed.buckets.storage
    spoiled = []
    for number in count(1):
        place = f"bucket/place-{number}"
        storage.reset()
        storage.faults = {number: Fault.WRONG}
        pushed.export("llama", place)
        calls = len(storage.calls)
        storage.reset()
        if number > calls:
            break
        is_spoiled = pushed.buckets.tree(place) != SOURCE or calls == number
        with new_machine() as elsewhere:
            elsewhere.buckets.root = pushed.buckets.root
            refused = _broken_off(elsewhere.push_from, "llama", place) is not None
            assert len(elsewhere.checkpoints(CheckpointStatus.AVAILABLE)) == (not refused)
            if is_spoiled:
                spoiled.append(refused)
                with pytest.raises((DestinationExistsError, IntegrityError)):
                    pushed.export("llama", place)
                pushed.export("llama", place, overwrite=True)
            elsewhere.push_from("llama", place, if_not_exists=not refused)
            check_all(elsewhere, ["llama"], SOURCE)
        _check_export(pushed, place)
    # The parts of the large files, two of them twins, each small file, and the manifest that says that all is there.
    assert spoiled == [True] * (4 + 2 + 2 + 2 + 1)


@pytest.mark.parametrize("fault", READ_FAULTS)
def test_an_export_survives_the_failure_of_any_call_to_the_store(pushed: Machine, fault: Fault) -> None:
    for number in count(1):
        place = f"bucket/place-{number}"
        pushed.storage.reset()
        pushed.storage.faults = {number: fault}
        broken = _broken_off(pushed.export, "llama", place)
        assert pushed.buckets.tree(place).items() <= SOURCE.items(), "uploads are given up"
        if number > len(pushed.storage.calls):
            break
        if broken is not None:
            pushed.storage.reset()
            pushed.export("llama", place)
        _check_export(pushed, place)
    assert number > 7


@pytest.mark.parametrize("fault", CATALOG_FAULTS)
def test_an_export_survives_the_failure_of_its_record(pushed: Machine, fault: Fault) -> None:
    with pushed.again() as machine:
        FaultyCatalog(machine.system.catalog.database).faults = {1: fault}
        with pytest.raises(CheckpointError):
            machine.export("llama")
    assert pushed.export("llama").exported_files == 0
    _check_export(pushed, "bucket/place")


def _check_export(machine: Machine, place: str) -> None:
    """What was exported is whole, is recorded, and can be pushed again as what it was."""
    assert machine.buckets.tree(place) == SOURCE
    assert place in {one.destination_path for one in _exports(machine)}
    assert list(machine.buckets.open(place).storage.list_uploads("")) == []
    assert machine.push_from("llama", place, if_not_exists=True) == machine.checkpoint("llama")


@pytest.fixture
def pushed(machine: Machine) -> Machine:
    machine.push("llama", machine.write("run", SOURCE))
    machine.storage.reset()
    return machine


@pytest.mark.parametrize("outage", [2, 5, 8, 11])
@pytest.mark.parametrize("concurrency", [2, 8])
def test_a_push_of_many_threads_survives_an_outage(new_machine: NewMachine, concurrency: int, outage: int) -> None:
    machine = new_machine(concurrency=concurrency)
    source = machine.write("run", SOURCE)
    machine.storage.down_from = outage
    with pytest.raises(CheckpointError, match="because a test wanted it"):
        machine.push("llama", source)
    check_nothing_is_torn(machine.again())
    with machine.again(concurrency=concurrency) as again:
        again.push("llama", source)
        check_all(again, ["llama"], SOURCE)


@pytest.mark.parametrize("outage", range(1, 9))
def test_a_fetch_of_many_threads_survives_an_outage(pushed: Machine, outage: int) -> None:
    with pushed.again(concurrency=4) as machine:
        machine.storage.down_from = outage
        with pytest.raises(CheckpointError, match="because a test wanted it"):
            machine.fetch("llama")
        machine.storage.reset()
        machine.fetch("llama")
        assert read_tree(machine.root / "out") == SOURCE


@pytest.mark.parametrize("path", ["", "bucket/files", "bucket/export"])
def test_what_a_store_spoiled_while_it_took_it_is_never_handed_out(
    new_machine: NewMachine, provider: Path, path: str
) -> None:
    """A store that acknowledges other bytes than it got: no process can notice that before the bytes are read again."""
    for number in count(1):
        machine = _at(provider, new_machine())
        machine.storage.faults = {number: Fault.WRONG}
        if path:
            machine.push_from("llama", path)
        else:
            machine.push("llama", machine.write("run", SOURCE))
        calls = [*machine.storage.calls]
        if number > len(calls):
            break
        spoiled = calls[number - 1].name in {"put", "put_part"} and calls[number - 1].key.startswith("blobs/")
        machine.storage.reset()
        out = machine.root / "out"
        if spoiled:
            with pytest.raises(IntegrityError):
                machine.fetch("llama")
        else:
            machine.fetch("llama")
        found = {path: text for path, text in read_tree(out).items() if not path.endswith(PARTIAL_SUFFIX)}
        assert found.items() <= SOURCE.items()
        assert (found == SOURCE) != spoiled
    assert number > 10


def test_the_number_of_calls_of_an_unchanged_push_does_not_grow_with_its_files(new_machine: NewMachine) -> None:
    calls = set()
    for files in (10, 300):
        machine = new_machine()
        source: Path = machine.write("run", {f"{number}.json": noise(20, number) for number in range(files)})
        machine.push("llama", source)
        machine.storage.reset()
        machine.push("again", source)
        calls.add(len(machine.storage.calls))
    assert len(calls) == 1


def _exports(machine: Machine) -> list[ExportRecord]:
    return machine.system.catalog.checkpoints.list_exports(machine.checkpoint("llama").id)
