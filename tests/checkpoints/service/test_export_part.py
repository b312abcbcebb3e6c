"""Exports of a part of a checkpoint: what is there, what is said of it, and that none is taken for the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.catalog.retention_queries import check_unused
from flexai.checkpoints.errors import ConflictError, DestinationExistsError, NotFoundError, UsageError
from flexai.checkpoints.service.inspect import look_up
from flexai.checkpoints.service.mirror import mirror
from flexai.checkpoints.service.preview import preview_export
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.repair import repair
from flexai.checkpoints.service.requests import ExportRequest
from flexai.checkpoints.service.store_requests import MirrorRequest, VerifyRequest
from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST
from flexai.checkpoints.service.verify import verify
from flexai.flows.train_push_export import _is_exported
from tests.support.machine import PART, Machine, lose_catalog
from tests.support.progress import Counter
from tests.support.trees import Tree, flip_byte, noise

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "model.safetensors": noise(3 * PART + 17, "model"),
    "optimizer.pt": noise(2 * PART, "optimizer"),
    "tokenizer.json": noise(500, "tokenizer"),
}
WEIGHTS = {"model.safetensors": SOURCE["model.safetensors"]}
WITH_CONFIG = WEIGHTS | {"config.json": SOURCE["config.json"]}


@pytest.fixture
def pushed(machine: Machine) -> Machine:
    """A machine with a checkpoint in its store, and nothing counted yet."""
    machine.push("llama", machine.write("run", SOURCE))
    machine.storage.reset()
    return machine


def manifest(machine: Machine) -> dict[str, Any]:
    place = machine.buckets.root / "bucket" / "place"
    document: dict[str, Any] = json.loads((place / EXPORT_MANIFEST).read_bytes())
    return document


def told(machine: Machine) -> dict[str, bool]:
    """Where the catalog knows of exports, and whether each is of a part."""
    _, _, exports = look_up(machine.system.catalog, "llama")
    return {one.destination_path: one.is_part for one in exports}


def test_a_part_moves_and_lists_only_its_files_and_says_that_it_is_a_part(pushed: Machine) -> None:
    report = pushed.export("llama", only=["weights"])
    assert pushed.buckets.tree("bucket/place") == WEIGHTS
    assert pushed.storage.delivered == report.moved_bytes == len(SOURCE["model.safetensors"])
    left = sum(len(content) for path, content in SOURCE.items() if path not in WEIGHTS)
    assert (report.exported_files, report.left_out_files, report.left_out_bytes) == (1, 3, left)
    document = manifest(pushed)
    assert (document["complete"], document["isPart"]) == (True, True)
    assert [entry["path"] for entry in document["manifest"]["files"]] == [*WEIGHTS]
    assert document["manifestDigest"] == report.record.manifest_digest != report.checkpoint.manifest_digest
    assert told(pushed) == {"bucket/place": True}
    assert report.to_dict()["isPart"] is True


def test_patterns_that_name_all_make_a_whole_export(pushed: Machine) -> None:
    pushed.export("llama", include=["*"])
    assert "isPart" not in manifest(pushed)
    assert told(pushed) == {"bucket/place": False}


def test_what_no_file_has_is_refused_and_nothing_is_written(pushed: Machine) -> None:
    with pytest.raises(NotFoundError, match="no file that --include"):
        pushed.export("llama", include=["*.onnx"])
    assert pushed.buckets.tree("bucket/place") == {}


def test_a_push_from_a_part_gives_a_checkpoint_of_its_files(pushed: Machine) -> None:
    pushed.export("llama", include=["model.safetensors", "config.json"])
    copied = push(pushed.system, PushRequest("again", storage_provider="lab", source_path="bucket/place"))
    assert pushed.fetched(copied.id) == WITH_CONFIG


def test_a_later_export_of_more_adds_what_is_missing(pushed: Machine) -> None:
    pushed.export("llama", only=["weights"])
    assert pushed.export("llama", only=["weights", "config"]).exported_files == 1
    assert (pushed.buckets.tree("bucket/place"), told(pushed)) == (WITH_CONFIG, {"bucket/place": True})
    report = pushed.export("llama")
    assert (report.exported_files, report.skipped_files) == (2, 2)
    assert pushed.buckets.tree("bucket/place") == SOURCE
    assert "isPart" not in manifest(pushed)
    assert told(pushed) == {"bucket/place": False}


def test_an_export_of_less_is_refused_unless_it_is_insisted_on(pushed: Machine) -> None:
    pushed.export("llama")
    with pytest.raises(DestinationExistsError, match="more than this was exported to"):
        pushed.export("llama", only=["weights"])
    assert told(pushed) == {"bucket/place": False}
    progress = Counter()
    report = pushed.export("llama", only=["weights"], overwrite=True, progress=progress)
    assert (told(pushed), report.extra_files) == ({"bucket/place": True}, 0), "the rest is of the same checkpoint"
    assert pushed.buckets.tree("bucket/place") == SOURCE
    copied = push(pushed.system, PushRequest("again", storage_provider="lab", source_path="bucket/place"))
    assert pushed.fetched(copied.id) == WEIGHTS


def test_another_part_is_in_the_way_of_a_part(pushed: Machine) -> None:
    pushed.export("llama", only=["optimizer"])
    with pytest.raises(DestinationExistsError, match="other files of a checkpoint were exported"):
        pushed.export("llama", only=["weights"])


def test_an_export_of_a_part_that_died_is_completed_by_its_rerun(pushed: Machine) -> None:
    pushed.export("llama", only=["weights", "config"])
    place = pushed.buckets.root / "bucket" / "place"
    (place / EXPORT_MANIFEST).write_text(json.dumps(manifest(pushed) | {"complete": False, "etags": {}}))
    (place / "config.json").unlink()
    assert pushed.export("llama", only=["weights", "config"]).exported_files == 1
    assert (manifest(pushed)["complete"], manifest(pushed)["isPart"]) == (True, True)


def test_a_mirror_copies_what_was_exported_to_its_place_in_part(pushed: Machine) -> None:
    pushed.export("llama", "bucket/mirror/llama", only=["weights"])
    report = mirror(pushed.system, MirrorRequest("lab", "bucket/mirror"))
    assert ([one.checkpoint.name for one in report.copied], report.failed) == (["llama"], {})
    assert pushed.buckets.tree("bucket/mirror/llama") == SOURCE
    assert told(pushed) == {"bucket/mirror/llama": False}


def test_a_mirror_that_finds_all_there_corrects_what_the_catalog_says(pushed: Machine) -> None:
    whole = pushed.export("llama", "bucket/mirror/llama").record
    pushed.system.catalog.exports.record(whole._replace(is_part=True))
    mirror(pushed.system, MirrorRequest("lab", "bucket/mirror"))
    assert told(pushed) == {"bucket/mirror/llama": False}


def test_a_repair_reads_from_a_part_what_it_lists_and_nothing_else(pushed: Machine) -> None:
    pushed.export("llama", only=["weights"])
    for path in ("model.safetensors", "optimizer.pt"):
        blob = pushed.blob_of("llama", path)
        flip_byte(blob, blob.read_bytes().index(SOURCE[path][:100]) + 50)
    assert len(verify(pushed.system, VerifyRequest()).damaged) == 2
    report = repair(pushed.system)
    assert [one.users for one in report.repaired] == [(("llama", "model.safetensors"),)]
    (failed,) = report.unrepaired
    assert "does not list 'optimizer.pt'" in failed.problem


def test_a_part_keeps_its_checkpoint_as_a_whole_export_does(pushed: Machine) -> None:
    pushed.export("llama", only=["weights"])
    with pushed.system.catalog.database.reading() as transaction:
        (row,) = transaction.records("SELECT * FROM checkpoints")
        with pytest.raises(ConflictError, match="exported"):
            check_unused(transaction, row, keep_exported=True)


def test_a_recovered_catalog_knows_which_exports_are_parts(pushed: Machine) -> None:
    pushed.export("llama", only=["weights"])
    pushed.export("llama", "bucket/whole")
    before = told(pushed)
    lost = lose_catalog(pushed)
    recover(lost.system)
    assert told(lost) == before == {"bucket/place": True, "bucket/whole": False}


def test_the_record_of_a_whole_export_is_as_the_version_before_reads_it(pushed: Machine) -> None:
    def has_word() -> bool:
        files = [path for path in pushed.store_folder.rglob("*") if path.is_file() and path.suffix == ".json"]
        return any(b'"is_part"' in path.read_bytes() for path in files)

    pushed.export("llama", "bucket/whole")
    assert not has_word()
    pushed.export("llama", only=["weights"])
    assert has_word()


def test_a_flow_takes_a_part_for_no_export_that_was_made_before(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXAI_HOME", str(machine.settings.home))
    monkeypatch.setenv("FLEXAI_DATABASE_URL", machine.settings.effective_database_url)
    pushed = machine.push("llama", machine.write("run", SOURCE))
    places = {str(pushed.id): "bucket/place"}
    machine.export("llama", only=["weights"])
    assert not _is_exported(places, "lab")
    machine.export("llama")
    assert _is_exported(places, "lab")


def test_a_dry_run_says_what_a_part_saves_and_writes_nothing(pushed: Machine) -> None:
    preview = preview_export(pushed.system, ExportRequest("llama", "lab", "bucket/place", only=["weights"]))
    assert [step.name for step in preview.steps] == [*WEIGHTS]
    assert preview.left_out == (3, sum(map(len, SOURCE.values())) - len(SOURCE["model.safetensors"]))
    assert not Path(pushed.buckets.root, "bucket", "place").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"only": ["weights"], "delete_extra": True}, "delete_extra and only cannot be used together"),
        ({"include": [" "]}, "a pattern of include names nothing"),
        ({"only": ["brains"]}, "only knows no role 'brains'"),
    ],
)
def test_requests_of_a_part_that_make_no_sense_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        ExportRequest("llama", "lab", "bucket/place", **options)
