"""What another user made is protected, unprotected and deleted by those who insist, and the history names them."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program

ALICE, BOB = {"FLEXAI_OWNER": "alice@lab"}, {"FLEXAI_OWNER": "bob@lab"}
WRITE = "mkdir $FLEXAI_OUTPUT_CHECKPOINT_DIR/checkpoint-5 && echo x > $FLEXAI_OUTPUT_CHECKPOINT_DIR/checkpoint-5/x"


@pytest.fixture
def of_alice(flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The program as bob calls it, where alice has made a checkpoint and a job with one."""
    monkeypatch.setenv("FLEXAI_OWNER", "alice@lab")
    program.file("a.bin")
    assert flexai("checkpoint", "push", "llama", "-f", "a.bin").code == 0
    assert flexai("training", "run", "train", "--", "sh", "-c", WRITE).code == 0
    monkeypatch.setenv("FLEXAI_OWNER", "bob@lab")
    return flexai


CHANGES = [
    ("protect", ("checkpoint", "protect", "llama")),
    ("unprotect", ("checkpoint", "unprotect", "llama")),
    ("delete", ("checkpoint", "delete", "llama")),
    ("delete", ("checkpoint", "delete", "train/checkpoint-5")),
]


@pytest.mark.parametrize(("action", "command"), CHANGES, ids=[" ".join(command) for _, command in CHANGES])
def test_what_another_user_made_is_changed_with_force_alone(
    of_alice: Run, action: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if action == "unprotect":
        monkeypatch.setenv("FLEXAI_OWNER", "alice@lab")
        of_alice("checkpoint", "protect", "llama")
        monkeypatch.setenv("FLEXAI_OWNER", "bob@lab")
    before = of_alice("history", "--json").json()
    refused = of_alice(*command)
    assert (refused.code, refused.error) == (4, f"checkpoint {command[2]!r} was made by alice@lab")
    assert "--force" in refused.hint
    assert of_alice("history", "--json").json() == before
    assert of_alice(*command, "--force").code == 0
    last = of_alice("history", "--json").json()[-1]
    assert (last["by"], last["action"], last["title"]) == ("bob@lab", action, command[2])


def test_a_dry_run_of_a_deletion_says_that_another_user_made_it(of_alice: Run) -> None:
    assert of_alice("checkpoint", "delete", "llama", "--dry-run").error == "checkpoint 'llama' was made by alice@lab"
    assert of_alice("checkpoint", "delete", "llama", "--dry-run", "--force").code == 0


def test_a_job_of_another_user_is_deleted_with_force_alone(of_alice: Run) -> None:
    refused = of_alice("training", "delete", "train")
    assert (refused.code, refused.error) == (4, "training job 'train' was made by alice@lab")
    assert [row["name"] for row in of_alice("training", "checkpoints", "train", "--json").json()] == ["checkpoint-5"]
    assert of_alice("training", "delete", "train", "--force").code == 0
    assert {entry["by"] for entry in of_alice("history", "--json").json() if entry["action"] == "delete"} == {"bob@lab"}


def test_of_several_one_of_another_user_keeps_all_from_being_protected(of_alice: Run, program: Program) -> None:
    of_alice("checkpoint", "push", "of-bob", "-f", "a.bin")
    assert of_alice("checkpoint", "protect", "of-bob", "llama").code == 4
    assert not any(row["protected"] for row in of_alice("checkpoint", "list", "--json").json())


def test_rules_keep_what_other_users_made_unless_they_are_forced(of_alice: Run) -> None:
    rules = ("checkpoint", "prune", "--pushed", "*", "--keep-within", "1s", "--drop-last", "--drop-best", "--json")
    of_alice("checkpoint", "push", "of-bob", "-f", "a.bin")
    planned = {row["title"]: row for row in of_alice(*rules).json()["checkpoints"]}
    assert planned["llama"]["action"] == "keep"
    assert {"rule": "in-use", "text": "alice@lab made it (--force lets it go)"} in planned["llama"]["reasons"]
    forced = {row["title"]: row for row in of_alice(*rules, "--force").json()["checkpoints"]}
    assert not any("--force" in reason["text"] for reason in forced["llama"]["reasons"])


def test_a_user_is_known_by_the_login_in_a_second_home(flexai: Run, program: Program) -> None:
    """Two homes on one catalog, as of a user who has two machines with one login."""
    program.file("a.bin")
    assert flexai("checkpoint", "push", "llama", "-f", "a.bin").code == 0
    second = {
        "FLEXAI_HOME": str(program.home.parent / "second"),
        "FLEXAI_DATABASE_URL": f"sqlite:///{program.home}/catalog.db",
        "FLEXAI_STORE": str(program.home / "store"),
    }
    assert program.run("checkpoint", "delete", "llama", env=second).code == 0


@pytest.mark.parametrize(("typed", "left"), [("y\n", []), ("n\n", ["llama"]), ("\n", ["llama"]), ("\x04", ["llama"])])
def test_a_user_at_a_terminal_is_asked(program: Program, typed: str, left: list[str]) -> None:
    program.file("a.bin")
    assert program.run("checkpoint", "push", "llama", "-f", "a.bin", env=ALICE).code == 0
    shown = program.on_a_terminal("checkpoint", "delete", "llama", env=BOB, typed=typed)
    assert "checkpoint 'llama' was made by alice@lab: delete it? [y/N]" in shown
    found = json.loads(program.run("checkpoint", "list", "--json").out)
    assert [row["name"] for row in found] == left


def test_a_user_who_gets_a_name_keeps_what_was_made_before(
    flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.file("a.bin")
    monkeypatch.setenv("LOGNAME", "a")
    assert flexai("checkpoint", "push", "llama", "-f", "a.bin").code == 0
    assert flexai("training", "run", "train", "--", "false").code == 1
    monkeypatch.setenv("LOGNAME", "another")
    monkeypatch.setenv("FLEXAI_OWNER", "alice@lab")
    assert flexai("training", "run", "train", "--", "true").code == 0
    assert flexai("training", "delete", "train").code == 0
    assert flexai("checkpoint", "delete", "llama").code == 0


def test_a_user_of_one_name_goes_on_with_a_job_on_another_machine(
    flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXAI_DATABASE_URL", f"sqlite:///{program.home.parent}/catalog.db")
    monkeypatch.setenv("FLEXAI_STORE", str(program.home.parent / "store"))
    for number, (owner, ends, code) in enumerate((("alice@lab", 1, 1), ("bob@lab", 0, 4), ("alice@lab", 0, 0))):
        monkeypatch.setenv("FLEXAI_HOME", str(program.home.parent / f"home-{number}"))
        monkeypatch.setenv("FLEXAI_OWNER", owner)
        assert flexai("training", "run", "train", "--", "sh", "-c", f"exit {ends}").code == code, owner
