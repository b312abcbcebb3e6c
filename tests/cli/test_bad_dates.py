"""Dates that no program of ours writes, through every command that shows them."""

from __future__ import annotations

import sqlite3
import sys

import pytest

from tests.cli.program import Program

pytestmark = pytest.mark.slow

BAD_DATES = (
    "1-01-01T00:00:00.000000Z",
    "0001-01-01T00:00:00.000000Z",
    "9999-12-31T23:59:59.999999-14:00",
    "2025-01-01T00:00:00",
    "1e30",
    "Infinity",
    "",
    "\x1b]0;owned\x07",
)
_TIMES = {
    "checkpoints": ("created_at", "updated_at"),
    "jobs": ("created_at", "started_at", "updated_at"),
    "exports": ("exported_at",),
}
_TRAIN = """
import os
folder = os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"] + "/c"
os.mkdir(folder)
open(folder + "/weights.bin", "wb").write(bytes(8))
"""
_LINES = (
    "checkpoint list",
    "checkpoint list --json",
    "checkpoint list --deleted",
    "checkpoint inspect bad",
    "checkpoint inspect bad --json",
    "checkpoint prune --pushed * --keep-last 1",
    "checkpoint gc --dry-run",
    "checkpoint verify",
    "training list",
    "training list --json",
    "training inspect my-run",
    "training checkpoints my-run",
)


def test_a_bad_date_stops_no_command_and_is_shown_as_unknown(program: Program) -> None:
    program.environment["FLEXAI_QUIET_PERIOD"] = "0.05"
    program.file("a.bin")
    for name in ("bad", "good", "gone"):
        assert program.run("checkpoint", "push", name, "-f", "a.bin").code == 0
    assert program.run("checkpoint", "delete", "gone").code == 0
    program.file("train.py", _TRAIN)
    assert program.run("training", "run", "my-run", "--", sys.executable, "train.py").code == 0
    for date in BAD_DATES:
        with sqlite3.connect(program.home / "catalog.db") as catalog:
            for table, columns in _TIMES.items():
                for column in columns:
                    spared = " WHERE name <> 'good'" if table == "checkpoints" else ""
                    catalog.execute(f"UPDATE {table} SET {column} = ?{spared}", (date,))
            catalog.execute("UPDATE checkpoints SET deleted_at = ? WHERE deleted_at IS NOT NULL", (date,))
        catalog.close()
        for line in _LINES if date == BAD_DATES[0] else ("training list",):
            done = program.run(*line.split())
            assert (line, done.code, done.err if done.code else "") == (line, 0, "")
        rows = {
            row.split()[0]: row.split("|")[-2].strip() for row in program.run("checkpoint", "list").out.splitlines()[2:]
        }
        assert rows["bad"] == "unknown"
        assert rows["good"].endswith(("s", "m"))


def test_a_checkpoint_of_an_unknown_age_is_not_pruned(program: Program) -> None:
    program.file("a.bin")
    for name in ("bad", "good"):
        assert program.run("checkpoint", "push", name, "-f", "a.bin").code == 0
    with sqlite3.connect(program.home / "catalog.db") as catalog:
        catalog.execute("UPDATE checkpoints SET created_at = '1-01-01' WHERE name = 'bad'")
    catalog.close()
    done = program.run("checkpoint", "prune", "--pushed", "*", "--keep-last", "1", "--apply", "--json")
    assert done.code == 0
    assert [row["name"] for row in program.run("checkpoint", "list", "--json").json()] == ["bad", "good"]
