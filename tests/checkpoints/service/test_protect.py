"""Protected checkpoints: kept from being deleted until a user takes that back."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.documents import checkpoint_list_document
from flexai.checkpoints.errors import ConflictError, NotFoundError, StorageUnavailableError
from flexai.checkpoints.models import JobStatus
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, protect, undelete
from flexai.checkpoints.service.inspect import inspect_checkpoint
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push_requests import NameRequest
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.training import delete_job, run_training
from flexai.checkpoints.service.training_requests import DeleteJobRequest, TrainingRequest
from tests.support.machine import Machine, lose_catalog
from tests.support.trees import Tree, noise

SOURCE: Tree = {"model.safetensors": noise(5000, "model")}


@pytest.fixture
def source(machine: Machine) -> Path:
    return machine.write("run", SOURCE)


def test_a_protected_checkpoint_is_not_deleted_before_it_is_unprotected(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    (protected,) = protect(machine.system, ProtectRequest(["LLAMA"]))
    assert protected.is_protected
    with pytest.raises(ConflictError, match="'llama' is protected") as caught:
        delete(machine.system, DeleteRequest("llama"))
    assert "flexai checkpoint unprotect llama" in caught.value.hint
    assert machine.fetched("llama") == SOURCE
    (unprotected,) = protect(machine.system, ProtectRequest(["llama"], protected=False))
    assert not unprotected.is_protected
    delete(machine.system, DeleteRequest("llama"))
    assert not undelete(machine.system, UndeleteRequest("llama")).is_protected


def test_to_protect_twice_is_to_protect_once(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    protect(machine.system, ProtectRequest(["llama", "llama"]))
    protect(machine.system, ProtectRequest(["llama"]))
    protect(machine.system, ProtectRequest(["llama"], protected=False))
    assert not machine.checkpoint("llama").is_protected


def test_of_several_either_all_become_protected_or_none(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    with pytest.raises(NotFoundError, match="mistral"):
        protect(machine.system, ProtectRequest(["llama", "mistral"]))
    assert not machine.checkpoint("llama").is_protected


def test_what_is_not_available_cannot_be_protected(machine: Machine, source: Path) -> None:
    machine.storage.down_from = 0
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    with pytest.raises(ConflictError, match="not available"):
        protect(machine.again().system, ProtectRequest(["llama"]))


def test_a_copy_of_a_protected_checkpoint_is_not_protected(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    protect(machine.system, ProtectRequest(["llama"]))
    name_checkpoint(machine.system, NameRequest("copy", "llama"))
    delete(machine.system, DeleteRequest("copy"))


def test_documents_and_lists_show_it(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.push("mistral", source)
    protect(machine.system, ProtectRequest(["llama"]))
    with Catalog.look(machine.settings.effective_database_url) as catalog:
        shown = {name: inspect_checkpoint(catalog, name) for name in ("llama", "mistral")}
        listed = checkpoint_list_document(catalog.checkpoints.list_pushed())
    assert [shown[name]["status"]["protected"] for name in ("llama", "mistral")] == [True, False]
    assert {row["name"]: row["protected"] for row in listed} == {"llama": True, "mistral": False}


def test_a_job_with_a_protected_checkpoint_is_deleted_only_without_its_checkpoints(machine: Machine) -> None:
    script = (
        'mkdir -p "$FLEXAI_OUTPUT_CHECKPOINT_DIR/a" "$FLEXAI_OUTPUT_CHECKPOINT_DIR/b";'
        'for name in a b; do echo $name > "$FLEXAI_OUTPUT_CHECKPOINT_DIR/$name/w.bin"; done'
    )
    patient = machine.again(quiet_period=0)
    job = run_training(patient.system, TrainingRequest("train", ["sh", "-c", script]), on_output=lambda *_: None)
    assert job.status is JobStatus.SUCCEEDED
    first, second = patient.system.catalog.checkpoints.of_job(job.id)
    protect(patient.system, ProtectRequest([second.id]))
    with pytest.raises(ConflictError, match=r"1 protected checkpoint$") as caught:
        delete_job(patient.system, DeleteJobRequest("train"))
    assert second.id in caught.value.hint
    assert [row.id for row in patient.system.catalog.checkpoints.of_job(job.id)] == [first.id, second.id]
    delete_job(patient.system, DeleteJobRequest("train", keep_checkpoints=True))
    assert patient.system.catalog.checkpoints.get_by_id(second.id).is_protected


def test_a_catalog_that_is_rebuilt_from_the_store_knows_what_was_protected(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    protect(machine.system, ProtectRequest(["llama"]))
    with lose_catalog(machine) as rebuilt:
        assert list(recover(rebuilt.system).recovered.values()) == ["llama"]
        assert rebuilt.checkpoint("llama").is_protected


def test_the_catalog_alone_refuses_it_too(machine: Machine, source: Path) -> None:
    from flexai.checkpoints.names import parse_reference

    machine.push("llama", source)
    protect(machine.system, ProtectRequest(["llama"]))
    catalog = Catalog.open(machine.settings.effective_database_url)
    with pytest.raises(ConflictError):
        catalog.checkpoints.delete(parse_reference("llama"))
    catalog.close()
