from __future__ import annotations

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program


@pytest.fixture(autouse=True)
def pushed(flexai: Run, program: Program) -> None:
    program.file("source/model.bin", b"x" * 3000)
    program.file("source/deep/config.json", "{}")
    assert flexai("checkpoint", "push", "mistral-500-checkpoint", "-f", "source").code == 0


def test_the_references_example_fetches_into_the_working_directory(program: Program) -> None:
    done = program.run("checkpoint", "fetch", "mistral-500-checkpoint")
    assert (done.code, done.out) == (0, "")
    assert done.err == "fetched mistral-500-checkpoint to .: 2 files, 2.93 KiB\n"
    assert (program.cwd / "model.bin").read_bytes() == b"x" * 3000
    assert (program.cwd / "deep/config.json").read_text() == "{}"


@pytest.mark.parametrize("flag", ["-d", "--destination"])
def test_files_land_in_the_destination_itself(flexai: Run, program: Program, flag: str) -> None:
    assert flexai("checkpoint", "fetch", "mistral-500-checkpoint", flag, "saved/here").code == 0
    assert (program.cwd / "saved/here/model.bin").is_file()


def test_a_checkpoint_is_fetched_by_its_uuid(flexai: Run, program: Program) -> None:
    (row,) = flexai("checkpoint", "list", "--json").json()
    assert flexai("checkpoint", "fetch", row["id"], "-d", "out").code == 0
    assert (program.cwd / "out/model.bin").is_file()


def test_files_that_are_there_already_are_counted_apart(flexai: Run) -> None:
    flexai("checkpoint", "fetch", "mistral-500-checkpoint", "-d", "out")
    done = flexai("checkpoint", "fetch", "mistral-500-checkpoint", "-d", "out")
    assert done.err == "fetched mistral-500-checkpoint to out: 0 files, 0 bytes; 2 files there already\n"


def test_other_content_in_the_way_is_a_conflict_until_it_may_be_replaced(flexai: Run, program: Program) -> None:
    mine = program.file("out/model.bin", "mine")
    done = flexai("checkpoint", "fetch", "mistral-500-checkpoint", "-d", "out")
    assert done.code == 4
    assert "--overwrite" in done.hint
    assert mine.read_text() == "mine"
    assert flexai("checkpoint", "fetch", "mistral-500-checkpoint", "-d", "out", "--overwrite").code == 0
    assert mine.read_bytes() == b"x" * 3000


def test_damaged_content_is_an_integrity_error(flexai: Run, program: Program) -> None:
    for blob in (program.home / "store/blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o600)
            blob.write_bytes(b"y" * blob.stat().st_size)
    done = flexai("checkpoint", "fetch", "mistral-500-checkpoint", "-d", "out")
    assert done.code == 6
    assert not (program.cwd / "out/model.bin").exists()


def test_an_unknown_checkpoint_is_not_found(flexai: Run, program: Program) -> None:
    done = flexai("checkpoint", "fetch", "unknown", "-d", "out")
    assert (done.code, done.error) == (3, "there is no checkpoint 'unknown'")
    assert not (program.cwd / "out").exists()


def test_what_else_lies_there_is_told_of_and_deleted_only_with_force(flexai: Run, program: Program) -> None:
    fetch = ("checkpoint", "fetch", "mistral-500-checkpoint", "-d", "out")
    assert flexai(*fetch).code == 0
    extra = program.file("out/old/left.bin", "left")
    told = flexai(*fetch)
    assert "'old/left.bin' in " in told.err
    assert "--delete-extra removes it" in told.err
    planned = flexai(*fetch, "--delete-extra", "--dry-run")
    assert "delete 1 file (4 bytes)" in planned.err
    refused = flexai(*fetch, "--delete-extra")
    assert (refused.code, refused.hint) == (4, "--dry-run lists them, --force deletes them")
    assert "old/left.bin" in refused.error
    assert extra.read_text() == "left"
    done = flexai(*fetch, "--delete-extra", "--force", "--json")
    assert (done.json()["deletedFiles"], done.json()["extraFiles"]) == (1, 0)
    assert not extra.parent.exists()


@pytest.mark.parametrize(("answer", "is_deleted"), [("y\n", True), ("n\n", False)])
def test_at_a_terminal_what_else_lies_there_is_listed_before_the_question(
    program: Program, answer: str, is_deleted: bool
) -> None:
    fetch = ("checkpoint", "fetch", "mistral-500-checkpoint", "-d", "out")
    assert program.run(*fetch).code == 0
    extra = [program.file(f"out/left-{number}.bin", "left") for number in range(5)]
    shown = program.on_a_terminal(*fetch, "--delete-extra", typed=answer)
    before, question, _ = shown.partition("delete that? [y/N]")
    assert question
    assert all(path.name in before for path in extra)
    assert [path.exists() for path in extra] == [not is_deleted] * 5


def test_a_part_is_fetched_by_its_path_and_what_was_left_out_is_said(flexai: Run, program: Program) -> None:
    done = flexai("checkpoint", "fetch", "mistral-500-checkpoint:deep/config.json", "-d", "out", "--json")
    assert "1 of 2 files, 2 bytes\n" in done.err
    assert (done.json()["leftOutFiles"], done.json()["leftOutBytes"]) == (1, 3000)
    planned = flexai("checkpoint", "fetch", "mistral-500-checkpoint", "--only", "config", "-d", "new", "--dry-run")
    assert "1 file (2.93 KiB) left out" in planned.err
    wrong = flexai("checkpoint", "fetch", "mistral-500-checkpoint:deep/confg.json", "-d", "out")
    assert (wrong.code, "did you mean 'deep/config.json'?" in wrong.hint) == (3, True)
    assert flexai("checkpoint", "fetch", "mistral-500-checkpoint", "--include", "/").error.startswith(
        "a pattern of --i"
    )
