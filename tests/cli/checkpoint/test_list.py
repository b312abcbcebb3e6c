from __future__ import annotations

import re

from flexai.checkpoints.owner import login
from tests.cli.conftest import Run
from tests.cli.program import Program


def test_nothing_is_listed_and_nothing_made_where_there_is_nothing(flexai: Run, program: Program) -> None:
    assert flexai("checkpoint", "list", "--json").json() == []
    done = flexai("checkpoint", "list")
    assert done.code == 0
    titles = [title.strip() for title in done.out.splitlines()[0].split("|")]
    assert titles == ["NAME", "FILES COUNT", "TOTAL SIZE", "STATUS", "CREATED AT", "CREATED BY"]
    assert not program.home.exists()


def test_pushed_checkpoints_are_listed_with_sizes_and_ages(flexai: Run, program: Program) -> None:
    program.file("a/x.bin", b"x" * 2048)
    program.file("a/y.bin", b"y" * 512)
    flexai("checkpoint", "push", "base-llama2-pretrained-custom", "-f", "a")
    flexai("checkpoint", "push", "mistral-ft-owt", "-f", "a/y.bin")
    head, rule, *rows = flexai("checkpoint", "list").out.splitlines()
    assert re.fullmatch(r"  NAME +\| FILES COUNT \| TOTAL SIZE \| STATUS +\| CREATED AT \| CREATED BY", head)
    assert rule.startswith("--------------------------------+-------------+------------+-----------+------------+---")
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    assert [row[:4] for row in cells] == [
        ["base-llama2-pretrained-custom", "2", "2.5 KiB", "available"],
        ["mistral-ft-owt", "1", "512 bytes", "available"],
    ]
    assert all(re.fullmatch(r"\d+[smhd]", row[4]) for row in cells)
    assert {row[5] for row in cells} == {login()}


def test_json_has_one_object_for_each(flexai: Run, program: Program) -> None:
    program.file("a.bin", b"x" * 2048)
    flexai("checkpoint", "push", "my-name", "-f", "a.bin")
    (row,) = flexai("checkpoint", "list", "--json").json()
    assert (row["name"], row["filesCount"], row["size"], row["sizeBytes"]) == ("my-name", 1, "2 KB", 2048)
    assert row["id"] == flexai("checkpoint", "inspect", "my-name", "--json").json()["metadata"]["id"]


def test_deleted_checkpoints_are_listed_apart(flexai: Run, program: Program) -> None:
    program.file("a.bin")
    flexai("checkpoint", "push", "my-name", "-f", "a.bin")
    flexai("checkpoint", "delete", "my-name")
    assert flexai("checkpoint", "list", "--json").json() == []
    (row,) = flexai("checkpoint", "list", "--deleted", "--json").json()
    assert row["name"] == "my-name"
    assert row["deletedAt"]
    table = flexai("checkpoint", "list", "--deleted").out
    assert row["id"] in table
    assert "DELETED AT" in table


def test_a_loss_that_none_tells_is_an_order_and_a_column_as_any_other(flexai: Run, program: Program) -> None:
    program.file("a.bin")
    flexai("checkpoint", "push", "my-name", "-f", "a.bin")
    done = flexai("checkpoint", "list", "--sort", "eval-loss")
    assert done.code == 0, done.err
    assert re.findall(r"EVAL-LOSS|my-name \| +- ", done.out)[0] == "EVAL-LOSS"
    wrong = flexai("checkpoint", "list", "--columns", "name,bogus")
    assert (wrong.code, wrong.error) == (2, "there is no column 'bogus'")
