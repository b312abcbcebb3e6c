"""Any order of pushes, failures, deletions, collections and recoveries over real bytes, compared with a model."""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flexai.checkpoints.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    StorageError,
    StorageUnavailableError,
)
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.service.change_requests import DeleteRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, undelete
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push_requests import NameRequest
from flexai.checkpoints.service.recover import recover
from tests.support.faults import Fault
from tests.support.machine import (
    PART,
    Machine,
    check_nothing_is_left_over,
    check_nothing_is_torn,
    copy_home,
    fast_folder,
    lose_catalog,
)
from tests.support.trees import Tree, noise, write_tree

# Few contents, so that checkpoints share them.
_CONTENTS = [b"", b"small", noise(300), noise(20_000), noise(PART + 5), noise(2 * PART, "x"), noise(2 * PART, "y")]


def _content(number: int) -> bytes:
    return _CONTENTS[number]


names = st.sampled_from(["one", "two", "three"])
trees = st.dictionaries(
    st.sampled_from(["a", "b", "d/c"]), st.integers(0, len(_CONTENTS) - 1).map(_content), min_size=1
)
calls = st.integers(1, 14)
faults = st.sampled_from([Fault.BEFORE, Fault.AFTER, Fault.SHORT])
WEEK = timedelta(days=7)


class Life(RuleBasedStateMachine):
    """A machine on one side; on the other what its names should mean."""

    template: Path

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="flexai-life-", dir=fast_folder()))
        copy_home(self.template, self.root)
        self.machine = Machine.start(self.root)
        self.available: dict[str, Tree] = {}
        self.unfinished: dict[str, Tree] = {}
        """What was to be pushed, of which all may have arrived when the push failed."""
        self.deleted: dict[str, tuple[str, Tree]] = {}
        """By id: the name it had, and its files."""

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            self.machine.close()
            shutil.rmtree(self.root)

    def _source(self, files: Tree) -> Path:
        shutil.rmtree(self.root / "run", ignore_errors=True)
        return write_tree(self.root / "run", files)

    @rule(name=names, files=trees)
    def push(self, name: str, files: Tree) -> None:
        source = self._source(files)
        if name in self.available:
            same = self.available[name] == files
            with pytest.raises(AlreadyExistsError, match="same content" if same else "other content"):
                self.machine.push(name, source)
            return
        self.machine.push(name, source)
        self._is_available(name, files)

    def _is_available(self, name: str, files: Tree) -> None:
        self.available[name] = files
        self.unfinished.pop(name, None)

    def _find_finished(self) -> None:
        """What gc, or recover, has finished is available."""
        there = {one.name for one in self.machine.checkpoints(CheckpointStatus.AVAILABLE)}
        for name in there & self.unfinished.keys():
            self._is_available(name, self.unfinished[name])

    @rule(name=names, files=trees, number=calls, fault=faults, outage=st.booleans())
    def push_and_fail(self, name: str, files: Tree, number: int, fault: Fault, outage: bool) -> None:
        if name in self.available:
            return
        source = self._source(files)
        storage = self.machine.storage
        storage.reset()
        storage.faults = {number: fault}
        storage.down_from = number + 1 if outage else None
        try:
            self.machine.push(name, source)
        except StorageUnavailableError:
            # Unless the store failed before the name was taken.
            if any(one.name == name and one.deleted_at is None for one in self.machine.checkpoints()):
                self.unfinished[name] = files
        else:
            self._is_available(name, files)
        storage.reset()

    @precondition(lambda self: self.available)
    @rule(name=names, other=names)
    def give_another_name(self, name: str, other: str) -> None:
        if name not in self.available or other in self.available:
            return
        name_checkpoint(self.machine.system, NameRequest(other, name))
        self._is_available(other, self.available[name])

    @rule(name=names)
    def delete(self, name: str) -> None:
        if name not in self.available and name not in self.unfinished:
            with pytest.raises(NotFoundError):
                delete(self.machine.system, DeleteRequest(name))
            return
        deleted = delete(self.machine.system, DeleteRequest(name))
        self.unfinished.pop(name, None)
        if name in self.available:
            self.deleted[deleted.id] = (name, self.available.pop(name))

    @precondition(lambda self: self.deleted)
    @rule(choice=st.integers(0, 100))
    def undelete(self, choice: int) -> None:
        checkpoint_id = sorted(self.deleted)[choice % len(self.deleted)]
        name, files = self.deleted[checkpoint_id]
        if name in self.available or name in self.unfinished:
            with pytest.raises(AlreadyExistsError):
                undelete(self.machine.system, UndeleteRequest(checkpoint_id))
            return
        undelete(self.machine.system, UndeleteRequest(checkpoint_id))
        del self.deleted[checkpoint_id]
        self._is_available(name, files)

    @rule()
    def collect(self) -> None:
        planned = self.machine.planned_garbage()
        report = self.machine.collect()
        assert report == planned or report.finished
        self.deleted.clear()
        self._find_finished()
        check_nothing_is_left_over(self.machine)

    @rule()
    def collect_within_the_grace_period(self) -> None:
        report = self.machine.collect(WEEK)
        assert (report.checkpoints, report.abandoned) == (0, 0)

    @rule(number=calls, fault=faults)
    def collect_and_fail(self, number: int, fault: Fault) -> None:
        self.machine.storage.reset()
        self.machine.storage.faults = {number: fault}
        try:
            self.machine.collect()
        except StorageError:
            # What was given up is given up, at the latest now.
            self.machine.storage.reset()
            self.machine.collect()
        self.machine.storage.reset()
        self.deleted.clear()
        self._find_finished()

    @rule()
    def lose_the_catalog(self) -> None:
        # Interrupted pushes leave blobs that the catalog does not know.
        self.machine.collect()
        self.deleted.clear()
        self._find_finished()
        self.machine = lose_catalog(self.machine)
        report = recover(self.machine.system)
        assert sorted(report.recovered.values()) == sorted(self.available)
        assert report.problems == {}
        self.unfinished.clear()

    @rule()
    def start_again(self) -> None:
        self.machine.close()
        self.machine = Machine.start(self.root)

    @invariant()
    def names_mean_what_was_pushed(self) -> None:
        if not hasattr(self, "machine"):
            return
        check_nothing_is_torn(self.machine)
        found = {one.name for one in self.machine.checkpoints(CheckpointStatus.AVAILABLE)}
        assert found == self.available.keys()
        for name, files in self.available.items():
            assert self.machine.fetched(name) == files
        for name in self.unfinished:
            with pytest.raises(ConflictError, match="not available"):
                self.machine.fetch(name)


def test_whatever_happens_every_name_means_what_was_pushed(home_template: Path) -> None:
    class FromTemplate(Life):
        template = home_template

    run_state_machine_as_test(
        FromTemplate,
        settings=settings(
            max_examples=25,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
