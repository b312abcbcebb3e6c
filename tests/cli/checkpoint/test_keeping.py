"""Delete, undelete, gc, verify and recover: looking after checkpoints."""

from __future__ import annotations

import uuid
from datetime import datetime

import pytest

from flexai.checkpoints.service.repair import Repair, RepairReport
from flexai.cli import terminal
from tests.cli.conftest import Run
from tests.cli.program import Program


@pytest.fixture(autouse=True)
def pushed(flexai: Run, program: Program) -> None:
    program.file("a.bin", b"x" * 2048)
    assert flexai("checkpoint", "push", "my-name", "-f", "a.bin").code == 0


def _damage(program: Program) -> None:
    for blob in (program.home / "store/blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o600)
            blob.write_bytes(b"y" * blob.stat().st_size)


def _lose(program: Program, *, blobs: bool = False) -> None:
    """The catalog is gone, and with it, where that is said, all that the store has of content."""
    for path in [*program.home.glob("catalog.db*"), *((program.home / "store/blobs").rglob("*") if blobs else ())]:
        if path.is_file():
            path.unlink()


def test_delete_says_how_to_bring_it_back(flexai: Run, program: Program) -> None:
    done = flexai("checkpoint", "delete", "my-name")
    assert (done.code, done.out) == (0, "")
    words = done.hint.split()
    assert words[:3] == ["flexai", "checkpoint", "undelete"]
    assert flexai(*words[1:4]).code == 0
    assert flexai("checkpoint", "inspect", "my-name").code == 0


def test_the_name_is_free_at_once(flexai: Run, program: Program) -> None:
    assert flexai("checkpoint", "delete", "MY-NAME").code == 0
    assert flexai("checkpoint", "delete", "my-name").code == 3
    assert flexai("checkpoint", "push", "my-name", "-f", "a.bin").code == 0


def test_undelete_under_a_name_that_is_taken_shows_the_way_out(flexai: Run) -> None:
    flexai("checkpoint", "delete", "my-name")
    flexai("checkpoint", "push", "my-name", "-f", "a.bin")
    done = flexai("checkpoint", "undelete", "my-name")
    assert done.code == 4
    assert "--name" in done.hint
    again = flexai("checkpoint", "undelete", "my-name", "--name", "other-name")
    assert (again.code, again.out) == (0, "")
    assert "checkpoint 'other-name' is available again" in again.err


def test_undelete_of_what_was_never_there_is_not_found(flexai: Run) -> None:
    assert flexai("checkpoint", "undelete", str(uuid.uuid4())).code == 3
    assert flexai("checkpoint", "undelete", "my-name", "--name", "a b").code == 2


def test_gc_takes_nothing_before_its_time_and_says_what_it_would_take(flexai: Run) -> None:
    flexai("checkpoint", "delete", "my-name")
    nothing = "0 bytes in 0 blobs: 0 deleted checkpoints, 0 abandoned pushes\n"
    assert flexai("checkpoint", "gc").out == f"freed {nothing}"
    assert flexai("checkpoint", "gc", "--grace-period", "99999999999w").out == f"freed {nothing}"
    all_of_it = "2 KiB in 1 blob: 1 deleted checkpoint, 0 abandoned pushes\n"
    planned = flexai("checkpoint", "gc", "--dry-run", "--grace-period", "0s")
    assert planned.out.splitlines()[2].split("|")[:3] == ["  free   ", " my-name    ", " 2 KiB "]
    assert planned.err.startswith("gc would free 1 checkpoint (2 KiB): 2 KiB freed\n")
    assert flexai("checkpoint", "gc", "--grace-period", "0s").out == f"freed {all_of_it}"
    assert flexai("checkpoint", "undelete", "my-name").code == 3


def test_gc_takes_unreferenced_blobs_where_it_is_asked_to(flexai: Run, program: Program) -> None:
    blob = program.home / "store/blobs/ab" / f"ab{uuid.uuid4().hex[2:]}"
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(b"z" * 3000)
    left = flexai("checkpoint", "gc", "--grace-period", "0s")
    assert "1 unreferenced blob: the catalog does not know it" in left.err
    assert "gc --unreferenced takes the others" in left.hint
    planned = flexai("checkpoint", "gc", "--unreferenced", "--grace-period", "0s", "--dry-run", "--json").json()
    assert [(step["name"], step["sizeBytes"]) for step in planned["steps"]] == [("unreferenced blobs", 3000)]
    young = flexai("checkpoint", "gc", "--unreferenced", "--json").json()
    assert (young["unreferenced"], young["collectedUnreferenced"]) == ([blob.name], [])
    done = flexai("checkpoint", "gc", "--unreferenced", "--grace-period", "0s", "--json").json()
    assert (done["unreferenced"], done["collectedUnreferenced"], done["freedBytes"]) == ([], [blob.name], 3000)
    assert flexai("checkpoint", "gc", "--unreferenced").out.endswith("abandoned pushes, 0 unreferenced blobs\n")
    assert flexai("checkpoint", "fetch", "my-name", "-d", "out").code == 0


@pytest.mark.parametrize("text", ["soon", "-1d", "7 years", "1e3"])
def test_a_grace_period_that_is_none_is_wrong_usage(flexai: Run, text: str) -> None:
    done = flexai("checkpoint", "gc", f"--grace-period={text}")
    assert (done.code, done.error) == (2, f"--grace-period {text!r} is no duration")


def test_verify_says_that_all_is_well(flexai: Run) -> None:
    for references in ([], ["my-name"]):
        done = flexai("checkpoint", "verify", *references)
        assert (done.code, done.out) == (0, "")
        assert done.err == "verified 1 file, 2 KiB: no damage\n"


def test_verify_names_damaged_files_and_who_needs_them(flexai: Run, program: Program) -> None:
    flexai("checkpoint", "push", "other-name", "--from-checkpoint", "my-name")
    _damage(program)
    done = flexai("checkpoint", "verify")
    assert done.code == 6
    assert [line.rpartition(": ")[0] for line in done.out.splitlines()] == ["my-name: a.bin", "other-name: a.bin"]
    assert "a.bin of my-name" in done.error


def test_verify_prints_all_damage_for_programs_and_says_some_of_it(flexai: Run, program: Program) -> None:
    for number in range(terminal.MOST_LINES):
        assert flexai("checkpoint", "push", f"copy-{number}", "--from-checkpoint", "my-name").code == 0
    _damage(program)
    plain = flexai("checkpoint", "verify")
    assert len(plain.out.splitlines()) == terminal.MOST_LINES + 1
    done = flexai("checkpoint", "verify", "--json", "--progress", "none")
    assert (done.code, done.error) == (6, plain.error)
    document = done.json()
    assert document["damagedContents"] == 1
    (damaged,) = document["damaged"]
    assert [f"{one['checkpoint']}: {one['path']}: {damaged['problem']}" for one in damaged["files"]] == (
        plain.out.splitlines()
    )
    said = done.err.splitlines()
    assert said[: terminal.MOST_LINES] == plain.out.splitlines()[: terminal.MOST_LINES]
    assert said[terminal.MOST_LINES] == "… and 1 more, which --json shows"


def test_verify_prints_what_was_repaired_for_programs(
    flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tuple((f"copy-{number}", "a.bin") for number in range(terminal.MOST_LINES + 1))
    repaired = Repair("blob", 1, users, source="share:bucket/place")
    monkeypatch.setattr("flexai.checkpoints.service.verify.repair", lambda *_, **__: RepairReport(repaired=(repaired,)))
    done = flexai("checkpoint", "verify", "--repair", "--json", "--progress", "none")
    assert (done.code, done.json()["repairedContents"]) == (0, 1)
    (shown,) = done.json()["repaired"]
    assert (shown["source"], len(shown["files"])) == ("share:bucket/place", terminal.MOST_LINES + 1)
    assert done.err.count("repaired from share:bucket/place") == terminal.MOST_LINES
    assert "… and 1 more, which --json shows\n" in done.err


def test_verify_says_what_it_could_not_repair_and_a_push_of_the_same_heals_it(flexai: Run, program: Program) -> None:
    _damage(program)
    done = flexai("checkpoint", "verify", "--repair")
    assert done.code == 6
    assert "could not be repaired: a.bin of my-name" in done.err
    told = flexai("checkpoint", "verify", "--repair", "--json", "--progress", "none")
    (unrepaired,) = told.json()["unrepaired"]
    assert (told.code, unrepaired["files"]) == (6, [{"checkpoint": "my-name", "path": "a.bin"}])
    assert "no checkpoint that has it was exported" in unrepaired["problem"]
    assert "no checkpoint that has it was exported" in done.hint
    pushed = flexai("checkpoint", "push", "again", "-f", "a.bin")
    assert pushed.code == 0
    assert "healed what was damaged in the store: a.bin of my-name" in pushed.err
    assert flexai("checkpoint", "verify").code == 0


def test_verify_of_an_unknown_checkpoint_is_not_found(flexai: Run) -> None:
    assert flexai("checkpoint", "verify", "unknown").code == 3


def test_recover_rebuilds_a_lost_catalog(flexai: Run, program: Program) -> None:
    before = flexai("checkpoint", "inspect", "my-name", "--json").json()
    _lose(program)
    done = flexai("checkpoint", "recover")
    assert (done.code, done.out) == (0, "recovered my-name\n")
    after = flexai("checkpoint", "inspect", "my-name", "--json").json()
    assert after["metadata"] == before["metadata"]
    assert [file["digestOrigin"] for file in after["status"]["files"]] == ["claimed"]
    assert flexai("checkpoint", "verify").code == 0
    after = flexai("checkpoint", "inspect", "my-name", "--json").json()
    assert after["status"]["files"] == before["status"]["files"]
    assert flexai("checkpoint", "recover").err == "recovered 0 checkpoints; 1 known already\n"


def test_recover_reads_a_manifest_that_is_too_large_where_it_is_told_to(flexai: Run, program: Program) -> None:
    _lose(program)
    done = flexai("checkpoint", "recover", "--max-manifest-size", "100")
    assert (done.code, done.out) == (6, "")
    assert "it is longer than 100 bytes" in done.err
    assert "--max-manifest-size reads it" in done.err
    assert flexai("checkpoint", "recover", "--max-manifest-size", "1GiB").out == "recovered my-name\n"
    assert flexai("checkpoint", "recover", "--max-manifest-size", "much").code == 2


def test_recover_names_what_it_cannot_bring_back(flexai: Run, program: Program) -> None:
    checkpoint_id = flexai("checkpoint", "inspect", "my-name", "--json").json()["metadata"]["id"]
    _lose(program, blobs=True)
    done = flexai("checkpoint", "recover")
    assert done.code == 6
    assert f"warning: {checkpoint_id}: the content of 'a.bin' is not in the store" in done.err


def test_recover_prints_what_came_back_for_programs(flexai: Run, program: Program) -> None:
    checkpoint_id = flexai("checkpoint", "inspect", "my-name", "--json").json()["metadata"]["id"]
    _lose(program)
    done = flexai("checkpoint", "recover", "--json", "--progress", "none")
    assert (done.code, done.err) == (0, "recovered 1 checkpoint; 0 known already\n")
    assert done.json() == {
        "store": str(program.home / "store"),
        "takenFrom": None,
        "recoveredCheckpoints": [{"id": checkpoint_id, "title": "my-name"}],
        "recoveredJobs": [],
        "knownCheckpoints": 0,
        "writtenAnew": [],
        "problems": [],
    }
    again = flexai("checkpoint", "recover", "--json", "--progress", "none").json()
    assert (again["recoveredCheckpoints"], again["knownCheckpoints"]) == ([], 1)


def test_recover_says_for_programs_whose_store_it_has_taken(
    flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXAI_DATABASE_URL", f"sqlite:///{program.home / 'other.db'}")
    done = flexai("checkpoint", "recover", "--force", "--json", "--progress", "none")
    former = done.json()["takenFrom"]
    assert former["place"].endswith(str(program.home / "catalog.db"))
    assert datetime.fromisoformat(former["usedAt"]).tzinfo is not None
    assert former["place"] in done.err


def test_of_very_many_checkpoints_that_are_lost_some_are_named_and_all_of_them_in_json(
    flexai: Run, program: Program
) -> None:
    for number in range(terminal.MOST_LINES + 2):
        assert flexai("checkpoint", "push", f"copy-{number}", "--from-checkpoint", "my-name").code == 0
    _lose(program, blobs=True)
    done = flexai("checkpoint", "recover")
    warnings = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == terminal.MOST_LINES + 1
    assert warnings[-1] == "warning: … and 3 more, which --json shows"
    assert done.error == f"{terminal.MOST_LINES + 3} checkpoints or jobs could not be recovered as they were"
    told = flexai("checkpoint", "recover", "--json", "--progress", "none")
    assert (told.code, told.error) == (6, done.error)
    problems = told.json()["problems"]
    assert len(problems) == terminal.MOST_LINES + 3
    assert {one["problem"] for one in problems} == {"the content of 'a.bin' is not in the store"}
    assert told.err.count("warning: ") == terminal.MOST_LINES + 1
