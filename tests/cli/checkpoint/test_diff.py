from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program


def write(program: Program, path: str, **tensors: tuple[str, list[int], bytes]) -> None:
    """A safetensors file."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    program.file(path, len(text).to_bytes(8, "little") + text + data)


@pytest.fixture(autouse=True)
def pushed(flexai: Run, program: Program) -> None:
    write(program, "one/m.safetensors", w=("F32", [2, 3], bytes(24)), b=("F32", [], bytes(4)))
    write(program, "two/m.safetensors", w=("BF16", [2, 3], bytes(12)), b=("F32", [], b"1234"))
    program.file("one/config.json", b"{}")
    program.file("two/config.json", b"{}")
    program.file("two/new.txt", b"x")
    for name in ("one", "two"):
        assert flexai("checkpoint", "push", name, "-f", name).code == 0


def rows(shown: str) -> list[list[str]]:
    """The cells of the tables, without their heads."""
    return [[cell.strip() for cell in line.split("|")] for line in shown.splitlines() if "|" in line]


def test_the_files_that_differ_are_listed_and_the_others_counted(flexai: Run) -> None:
    shown = flexai("checkpoint", "diff", "one", "two")
    assert shown.code == 0
    assert [row[:2] for row in rows(shown.out)] == [
        ["CHANGE", "FILE"],
        ["changed", "m.safetensors"],
        ["added", "new.txt"],
    ]
    assert "files: 1 added, 1 changed, 1 the same" in shown.err
    same = flexai("checkpoint", "diff", "one", "one")
    assert (same.code, same.out) == (0, "")
    assert "files: 2 the same" in same.err


def test_a_file_that_may_be_executed_now_is_told_to_be(flexai: Run, program: Program) -> None:
    program.file("sh/run.sh", b"x")
    assert flexai("checkpoint", "push", "plain", "-f", "sh").code == 0
    (program.cwd / "sh" / "run.sh").chmod(0o755)
    assert flexai("checkpoint", "push", "mode", "-f", "sh").code == 0
    assert rows(flexai("checkpoint", "diff", "plain", "mode").out)[1:] == [
        ["changed", "run.sh", "1 byte, executable now"]
    ]


def test_the_tensors_that_differ_are_listed_with_what_they_were(flexai: Run) -> None:
    shown = flexai("checkpoint", "diff", "one", "two", "--tensors")
    assert rows(shown.out)[4:] == [["changed", "w", "float32 2x3 -> bfloat16 2x3", "m.safetensors"]]
    assert "tensors: 1 changed, 1 the same" in shown.err
    shown = flexai("checkpoint", "diff", "one", "two", "--values")
    assert ["changed", "b", "float32 scalar, other values", "m.safetensors"] in rows(shown.out)
    assert max(map(len, shown.out.splitlines())) <= 80


def test_json_has_all_of_both_and_a_uuid_s_first_digits_do(flexai: Run) -> None:
    first = flexai("checkpoint", "inspect", "one", "--json").json()["metadata"]["id"]
    told = flexai("checkpoint", "diff", first[:8], "two", "--values", "--json").json()
    assert (told["before"]["id"], told["after"]["name"]) == (first, "two")
    assert [(file["path"], file["change"]) for file in told["files"]] == [
        ("config.json", "same"),
        ("m.safetensors", "changed"),
        ("new.txt", "added"),
    ]
    assert told["files"][2]["before"] is None
    assert told["tensors"][1] == {
        "name": "w",
        "change": "changed",
        "valuesEqual": None,
        "before": {"path": "m.safetensors", "dtype": "float32", "shape": [2, 3], "sizeBytes": 24},
        "after": {"path": "m.safetensors", "dtype": "bfloat16", "shape": [2, 3], "sizeBytes": 12},
    }
    assert told["tensorsNotRead"] == []
    assert flexai("checkpoint", "diff", "one", "two", "--json").json()["tensors"] is None
    assert flexai("checkpoint", "diff", "one", "three").code == 3
