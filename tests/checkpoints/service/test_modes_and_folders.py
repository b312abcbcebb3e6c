"""What a folder has beside its files' bytes: which of them may be executed, and the folders that hold nothing."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from flexai.checkpoints.errors import DestinationExistsError, IntegrityError
from flexai.checkpoints.models import Node, TrainingFacts
from flexai.checkpoints.service.capture import capture
from flexai.checkpoints.service.inspect import inspect_checkpoint
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push_requests import NameRequest
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST
from flexai.checkpoints.service.support.manifest_reader import checkpoint_in
from flexai.checkpoints.service.support.parts import NodePart, combine
from flexai.checkpoints.transfer.partial_files import partial_path
from tests.support.jobs import begin_job
from tests.support.machine import PART, Machine, check_nothing_is_torn, lose_catalog
from tests.support.training import captured, run
from tests.support.trees import Tree, flip_byte, noise

FILES: Tree = {
    "bin/large": noise(2 * PART + 5, "large"),
    "bin/run.sh": b"#!/bin/sh\n",
    "model.bin": noise(5000, "model"),
}
EXECUTABLE = {"bin/large", "bin/run.sh"}
EMPTY = {"logs", "logs-2/deep/er"}


def executable(folder: Path) -> set[str]:
    """The files below a folder that their owner may execute."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in files if path.stat().st_mode & stat.S_IXUSR}


def empty(folder: Path) -> set[str]:
    """The folders below a folder that hold nothing."""
    folders = (path for path in folder.rglob("*") if path.is_dir())
    return {path.relative_to(folder).as_posix() for path in folders if not any(path.iterdir())}


def dress(folder: Path) -> Path:
    for path in EXECUTABLE & {path.relative_to(folder).as_posix() for path in folder.rglob("*")}:
        (folder / path).chmod(0o755)
    for path in EMPTY:
        (folder / path).mkdir(parents=True)
    return folder


@pytest.fixture
def source(machine: Machine) -> Path:
    """A folder with files that may be executed, and with empty folders."""
    return dress(machine.write("run", FILES))


def check_fetched(machine: Machine, reference: str, folder: str = "out") -> None:
    machine.fetch(reference, folder)
    out = machine.root / folder
    assert (executable(out), empty(out)) == (EXECUTABLE, EMPTY)
    assert machine.fetched(reference) == FILES
    check_nothing_is_torn(machine)


def test_both_come_back_by_a_fetch(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    check_fetched(machine, "llama")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027])
def test_the_umask_decides_who_may_execute(machine: Machine, source: Path, mask: int) -> None:
    machine.push("llama", source)
    before = os.umask(mask)
    try:
        machine.fetch("llama")
    finally:
        os.umask(before)
    for path in FILES:
        mode = stat.S_IMODE((machine.root / "out" / path).stat().st_mode)
        assert mode == (0o777 if path in EXECUTABLE else 0o666) & ~mask


def test_a_file_that_is_there_already_gets_its_mode(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.write("out", FILES)
    assert machine.fetch("llama").kept_files == len(FILES)
    assert executable(machine.root / "out") == EXECUTABLE


def test_what_an_interrupted_fetch_left_gets_its_mode(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    (file,) = [one for one in machine.system.blobs.files_of(machine.checkpoint("llama").id) if one.path == "bin/large"]
    left = machine.root / "out" / partial_path(file.path, file.content)
    left.parent.mkdir(parents=True)
    left.write_bytes(FILES["bin/large"])
    machine.storage.reset()
    check_fetched(machine, "llama")
    assert not left.exists()


def test_a_file_that_is_there_already_loses_a_mode_that_is_not_recorded(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    out = machine.write("out", FILES)
    for path in FILES:
        (out / path).chmod(0o755)
    assert machine.fetch("llama").kept_files == len(FILES)
    assert executable(out) == EXECUTABLE


def test_a_file_that_is_replaced_loses_a_mode_that_is_not_recorded(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    out = machine.write("out", dict.fromkeys(FILES, b"other content"))
    for path in FILES:
        (out / path).chmod(0o755)
    assert machine.fetch("llama", overwrite=True).fetched_files == len(FILES)
    assert executable(out) == EXECUTABLE


def test_what_an_interrupted_fetch_left_loses_a_mode_that_is_not_recorded(machine: Machine) -> None:
    content = FILES["bin/large"]
    machine.push("plain", machine.write("plain", {"large": content}))
    (file,) = machine.system.blobs.files_of(machine.checkpoint("plain").id)
    left = machine.root / "out" / partial_path(file.path, file.content)
    left.parent.mkdir(parents=True)
    left.write_bytes(content)
    left.chmod(0o755)
    machine.fetch("plain")
    assert machine.fetched("plain") == {"large": content} and not left.exists()
    assert executable(machine.root / "out") == set()


def test_both_are_shown(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    status = inspect_checkpoint(machine.system.catalog, "llama")["status"]
    assert status["folders"] == sorted(EMPTY)
    assert {file["path"] for file in status["files"] if file["isExecutable"]} == EXECUTABLE


def test_a_manifest_without_them_is_what_it_always_was(machine: Machine, source: Path) -> None:
    plain = machine.push("plain", machine.write("plain", FILES))
    dressed = machine.push("dressed", source)
    assert plain.manifest_digest != dressed.manifest_digest
    manifest = machine.system.store.read_manifest(plain.id)["manifest"]
    assert manifest.keys() == {"files"}
    assert all("executable" not in entry for entry in manifest["files"])
    manifest = machine.system.store.read_manifest(dressed.id)["manifest"]
    assert manifest["folders"] == sorted(EMPTY)
    assert {entry["path"] for entry in manifest["files"] if entry.get("executable")} == EXECUTABLE


def test_both_survive_an_export_and_a_push_of_it(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.export("llama")
    again = machine.push_from("again", "bucket/place")
    assert again.manifest_digest == machine.checkpoint("llama").manifest_digest
    check_fetched(machine, "again")


def test_an_export_without_them_has_the_manifest_that_it_always_had(machine: Machine) -> None:
    machine.push("plain", machine.write("plain", FILES))
    machine.export("plain")
    written = json.loads((machine.buckets.root / "bucket" / "place" / EXPORT_MANIFEST).read_text())
    assert written["manifest"].keys() == {"files"}
    assert all("executable" not in entry for entry in written["manifest"]["files"])


def test_both_are_recovered_with_a_lost_catalog(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    with lose_catalog(machine) as found:
        assert recover(found.system).problems == {}
        assert set(found.checkpoint("llama").folders) == EMPTY
        check_fetched(found, "llama")


def test_both_go_with_another_name(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    named = name_checkpoint(machine.system, NameRequest("other", "llama"))
    assert named.manifest_digest == machine.checkpoint("llama").manifest_digest
    check_fetched(machine, "other")


def test_several_sources_make_one_tree(machine: Machine, source: Path) -> None:
    (source / "other" / "sub").mkdir(parents=True)
    more = machine.write("more", {"sub/file": b"x"})
    machine.push("llama", source, f"{more}=other")
    machine.fetch("llama")
    assert empty(machine.root / "out") == EMPTY


def test_a_folder_is_not_made_where_a_file_is(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.write("out", {"logs": b"a file"})
    with pytest.raises(DestinationExistsError, match="logs"):
        machine.fetch("llama")
    assert [path.name for path in (machine.root / "out").iterdir()] == ["logs"]


def test_a_folder_of_a_foreign_manifest_leads_out_of_no_destination(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.export("llama")
    manifest = machine.buckets.root / "bucket" / "place" / EXPORT_MANIFEST
    for folder in ("../up", "/absolute", "a//b", "model.bin", "bin", "bin/run.sh/below"):
        document = json.loads(manifest.read_text())
        document["manifest"]["folders"] = [folder]
        manifest.write_text(json.dumps(document))
        with pytest.raises(IntegrityError):
            machine.push_from("again", "bucket/place")


# Captures


def test_both_are_captured(machine: Machine) -> None:
    run(
        machine,
        """
folder = output() / "checkpoint-5"
(folder / "empty" / "deep").mkdir(parents=True)
(folder / "merge.sh").write_text("#!/bin/sh")
(folder / "merge.sh").chmod(0o700)
save(folder, trainer_files(5))
""",
    )
    (found,) = captured(machine)
    assert found.folders == ("empty/deep",)
    machine.fetch(found.id)
    assert (executable(machine.root / "out"), empty(machine.root / "out")) == ({"merge.sh"}, {"empty/deep"})


def test_the_parts_of_several_machines_have_both(machine: Machine) -> None:
    job = begin_job(machine, "run")
    for rank in range(2):
        folder = dress(machine.write(f"node-{rank}", {f"{rank}.distcp": noise(100, rank)}))
        script = folder / f"{rank}.sh"
        script.write_text("#!/bin/sh")
        script.chmod(0o755)
        files = {path.name: path for path in folder.iterdir() if path.is_file()}
        part = capture(
            machine.system,
            job=job,
            name="step-5",
            node=str(rank),
            files=files,
            folders=[*EMPTY, f"only-{rank}"],
            facts=TrainingFacts(),
            part=NodePart(Node(rank, 2), 1, is_whole=False),
        )
    whole, _ = combine(machine.system, part.id)
    assert set(whole.folders) == EMPTY | {"only-0", "only-1"}
    machine.fetch(whole.id)
    assert executable(machine.root / "out") == {"0.sh", "1.sh"}
    check_nothing_is_torn(machine)


def test_files_that_are_fetched_for_a_job_are_executable_by_their_owner_alone(machine: Machine, source: Path) -> None:
    from flexai.checkpoints.service.fetch import fetch

    machine.push("llama", source)
    fetch(machine.system, FetchRequest("llama", str(machine.root / "out")), private=True)
    modes = {path: stat.S_IMODE((machine.root / "out" / path).stat().st_mode) for path in FILES}
    assert modes == {path: 0o700 if path in EXECUTABLE else 0o600 for path in FILES}


def test_damage_is_found_in_an_executable_file_too(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    flip_byte(machine.blob_of("llama", "bin/large"), 10)
    with pytest.raises(IntegrityError):
        machine.fetch("llama")
    assert not (machine.root / "out" / "bin" / "large").exists()


def test_more_empty_folders_than_arguments_of_a_command_are_recovered(machine: Machine, source: Path) -> None:
    many = [f"many/{number}" for number in range(100_001)]
    stored = machine.push("llama", source)
    described = machine.system.store.read_manifest(stored.id)
    described["checkpoint"]["folders"] = many
    assert len(checkpoint_in(described["checkpoint"]).folders) == len(many)
    flaws: list[object] = [{}, [1], ["a", None], "text"]
    for flaw in flaws:
        with pytest.raises(ValueError, match="folders"):
            checkpoint_in(described["checkpoint"] | {"folders": flaw})
