"""Export and push with a connection, without a configured Prefect API: its database lies here."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program


@pytest.mark.slow
def test_a_checkpoint_goes_to_a_provider_and_comes_back(program: Program) -> None:
    program.file("source/model.bin", b"x" * 3000)
    (program.cwd / "share").mkdir()
    created = program.run("storage", "create", "share-conn", "--provider", "local", "--root", "share")
    assert created.code == 0, created.err
    assert program.run("checkpoint", "push", "first", "-f", "source").code == 0

    exported = program.run(
        "checkpoint", "export", "first", "--storage-provider", "share-conn", "--destination-path", "my-bucket/out/"
    )
    assert (exported.code, exported.out) == (0, "")
    assert exported.err.splitlines() == [
        "exported first to share-conn:my-bucket/out/: 1 file, 2.93 KiB",
    ]
    assert (program.cwd / "share/my-bucket/out/model.bin").read_bytes() == b"x" * 3000
    assert json.loads((program.cwd / "share/my-bucket/out/flexai-manifest.json").read_bytes())["complete"]

    pushed = program.run(
        "checkpoint", "push", "second", "--storage-provider", "share-conn", "--source-path", "my-bucket/out", "--json"
    )
    assert pushed.code == 0, pushed.err
    document = pushed.json()
    assert document["spec"]["storageProvider"] == "share-conn"
    assert document["spec"]["sourcePath"] == "my-bucket/out"
    assert document["status"]["storageProviderID"] != "00000000-0000-0000-0000-000000000000"
    first = program.run("checkpoint", "inspect", "first", "--json").json()
    assert document["status"]["files"] == first["status"]["files"]
    assert [(export["storageProvider"], export["destinationPath"]) for export in first["status"]["exports"]] == [
        ("share-conn", "my-bucket/out/")
    ]


@pytest.mark.slow
def test_a_part_goes_to_a_provider_and_is_told_as_one(program: Program) -> None:
    program.file("source/model.safetensors", b"x" * 3000)
    program.file("source/optimizer.pt", b"o" * 5000)
    (program.cwd / "share").mkdir()
    assert program.run("storage", "create", "share-conn", "--provider", "local", "--root", "share").code == 0
    assert program.run("checkpoint", "push", "first", "-f", "source").code == 0
    words = ["checkpoint", "export", "first", "--storage-provider", "share-conn", "--destination-path", "bucket/out"]
    planned = program.run(*words, "--only", "weights", "--dry-run", "--json").json()
    assert (planned["movedBytes"], planned["leftOutFiles"], planned["leftOutBytes"]) == (3000, 1, 5000)
    exported = program.run(*words, "--only", "weights", "--json")
    assert exported.err.splitlines()[-1] == "exported first to share-conn:bucket/out: 1 of 2 files, 2.93 KiB"
    assert (exported.json()["isPart"], exported.json()["leftOutBytes"]) == (True, 5000)
    (place,) = program.run("checkpoint", "inspect", "first", "--json").json()["status"]["exports"]
    assert place["isPart"] is True
    assert "to share-conn:bucket/out (a part)" in program.run("history").out


def test_a_part_and_the_deletion_of_the_rest_are_refused_together(flexai: Run) -> None:
    words = ["checkpoint", "export", "first", "--storage-provider", "conn", "--destination-path", "bucket/x"]
    done = flexai(*words, "--only", "weights", "--delete-extra")
    assert (done.code, done.error) == (2, "--delete-extra and --only cannot be used together")


@pytest.mark.parametrize("missing", ["--storage-provider", "--destination-path"])
def test_both_flags_are_needed(flexai: Run, missing: str) -> None:
    flags = {"--storage-provider": "conn", "--destination-path": "bucket/x"}
    del flags[missing]
    done = flexai("checkpoint", "export", "first", *(word for flag in flags.items() for word in flag))
    assert (done.code, done.error) == (2, f"missing option '{missing}'")
    assert done.hint.startswith("flexai checkpoint export first --")


def test_a_wrong_reference_is_refused_before_prefect_is_asked(flexai: Run) -> None:
    done = flexai("checkpoint", "export", "a b", "--storage-provider", "c", "--destination-path", "b/p")
    assert done.code == 2
    assert "starting" not in done.err
