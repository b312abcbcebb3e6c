from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.contents import CLAIMED
from flexai.checkpoints.errors import IntegrityError, NotFoundError, StorageError, StorageUnavailableError
from flexai.checkpoints.models import CheckpointStatus, TrainingFacts
from flexai.checkpoints.names import new_id, parse_reference
from flexai.checkpoints.owner import Owner
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, protect, undelete
from flexai.checkpoints.service.inspect import inspect_checkpoint
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push_requests import NameRequest
from flexai.checkpoints.service.recover import RecoverReport, recover
from flexai.checkpoints.service.store_owner import take_over
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.service.verify import verify
from tests.hostile.paths import HOSTILE_PATHS
from tests.support.faults import READ_FAULTS, Fault
from tests.support.fixtures import NewMachine
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import (
    PART,
    Machine,
    beginning_anew,
    check_all,
    check_nothing_is_torn,
    copy_of_catalog,
    lose_catalog,
    restored,
)
from tests.support.progress import Counter
from tests.support.trees import Tree, noise, read_tree

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "empty.txt": b"",
    "model/a.safetensors": noise(3 * PART + 17, "a"),
    "model/b.safetensors": noise(2 * PART, "b"),
    "tokens/one.bin": noise(5000, "one"),
    "tokens/two.bin": noise(9000, "two"),
}


@pytest.fixture
def pushed(machine: Machine) -> Machine:
    machine.push("llama", machine.write("run", SOURCE))
    return machine


def _manifest_path(machine: Machine, name: str = "llama") -> Path:
    return machine.store_folder / "manifests" / f"{machine.checkpoint(name).id}.json"


def test_a_lost_catalog_is_rebuilt_from_the_store(pushed: Machine) -> None:
    pushed.push("mistral", pushed.write("other", SOURCE | {"model/b.safetensors": noise(5 * PART, "new")}))
    name_checkpoint(pushed.system, NameRequest("copy", "llama"))
    before = {one.name: one for one in pushed.checkpoints()}
    machine = lose_catalog(pushed)
    with pytest.raises(NotFoundError):
        machine.fetch("llama")
    report = recover(machine.system)
    assert report == RecoverReport(recovered=report.recovered, known=0, problems={})
    assert sorted(report.recovered.values()) == ["copy", "llama", "mistral"]
    for name, known in before.items():
        found = machine.checkpoint(name)
        assert found == replace(known, updated_at=found.updated_at)
    assert machine.fetched("mistral") == SOURCE | {"model/b.safetensors": noise(5 * PART, "new")}
    check_all(machine, ["llama", "copy"], SOURCE)


def test_what_is_rebuilt_shares_its_content_as_before(pushed: Machine) -> None:
    pushed.push("mistral", pushed.root / "run")
    machine = lose_catalog(pushed)
    recover(machine.system)
    assert verify(machine.system, VerifyRequest()).damaged == ()
    machine.storage.reset()
    machine.push("again", machine.root / "run")
    assert [call for call in machine.storage.named("put", "put_part") if call.key.startswith("blobs/")] == []
    delete(machine.system, DeleteRequest("llama"))
    delete(machine.system, DeleteRequest("mistral"))
    machine.collect()
    check_all(machine, ["again"], SOURCE)


def test_a_captured_checkpoint_comes_back_with_its_job_and_facts(machine: Machine) -> None:
    job = begin_job(machine, "train")
    facts = TrainingFacts(step=5, train_loss=0.5, model="llama", inference_ready=True, resumable_missing=("optimizer",))
    captured = [
        capture_files(machine, job, "checkpoint-5", SOURCE, facts=facts),
        capture_files(machine, job, "", {"final.bin": b"x"}, node="1"),
    ]
    machine = lose_catalog(machine)
    assert sorted(recover(machine.system).recovered.values()) == ["train/.", "train/checkpoint-5"]
    for one in captured:
        found = machine.system.catalog.checkpoints.get_by_id(one.id)
        assert found == replace(one, updated_at=found.updated_at)
        assert found.facts == one.facts
        assert (found.job_name, found.job_id, found.sequence, found.node) == ("train", job.id, one.sequence, one.node)
    assert machine.fetched(str(captured[0].id)) == SOURCE
    found_job = machine.system.catalog.jobs.get_by_id(job.id)
    assert (found_job.name, str(found_job.status)) == ("train", "succeeded")
    check_nothing_is_torn(machine)


def test_a_manifest_with_the_number_of_another_checkpoint_is_left_out_and_named(machine: Machine) -> None:
    job = begin_job(machine, "train")
    first, second = (capture_files(machine, job, name, SOURCE) for name in ("checkpoint-5", "checkpoint-9"))
    path = machine.store_folder / "manifests" / f"{second.id}.json"
    document = json.loads(path.read_bytes())
    document["checkpoint"]["sequence"] = first.sequence
    path.write_text(json.dumps(document))
    machine.push("llama", machine.write("run", SOURCE))
    machine = lose_catalog(machine)
    report = recover(machine.system)
    assert len(report.recovered) == 2 and "llama" in report.recovered.values()
    (problem,) = report.problems.values()
    assert "contradicts" in problem


def test_what_the_catalog_knows_stays_as_it_is(pushed: Machine) -> None:
    before = pushed.checkpoint("llama")
    assert recover(pushed.system) == RecoverReport(recovered={}, known=1, problems={})
    assert pushed.checkpoint("llama") == before


def test_what_is_made_after_a_recovery_belongs_to_the_organisation_of_what_came_back(pushed: Machine) -> None:
    machine = lose_catalog(pushed)
    recover(machine.system)
    machine.system.owner = Owner(user_id=new_id(), org_id=new_id(), name="bob@lab")
    made = machine.push("mistral", machine.root / "run")
    assert made.owner_org_id == machine.checkpoint("llama").owner_org_id


def test_a_second_run_has_nothing_to_do(pushed: Machine) -> None:
    machine = lose_catalog(pushed)
    recover(machine.system)
    assert recover(machine.system) == RecoverReport(recovered={}, known=1, problems={})


def test_a_name_that_is_taken_by_now_stays_with_its_holder(pushed: Machine) -> None:
    lost = pushed.checkpoint("llama")
    machine = lose_catalog(pushed)
    take_over(machine.system)
    holder = machine.push("LLAMA", machine.write("other", {"new.bin": b"x"}))
    assert list(recover(machine.system).recovered.values()) == ["llama"]
    assert machine.system.catalog.checkpoints.get(parse_reference("llama")).id == holder.id
    assert machine.fetched(str(lost.id)) == SOURCE


def test_a_deleted_checkpoint_is_recovered_as_deleted_and_can_come_back(pushed: Machine) -> None:
    delete(pushed.system, DeleteRequest("llama"))
    machine = lose_catalog(pushed)
    assert list(recover(machine.system).recovered.values()) == ["llama"]
    assert [one.status for one in machine.checkpoints()] == [CheckpointStatus.DELETING]
    undelete(machine.system, UndeleteRequest("llama"))
    check_all(machine, ["llama"], SOURCE)


def test_what_was_collected_does_not_come_back(pushed: Machine) -> None:
    delete(pushed.system, DeleteRequest("llama"))
    pushed.collect()
    machine = lose_catalog(pushed)
    assert recover(machine.system) == RecoverReport()


def test_an_unfinished_push_does_not_come_back(machine: Machine) -> None:
    machine.storage.down_from = 6
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", machine.write("run", SOURCE))
    machine = lose_catalog(machine)
    assert recover(machine.system) == RecoverReport()


_HARMS: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "cut": lambda blob: os.truncate(blob, 3),
}


@pytest.mark.parametrize("harm", _HARMS.values(), ids=_HARMS)
@pytest.mark.parametrize("path", ["model/a.safetensors", "tokens/one.bin"])
def test_a_checkpoint_whose_content_is_not_all_there_is_left_out_and_named(
    pushed: Machine, path: str, harm: Callable[[Path], object]
) -> None:
    torn = pushed.checkpoint("llama")
    pushed.push("sound", pushed.write("other", {"s.bin": noise(PART, "s")}))
    harm(pushed.blob_of("llama", path))
    machine = lose_catalog(pushed)
    report = recover(machine.system)
    assert list(report.recovered.values()) == ["sound"]
    assert set(report.problems) == {str(torn.id)}
    assert "is not in the store" in report.problems[str(torn.id)]
    assert [one.name for one in machine.checkpoints()] == ["sound"]
    check_nothing_is_torn(machine)


def _spoil(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def spoil(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return spoil


def _reseal(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """A change by a person who knows how to make the digest fit again."""

    def seal(document: dict[str, Any]) -> None:
        from blake3 import blake3

        from flexai.checkpoints.models import canonical_json

        change(document)
        document["manifestDigest"] = blake3(canonical_json(document["manifest"])).hexdigest()

    return _spoil(seal)


def _large(document: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = next(one for one in document["manifest"]["files"] if one["path"] == "model/a.safetensors")
    return entry


_SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "no JSON": lambda content: content[:-1],
    "no object": lambda _: b"[]",
    "no text": lambda _: b"\xff\xfe{}",
    "nothing in it": lambda _: b"{}",
    "of a later format": _spoil(lambda document: document.update(format=2)),
    "with another size": _spoil(lambda document: document["manifest"]["files"][0].update(size=1)),
    "with another digest": _spoil(lambda document: document.update(manifestDigest="0" * 64)),
    "without its blobs": _spoil(lambda document: document.pop("contents")),
    "with too few blobs": _spoil(lambda document: document["contents"].pop()),
    "with blobs that are none": _spoil(lambda document: document.update(contents=[1] * len(document["contents"]))),
    "with a blob elsewhere": _spoil(lambda document: document["contents"][0].__setitem__(0, "../../etc/passwd")),
    "with a negative place": _spoil(lambda document: document["contents"][0].__setitem__(1, -1)),
    "with a place that is none": _spoil(lambda document: document["contents"][0].__setitem__(1, "x")),
    "with an unknown field": _spoil(lambda document: document["manifest"]["files"][0].update(x=1)),
    "with a status that is none": _spoil(lambda document: document["checkpoint"].update(status="x")),
    "of another checkpoint": _spoil(lambda document: document["checkpoint"].update(id=str(uuid.UUID(int=5)))),
    "with parts that are too few": _reseal(lambda document: _large(document)["parts"].pop()),
    "with parts that are others": _reseal(lambda document: _large(document)["parts"].reverse()),
    "with a part size that asks for millions of parts": _reseal(lambda document: _large(document).update(part_size=1)),
    "with a part size beyond all": _reseal(lambda document: document["manifest"]["files"][0].update(part_size=2**62)),
    "with neither digest nor checksum": _reseal(lambda document: _large(document).update(digest=None, parts=[])),
    "with a size that is a text": _reseal(lambda document: _large(document).update(size="5")),
    "nested deeply": lambda content: content.replace(b'"format":1', b'"format":' + b"[" * 100_000),
    "nested deeply where it may be": lambda content: content.replace(
        b'"contents":[', b'"contents":[' + b"[" * 900 + b"]" * 900 + b","
    ),
    "with Infinity": lambda content: content.replace(b'"format":1', b'"format":Infinity'),
    "with a number beyond all": lambda content: content.replace(b'"sequence":0', b'"sequence":1' + b"0" * 30),
    "with a fraction beyond all": lambda content: content.replace(b'"sequence":0', b'"sequence":1e400'),
    "with half of a surrogate pair": lambda content: content.replace(b'"node":"0"', rb'"node":"\ud800"'),
    "of the year 1": _spoil(lambda document: document["checkpoint"].update(created_at="0001-01-01T00:00:00+14:00")),
    "of the year 9999": _spoil(lambda document: document["checkpoint"].update(updated_at="9999-12-31T23:59:59-14:00")),
    "of a time as a number": _spoil(lambda document: document["checkpoint"].update(created_at=-62135596800)),
    "of a time without a zone": _spoil(lambda document: document["checkpoint"].update(created_at="2025-01-01T00:00")),
    "with a command to the terminal as its name": _spoil(
        lambda document: document["checkpoint"].update(name="\x1b]0;owned\x07")
    ),
    "with a name that is a path": _spoil(lambda document: document["checkpoint"].update(kind="captured", name="../x")),
    "with a name that is a path with a part that is none": _spoil(
        lambda document: document["checkpoint"].update(kind="captured", name="exp//x")
    ),
    "with a name beyond all": _spoil(
        lambda document: document["checkpoint"].update(kind="captured", name="/".join(["x"] * 5000))
    ),
    "with a pointer that is none": _spoil(lambda document: document["checkpoint"].update(pointers=["\x1b[2J"])),
    "with a metric that is none": _spoil(lambda document: document["checkpoint"]["facts"].update(metrics={"\x07": 1})),
    "with metrics that are a list": _spoil(lambda document: document["checkpoint"]["facts"].update(metrics=[1])),
    "with a job's name that is none": _spoil(
        lambda document: document["checkpoint"].update(
            kind="captured", job_id=str(uuid.UUID(int=5)), job_name="\x1b[2J"
        )
    ),
    "with a node that is none": _spoil(lambda document: document["checkpoint"].update(node="\x9b2J")),
    "with a NUL in a text": _spoil(lambda document: document["checkpoint"]["facts"].update(model="a\0b")),
    "with fields that are not known": _spoil(
        lambda document: document["checkpoint"].update(dict.fromkeys(map(str, range(9999))))
    ),
    "with a size beyond all": _reseal(lambda document: _large(document).update(size=2**62)),
    "with a path twice": _reseal(
        lambda document: (
            document["manifest"]["files"].append(document["manifest"]["files"][-1]),
            document["contents"].append(document["contents"][-1]),
        )
    ),
}


@pytest.mark.parametrize("spoil", _SPOILS.values(), ids=_SPOILS)
def test_a_manifest_that_is_damaged_is_left_out_and_named(pushed: Machine, spoil: Callable[[bytes], bytes]) -> None:
    pushed.push("sound", pushed.write("other", {"s.bin": noise(PART, "s")}))
    manifest = _manifest_path(pushed)
    manifest.write_bytes(spoil(manifest.read_bytes()))
    machine = lose_catalog(pushed)
    report = recover(machine.system)
    assert list(report.recovered.values()) == ["sound"]
    assert set(report.problems) == {manifest.stem}
    assert [one.name for one in machine.checkpoints()] == ["sound"]
    machine.fetched("sound")
    machine.collect()
    check_nothing_is_torn(machine)


def _change_manifest(machine: Machine, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = _manifest_path(machine, name)
    path.write_bytes(_reseal(change)(path.read_bytes()))


def test_a_manifest_that_lies_about_a_digest_never_gives_its_bytes_to_an_honest_push(machine: Machine) -> None:
    honest = {"model.bin": noise(3 * PART, "honest")}
    machine.push("honest", machine.write("honest", honest))
    machine.push("forged", machine.write("forged", {"model.bin": noise(3 * PART, "forged")}))
    document = json.loads(_manifest_path(machine, "honest").read_bytes())
    _change_manifest(machine, "forged", lambda forged: forged.update(manifest=document["manifest"]))
    # What is to be stolen or lost is not in the store: only its digest is known.
    _manifest_path(machine, "honest").unlink()
    machine = lose_catalog(machine)
    assert list(recover(machine.system).recovered.values()) == ["forged"]
    (listed,) = machine.system.catalog.checkpoints.list_files(machine.checkpoint("forged").id)
    assert listed.digest is None
    assert listed.checksums == {CLAIMED: document["manifest"]["files"][0]["digest"]}
    with pytest.raises(IntegrityError):
        machine.push("forged", machine.root / "honest", if_not_exists=True)
    machine.push("again", machine.root / "honest")
    shutil.rmtree(machine.root / "honest")
    assert machine.fetched("again") == honest
    with pytest.raises(IntegrityError):
        machine.fetched("forged")
    (damage,) = verify(machine.system, VerifyRequest()).damaged
    assert damage.users == (("forged", "model.bin"),)
    machine.push("third", machine.write("third", honest))
    assert machine.fetched("third") == honest


def test_a_manifest_that_lies_about_content_of_another_checkpoint_does_not_spoil_that(pushed: Machine) -> None:
    pushed.push("second", pushed.root / "run")
    others = {"a.bin": noise(3 * PART + 17, "others"), "b.bin": noise(5000, "others")}
    pushed.push("others", pushed.write("others", others))
    entries = {
        entry["size"]: entry for entry in json.loads(_manifest_path(pushed, "others").read_bytes())["manifest"]["files"]
    }
    lie = {path: entries[len(content)] for path, content in SOURCE.items() if len(content) in entries}
    assert len(lie) == 2
    sound, forged = sorted(("llama", "second"), key=lambda name: pushed.checkpoint(name).id, reverse=True)
    _change_manifest(
        pushed,
        forged,
        lambda document: [
            entry.update(lie[entry["path"]] | {"path": entry["path"]})
            for entry in document["manifest"]["files"]
            if entry["path"] in lie
        ],
    )
    machine = lose_catalog(pushed)
    assert set(recover(machine.system).recovered.values()) == {"llama", "second", "others"}
    assert machine.fetched(sound) == SOURCE
    with pytest.raises(IntegrityError):
        machine.fetched(forged)


def test_altered_bytes_that_nothing_is_known_of_are_said_to_be_unverified_and_refused_on_request(
    pushed: Machine,
) -> None:
    path = "model/a.safetensors"
    pushed.blob_of("llama", path).write_bytes(altered := noise(len(SOURCE[path]), "altered"))
    _change_manifest(
        pushed,
        "llama",
        lambda document: _large(document).update(digest=None, parts=[], checksums={"etag": "abc-2"}),
    )
    machine = lose_catalog(pushed)
    recover(machine.system)
    with pytest.raises(IntegrityError, match=r"neither a digest nor a checksum is known of 'model/a\.safetensors'"):
        machine.fetch("llama", require_digests=True)
    assert not (machine.root / "out").exists()
    shown = inspect_checkpoint(machine.system.catalog, "llama")["status"]["files"]
    assert {file["path"]: file["digestOrigin"] for file in shown} == dict.fromkeys(SOURCE, "claimed") | {
        path: "unverified"
    }
    progress = Counter()
    assert machine.fetch("llama", progress=progress).unverified_files == 1
    assert [note for note in progress.notes if "unverified" in note and path in note]
    assert read_tree(machine.root / "out") == SOURCE | {path: altered}
    # From here on it is compared with what it was at its first reading.
    assert machine.fetch("llama", "again", require_digests=True).unverified_files == 0


def test_what_can_change_later_is_not_taken_from_a_manifest(pushed: Machine) -> None:
    changed = {"deleted_at": "2025-01-01T00:00:00Z", "is_protected": True, "status": "deleting", "size": 7}
    _change_manifest(pushed, "llama", lambda document: document["checkpoint"].update(changed))
    machine = lose_catalog(pushed)
    recover(machine.system)
    found = machine.checkpoint("llama")
    assert (found.status, found.deleted_at, found.is_protected) == (CheckpointStatus.AVAILABLE, None, False)
    assert found.size == sum(map(len, SOURCE.values()))


def test_what_a_verification_has_compared_is_this_catalogs_own_again(pushed: Machine) -> None:
    machine = lose_catalog(pushed)
    recover(machine.system)
    checkpoint_id = machine.checkpoint("llama").id
    assert {file.digest for file in machine.system.catalog.checkpoints.list_files(checkpoint_id)} == {None}
    # A push under the taken name compares the stored bytes, and so knows them.
    assert machine.push("llama", machine.root / "run", if_not_exists=True).id == checkpoint_id
    assert all(file.digest for file in machine.system.catalog.checkpoints.list_files(checkpoint_id))


@pytest.fixture(scope="module")
def hostile_machine(home_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A store with two checkpoints, the manifest of one of which the tests spoil, and a catalog that knows neither."""
    from tests.support.machine import copy_home

    root = tmp_path_factory.mktemp("hostile")
    copy_home(home_template, root)
    with Machine.start(root) as first:
        first.push("llama", first.write("run", {"model.bin": b"x"}))
        first.push("sound", first.write("other", {"sound.bin": b"y"}))
        (root / "llama").write_text(str(first.checkpoint("llama").id))
    machine = lose_catalog(first)
    yield machine
    machine.close()


@pytest.mark.parametrize(("path", "reason"), HOSTILE_PATHS)
def test_a_manifest_with_a_hostile_path_is_left_out_and_named(hostile_machine: Machine, path: str, reason: str) -> None:
    machine = hostile_machine
    checkpoint_id = (machine.root / "llama").read_text()
    manifest = machine.store_folder / "manifests" / f"{checkpoint_id}.json"
    before = manifest.read_bytes()
    manifest.write_bytes(_spoil(lambda document: document["manifest"]["files"][0].update(path=path))(before))
    try:
        report = recover(machine.system)
    finally:
        manifest.write_bytes(before)
    assert set(report.problems) == {checkpoint_id}
    assert [one.name for one in machine.checkpoints()] == ["sound"]


_RECORD_SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "no object": lambda _: b"[]",
    "nothing in it": lambda _: b"{}",
    "of a later format": _spoil(lambda document: document.update(format=2)),
    "nested deeply": lambda content: content.replace(b'"format":1', b'"format":' + b"[" * 100_000),
    "without a history": _spoil(lambda document: document.pop("history")),
    "with a history that is none": _spoil(lambda document: document.update(history=[1])),
    "with another's history": _spoil(lambda document: document["history"][0].update(subject_id=str(uuid.UUID(int=5)))),
    "with a change of the year 1": _spoil(lambda document: document["history"][0].update(at="0001-01-01T00:00:00Z")),
    "with a long action": _spoil(lambda document: document["history"][0].update(action="x" * 33)),
}
_CHECKPOINT_SPOILS = _RECORD_SPOILS | {
    "of another checkpoint": _spoil(lambda document: document["checkpoint"].update(id=str(uuid.UUID(int=5)))),
    "with an export that is none": _spoil(lambda document: document["checkpoint"].update(exports=[{}])),
    "with a size beyond all": _spoil(lambda document: document["checkpoint"].update(size=2**63)),
}
_JOB_SPOILS = _RECORD_SPOILS | {
    "of another job": _spoil(lambda document: document["job"].update(id=str(uuid.UUID(int=5)))),
    "with a name that is none": _spoil(lambda document: document["job"].update(name="\x1b[2J")),
    "with a number beyond all": _spoil(lambda document: document["job"].update(attempt=2**40)),
    "with a status that is none": _spoil(lambda document: document["job"].update(status="x")),
    "with a NUL in a text": _spoil(lambda document: document["job"].update(reason="a\0b")),
    "with fields that are not known": _spoil(lambda document: document["job"].update(x=1)),
}


@pytest.mark.parametrize("spoil", _CHECKPOINT_SPOILS.values(), ids=_CHECKPOINT_SPOILS)
def test_a_checkpoint_whose_record_is_damaged_is_recovered_as_its_manifest_says_and_named(
    pushed: Machine, spoil: Callable[[bytes], bytes]
) -> None:
    checkpoint_id = pushed.checkpoint("llama").id
    protect(pushed.system, ProtectRequest(["llama"]))
    record = pushed.store_folder / "records" / "checkpoint" / f"{checkpoint_id}.json"
    record.write_bytes(spoil(record.read_bytes()))
    machine = lose_catalog(pushed)
    report = recover(machine.system)
    assert (list(report.recovered.values()), set(report.problems)) == (["llama"], {checkpoint_id})
    assert machine.fetched("llama") == SOURCE
    assert report.mended == ["the record of llama"]
    assert recover(machine.system) == RecoverReport(known=1)


@pytest.mark.parametrize("spoil", _JOB_SPOILS.values(), ids=_JOB_SPOILS)
def test_a_job_whose_record_is_damaged_is_named(machine: Machine, spoil: Callable[[bytes], bytes]) -> None:
    job = begin_job(machine, "train")
    capture_files(machine, job, "checkpoint-5", SOURCE)
    record = machine.store_folder / "records" / "job" / f"{job.id}.json"
    record.write_bytes(spoil(record.read_bytes()))
    machine = lose_catalog(machine)
    report = recover(machine.system)
    assert (list(report.recovered.values()), set(report.problems)) == (["train/checkpoint-5"], {job.id})
    assert machine.system.catalog.jobs.get_by_id(job.id).name == "train"
    assert report.mended == ["the record of train"]
    assert recover(machine.system) == RecoverReport(known=1)


_LOSSES: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "another's": lambda path: path.write_bytes(
        path.read_bytes().replace(path.stem.encode(), str(uuid.uuid4()).encode())
    ),
}


@pytest.mark.parametrize("harm", _LOSSES.values(), ids=_LOSSES)
@pytest.mark.parametrize("folder", ["manifests", "records/checkpoint", "records/job"])
def test_a_document_that_is_lost_or_damaged_is_written_anew_by_a_catalog_that_knows_what_it_says(
    machine: Machine, folder: str, harm: Callable[[Path], object]
) -> None:
    captured = capture_files(machine, begin_job(machine, "train"), "step-5", SOURCE)
    machine.push("llama", machine.write("run", SOURCE))
    protect(machine.system, ProtectRequest(["llama", "train/step-5"]))
    before = set((machine.store_folder / folder).iterdir())
    harm(next(path for path in before if path.stem in {captured.id, captured.job_id}))
    report = recover(machine.system)
    what = "manifest" if folder == "manifests" else "record"
    assert report.mended == [f"the {what} of train{'' if folder == 'records/job' else '/step-5'}"]
    assert recover(machine.system).mended == []
    with lose_catalog(machine) as made_anew:
        report = recover(made_anew.system)
        assert (report.problems, report.mended) == ({}, [])
        assert made_anew.system.available("train/step-5").is_protected
    assert set((machine.store_folder / folder).iterdir()) == before


def test_a_lost_manifest_of_content_that_is_lost_too_is_named(pushed: Machine) -> None:
    _manifest_path(pushed).unlink()
    pushed.blob_of("llama", "model/a.safetensors").unlink()
    report = recover(pushed.system)
    (problem,) = report.problems.values()
    assert "the content of 'model/a.safetensors' is not in the store" in problem
    assert report.mended == []


def test_files_that_are_no_manifests_are_passed_over(pushed: Machine) -> None:
    pushed.write("home/store/manifests", {"notes.txt": b"mine", "deep/x.json": b"{}", "README.json": b"{}"})
    machine = lose_catalog(pushed)
    report = recover(machine.system)
    assert list(report.recovered.values()) == ["llama"]
    assert set(report.problems) <= {"README"}


def _marks(machine: Machine) -> list[Path]:
    """What says which catalog a store belongs to."""
    return [machine.store_folder / "store.json", *machine.store_folder.glob("catalogs/*.json")]


@pytest.mark.parametrize("fault", [fault for fault in READ_FAULTS if fault is not Fault.HANG])
def test_a_recovery_that_breaks_off_anywhere_is_finished_by_the_next(new_machine: NewMachine, fault: Fault) -> None:
    first = new_machine()
    first.push("llama", first.write("run", SOURCE))
    first.push("mistral", first.write("other", SOURCE | {"config.json": b"{}"}))
    for number in count(1):
        machine = lose_catalog(first)
        before = {path: path.read_bytes() for path in _marks(machine)}
        machine.storage.faults = {number: fault}
        try:
            report = recover(machine.system)
        except StorageError:
            report = RecoverReport(problems={"": "broken off"})
        done = number > len(machine.storage.calls)
        if fault is Fault.WRONG and not done and machine.storage.calls[number - 1].name == "put":
            # What is read is altered here, and not what is stored.
            for path in _marks(machine):
                if path in before:
                    path.write_bytes(before[path])
                else:
                    path.unlink()
        check_nothing_is_torn(beginning_anew(machine.again()))
        again = machine.again()
        recover(again.system)
        assert again.fetched("llama") == SOURCE
        assert again.fetched("mistral") == SOURCE | {"config.json": b"{}"}
        again.close()
        machine.close()
        if done:
            assert report.problems == {}
            break
    assert number > 3


def test_blobs_without_a_manifest_stay_for_a_person_to_look_at(pushed: Machine) -> None:
    _manifest_path(pushed).unlink()
    before = set(read_tree(pushed.store_folder))
    machine = lose_catalog(pushed)
    assert recover(machine.system) == RecoverReport()
    report = machine.collect()
    assert len(report.unreferenced) == 3
    assert set(read_tree(machine.store_folder)) == before | {"catalogs/000002.json"}


def test_recovered_checkpoints_are_available(pushed: Machine) -> None:
    machine = lose_catalog(pushed)
    recover(machine.system)
    assert [one.status for one in machine.checkpoints()] == [CheckpointStatus.AVAILABLE]


def test_a_checkpoint_that_was_collected_since_the_backup_can_be_taken_off_the_list(machine: Machine) -> None:
    source = machine.write("run", SOURCE)
    machine.push("gone", source)
    backup = copy_of_catalog(machine)
    delete(machine.system, DeleteRequest("gone"))
    machine.collect()
    old = restored(machine, backup)
    report = recover(old.system)
    assert ["is not in the store" in problem for problem in report.problems.values()] == [True]
    delete(old.system, DeleteRequest("gone"))
    old.collect()
    assert recover(old.system).problems == {}
    assert old.checkpoints() == []
