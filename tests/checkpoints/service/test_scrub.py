from __future__ import annotations

import pytest

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.scrub import scrub
from flexai.checkpoints.service.store_requests import ScrubRequest, VerifyRequest
from flexai.checkpoints.service.verify import Damage, verify
from tests.support.machine import PART, Machine, check_all
from tests.support.trees import Tree, flip_byte, noise

SOURCE: Tree = {f"{number}.bin": noise(PART, number) for number in range(6)}


@pytest.fixture
def pushed(machine: Machine) -> Machine:
    """A machine with a checkpoint of six large files."""
    machine.push("llama", machine.write("run", SOURCE))
    machine.storage.reset()
    return machine


def test_runs_one_after_the_other_go_through_the_whole_store(pushed: Machine) -> None:
    for _ in range(3):
        report = scrub(pushed.system, ScrubRequest(2 * PART, repair=False))
        assert (report.checked_contents, report.checked_bytes) == (2, 2 * PART)
    read = {call.key for call in pushed.storage.named("get")}
    assert len(read) == len(SOURCE)
    assert pushed.system.soundness.verification().unverified_size == 0


def test_what_was_read_the_longest_ago_comes_first(pushed: Machine) -> None:
    scrub(pushed.system, ScrubRequest(100 * PART, repair=False))
    pushed.push("new", pushed.write("new", {"new.bin": noise(PART, "new")}))
    pushed.storage.reset()
    scrub(pushed.system, ScrubRequest(PART, repair=False))
    assert {call.key for call in pushed.storage.named("get")} == {
        pushed.system.store.blob_key(pushed.blob_of("new", "new.bin").name)
    }


def test_a_budget_that_suffices_ends_the_round_and_reads_nothing_twice(pushed: Machine) -> None:
    report = scrub(pushed.system, ScrubRequest(100 * PART, repair=False))
    assert report.is_round_complete
    assert report.checked_bytes == pushed.storage.delivered == len(SOURCE) * PART


def test_one_content_at_least_is_read(pushed: Machine) -> None:
    assert scrub(pushed.system, ScrubRequest(1, repair=False)).checked_contents == 1


def test_a_verification_counts(pushed: Machine) -> None:
    verify(pushed.system, VerifyRequest(["llama"]))
    before = pushed.system.soundness.verification()
    assert (before.unverified_size, before.contents, before.damaged) == (0, len(SOURCE), 0)
    assert before.oldest


def test_what_no_checkpoint_needs_is_not_read(pushed: Machine) -> None:
    delete(pushed.system, DeleteRequest("llama"))
    pushed.collect()
    assert scrub(pushed.system, ScrubRequest(PART, repair=False)).checked_contents == 0


def test_a_store_without_anything_is_scrubbed_at_once(machine: Machine) -> None:
    assert scrub(machine.system, ScrubRequest(1, repair=False)).is_round_complete


def test_a_budget_of_nothing_is_refused(machine: Machine) -> None:
    with pytest.raises(UsageError):
        scrub(machine.system, ScrubRequest(0, repair=False))


def test_rot_is_told_at_once_and_repaired_from_an_export(pushed: Machine) -> None:
    pushed.export("llama")
    flip_byte(pushed.blob_of("llama", "3.bin"), 17)
    told: list[Damage] = []
    report = scrub(pushed.system, ScrubRequest(100 * PART), on_damage=told.extend)
    assert [damage.users for damage in told] == [(("llama", "3.bin"),)]
    assert list(report.damaged) == told
    assert [done.source for done in report.repair.repaired] == ["lab:bucket/place"]
    check_all(pushed, ["llama"], SOURCE)


def test_without_connections_rot_is_told_and_left(pushed: Machine) -> None:
    flip_byte(pushed.blob_of("llama", "3.bin"), 17)
    report = scrub(pushed.system, ScrubRequest(100 * PART, repair=False))
    assert len(report.damaged) == 1
    assert report.repair.repaired == report.repair.unrepaired == ()
    assert pushed.system.soundness.verification().damaged == 1
