"""Home folders that earlier versions have written are read, and continued, by this one."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Program
from tests.compatibility.write_home import SETTINGS, SHOWN, write_sources

HOMES = sorted(Path(__file__).parent.glob("home-*.tar.gz"))


@pytest.fixture(params=HOMES, ids=[home.name.removesuffix(".tar.gz") for home in HOMES])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    """The program, in a home that an earlier version has written, among the sources that it had pushed."""
    program = Program(tmp_path)
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    write_sources(program.cwd)
    program.environment |= SETTINGS
    return program


def shown_by_the_version_before(program: Program, name: str) -> Any:
    return json.loads((program.home.parent / "shown" / f"{name}.json").read_text())


def shown_of_the_same(now: Any, before: Any) -> Any:
    """What is shown now without the fields that the version before did not show."""
    if isinstance(now, dict) and isinstance(before, dict):
        return {key: shown_of_the_same(value, before[key]) for key, value in now.items() if key in before}
    if isinstance(now, list) and isinstance(before, list):
        return [shown_of_the_same(*pair) for pair in zip(now, before, strict=True)]
    return now


@pytest.mark.parametrize("name", SHOWN)
def test_everything_is_shown_as_the_version_that_wrote_it_shows_it(older: Program, name: str) -> None:
    before = shown_by_the_version_before(older, name)
    assert shown_of_the_same(older.run(*SHOWN[name]).json(), before) == before


def test_what_earlier_versions_did_not_know_is_empty(older: Program) -> None:
    for row in older.run("training", "checkpoints", "digits", "--json").json():
        assert row["metrics"] == {}
        metadata = older.run("checkpoint", "inspect", row["id"], "--json").json()["status"]["metadata"]
        assert (metadata["metrics"], metadata["pointers"]) == ({}, [])
    assert older.run("training", "inspect", "digits", "--json").json()["status"] == {"lost": 0}


def test_every_byte_is_fetched_as_it_was_pushed(older: Program) -> None:
    for name in ("small", "large", "again"):
        assert older.run("checkpoint", "fetch", name, "-d", f"out/{name}").code == 0
        source, fetched = older.cwd / ("large" if name == "large" else "small"), older.cwd / "out" / name
        paths = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
        assert {path.relative_to(fetched) for path in fetched.rglob("*") if path.is_file()} == paths
        assert all((fetched / path).read_bytes() == (source / path).read_bytes() for path in paths)
    assert older.run("checkpoint", "verify").code == 0


def test_an_interrupted_push_goes_on_where_it_stopped(older: Program) -> None:
    done = older.run("checkpoint", "push", "slow", "-f", "slow.bin", "--progress", "json")
    assert done.code == 0
    events = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    assert max(event.get("skippedBytes", 0) for event in events) >= 64 * 1024
    assert older.run("checkpoint", "fetch", "slow", "-d", "out").code == 0
    assert (older.cwd / "out" / "slow.bin").read_bytes() == (older.cwd / "slow.bin").read_bytes()


def test_what_was_deleted_comes_back_and_what_is_protected_stays(older: Program) -> None:
    assert older.run("checkpoint", "undelete", "gone").code == 0
    assert older.run("checkpoint", "fetch", "gone", "-d", "out").code == 0
    assert (older.cwd / "out" / "notes.txt").read_text() == "notes"
    assert older.run("checkpoint", "delete", "large", "--yes").code != 0


def test_what_is_pushed_again_moves_nothing(older: Program) -> None:
    before = {path for path in (older.home / "store" / "blobs").rglob("*") if path.is_file()}
    assert older.run("checkpoint", "push", "large", "-f", "large", "--if-not-exists").code == 0
    assert older.run("checkpoint", "push", "copy", "-f", "large").code == 0
    assert {path for path in (older.home / "store" / "blobs").rglob("*") if path.is_file()} == before


def test_a_job_that_failed_is_run_again_from_what_it_had_captured(older: Program) -> None:
    captured = shown_by_the_version_before(older, "captured")[-1]["id"]
    script = "import os, pathlib; print(sorted(os.listdir(os.environ['FLEXAI_INPUT_CHECKPOINT_DIR'])))"
    done = older.run("training", "run", "digits", "--checkpoint", captured, "--", "python3", "-c", script)
    assert done.code == 0
    assert "['trainer_state.json', 'weights.bin']" in done.out
    assert older.run("training", "inspect", "digits", "--json").json()["runtime"]["attempt"] == 2


def test_a_lost_catalog_is_rebuilt_from_the_store(older: Program) -> None:
    for file in older.home.glob("catalog.db*"):
        file.unlink()
    assert older.run("checkpoint", "recover").code == 0
    found = {one["name"] for one in older.run("checkpoint", "list", "--json").json()}
    assert found >= {"small", "large", "again"}


def test_what_is_made_now_belongs_to_the_organisation_of_what_there_was(older: Program) -> None:
    assert older.run("checkpoint", "push", "new", "-f", "small/0.bin", env={"FLEXAI_OWNER": "bob@lab"}).code == 0
    shown = [older.run("checkpoint", "inspect", name, "--json").json()["metadata"] for name in ("new", "small")]
    assert shown[0]["ownerOrgID"] == shown[1]["ownerOrgID"]


def test_the_store_learns_what_only_the_catalog_knew(older: Program) -> None:
    assert older.run("checkpoint", "push", "new", "-f", "small/0.bin").code == 0
    for file in older.home.glob("catalog.db*"):
        file.unlink()
    assert older.run("checkpoint", "recover").code == 0
    assert "gone" not in {one["name"] for one in older.run("checkpoint", "list", "--json").json()}
    assert {one["name"] for one in older.run("checkpoint", "list", "--deleted", "--json").json()} >= {"gone"}
    assert older.run("checkpoint", "delete", "large", "--yes").code != 0
    (job,) = older.run("training", "list", "--json").json()
    assert (job["name"], job["status"]) == ("digits", "failed")
