from __future__ import annotations

from typing import Any

import pytest

from flexai.checkpoints.errors import CheckpointError, NotFoundError, StorageUnavailableError, UsageError
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.mirror import MirrorReport, mirror
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.store_requests import MirrorRequest
from tests.support.faults import Call, injected
from tests.support.machine import PART, Machine, lose_catalog
from tests.support.trees import noise

NAMES = ("llama-1", "llama-2", "mistral-1")


def tree_of(name: str) -> dict[str, bytes]:
    return {"config.json": name.encode(), "model/weights.bin": noise(2 * PART, name)}


@pytest.fixture
def pushed(machine: Machine) -> Machine:
    """A machine with three checkpoints in its store."""
    for name in NAMES:
        machine.push(name, machine.write(f"run-{name}", tree_of(name)))
    machine.storage.reset()
    return machine


def mirrored(machine: Machine, path: str = "bucket/mirror", **options: Any) -> MirrorReport:
    return mirror(machine.system, MirrorRequest("lab", path, **options))


def names(report: MirrorReport) -> tuple[list[str], list[str], list[str]]:
    return (
        [one.checkpoint.name for one in report.copied],
        [one.checkpoint.name for one in report.skipped],
        list(report.failed),
    )


def test_all_that_was_pushed_is_copied_each_to_a_folder_of_its_name(pushed: Machine) -> None:
    report = mirrored(pushed)
    assert names(report) == (list(NAMES), [], [])
    for name in NAMES:
        assert pushed.buckets.tree(f"bucket/mirror/{name}") == tree_of(name)
    assert report.moved_bytes == sum(len(content) for name in NAMES for content in tree_of(name).values())


def test_a_second_mirror_asks_one_question_for_each_checkpoint_and_moves_nothing(pushed: Machine) -> None:
    mirrored(pushed)
    pushed.storage.reset()
    pushed.buckets.storage.reset()
    report = mirrored(pushed)
    assert names(report) == ([], list(NAMES), [])
    assert report.moved_bytes == 0
    assert [call.name for call in pushed.buckets.storage.calls] == ["get"] * len(NAMES)
    assert pushed.storage.calls == []


def test_only_what_is_new_is_copied(pushed: Machine) -> None:
    mirrored(pushed)
    pushed.push("mistral-2", pushed.write("new", tree_of("new")))
    assert names(mirrored(pushed)) == (["mistral-2"], list(NAMES), [])


def test_a_torn_export_is_finished(pushed: Machine) -> None:
    mirrored(pushed)
    (pushed.buckets.root / "bucket" / "mirror" / "llama-1" / "flexai-manifest.json").unlink()
    (pushed.buckets.root / "bucket" / "mirror" / "llama-1" / "config.json").unlink()
    assert names(mirrored(pushed))[0] == ["llama-1"]
    assert pushed.buckets.tree("bucket/mirror/llama-1") == tree_of("llama-1")


def test_one_that_is_deleted_meanwhile_fails_only_the_mirror_that_named_it(pushed: Machine) -> None:
    def delete_the_second(number: int, call: Call) -> None:
        if number == 1:
            delete(pushed.system, DeleteRequest("llama-2"))

    pushed.buckets.storage.before_call = delete_the_second
    assert names(mirrored(pushed)) == (["llama-1", "mistral-1"], [], [])
    report = mirrored(pushed, checkpoints=["llama-1", "llama-2"])
    assert names(report) == ([], ["llama-1"], ["llama-2"])


def test_the_bucket_itself_can_be_the_mirror(pushed: Machine) -> None:
    assert names(mirrored(pushed, path="bucket"))[0] == list(NAMES)
    assert names(mirrored(pushed, path="bucket/"))[1] == list(NAMES)
    assert pushed.buckets.tree("bucket/llama-1") == tree_of("llama-1")


def test_a_pattern_and_names_choose(pushed: Machine) -> None:
    assert names(mirrored(pushed, names="LLAMA-*"))[0] == ["llama-1", "llama-2"]
    mistral = str(pushed.checkpoint("mistral-1").id)
    assert names(mirrored(pushed, checkpoints=["mistral-1", mistral]))[0] == ["mistral-1"]
    assert names(mirrored(pushed, names="nothing-*")) == ([], [], [])


def test_what_is_deleted_stays_out(pushed: Machine) -> None:
    delete(pushed.system, DeleteRequest("llama-1"))
    assert names(mirrored(pushed))[0] == ["llama-2", "mistral-1"]


def test_one_that_fails_does_not_stop_the_others_and_is_named(pushed: Machine) -> None:
    strange = pushed.buckets.root / "bucket" / "mirror" / "llama-2" / "config.json"
    strange.parent.mkdir(parents=True)
    strange.write_text("somebody else's")
    report = mirrored(pushed, checkpoints=["no-such-one", *NAMES])
    assert names(report) == (["llama-1", "mistral-1"], [], ["no-such-one", "llama-2"])
    with pytest.raises(CheckpointError, match="2 of 4 checkpoints could not be mirrored: 'no-such-one', 'llama-2'"):
        report.raise_if_failed()
    assert strange.read_text() == "somebody else's"
    assert names(mirrored(pushed, overwrite=True))[2] == []
    assert pushed.buckets.tree("bucket/mirror/llama-2") == tree_of("llama-2")


def test_a_provider_that_fails_for_a_while_is_worth_another_try(pushed: Machine) -> None:
    def fail(_number: int, call: Call) -> None:
        if "llama-1" in call.key and call.name.startswith("put"):
            raise injected(call.name)

    pushed.buckets.storage.before_call = fail
    report = mirrored(pushed)
    assert list(report.failed) == ["llama-1"]
    with pytest.raises(StorageUnavailableError):
        report.raise_if_failed()
    pushed.buckets.storage.reset()
    assert names(mirrored(pushed)) == (["llama-1"], ["llama-2", "mistral-1"], [])


def test_a_recovered_catalog_knows_of_the_mirror(pushed: Machine) -> None:
    mirrored(pushed)
    found = lose_catalog(pushed)
    recover(found.system)
    (record,) = found.system.catalog.checkpoints.list_exports(found.checkpoint("llama-1").id)
    assert (record.storage_provider, record.destination_path) == ("lab", "bucket/mirror/llama-1")
    assert names(mirrored(found))[1] == list(NAMES)


def test_a_job_or_a_bucket_that_is_not_there_is_an_error_of_the_whole(pushed: Machine) -> None:
    with pytest.raises(NotFoundError):
        mirrored(pushed, job="no-such-job")
    with pytest.raises(UsageError):
        mirrored(pushed, path="/")
