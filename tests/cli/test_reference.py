"""The reference's own examples, typed as it prints them (https://docs.flex.ai/commands/checkpoint)."""

from __future__ import annotations

import os
import re
import shlex

import pytest
import yaml

from tests.cli.program import Done, Program
from tests.servers.prefect import PrefectServer

EXPORTED = "my-bucket/checkpoints/mistral-train/"


def typed(program: Program, line: str) -> Done:
    """Run a line of the reference."""
    name, *arguments = shlex.split(line)
    assert name == "flexai"
    return program.run(*arguments)


@pytest.fixture
def files(program: Program) -> Program:
    """The program where the reference's reader stands: with an ``output`` folder."""
    (program.cwd / "output").mkdir()
    (program.cwd / "output" / "ckpt.pt").write_bytes(os.urandom(343_790))
    return program


def test_a_single_file_is_pushed_under_another_path(files: Program) -> None:
    done = typed(files, "flexai checkpoint push mistral-500-checkpoint-local --file output/ckpt.pt=sd-xl-2500.ckpt")
    assert done.code == 0, done.err
    shown = yaml.safe_load(typed(files, "flexai checkpoint inspect mistral-500-checkpoint-local").out)
    assert [file["path"] for file in shown["status"]["files"]] == ["sd-xl-2500.ckpt"]
    assert shown["spec"]["fromLocalFiles"] == ["output/ckpt.pt"]


def test_inspect_shows_the_reference_s_fields_in_its_order_and_ours_after_them(files: Program) -> None:
    assert files.run("checkpoint", "push", "mistral-500-checkpoint", "-f", "output/ckpt.pt").code == 0
    done = typed(files, "flexai checkpoint inspect mistral-500-checkpoint")
    shown = yaml.safe_load(done.out)
    assert list(shown) == ["kind", "metadata", "spec", "status"]
    assert list(shown["metadata"])[:4] == ["name", "id", "creatorUserID", "ownerOrgID"]
    assert list(shown["spec"])[:3] == ["fromLocalFiles", "storageProvider", "sourcePath"]
    assert list(shown["status"])[:6] == ["status", "files", "storageProviderID", "size", "createdAt", "updatedAt"]
    assert list(shown["status"]["files"][0])[:2] == ["path", "size"]
    assert shown["kind"] == "Checkpoint"
    assert shown["metadata"]["name"] == "mistral-500-checkpoint"
    assert shown["status"]["storageProviderID"] == "00000000-0000-0000-0000-000000000000"
    assert re.search(r'^  createdAt: "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"$', done.out, re.MULTILINE)
    assert typed(files, "flexai checkpoint inspect mistral-500-checkpoint --json").json() == shown


def test_list_prints_the_reference_s_columns(files: Program) -> None:
    files.run("checkpoint", "push", "base-llama2-pretrained-custom", "-f", "output/ckpt.pt")
    heading, rule, row = typed(files, "flexai checkpoint list").out.splitlines()
    assert [cell.strip() for cell in heading.split("|")] == [
        "NAME",
        "FILES COUNT",
        "TOTAL SIZE",
        "STATUS",
        "CREATED AT",
        "CREATED BY",
    ]
    assert set(rule) == {"-", "+"}
    assert [cell.strip() for cell in row.split("|")][:2] == ["base-llama2-pretrained-custom", "1"]
    assert [cell.strip() for cell in row.split("|")][3] == "available"


def test_fetch_brings_the_files_to_the_working_directory(files: Program) -> None:
    files.run("checkpoint", "push", "mistral-500-checkpoint", "-f", "output/ckpt.pt")
    assert typed(files, "flexai checkpoint fetch mistral-500-checkpoint").code == 0
    content = (files.cwd / "output" / "ckpt.pt").read_bytes()
    assert (files.cwd / "ckpt.pt").read_bytes() == content
    checkpoint_id = typed(files, "flexai checkpoint inspect mistral-500-checkpoint --json").json()["metadata"]["id"]
    assert files.run("checkpoint", "fetch", checkpoint_id, "-d", "saved-checkpoints/mistral/").code == 0
    assert (files.cwd / "saved-checkpoints" / "mistral" / "ckpt.pt").read_bytes() == content


def test_delete_frees_the_name(files: Program) -> None:
    files.run("checkpoint", "push", "mistral-500-checkpoint", "-f", "output/ckpt.pt")
    assert typed(files, "flexai checkpoint delete mistral-500-checkpoint").code == 0
    assert typed(files, "flexai checkpoint inspect mistral-500-checkpoint").code == 3
    assert files.run("checkpoint", "push", "mistral-500-checkpoint", "-f", "output/ckpt.pt").code == 0


def test_a_captured_checkpoint_is_exported_and_pushed_back(files: Program, prefect_server: PrefectServer) -> None:
    files.environment |= prefect_server.environment(files.home / "prefect")
    bucket = files.cwd / "share" / "my-bucket"
    bucket.mkdir(parents=True)
    # One Prefect API serves every test, so another test's connection of that name is replaced.
    created = files.run(
        "storage", "create", "aws-storage-conn-local", "--provider", "local", "--root", "share", "--overwrite"
    )
    assert created.code == 0, created.err
    command = 'D="$FLEXAI_OUTPUT_CHECKPOINT_DIR/checkpoint-5"; mkdir "$D"; cp output/ckpt.pt "$D"'
    assert files.run("training", "run", "mistral", "--no-track", "--", "sh", "-c", command).code == 0
    (row,) = files.run("training", "checkpoints", "mistral", "--json").json()
    exported = typed(
        files,
        f"flexai checkpoint export {row['id']} --storage-provider aws-storage-conn-local --destination-path {EXPORTED}",
    )
    assert exported.code == 0, exported.err
    assert (bucket / "checkpoints" / "mistral-train" / "ckpt.pt").is_file()
    pushed = typed(
        files,
        "flexai checkpoint push mistral-500-checkpoint-s3 --storage-provider aws-storage-conn-local"
        f" --source-path {EXPORTED}",
    )
    assert pushed.code == 0, pushed.err
    shown = typed(files, "flexai checkpoint inspect mistral-500-checkpoint-s3 --json").json()
    assert [file["path"] for file in shown["status"]["files"]] == ["ckpt.pt"]
    assert shown["spec"]["sourcePath"] == EXPORTED
