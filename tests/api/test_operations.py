"""Each function is the operation of the command: it does the same, and its result is the same document."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flexai
from flexai import errors
from flexai.checkpoints.models import ListedCheckpoint
from flexai.checkpoints.settings import DATABASE_FILE, load_settings
from tests.checkpoints.training.trainers import program as trainer
from tests.cli.conftest import Run
from tests.cli.program import Program
from tests.support.trees import flip_byte

SAVE = "save(output() / 'checkpoint-5', trainer_files(5))"


def as_json(value: Any) -> Any:
    """A document as the command prints it; refuses what JSON does not know."""
    return json.loads(json.dumps(value, allow_nan=False))


def frozen(value: Any) -> Any:
    """The document of a result, which is a frozen dataclass."""
    assert type(value).__dataclass_params__.frozen
    return as_json(value.to_dict())


@pytest.fixture
def command(flexai: Run) -> Callable[..., Any]:
    """The command's ``--json`` document."""

    def run(*arguments: str) -> Any:
        done = flexai(*arguments, "--json")
        assert done.code == 0, done.err
        return done.json()

    return run


@pytest.fixture
def pushed(files: Path) -> flexai.CheckpointDetails:
    """A checkpoint that Python pushed."""
    return flexai.push("my-model", files=files)


def test_a_push_returns_what_inspect_prints(pushed: flexai.CheckpointDetails, command: Callable[..., Any]) -> None:
    assert frozen(pushed) == command("checkpoint", "inspect", "my-model")
    assert [(file.path, file.size) for file in pushed.files] == [("weights.bin", 1024)]


def test_inspect_returns_what_the_commands_print(files: Path, command: Callable[..., Any]) -> None:
    printed = command("checkpoint", "push", "my-model", "--file", "out")
    assert frozen(flexai.inspect("my-model")) == printed == command("checkpoint", "inspect", "my-model")


def test_inspect_tells_what_a_file_runs(files: Path, program: Program, command: Callable[..., Any]) -> None:
    program.file("out/code.pkl", pickle.dumps(print))
    flexai.push("with-code", files="out")
    found = flexai.inspect("with-code", executable=True)
    assert [(file.path, file.executable) for file in found.files] == [
        ("code.pkl", ("builtins.print",)),
        ("weights.bin", ()),
    ]
    assert frozen(found) == command("checkpoint", "inspect", "with-code", "--executable")


def test_inspect_and_diff_tell_of_tensors_as_the_commands_do(
    files: Path, program: Program, command: Callable[..., Any]
) -> None:
    for name, number in (("one", 0), ("two", 1)):
        header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
        program.file(f"{name}/a.safetensors", len(header).to_bytes(8, "little") + header + bytes([number]))
        program.file(f"{name}/b.npy", b"torn")
        flexai.push(name, files=name)
    found = flexai.inspect("one", tensors=True)
    assert found.tensors is not None and [one.name for one in found.tensors["a.safetensors"]] == ["w"]
    assert list(found.tensors_not_read) == ["b.npy"]
    assert frozen(found) == command("checkpoint", "inspect", "one", "--tensors")
    differing = flexai.diff("one", "two", values=True)
    assert frozen(differing) == command("checkpoint", "diff", "one", "two", "--values")
    assert [(one.name, one.are_values_equal) for one in differing.tensors or ()] == [("w", False)]
    results = [found, differing]
    assert set(results) == {copy.deepcopy(one) for one in results}


def test_lists_are_those_of_the_command(pushed: flexai.CheckpointDetails, command: Callable[..., Any]) -> None:
    flexai.push("other", from_checkpoint="my-model")
    assert [frozen(one) for one in flexai.list_checkpoints()] == command("checkpoint", "list")
    assert [one.name for one in flexai.list_checkpoints()] == ["my-model", "other"]
    flexai.delete("other")
    assert [frozen(one) for one in flexai.list_checkpoints(deleted=True)] == command("checkpoint", "list", "--deleted")
    assert [one.name for one in flexai.list_checkpoints()] == ["my-model"]


def test_a_training_job_s_checkpoints_are_those_of_the_command(
    files: Path, program: Program, command: Callable[..., Any]
) -> None:
    assert program.run("training", "run", "my-run", "--", *trainer(SAVE)).code == 0
    captured = flexai.checkpoints("my-run")
    assert [frozen(one) for one in captured] == command("training", "checkpoints", "my-run")
    assert [(one.title, one.step) for one in captured] == [("my-run/checkpoint-5", 5)]
    flexai.delete("my-run/checkpoint-5")
    assert [frozen(one) for one in flexai.list_checkpoints(deleted=True)] == command("checkpoint", "list", "--deleted")
    with pytest.raises(errors.NotFoundError):
        flexai.checkpoints("unknown")


def test_the_command_the_task_and_python_list_the_same_checkpoints_of_a_job(
    files: Path, program: Program, command: Callable[..., Any]
) -> None:
    from flexai.tasks import list_training_checkpoints

    saves = "\n".join(f"save(output() / 'checkpoint-{step}', trainer_files({step}))" for step in (5, 6))
    assert program.run("training", "run", "my-run", "--", *trainer(saves)).code == 0
    with contextlib.closing(sqlite3.connect(program.home / DATABASE_FILE)) as catalog, catalog:
        catalog.execute("UPDATE checkpoints SET status = 'failed' WHERE name = 'checkpoint-6'")
    captured = flexai.checkpoints("my-run")
    assert [one.name for one in captured] == ["checkpoint-5"]
    printed = command("training", "checkpoints", "my-run")
    assert [frozen(one) for one in captured] == printed == as_json(list_training_checkpoints.fn("my-run"))


def test_a_summary_has_every_field_of_a_row() -> None:
    assert {one.name for one in dataclasses.fields(flexai.CheckpointSummary)} == set(ListedCheckpoint._fields)


def test_results_can_be_kept_in_sets_and_sent_to_other_processes(pushed: flexai.CheckpointDetails, files: Path) -> None:
    (listed,) = flexai.list_checkpoints()
    results = [pushed, listed, flexai.fetch("my-model", "out"), flexai.verify(), flexai.delete("my-model")]
    results.append(flexai.undelete("my-model"))
    assert set(results) == {copy.deepcopy(one) for one in results}  # by what pickling goes by as well


def test_a_fetch_returns_what_the_command_prints(
    pushed: flexai.CheckpointDetails, program: Program, command: Callable[..., Any]
) -> None:
    fetched = flexai.fetch("my-model", Path("restored"))
    assert (fetched.fetched_files, fetched.kept_files, fetched.moved_bytes) == (1, 0, 1024)
    assert (program.cwd / "restored" / "weights.bin").read_bytes() == bytes(1024)
    assert frozen(flexai.fetch("my-model", "restored")) == command("checkpoint", "fetch", "my-model", "-d", "restored")


@pytest.mark.parametrize("destination", ["a\0b", "a\ud800b", "~no-such-user/x", "config.json", "config.json/x"])
def test_a_destination_that_cannot_be_is_an_error_of_ours(pushed: flexai.CheckpointDetails, destination: str) -> None:
    with pytest.raises((errors.UsageError, errors.DestinationExistsError)):
        flexai.fetch("my-model", destination)


def test_delete_and_undelete_return_what_the_commands_print(
    pushed: flexai.CheckpointDetails, command: Callable[..., Any]
) -> None:
    deleted = frozen(flexai.delete("my-model"))
    restored = frozen(flexai.undelete("my-model"))
    assert command("checkpoint", "delete", "my-model") == deleted
    assert command("checkpoint", "undelete", "my-model") == restored
    flexai.delete("my-model")
    assert flexai.undelete(pushed.id, "again").title == "again"


def test_protect_and_unprotect_return_what_the_commands_print(
    pushed: flexai.CheckpointDetails, command: Callable[..., Any]
) -> None:
    flexai.push("other", from_checkpoint="my-model")
    both = [frozen(one) for one in flexai.protect(["my-model", "other"])]
    assert command("checkpoint", "protect", "my-model", "other") == {"checkpoints": both}
    assert flexai.inspect("my-model").is_protected
    with pytest.raises(errors.ConflictError, match="is protected"):
        flexai.delete("other")
    (freed,) = flexai.unprotect("other")
    assert command("checkpoint", "unprotect", "other") == {"checkpoints": [frozen(freed)]}
    assert flexai.delete("other").name == "other"
    with pytest.raises(errors.UsageError, match="no checkpoint is named"):
        flexai.protect([])


def test_a_verification_returns_what_the_command_prints(
    pushed: flexai.CheckpointDetails, command: Callable[..., Any]
) -> None:
    assert frozen(flexai.verify()) == command("checkpoint", "verify")
    assert flexai.verify("my-model").checked_bytes == 1024


def test_damage_is_an_error_that_names_each_file(
    pushed: flexai.CheckpointDetails, program: Program, flexai: Run
) -> None:
    import flexai as api

    flip_byte(next(path for path in (program.home / "store" / "blobs").rglob("*") if path.is_file()), 7)
    with pytest.raises(errors.IntegrityError) as raised:
        api.verify()
    (damage,) = raised.value.damaged
    assert damage.users == (("my-model", "weights.bin"),)
    assert copy.copy(raised.value).damaged == (damage,)  # by what pickling goes by as well
    with pytest.raises(errors.IntegrityError) as unrepaired:
        api.verify(repair=True)
    assert [one.users for one in unrepaired.value.damaged] == [damage.users]
    done = flexai("checkpoint", "verify", "--json")
    assert (done.code, json.loads(done.out)["damagedContents"]) == (6, 1)
    assert f"my-model: weights.bin: {damage.problem}" in done.err


def test_sources_are_a_path_a_text_or_several_of_both(files: Path) -> None:
    assert [file.path for file in flexai.push("one", files="config.json").files] == ["config.json"]
    assert [file.path for file in flexai.push("two", files=Path("config.json")).files] == ["config.json"]
    both = flexai.push("both", files=(one for one in (files, "config.json=extra/config.json")))
    assert [file.path for file in both.files] == ["extra/config.json", "weights.bin"]


def test_a_push_of_the_same_is_no_error_where_that_is_said(pushed: flexai.CheckpointDetails) -> None:
    with pytest.raises(errors.AlreadyExistsError):
        flexai.push("my-model", files="out")
    assert flexai.push("my-model", files="out", if_not_exists=True) == pushed
    assert flexai.push("my-model", from_checkpoint="my-model", if_not_exists=True) == pushed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "there is nothing to push"),
        ({"files": "out", "from_checkpoint": "base"}, "files and from_checkpoint cannot be used together"),
        ({"files": "out", "from_provider": "share:bucket/x"}, "files and from_provider cannot be used together"),
        ({"from_checkpoint": "base", "rehash": True}, "rehash and from_checkpoint cannot be used together"),
        ({"from_provider": "share"}, "from_provider 'share' is no place at a provider"),
        ({"from_provider": "share:"}, "from_provider 'share:' is no place at a provider"),
        ({"from_provider": ":bucket/x"}, "from_provider ':bucket/x' is no place at a provider"),
        ({"from_provider": "s3://bucket/x"}, "from_provider 's3://bucket/x' is no place at a provider"),
        ({"from_provider": "s3://key:5ecret@bucket/x"}, r"from_provider 's3://key:\*\*\*@bucket/x' is no place"),
    ],
)
def test_what_makes_no_sense_together_is_refused_in_the_words_of_python(
    files: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.UsageError, match=message) as raised:
        flexai.push("my-model", **arguments)
    assert "storage_provider" not in raised.value.hint


def test_what_a_person_would_want_to_know_is_logged(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "flexai"):
        from flexai import api

        with api._system() as (_, progress):
            progress.note("a retry of \x1b[31mothers")
    assert [record.getMessage() for record in caplog.records] == ["a retry of \\u001b[31mothers"]


def test_what_another_user_made_is_deleted_with_force_alone(
    pushed: flexai.CheckpointDetails, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = load_settings()
    monkeypatch.setenv("FLEXAI_DATABASE_URL", home.effective_database_url)
    monkeypatch.setenv("FLEXAI_STORE", home.effective_store)
    monkeypatch.setenv("FLEXAI_HOME", str(tmp_path / "bob"))
    monkeypatch.setenv("FLEXAI_OWNER", "bob@lab")
    with pytest.raises(errors.NotYoursError, match=pushed.creator):
        flexai.delete(pushed.name)
    assert flexai.delete(pushed.name, force=True).id == pushed.id
