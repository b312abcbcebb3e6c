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
    assert done.err == "fetched mistral-500-checkpoint to .: 2 files, 2.93 KB\n"
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
