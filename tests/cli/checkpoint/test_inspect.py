from __future__ import annotations

import json
import re

import pytest
import yaml

from flexai.cli import terminal
from tests.cli.conftest import Run
from tests.cli.program import Program

# What https://docs.flex.ai/commands/checkpoint shows, without the values that differ from checkpoint to checkpoint.
REFERENCE = """\
kind: Checkpoint
metadata:
  name: test-nanogpt-run-1
  id: (UUID)
  creatorUserID: (UUID)
  ownerOrgID: (UUID)
spec:
  fromLocalFiles:
  - output/checkpoint_20250203_130043/ckpt.pt
  storageProvider: ""
  sourcePath: ""
status:
  status: available
  files:
  - path: ckpt.pt
    size: 343.79 KB
  storageProviderID: 00000000-0000-0000-0000-000000000000
  size: 343.79 KB
  createdAt: "(TIME)"
  updatedAt: "(TIME)"
"""
OURS = {
    "revision",
    "fromCheckpoint",
    "sizeBytes",
    "digest",
    "digestOrigin",
    "isExecutable",
    "creator",
    "folders",
    "filesCount",
    "reason",
    "damagedFiles",
    "manifestDigest",
    "protected",
    "exports",
    "sizeBytesByRole",
    "weights",
}


@pytest.fixture(autouse=True)
def pushed(flexai: Run, program: Program) -> None:
    source = "output/checkpoint_20250203_130043/ckpt.pt"
    program.file(source, b"x" * 352041)
    assert flexai("checkpoint", "push", "test-nanogpt-run-1", "--file", source).code == 0


def test_without_our_own_fields_it_is_the_references_document(program: Program) -> None:
    done = program.run("checkpoint", "inspect", "test-nanogpt-run-1")
    assert (done.code, done.err) == (0, "")
    lines = [line for line in done.out.splitlines(keepends=True) if line.strip(" -").partition(":")[0] not in OURS]
    shown = re.sub(r"\b(?!0{8}-)[0-9a-f]{8}-[0-9a-f-]{27}\b", "(UUID)", "".join(lines))
    assert re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "(TIME)", shown) == REFERENCE


@pytest.mark.parametrize("flag", ["--json", "-j"])
def test_json_is_the_same_document(flexai: Run, flag: str) -> None:
    assert flexai("checkpoint", "inspect", "test-nanogpt-run-1", flag).json() == yaml.safe_load(
        flexai("checkpoint", "inspect", "test-nanogpt-run-1").out
    )


def test_a_uuid_works_as_well(flexai: Run) -> None:
    document = flexai("checkpoint", "inspect", "TEST-nanogpt-run-1", "--json").json()
    assert flexai("checkpoint", "inspect", document["metadata"]["id"].upper(), "--json").json() == document


def test_an_unknown_and_a_deleted_checkpoint_are_not_found_in_the_same_words(flexai: Run) -> None:
    assert flexai("checkpoint", "delete", "test-nanogpt-run-1").code == 0
    deleted = flexai("checkpoint", "inspect", "test-nanogpt-run-1")
    unknown = flexai("checkpoint", "inspect", "unknown-run-1")
    assert (deleted.code, deleted.out) == (unknown.code, unknown.out) == (3, "")
    assert deleted.err == unknown.err.replace("unknown-run-1", "test-nanogpt-run-1")
    assert flexai("checkpoint", "delete", "unknown-run-1").err == unknown.err


@pytest.mark.parametrize("name", ["yes", "null", "1e5", "123", "0x1F", "2025-02-03", "on-1"])
def test_a_name_that_looks_like_something_else_stays_a_name(flexai: Run, program: Program, name: str) -> None:
    program.file(name)
    assert flexai("checkpoint", "push", name, "-f", name).code == 0
    document = yaml.safe_load(flexai("checkpoint", "inspect", name).out)
    assert document["metadata"]["name"] == name
    assert document["status"]["files"][0]["path"] == name


def test_what_the_files_run_is_told_where_it_is_asked_for(flexai: Run, program: Program) -> None:
    program.file("model/weights.pkl", b"cposix\nsystem\n(S'true'\ntR.")
    program.file("model/plain.bin", b"\x00" * 5000)
    assert flexai("checkpoint", "push", "model", "-f", "model").code == 0
    assert "executable" not in flexai("checkpoint", "inspect", "model").out
    told = flexai("checkpoint", "inspect", "model", "--executable", "--json").json()["status"]["files"]
    assert {file["path"]: (file["executable"], file["notFollowed"]) for file in told} == {
        "plain.bin": ([], []),
        "weights.pkl": (["posix.system"], []),
    }
    shown = flexai("checkpoint", "inspect", "model", "--executable")
    assert yaml.safe_load(shown.out)["status"]["files"] == told
    assert [line.split(" | ") for line in shown.err.splitlines() if " | " in line][1:] == [
        ["  weights.pkl", "posix.system"]
    ]
    assert max(map(len, shown.err.splitlines())) <= 80
    refused = flexai("checkpoint", "fetch", "model", "-d", "out", "--refuse-executable")
    assert (refused.code, "weights.pkl runs posix.system" in refused.error) == (1, True)


def test_of_many_files_whose_tensors_cannot_be_told_some_are_named(flexai: Run, program: Program) -> None:
    for number in range(terminal.MOST_LINES + 2):
        program.file(f"m/{number}.safetensors", b"torn")
    program.file("empty/a.txt")
    for name in ("m", "empty"):
        assert flexai("checkpoint", "push", f"llama-{name}", "-f", name).code == 0
    for words in (["inspect", "llama-m", "--tensors"], ["diff", "llama-empty", "llama-m", "--tensors"]):
        shown = flexai("checkpoint", *words)
        assert shown.code == 0
        assert shown.err.count("cannot be told") == terminal.MOST_LINES
        assert "warning: … and 2 more, which --json shows\n" in shown.err


def test_the_tensors_are_listed_with_what_they_weigh(flexai: Run, program: Program) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    program.file("m/a.safetensors", len(header).to_bytes(8, "little") + header + bytes(24))
    program.file("m/b.safetensors", b"torn")
    assert flexai("checkpoint", "push", "llama", "-f", "m").code == 0
    shown = flexai("checkpoint", "inspect", "llama", "--tensors")
    cells = [cell.strip() for cell in shown.out.splitlines()[2].split("|")]
    assert cells == ["w", "float32", "2x3", "24 bytes", "a.safetensors"]
    assert "1 tensor, 24 bytes" in shown.err and "'b.safetensors' cannot be told" in shown.err
    status = flexai("checkpoint", "inspect", "llama", "--tensors", "--json").json()["status"]
    assert status["tensors"] == [
        {"path": "a.safetensors", "name": "w", "dtype": "float32", "shape": [2, 3], "sizeBytes": 24}
    ]
    assert [one["path"] for one in status["tensorsNotRead"]] == ["b.safetensors"]
