"""Any order of pushes, crashes, deletions and garbage collections, compared step by step with a model of it all."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from blake3 import blake3
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

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.leases import Lease
from flexai.checkpoints.catalog.sqlite import SqliteDatabase
from flexai.checkpoints.contents import StoredContent
from flexai.checkpoints.errors import AlreadyExistsError, ConflictError, NameTakenError, NotFoundError
from flexai.checkpoints.models import CheckpointStatus, now, to_text
from flexai.checkpoints.names import parse_name, parse_reference
from tests.checkpoints.catalog.steps import (
    LATER,
    STORE_ID,
    all_files,
    all_references,
    begin,
    blob_statuses,
    commit,
    content_of,
    referenced,
    set_columns,
    store,
)
from tests.checkpoints.samples import OTHER_OWNER, OWNER

pytestmark = pytest.mark.slow

_T = TypeVar("_T")
UPLOADING, AVAILABLE, FAILED, DELETING = (
    CheckpointStatus.UPLOADING,
    CheckpointStatus.AVAILABLE,
    CheckpointStatus.FAILED,
    CheckpointStatus.DELETING,
)
names = st.sampled_from(["llama", "LLAMA", "qwen", "Qwen", "mistral", "gemma", "phi-3"])
texts = st.sampled_from([b"one", b"two", b"three"])
choices = st.integers(0, 1000)


@dataclass
class Model:
    """What a checkpoint should be."""

    name: str
    status: CheckpointStatus
    lease: Lease | None
    is_alive: bool = True
    can_come_back: bool = False
    has_name: bool = True
    stale: list[Lease] = field(default_factory=list)
    references: set[str] = field(default_factory=set)
    contents: dict[str, StoredContent] = field(default_factory=dict)
    """What the push that is going on has stored so far."""
    committed: dict[str, StoredContent] = field(default_factory=dict)
    unfinished: dict[str, str] = field(default_factory=dict)
    """Blobs on their way, by path."""

    @property
    def shown(self) -> CheckpointStatus:
        """The status that readers see: a push whose process is gone has failed."""
        return FAILED if self.status is UPLOADING and not self.is_alive else self.status


class Life(RuleBasedStateMachine):
    """The catalog on one side, the model on the other."""

    template: Path

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="flexai-life-"))
        shutil.copyfile(self.template, self.folder / "catalog.db")
        self.catalog = Catalog.open(f"sqlite:///{self.folder}/catalog.db")
        # Nothing here needs to survive a power cut.
        assert isinstance(self.catalog.database, SqliteDatabase)
        (connection,) = self.catalog.database._idle
        connection.execute("PRAGMA synchronous=OFF")
        self.blobs = self.catalog.blobs(STORE_ID)
        self.models: dict[str, Model] = {}
        self.blob_statuses: dict[str, str] = {}

    def teardown(self) -> None:
        if hasattr(self, "catalog"):
            self.catalog.close()
            shutil.rmtree(self.folder)

    # Choosing

    def _pick(self, choice: int, *statuses: CheckpointStatus, leased: bool = False) -> str | None:
        return _nth(
            [
                checkpoint_id
                for checkpoint_id, model in self.models.items()
                if model.status in statuses and (not leased or model.is_alive)
            ],
            choice,
        )

    def _holder(self, key: str) -> str | None:
        return next(
            (
                checkpoint_id
                for checkpoint_id, model in self.models.items()
                if model.has_name and model.name.lower() == key.lower()
            ),
            None,
        )

    # Pushing

    @rule(name=names, is_other=st.booleans())
    def begin(self, name: str, is_other: bool) -> None:
        holder = self._holder(name)
        owner = OTHER_OWNER if is_other and holder else OWNER
        if holder is None:
            checkpoint_id, lease = begin(self.catalog, name)
            assert checkpoint_id not in self.models
            self.models[checkpoint_id] = Model(name, UPLOADING, lease)
            return
        model = self.models[holder]
        if model.status is AVAILABLE:
            with pytest.raises(NameTakenError):
                begin(self.catalog, name, owner=owner)
        elif model.is_alive or owner is OTHER_OWNER:
            with pytest.raises(ConflictError):
                begin(self.catalog, name, owner=owner)
        else:
            checkpoint_id, lease = begin(self.catalog, name)
            assert checkpoint_id == holder
            if model.lease is not None:
                model.stale.append(model.lease)
            model.name, model.status, model.lease = name, UPLOADING, lease
            model.is_alive, model.contents = True, {}

    @precondition(lambda self: self._pick(0, UPLOADING, leased=True))
    @rule(choice=choices, text=texts, path=st.sampled_from(["a", "b"]))
    def store_a_file(self, choice: int, text: bytes, path: str) -> None:
        if checkpoint_id := self._pick(choice, UPLOADING, leased=True):
            self._store(checkpoint_id, path, text)

    def _store(self, checkpoint_id: str, path: str, text: bytes) -> None:
        model = self.models[checkpoint_id]
        digest = blake3(text).hexdigest()
        content = self.blobs.hold_by_digest(checkpoint_id, [digest]).get(digest)
        for blob_id in referenced(self.catalog, checkpoint_id) - model.references:
            assert self.blob_statuses[blob_id] == "stored"
            model.references.add(blob_id)
        if content is None:
            content = store(self.blobs, checkpoint_id, text, path)
            self.blob_statuses[content.blob_id] = "stored"
            model.references.add(content.blob_id)
        model.contents[path] = content

    @precondition(lambda self: self._pick(0, UPLOADING, leased=True))
    @rule(choice=choices, path=st.sampled_from(["a", "b"]))
    def begin_an_upload(self, choice: int, path: str) -> None:
        if checkpoint_id := self._pick(choice, UPLOADING, leased=True):
            model = self.models[checkpoint_id]
            if path in model.unfinished:
                return
            blob_id = self.blobs.begin(writer_id=checkpoint_id, path=path, size=9, part_size=9)
            self.blobs.set_upload(blob_id, f"upload-{blob_id}")
            model.unfinished[path] = blob_id
            model.references.add(blob_id)
            self.blob_statuses[blob_id] = "writing"

    @precondition(lambda self: self._pick(0, UPLOADING, leased=True))
    @rule(choice=choices, number=choices)
    def go_on_with_an_upload(self, choice: int, number: int) -> None:
        if checkpoint_id := self._pick(choice, UPLOADING, leased=True):
            model = self.models[checkpoint_id]
            found = self.blobs.unfinished(checkpoint_id)
            assert {path: blob.id for path, blob in found.items()} == model.unfinished
            path = _nth(sorted(found), number)
            if path is not None:
                blob_id = model.unfinished.pop(path)
                (model.contents[path],) = self.blobs.finish(blob_id, [content_of(blob_id.encode())])
                self.blob_statuses[blob_id] = "stored"

    @precondition(lambda self: any(model.is_alive and model.contents for model in self.models.values()))
    @rule(choice=choices)
    def commit(self, choice: int) -> None:
        ready = [each for each, model in self.models.items() if model.is_alive and model.contents]
        if (checkpoint_id := _nth(ready, choice)) is not None:
            self._commit(checkpoint_id)

    @rule(name=names, is_crash=st.booleans())
    def push_half(self, name: str, is_crash: bool) -> None:
        """A push that is cut off while its file arrives."""
        if self._holder(name) is None:
            self.begin(name, is_other=False)
            number = list(self.models).index(str(self._holder(name)))
            place = [each for each, model in self.models.items() if model.is_alive].index(list(self.models)[number])
            self.begin_an_upload(place, "a")
            (self.crash if is_crash else self.fail)(place)

    @rule(name=names, text=texts)
    def push(self, name: str, text: bytes) -> None:
        if self._holder(name) is None:
            self.begin(name, is_other=False)
            checkpoint_id = list(self.models)[-1]
            self._store(checkpoint_id, "a", text)
            self._commit(checkpoint_id)

    def _commit(self, checkpoint_id: str) -> None:
        model = self.models[checkpoint_id]
        assert model.lease is not None
        commit(self.catalog, checkpoint_id, model.lease, model.contents)
        model.stale.append(model.lease)
        model.status, model.lease, model.is_alive = AVAILABLE, None, False
        model.committed, model.contents, model.unfinished = model.contents, {}, {}
        model.references = {content.blob_id for content in model.committed.values()}

    @precondition(lambda self: self._pick(0, UPLOADING, leased=True))
    @rule(choice=choices)
    def fail(self, choice: int) -> None:
        if checkpoint_id := self._pick(choice, UPLOADING, leased=True):
            model = self.models[checkpoint_id]
            assert model.lease is not None
            self.catalog.checkpoints.fail(checkpoint_id, model.lease, "stopped")
            model.stale.append(model.lease)
            model.status, model.lease, model.is_alive = FAILED, None, False

    @precondition(lambda self: self._pick(0, UPLOADING, leased=True))
    @rule(choice=choices)
    def crash(self, choice: int) -> None:
        if checkpoint_id := self._pick(choice, UPLOADING, leased=True):
            lapsed = to_text(now() - timedelta(seconds=1))
            set_columns(self.catalog, checkpoint_id, claim_host="elsewhere", claim_until=lapsed)
            self.models[checkpoint_id].is_alive = False

    @precondition(lambda self: any(model.stale for model in self.models.values()))
    @rule(choice=choices)
    def wake_up_after_the_claim_is_lost(self, choice: int) -> None:
        checkpoint_id = _nth([each for each, model in self.models.items() if model.stale], choice)
        if checkpoint_id is not None:
            model = self.models[checkpoint_id]
            lease = model.stale[choice % len(model.stale)]
            assert not self.catalog.checkpoints.renew(checkpoint_id, lease)
            with pytest.raises(ConflictError):
                commit(self.catalog, checkpoint_id, lease, model.contents or model.committed)
            with pytest.raises(ConflictError):
                self.catalog.checkpoints.fail(checkpoint_id, lease, "mine")

    # Deleting

    @precondition(lambda self: self._pick(0, AVAILABLE, FAILED, UPLOADING))
    @rule(choice=choices, by_name=st.booleans())
    def delete(self, choice: int, by_name: bool) -> None:
        checkpoint_id = self._pick(choice, AVAILABLE, FAILED, UPLOADING)
        if checkpoint_id is None:
            return
        model = self.models[checkpoint_id]
        reference = parse_reference(model.name if by_name and model.has_name else checkpoint_id)
        if model.is_alive:
            with pytest.raises(ConflictError):
                self.catalog.checkpoints.delete(reference)
            return
        assert str(self.catalog.checkpoints.delete(reference).id) == checkpoint_id
        if model.lease is not None:
            model.stale.append(model.lease)
        model.can_come_back = model.status is AVAILABLE
        model.status, model.has_name, model.lease = DELETING, False, None

    @precondition(lambda self: self._pick(0, DELETING))
    @rule(choice=choices, new_name=st.none() | names)
    def undelete(self, choice: int, new_name: str | None) -> None:
        checkpoint_id = self._pick(choice, DELETING)
        if checkpoint_id is None:
            return
        model = self.models[checkpoint_id]
        name = new_name or model.name
        reference = parse_reference(checkpoint_id)
        parsed = parse_name(new_name) if new_name else None
        if not model.can_come_back:
            with pytest.raises(NotFoundError):
                self.catalog.checkpoints.undelete(reference, new_name=parsed)
        elif self._holder(name) is not None:
            with pytest.raises(AlreadyExistsError):
                self.catalog.checkpoints.undelete(reference, new_name=parsed)
        else:
            self.catalog.checkpoints.undelete(reference, new_name=parsed)
            model.name, model.status, model.has_name = name, AVAILABLE, True
            model.can_come_back = False

    # Collecting garbage, step by step and cut off anywhere

    @precondition(lambda self: self._pick(0, DELETING))
    @rule()
    def purge(self) -> None:
        purged = self.catalog.garbage(STORE_ID).purge_deleted(before=LATER)
        expected = {each for each, model in self.models.items() if model.status is DELETING}
        assert set(purged) == expected
        for checkpoint_id in purged:
            model = self.models[checkpoint_id]
            model.can_come_back, model.references, model.committed, model.unfinished = False, set(), {}, {}

    @precondition(lambda self: any(model.references and not model.is_alive for model in self.models.values()))
    @rule()
    def give_up_what_is_abandoned(self) -> None:
        given_up = self.catalog.garbage(STORE_ID).give_up_abandoned(before=LATER)
        assert set(given_up) == {
            each
            for each, model in self.models.items()
            if not model.is_alive and (model.status is UPLOADING or (model.status is FAILED and model.references))
        }
        for checkpoint_id in given_up:
            model = self.models[checkpoint_id]
            if model.lease is not None:
                model.stale.append(model.lease)
            model.status, model.lease = FAILED, None
            model.references, model.unfinished, model.contents = set(), {}, {}

    @precondition(lambda self: self.blob_statuses)
    @rule(choice=choices, to_the_end=st.booleans())
    def collect(self, choice: int, to_the_end: bool) -> None:
        """A whole run of gc, or one that dies before its last steps."""
        self.purge()
        self.give_up_what_is_abandoned()
        for number in range(len(self.blob_statuses)):
            self.take_a_blob_out_of_use(number)
        if to_the_end:
            for number in reversed(range(len(self.blob_statuses))):
                self.forget_a_blob(number)
            for number in reversed(range(len(self.models))):
                self.forget_a_checkpoint(number)

    @precondition(lambda self: self.blob_statuses)
    @rule(choice=choices)
    def take_a_blob_out_of_use(self, choice: int) -> None:
        blob_id = _nth(list(self.blob_statuses), choice)
        assert blob_id is not None
        is_needed = any(blob_id in model.references for model in self.models.values())
        assert bool(self.blobs.mark_deleting(blob_id)) != is_needed
        if not is_needed:
            self.blob_statuses[blob_id] = "deleting"

    @precondition(lambda self: "deleting" in self.blob_statuses.values())
    @rule(choice=choices)
    def forget_a_blob(self, choice: int) -> None:
        blob_id = _nth(list(self.blob_statuses), choice)
        assert blob_id is not None
        self.blobs.forget(blob_id)
        if self.blob_statuses[blob_id] == "deleting":
            del self.blob_statuses[blob_id]

    @precondition(lambda self: self._pick(0, DELETING))
    @rule(choice=choices)
    def forget_a_checkpoint(self, choice: int) -> None:
        checkpoint_id = _nth(list(self.models), choice)
        if checkpoint_id is not None:
            self.catalog.garbage(STORE_ID).forget([checkpoint_id])
            model = self.models[checkpoint_id]
            if model.status is DELETING and not model.can_come_back:
                del self.models[checkpoint_id]

    # What always holds

    @precondition(lambda self: hasattr(self, "models"))
    @invariant()
    def the_catalog_says_what_the_model_says(self) -> None:
        found = {str(each.id): each for each in self.catalog.checkpoints.of_store(STORE_ID)}
        assert {each: (checkpoint.status, checkpoint.name) for each, checkpoint in found.items()} == {
            each: (model.shown, model.name) for each, model in self.models.items()
        }
        assert {each for each in found if found[each].deleted_at is None} == {
            each for each, model in self.models.items() if model.has_name
        }
        assert all_references(self.catalog) == {
            each: model.references for each, model in self.models.items() if model.references
        }
        assert blob_statuses(self.catalog) == self.blob_statuses

    @precondition(lambda self: hasattr(self, "models"))
    @invariant()
    def a_name_is_one_checkpoint_s(self) -> None:
        live = {model.name.lower(): each for each, model in self.models.items() if model.has_name}
        assert len(live) == sum(model.has_name for model in self.models.values())
        for name, checkpoint_id in live.items():
            assert str(self.catalog.checkpoints.get(parse_reference(name.upper())).id) == checkpoint_id

    @precondition(lambda self: hasattr(self, "models"))
    @invariant()
    def nothing_that_can_be_fetched_or_come_back_loses_a_byte(self) -> None:
        files = all_files(self.catalog)
        free = {blob_id for blob_id, _, _ in self.blobs.unneeded()}
        for checkpoint_id, model in self.models.items():
            assert files.get(checkpoint_id, {}) == {path: each.id for path, each in model.committed.items()}
            if model.status is AVAILABLE or model.can_come_back:
                assert model.committed
                needed = {content.blob_id for content in model.committed.values()}
                assert {self.blob_statuses[blob_id] for blob_id in needed} == {"stored"}
                assert not needed & free


def _nth(values: list[_T], choice: int) -> _T | None:
    return values[choice % len(values)] if values else None


def test_whatever_happens_no_name_is_given_twice_and_no_needed_byte_is_lost(sqlite_template: Path) -> None:
    class LifeOfTheTemplate(Life):
        template = sqlite_template

    run_state_machine_as_test(
        LifeOfTheTemplate,
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
