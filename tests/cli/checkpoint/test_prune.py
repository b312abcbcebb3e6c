"""Protect, unprotect and prune, from the command line."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program

TRAINER = """
import json, os, pathlib, sys, time
out = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"])
for step, loss in json.loads(sys.argv[1]):
    made = out / f"checkpoint-{step}"
    made.mkdir()
    (made / "pytorch_model.bin").write_bytes(os.urandom(3000))
    (made / "optimizer.pt").write_bytes(os.urandom(100))
    (made / "rng_state.pth").write_bytes(os.urandom(10))
    state = {"global_step": step, "log_history": [{"step": step, "eval_loss": loss}]}
    (made / "trainer_state.json").write_text(json.dumps(state))
"""


@pytest.fixture
def run(flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch) -> str:
    """A training job of five checkpoints of which the second is the best."""
    monkeypatch.setitem(program.environment, "FLEXAI_QUIET_PERIOD", "0.05")
    script = program.file("train.py", TRAINER)
    steps = [[100, 0.9], [200, 0.1], [300, 0.5], [400, 0.6], [500, 0.7]]
    done = program.run("training", "run", "my-run", "--", sys.executable, str(script), json.dumps(steps))
    assert done.code == 0, done.err
    assert len(flexai("training", "checkpoints", "my-run", "--json").json()) == 5
    return "my-run"


def names(flexai: Run, job: str) -> list[str]:
    return [row["name"] for row in flexai("training", "checkpoints", job, "--json").json()]


def pushed(flexai: Run, program: Program, *wanted: str) -> None:
    for name in wanted:
        program.file(f"{name}.bin", name * 500)
        assert flexai("checkpoint", "push", name, "-f", f"{name}.bin").code == 0


def test_a_protected_checkpoint_is_shown_as_such_and_not_deleted(flexai: Run, program: Program) -> None:
    pushed(flexai, program, "first", "second")
    done = flexai("checkpoint", "protect", "first", "SECOND")
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines() == ["checkpoint first is protected", "checkpoint SECOND is protected"]
    assert flexai("checkpoint", "inspect", "first", "--json").json()["status"]["protected"] is True
    assert [row["protected"] for row in flexai("checkpoint", "list", "--json").json()] == [True, True]
    assert flexai("checkpoint", "list").out.count("available, protected") == 2
    refused = flexai("checkpoint", "delete", "first")
    assert (refused.code, refused.error) == (4, "checkpoint 'first' is protected")
    assert refused.hint == "flexai checkpoint unprotect first lets it be deleted"
    assert flexai("checkpoint", "unprotect", "first").err == "checkpoint first is not protected any more\n"
    assert flexai("checkpoint", "delete", "first").code == 0


def test_what_is_not_there_cannot_be_protected(flexai: Run) -> None:
    assert flexai("checkpoint", "protect", "unknown").code == 3
    assert flexai("checkpoint", "protect", "a b").code == 2
    assert flexai("checkpoint", "protect").code == 2


def test_without_apply_the_plan_is_shown_and_nothing_is_done(flexai: Run, run: str) -> None:
    done = flexai("checkpoint", "prune", "--keep-last", "2")
    assert done.code == 0
    rows = [[cell.strip() for cell in line.split("|")] for line in done.out.splitlines()[2:]]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("delete", "my-run/checkpoint-100", "no rule keeps it"),
        ("keep", "my-run/checkpoint-200", "the best one"),
        ("delete", "my-run/checkpoint-300", "no rule keeps it"),
        ("keep", "my-run/checkpoint-400", "last 2"),
        ("keep", "my-run/checkpoint-500", "last 2, the last one"),
    ]
    assert all(row[3] for row in rows if row[0] == "delete")
    assert re.match(r"would delete 2 of 5 checkpoints and free \d.* KiB\n", done.err)
    assert done.hint == "nothing was deleted: --apply does it"
    assert len(names(flexai, run)) == 5


def test_with_apply_it_is_done_and_can_be_undone(flexai: Run, run: str) -> None:
    planned = flexai("checkpoint", "prune", "--keep-last", "1", "--keep-best", "1", "--json").json()
    done = flexai("checkpoint", "prune", "--keep-last", "1", "--keep-best", "1", "--apply", "--json")
    document = done.json()
    assert (planned["applied"], document["applied"]) == (False, True)
    assert planned["checkpoints"] == document["checkpoints"]
    assert (document["keptCount"], document["deletedCount"], document["sparedCount"]) == (2, 3, 0)
    assert names(flexai, run) == ["checkpoint-200", "checkpoint-500"]
    assert "deleted 3 of 5 checkpoints; gc frees" in done.err
    gone = next(row["id"] for row in document["checkpoints"] if row["action"] == "delete")
    assert flexai("checkpoint", "undelete", gone).code == 0
    assert flexai("checkpoint", "prune", "--keep-last", "1", "--apply").code == 0
    freed = flexai("checkpoint", "gc", "--grace-period", "0s").out
    assert freed.startswith(f"freed {document['freed']} in")


def test_steps_losses_and_jobs_choose(flexai: Run, run: str) -> None:
    def kept(*options: str) -> list[str]:
        rows = flexai("checkpoint", "prune", *options, "--drop-last", "--drop-best", "--json").json()["checkpoints"]
        return [row["title"].partition("-run/")[2] for row in rows if row["action"] == "keep"]

    assert kept("--keep-every-steps", "200") == ["checkpoint-200", "checkpoint-400"]
    assert kept("--keep-best", "2") == ["checkpoint-200", "checkpoint-300"]
    assert kept("--job", "MY-RUN", "--keep-every", "1w") == ["checkpoint-100"]
    assert len(kept("--keep-within", "1h")) == len(kept("--keep-since", "2020-01-31")) == 5
    assert kept("--keep-since", "2999-01-31T12:00+01:00") == ["checkpoint-500"]
    assert flexai("checkpoint", "prune", "--job", "unknown", "--keep-last", "1").code == 3


def test_pushed_checkpoints_are_pruned_by_a_pattern(flexai: Run, program: Program) -> None:
    pushed(flexai, program, "nightly-1", "nightly-2", "nightly-3", "release")
    assert flexai("checkpoint", "prune", "--keep-last", "1", "--json").json()["checkpoints"] == []
    done = flexai("checkpoint", "prune", "--pushed", "nightly-*", "--keep-last", "1", "--apply")
    assert done.code == 0
    assert [row["name"] for row in flexai("checkpoint", "list", "--json").json()] == ["nightly-3", "release"]


def test_no_rule_is_wrong_usage(flexai: Run, program: Program) -> None:
    for options in ([], ["--apply"], ["--drop-last", "--drop-best", "--apply"], ["--job", "my-run", "--apply"]):
        done = flexai("checkpoint", "prune", *options)
        assert (done.code, done.out, done.error) == (2, "", "no rule says what to keep")
        assert "--keep-last" in done.hint
    assert not program.home.exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--keep-last", "0"],
        ["--keep-last", "some"],
        ["--keep-best", "-1"],
        ["--keep-every-steps", "1.5"],
        ["--keep-every", "6 hours"],
        ["--keep-every", "0s"],
        ["--keep-within", "soon"],
        ["--keep-since", "yesterday"],
        ["--keep-best", "1", "--metric", "accuracy"],
    ],
)
def test_what_is_no_number_no_time_and_no_metric_is_wrong_usage(flexai: Run, options: list[str]) -> None:
    done = flexai("checkpoint", "prune", *options)
    assert (done.code, done.out) == (2, "")
    assert done.error


def test_the_table_fits_a_terminal(flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    long = ["nightly-" + "x" * 55, "nightly-" + "y" * 30, "nightly-z"]
    pushed(flexai, program, *long)
    rules = ["--pushed", "nightly-*", "--keep-last", "2", "--keep-every", "36h", "--keep-within", "1d"]
    monkeypatch.setenv("COLUMNS", "80")
    table = flexai("checkpoint", "prune", *rules).out
    assert max(map(len, table.splitlines())) <= 80
    shown = [line.split("|")[1].strip() for line in table.splitlines()[2:] if line.split("|")[0].strip()]
    for name, seen in zip(long, shown, strict=True):
        beginning, _, end = seen.partition("…")
        assert name.startswith(beginning)
        assert name.endswith(end)
    assert shown[1:] == long[1:]
    monkeypatch.setenv("COLUMNS", "200")
    assert len(flexai("checkpoint", "prune", *rules).out.splitlines()) == 5


def test_what_others_call_it_is_understood(flexai: Run) -> None:
    assert "did you mean 'protect'?" in flexai("checkpoint", "pin", "x").error
    assert "did you mean 'unprotect'?" in flexai("checkpoint", "unpin", "x").error
    assert flexai("checkpoint", "prune", "--help").code == 0


def test_jobs_and_names_are_completed(program: Program, flexai: Run) -> None:
    pushed(flexai, program, "mistral-500")
    for words in ("flexai checkpoint protect m", "flexai checkpoint prune --pushed m"):
        done = program.run(
            env={
                "_FLEXAI_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            }
        )
        assert done.out == "plain,mistral-500\n"
