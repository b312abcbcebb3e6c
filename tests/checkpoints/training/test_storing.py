"""In which order found checkpoints are stored, and what becomes of them when this machine goes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.errors import StorageUnavailableError
from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.training.completeness.candidates import Fate, Found, found_in
from flexai.checkpoints.training.output_dir import OutputTree
from flexai.checkpoints.training.pins import Pins
from flexai.checkpoints.training.preemption import Preemption
from flexai.checkpoints.training.storing import Storing
from flexai.checkpoints.transfer.crew import Crew
from tests.checkpoints.training.trainers import lightning_file, save, trainer_files


class Store:
    """A store in which a checkpoint arrives in parts, each when the test lets it; it keeps parts that have arrived."""

    PARTS = 3

    def __init__(self) -> None:
        self.parts: list[str] = []
        """Whose parts arrived, in that order."""
        self.stored: list[str] = []
        self.announced: list[str] = []
        self.free = threading.Semaphore(0)
        self.before: Callable[[str], None] = lambda _name: None

    def store(self, found: Found, _facts: TrainingFacts) -> None:
        self.before(found.name)
        crew = Crew(1)
        for _ in range(self.PARTS - self.parts.count(found.name)):
            crew.add(lambda: self._take_part(found.name, crew))
        crew.run()
        self.stored.append(found.name)

    def announce(self, found: Found) -> None:
        self.announced.append(found.name)

    def let(self, count: int) -> None:
        """Let so many parts arrive."""
        self.free.release(count)

    def _take_part(self, name: str, crew: Crew) -> None:
        while not self.free.acquire(timeout=0.01):
            crew.check()
        self.parts.append(name)


class Stage:
    """Found checkpoints, and a store that takes them slowly."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output"
        self.pins = Pins(folder / "pins", print)
        self.store = Store()
        self.preemption = Preemption(600)
        self.notes: list[str] = []
        self.storing = Storing(self.store.store, self.notes.append, self.preemption, self.store.announce)
        self.founds: dict[str, Found] = {}

    def save(self, name: str) -> Found:
        """Write a checkpoint, and hand it over."""
        save(self.output / name, trainer_files(5))
        return self._hand_over(name)

    def save_file(self, name: str, step: int) -> Found:
        """Write a checkpoint that is one file, and hand it over."""
        save(self.output, {name: lightning_file(step)})
        return self._hand_over(name)

    def _hand_over(self, name: str) -> Found:
        beneath = Beneath(self.output)
        tree = OutputTree(beneath)
        tree.refresh()
        held = self.pins.new_set()
        held.refresh(beneath, {path: stamp for path, stamp in tree.files() if f"{path}/".startswith(f"{name}/")})
        (found,) = [one for one in found_in(tree, held) if one.name == name]
        self.founds[name] = found
        self.storing.add(found)
        return found

    def is_storing(self, name: str) -> bool:
        current = self.storing._current
        return current is not None and current[1].name == name

    def fates(self) -> dict[str, Fate]:
        return {name: found.fate for name, found in self.founds.items()}


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    staged = Stage(tmp_path)
    yield staged
    staged.store.let(1000)
    staged.storing.abandon()


@pytest.mark.parametrize("first", ["original", "copy"])
def test_after_the_notice_a_copy_comes_behind_what_it_is_a_copy_of(stage: Stage, first: str) -> None:
    stage.save("older")
    until(lambda: stage.is_storing("older"))
    stage.preemption.give()
    stage.save_file("epoch=1-step=5.ckpt", 5)
    if first == "original":
        until(lambda: stage.is_storing("epoch=1-step=5.ckpt"))
    stage.save_file("last.ckpt", 5)
    stage.store.let(9)
    stage.storing.drain()
    assert stage.store.stored == ["epoch=1-step=5.ckpt", "last.ckpt", "older"]


def test_without_a_notice_all_are_stored_in_the_order_in_which_they_were_found(stage: Stage) -> None:
    for name in ("a", "b", "c"):
        stage.save(name)
    stage.store.let(9)
    stage.storing.drain()
    assert stage.store.stored == ["a", "b", "c"]
    assert stage.store.announced == []


def test_after_a_notice_the_newest_is_stored_first_and_the_others_go_on_where_they_were(stage: Stage) -> None:
    for name in ("a", "b", "c"):
        stage.save(name)
    stage.store.let(1)
    until(lambda: stage.store.parts == ["a"])
    stage.preemption.give()
    stage.store.before = lambda _name: stage.store.let(3)
    stage.storing.drain()
    assert stage.store.stored == ["c", "b", "a"]
    assert stage.store.parts == [*"a", *"ccc", *"bbb", *"aa"], "a part that had arrived moved again"
    assert set(stage.fates().values()) == {Fate.STORED}


def test_those_that_are_stored_later_take_their_places_before(stage: Stage) -> None:
    for name in ("a", "b", "c"):
        stage.save(name)
    until(lambda: stage.is_storing("a"))
    stage.preemption.give()
    until(lambda: len(stage.store.announced) >= 2)
    assert stage.store.announced == ["a", "b"]


def test_a_save_after_the_notice_comes_before_all_that_wait(stage: Stage) -> None:
    stage.preemption.give()
    stage.save("a")
    stage.store.let(1)
    until(lambda: stage.store.parts == ["a"])
    stage.save("b")
    until(lambda: stage.is_storing("b"))
    stage.store.let(3)
    until(lambda: stage.store.stored == ["b"])
    stage.store.let(2)
    stage.storing.drain()
    assert stage.store.stored == ["b", "a"]


def test_at_the_deadline_what_is_not_stored_is_given_up_and_stays_pinned(stage: Stage) -> None:
    for name in ("a", "b", "c"):
        stage.save(name)
    until(lambda: stage.is_storing("a"))
    stage.preemption.give()
    until(lambda: stage.is_storing("c"))
    stage.store.let(3)
    until(lambda: stage.store.stored == ["c"])
    stage.preemption.ends_at = 0
    stage.storing.drain()
    stage.storing.close()
    assert stage.fates() == {"a": Fate.LOST, "b": Fate.LOST, "c": Fate.STORED}
    assert [found.name for found in stage.storing.postponed] == ["a", "b"]
    assert len(stage.storing.failures) == 2
    assert [pins.paths() != [] for pins in stage.pins.leftovers()] == [True, True]


def test_what_is_handed_over_after_the_deadline_is_given_up_at_once(stage: Stage) -> None:
    stage.preemption.give()
    stage.preemption.ends_at = 0
    stage.save("a")
    stage.storing.drain()
    assert stage.fates() == {"a": Fate.LOST}
    assert stage.store.parts == []


def test_a_store_that_answers_no_more_does_not_keep_the_deadline(stage: Stage) -> None:
    go_on = threading.Event()

    def hang(_name: str) -> None:
        go_on.wait()

    stage.store.before = hang
    stage.save("a")
    until(lambda: stage.is_storing("a"))
    stage.preemption.give()
    stage.preemption.ends_at = 0
    stage.storing.drain()
    stage.storing.close()
    assert [found.name for found in stage.storing.postponed] == ["a"]
    go_on.set()


def test_a_store_that_is_away_is_tried_again_until_the_deadline_however_often(stage: Stage) -> None:
    tries: list[str] = []

    def away(name: str) -> None:
        tries.append(name)
        raise StorageUnavailableError("away")

    stage.store.before = away
    stage.storing.hurry()
    stage.preemption.give()
    stage.save("a")
    until(lambda: len(tries) > 5)
    stage.store.before = lambda _name: stage.store.let(3)
    stage.storing.drain()
    assert stage.store.stored == ["a"]


def test_a_try_that_waits_gives_way_as_well(stage: Stage) -> None:
    def away(name: str) -> None:
        if name == "a" and "b" not in stage.store.stored:
            raise StorageUnavailableError("away")
        stage.store.let(3)

    stage.store.before = away
    stage.preemption.give()
    stage.save("a")
    until(lambda: stage.is_storing("a"))
    stage.save("b")
    stage.storing.drain()
    assert stage.store.stored == ["b", "a"]


def test_an_interrupted_job_gives_up_what_is_on_its_way(stage: Stage) -> None:
    stage.save("a")
    until(lambda: stage.is_storing("a"))
    stage.storing.abandon()
    until(lambda: stage.storing._current is None)
    assert stage.store.stored == []
