"""``flexai history`` and ``flexai checkpoint history``: who changed what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flexai.checkpoints.owner import login
from tests.cli.conftest import Run
from tests.cli.program import Done, Program

KEYS = ["at", "by", "host", "flowRunID", "action", "kind", "id", "title", "before", "after"]


@pytest.fixture
def shared(flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The program, as it is called by one of several users of one catalog."""
    program.file("a.bin", b"x" * 2048)

    def run(user: str, *arguments: str) -> Done:
        if user:
            monkeypatch.setenv("FLEXAI_OWNER", user)
        else:
            monkeypatch.delenv("FLEXAI_OWNER", raising=False)
        return flexai(*arguments)

    return run


def told(done: Done) -> list[tuple[str, str, str]]:
    assert done.code == 0, done.err
    return [(entry["by"], entry["action"], entry["title"]) for entry in done.json()]


def test_the_history_tells_who_did_what_and_when_and_from_where(shared: Run) -> None:
    shared("alice@lab", "checkpoint", "push", "llama", "-f", "a.bin")
    shared("bob@lab", "checkpoint", "push", "mistral", "--from-checkpoint", "llama")
    shared("", "checkpoint", "push", "gemma", "--from-checkpoint", "llama")
    shared("alice@lab", "checkpoint", "protect", "llama")
    done = shared("bob@lab", "history", "--json")
    assert told(done) == [
        ("alice@lab", "push", "llama"),
        ("bob@lab", "push", "mistral"),
        (login(), "push", "gemma"),
        ("alice@lab", "protect", "llama"),
    ]
    last = done.json()[-1]
    assert list(last) == KEYS
    assert (last["before"], last["after"]) == ({"is_protected": False}, {"is_protected": True})
    assert (last["host"], last["flowRunID"]) == (login().rpartition("@")[2], "")
    table = shared("bob@lab", "history").out
    assert [cell.strip() for cell in table.splitlines()[0].split("|")] == ["AT (UTC)", "BY", "ACTION", "WHAT", "CHANGE"]
    host = login().rpartition("@")[2]
    row = [cell.strip() for cell in table.splitlines()[-1].split("|")]
    assert row[1:] == [f"alice@lab on {host}", "protect", "llama", "protected: no → yes"]


def test_the_history_is_narrowed_by_user_time_and_number(shared: Run) -> None:
    shared("alice@lab", "checkpoint", "push", "llama", "-f", "a.bin")
    shared("bob@lab", "checkpoint", "push", "mistral", "--from-checkpoint", "llama")
    shared("alice@lab", "checkpoint", "protect", "llama")
    alices = [("alice@lab", "push", "llama"), ("alice@lab", "protect", "llama")]
    assert told(shared("", "history", "--by", "alice", "--json")) == alices
    assert told(shared("", "history", "--since", "1h", "--by", "alice@lab", "--json")) == alices
    assert told(shared("", "history", "--since", "2100-01-01", "--json")) == []
    done = shared("", "history", "--limit", "1", "--by", "alice", "--json")
    assert told(done) == alices[-1:]
    assert "earlier changes are not shown" in done.hint
    assert shared("", "history", "--limit", "2", "--by", "alice", "--json").hint == ""


def test_a_year_is_not_taken_for_seconds(flexai: Run) -> None:
    done = flexai("history", "--since", "2020")
    assert (done.code, done.error) == (2, "--since '2020' is no time")
    assert "24h" in done.hint


@pytest.mark.parametrize("wrong", [("--since", "yesterday"), ("--limit", "0"), ("--limit", "-1"), ("--limit", "x")])
def test_a_wrong_filter_is_wrong_usage(flexai: Run, wrong: tuple[str, str]) -> None:
    assert flexai("history", *wrong).code == 2


def test_a_deleted_checkpoints_history_is_found_by_the_name_that_it_had_and_by_its_id(shared: Run) -> None:
    shared("alice@lab", "checkpoint", "push", "llama", "-f", "a.bin")
    gone = shared("", "checkpoint", "inspect", "llama", "--json").json()["metadata"]["id"]
    shared("alice@lab", "checkpoint", "delete", "llama")
    first = [("alice@lab", "push", "llama"), ("alice@lab", "delete", "llama")]
    assert told(shared("", "checkpoint", "history", "LLAMA", "--json")) == first
    shared("bob@lab", "checkpoint", "push", "llama", "-f", "a.bin")
    assert told(shared("", "checkpoint", "history", "llama", "--json")) == [*first, ("bob@lab", "push", "llama")]
    shared("", "checkpoint", "gc", "--grace-period", "0")
    assert told(shared("", "checkpoint", "history", gone, "--json"))[:2] == first, "also when gc has taken it"


def test_the_history_of_a_captured_checkpoint_is_found_by_its_path(shared: Run) -> None:
    write = "mkdir $FLEXAI_OUTPUT_CHECKPOINT_DIR/checkpoint-5 && echo x > $FLEXAI_OUTPUT_CHECKPOINT_DIR/checkpoint-5/x"
    shared("alice@lab", "training", "run", "my-run", "--", "sh", "-c", write)
    assert told(shared("", "checkpoint", "history", "my-run/checkpoint-5", "--json")) == [
        ("alice@lab", "capture", "my-run/checkpoint-5")
    ]
    whole = told(shared("", "history", "--json"))
    assert [(by, action) for by, action, title in whole if title == "my-run"] == [
        ("alice@lab", "start"),
        ("alice@lab", "end"),
    ]
    (job,) = shared("", "training", "list", "--json").json()
    assert job["creator"] == "alice@lab"
    assert "alice@lab" in shared("", "training", "list").out
    assert shared("", "training", "inspect", "my-run", "--json").json()["metadata"]["creator"] == "alice@lab"
    (row,) = shared("", "training", "checkpoints", "my-run", "--json").json()
    assert row["creator"] == "alice@lab"


def test_what_was_never_there_has_no_history(flexai: Run, program: Program) -> None:
    assert flexai("checkpoint", "history", "llama").code == 3
    assert flexai("checkpoint", "history", "no name").code == 2
    assert flexai("history", "--json").json() == []
    assert not program.home.exists(), "to look makes nothing"


def test_lists_and_documents_name_who_made_a_checkpoint(shared: Run) -> None:
    shared("alice@lab", "checkpoint", "push", "llama", "-f", "a.bin")
    shared("bob@lab", "checkpoint", "push", "mistral", "-f", "a.bin")
    assert [row["creator"] for row in shared("", "checkpoint", "list", "--json").json()] == ["alice@lab", "bob@lab"]
    found: dict[str, Any] = {
        name: json.loads(shared("", "checkpoint", "inspect", name, "--json").out)["metadata"]
        for name in ("llama", "mistral")
    }
    assert [found[name]["creator"] for name in found] == ["alice@lab", "bob@lab"]
    assert found["llama"]["creatorUserID"] != found["mistral"]["creatorUserID"]
    assert found["llama"]["ownerOrgID"] == found["mistral"]["ownerOrgID"]


def test_texts_of_others_in_the_history_cannot_command_a_terminal(shared: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "\x1b[31mevil")
    shared("", "checkpoint", "push", "llama", "-f", "a.bin")
    assert "\x1b" not in shared("", "history").out
