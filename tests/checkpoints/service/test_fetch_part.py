from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import DestinationExistsError, NotFoundError, StorageUnavailableError, UsageError
from flexai.checkpoints.service.preview import preview_fetch
from flexai.checkpoints.service.requests import FetchRequest
from tests.support.machine import PART, Machine
from tests.support.progress import Counter
from tests.support.trees import Tree, flip_byte, noise, read_tree, write_tree

SOURCE: Tree = {
    "README.md": b"# A model",
    "config.json": b'{"layers": 2}',
    "model/a.safetensors": noise(3 * PART + 17, "a"),
    "model/b.safetensors": noise(PART, "b"),
    "optimizer.pt": noise(2 * PART, "o"),
    "tokenizer.json": b"{}",
}


@pytest.fixture
def pushed(machine: Machine) -> Machine:
    machine.push("llama", machine.write("run", SOURCE))
    machine.storage.reset()
    return machine


@pytest.fixture
def out(machine: Machine) -> Path:
    return machine.root / "out"


def _part(*paths: str) -> Tree:
    return {path: SOURCE[path] for path in paths}


@pytest.mark.parametrize(
    ("reference", "options", "paths"),
    [
        ("llama", {"include": ["*.json"]}, ["config.json", "tokenizer.json"]),
        ("llama", {"include": ["model/"], "exclude": ["b.*"]}, ["model/a.safetensors"]),
        ("llama", {"only": ["weights", "config"]}, ["config.json", "model/a.safetensors", "model/b.safetensors"]),
        ("llama:model/b.safetensors", {}, ["model/b.safetensors"]),
        ("llama:model", {}, ["model/a.safetensors", "model/b.safetensors"]),
        ("llama:config.json", {"include": ["*.md"]}, ["README.md", "config.json"]),
    ],
)
def test_a_part_lands_by_itself_and_the_report_says_what_was_left_out(
    pushed: Machine, out: Path, reference: str, options: dict[str, Any], paths: list[str]
) -> None:
    progress = Counter()
    report = pushed.fetch(reference, progress=progress, **options)
    assert read_tree(out) == _part(*paths)
    assert (report.fetched_files, report.left_out_files) == (len(paths), len(SOURCE) - len(paths))
    left = sum(map(len, SOURCE.values())) - sum(len(SOURCE[path]) for path in paths)
    assert report.left_out_bytes == left
    again = pushed.fetch(reference, **options)
    assert (again.fetched_files, again.kept_files) == (0, len(paths))


def test_a_part_reads_nothing_of_the_rest(pushed: Machine) -> None:
    pushed.fetch("llama", only=["config"])
    assert pushed.storage.delivered < PART


def test_a_fetch_of_all_completes_a_part(pushed: Machine, out: Path) -> None:
    pushed.fetch("llama:model", "out")
    assert pushed.fetch("llama").kept_files == 2
    assert read_tree(out) == SOURCE


def test_a_part_that_was_interrupted_goes_on_where_it_stopped(pushed: Machine, out: Path) -> None:
    pushed.storage.down_from = 3
    with pytest.raises(StorageUnavailableError):
        pushed.fetch("llama", include=["a.safetensors"])
    pushed.storage.reset()
    pushed.fetch("llama", include=["a.safetensors"])
    assert read_tree(out) == _part("model/a.safetensors")
    assert pushed.storage.delivered < len(SOURCE["model/a.safetensors"])


def test_damage_is_found_in_a_part_that_has_it_and_in_no_other(pushed: Machine) -> None:
    flip_byte(pushed.blob_of("llama", "optimizer.pt"), 5)
    assert pushed.fetch("llama", only=["weights"]).fetched_files == 2
    with pytest.raises(Exception, match=r"optimizer\.pt"):
        pushed.fetch("llama", "other", only=["optimizer"])


def test_a_folder_with_a_part_is_no_place_where_a_checkpoint_was_fetched_to(pushed: Machine, out: Path) -> None:
    write_tree(out, {"mine.txt": b"mine"})
    pushed.fetch("llama", only=["config"])
    with pytest.raises(DestinationExistsError, match="where no checkpoint was fetched"):
        pushed.fetch("llama", delete_extra=True, force=True)
    assert (out / "mine.txt").exists()


def test_what_is_there_of_the_rest_is_nothing_extra(pushed: Machine) -> None:
    pushed.fetch("llama")
    progress = Counter()
    report = pushed.fetch("llama", only=["config"], progress=progress)
    assert (report.extra_files, progress.notes) == (0, [])


def test_other_content_is_in_the_way_only_of_the_part_that_has_it(pushed: Machine, out: Path) -> None:
    write_tree(out, {"config.json": b"other"})
    assert pushed.fetch("llama", include=["*.md"]).fetched_files == 1
    with pytest.raises(DestinationExistsError):
        pushed.fetch("llama", include=["config.json"])


def test_the_dry_run_of_a_part_says_what_it_saves(pushed: Machine, out: Path) -> None:
    preview = preview_fetch(pushed.system, FetchRequest("llama", str(out), only=["weights"]))
    assert {step.name for step in preview.steps} == {"model/a.safetensors", "model/b.safetensors"}
    rest = [len(content) for path, content in SOURCE.items() if not path.startswith("model/")]
    assert preview.left_out == (len(rest), sum(rest))


def test_a_part_that_names_nothing_writes_nothing(pushed: Machine, out: Path) -> None:
    with pytest.raises(NotFoundError, match=r"--include '/model/c\.safetensors'"):
        pushed.fetch("llama:model/c.safetensors")
    assert not out.exists()


def test_only_the_files_that_are_asked_for_need_digests_or_may_run_no_code(machine: Machine) -> None:
    machine.push("odd", machine.write("odd", {"a.json": b"{}", "b.pkl": b"cos\nsystem\n(S'id'\ntR."}))
    assert machine.fetch("odd", include=["*.json"], refuse_executable=True).fetched_files == 1
    with pytest.raises(Exception, match="system"):
        machine.fetch("odd", "other", refuse_executable=True)


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        ("llama", {"only": ["wheights"]}, "only knows no role 'wheights'"),
        ("llama", {"include": ["/"]}, "a pattern of include names nothing"),
        ("llama", {"exclude": [""]}, "a pattern of exclude names nothing"),
        ("llama", {"include": ["*"], "delete_extra": True}, "delete_extra and include"),
        ("llama:config.json", {"delete_extra": True}, "delete_extra and reference"),
        ("llama:", {}, "names no file"),
        ("lla:ma:x", {}, "breaks the naming rules"),
    ],
)
def test_a_request_for_a_part_that_makes_no_sense_is_refused(
    reference: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        FetchRequest(reference, **options)
