from __future__ import annotations

import os
import uuid

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program


def test_the_references_example_works_as_written(program: Program) -> None:
    program.file("output/ckpt.pt", b"x" * 2000)
    done = program.run("checkpoint", "push", "mistral-500-checkpoint-local", "--file", "output/ckpt.pt=sd-xl-2500.ckpt")
    assert (done.code, done.out) == (0, "")
    shown = program.run("checkpoint", "inspect", "mistral-500-checkpoint-local", "--json").json()
    assert shown["spec"]["fromLocalFiles"] == ["output/ckpt.pt"]
    assert [file["path"] for file in shown["status"]["files"]] == ["sd-xl-2500.ckpt"]
    assert shown["status"]["status"] == "available"


def test_files_and_folders_are_pushed_together(flexai: Run, program: Program) -> None:
    program.file("a.bin")
    program.file("folder/deep/b.bin")
    program.file("more/c.bin")
    done = flexai("checkpoint", "push", "many", "-f", "a.bin", "--file", "folder", "-f", "more=below", "--json")
    assert done.code == 0
    assert [file["path"] for file in done.json()["status"]["files"]] == ["a.bin", "below/c.bin", "deep/b.bin"]


def test_what_is_excluded_is_left_out_by_the_command_its_dry_run_and_python(flexai: Run, program: Program) -> None:
    for name in ("model.bin", "optimizer.pt", "logs/a.txt"):
        program.file(f"run/{name}", name)
    given = ("checkpoint", "push", "part", "-f", "run", "--exclude", "optimizer.pt", "--exclude", "logs", "--json")
    assert [step["name"] for step in flexai(*given, "--dry-run").json()["steps"]] == ["model.bin"]
    assert [file["path"] for file in flexai(*given).json()["status"]["files"]] == ["model.bin"]
    assert flexai(*given, "--if-not-exists").code == 0
    assert flexai("checkpoint", "push", "part", "-f", "run", "--if-not-exists").code == 4
    both = flexai("checkpoint", "push", "new", "--from-checkpoint", "part", "--exclude", "x")
    assert (both.code, both.error) == (2, "--exclude and --from-checkpoint cannot be used together")
    empty = flexai("checkpoint", "push", "new", "-f", "run", "--exclude", "/")
    assert (empty.code, empty.error) == (2, "a pattern of --exclude names nothing")


def test_what_was_pushed_is_said_on_standard_error(flexai: Run, program: Program) -> None:
    program.file("a.bin", b"x" * 2048)
    done = flexai("checkpoint", "push", "my-name", "-f", "a.bin")
    assert done.out == ""
    line, _, checkpoint_id = done.err.rstrip("\n)").rpartition(" (")
    assert line == "checkpoint 'my-name' is available: 1 file, 2 KiB"
    assert uuid.UUID(checkpoint_id)


def test_a_captured_or_other_checkpoint_gets_another_name(flexai: Run, program: Program) -> None:
    program.file("a.bin")
    first = flexai("checkpoint", "push", "first", "-f", "a.bin", "--json").json()
    second = flexai("checkpoint", "push", "second", "--from-checkpoint", "first", "--json").json()
    assert second["spec"]["fromCheckpoint"] == first["metadata"]["id"]
    assert second["status"]["manifestDigest"] == first["status"]["manifestDigest"]


def test_a_name_that_is_taken_says_whether_the_content_is_the_same(flexai: Run, program: Program) -> None:
    program.file("a.bin", "one")
    program.file("b.bin", "two")
    assert flexai("checkpoint", "push", "taken", "-f", "a.bin").code == 0
    same = flexai("checkpoint", "push", "TAKEN", "-f", "a.bin")
    assert (same.code, same.error) == (4, "checkpoint 'taken' already exists with the same content")
    other = flexai("checkpoint", "push", "taken", "-f", "b.bin=a.bin", "--if-not-exists")
    assert (other.code, other.error) == (4, "checkpoint 'taken' already exists with other content")
    assert flexai("checkpoint", "push", "taken", "-f", "a.bin", "--if-not-exists").code == 0


def test_a_second_push_of_what_is_unchanged_says_the_same_as_the_first(flexai: Run, program: Program) -> None:
    os.utime(program.file("a.bin"), (1_000_000_000, 1_000_000_000))
    push = ["checkpoint", "push", "steady", "-f", "a.bin", "--if-not-exists"]
    first, again = flexai(*push, "--json"), flexai(*push, "--json")
    assert (again.code, again.json()) == (0, first.json())
    assert again.err == first.err.splitlines(keepends=True)[-1]


CLASHES = [
    (["-f", "a.bin", "--source-path", "b/p"], "--file and --source-path cannot be used together"),
    (["-f", "a.bin", "--storage-provider", "c"], "--file and --storage-provider cannot be used together"),
    (
        ["-f", "a.bin", "--storage-provider", "c", "--source-path", "b/p"],
        "--file and --source-path cannot be used together",
    ),
    (["-f", "a.bin", "--from-checkpoint", "x-y"], "--file and --from-checkpoint cannot be used together"),
    (
        ["--storage-provider", "c", "--source-path", "b/p", "--from-checkpoint", "x-y"],
        "--storage-provider and --from-checkpoint cannot be used together",
    ),
    (["--source-path", "b/p"], "--source-path needs --storage-provider: it is a path on a storage provider"),
    (["--storage-provider", "c"], "--storage-provider needs --source-path: what to push from it"),
    (
        ["--storage-provider", "c", "--source-path", "b/p", "--follow-symlinks"],
        "--follow-symlinks and --source-path cannot be used together",
    ),
    (
        ["--from-checkpoint", "x-y", "--follow-symlinks"],
        "--follow-symlinks and --from-checkpoint cannot be used together",
    ),
    ([], "there is nothing to push: no source is given"),
]


@pytest.mark.parametrize(("flags", "message"), CLASHES, ids=lambda value: " ".join(value) if value else "none")
def test_flags_that_make_no_sense_together_are_named(flexai: Run, flags: list[str], message: str) -> None:
    done = flexai("checkpoint", "push", "my-name", *flags)
    assert (done.code, done.error) == (2, message)
    assert "flexai checkpoint push my-name --" in done.hint


def test_a_source_path_of_this_machine_is_a_file(flexai: Run, program: Program) -> None:
    program.file("my folder/a.bin")
    done = flexai("checkpoint", "push", "my-name", "--source-path", "my folder")
    assert done.code == 2
    assert done.hint == "flexai checkpoint push my-name --file 'my folder'"


@pytest.mark.parametrize("name", ["x", "has space", "-dash", "latest", "431a0ecb-cd8f-4508-8ae3-0990833a4f16", "é" * 5])
def test_a_name_that_breaks_the_rules_is_refused_before_anything_is_read(flexai: Run, name: str) -> None:
    done = flexai("checkpoint", "push", "-f", "missing.bin", "--", name)
    assert done.code == 2
    assert repr(name) in done.error


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["missing.bin"], "missing.bin"),
        (["empty"], "empty"),
        (["a.bin", "b/a.bin"], "a.bin"),
        (["a.bin=../out"], ".."),
    ],
)
def test_a_source_that_cannot_be_pushed_is_wrong_usage(
    flexai: Run, program: Program, sources: list[str], words: str
) -> None:
    program.file("a.bin")
    program.file("b/a.bin")
    (program.cwd / "empty").mkdir()
    done = flexai("checkpoint", "push", "my-name", *(flag for source in sources for flag in ("-f", source)))
    assert done.code == 2
    assert words in done.error
    assert flexai("checkpoint", "inspect", "my-name").code == 3


def test_links_are_refused_unless_they_are_to_be_followed(flexai: Run, program: Program) -> None:
    program.file("folder/real.bin")
    (program.cwd / "folder/link.bin").symlink_to("real.bin")
    assert flexai("checkpoint", "push", "my-name", "-f", "folder").code == 2
    done = flexai("checkpoint", "push", "my-name", "-f", "folder", "--follow-symlinks", "--json")
    assert [file["path"] for file in done.json()["status"]["files"]] == ["link.bin", "real.bin"]


@pytest.mark.parametrize("limit", ["fast", "0", "-1MiB"])
def test_a_bandwidth_that_is_none_is_refused(flexai: Run, program: Program, limit: str) -> None:
    program.file("a.bin")
    done = flexai("checkpoint", "push", "limited", "-f", "a.bin", "--bwlimit", limit)
    assert (done.code, done.hint) == (2, "write 100MiB, 2.5GB or plain bytes")


def test_a_push_with_a_limited_bandwidth_moves_all_the_same(flexai: Run, program: Program) -> None:
    program.file("a.bin", bytes(3_000_000))
    assert flexai("checkpoint", "push", "limited", "-f", "a.bin", "--bwlimit", "100MiB").code == 0
