from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from flexai.checkpoints.catalog.leases import process_start, this_host
from flexai.checkpoints.models import JobStatus, now
from flexai.checkpoints.names import new_id
from flexai.checkpoints.training.job_files import AttemptEnd, AttemptPlaces, LeftAttempt, end_of, left_attempts

JOB = new_id()


@pytest.fixture
def places(tmp_path: Path) -> AttemptPlaces:
    made = AttemptPlaces.of(tmp_path / "jobs", JOB, 1)
    made.make()
    return made


def test_every_attempt_has_an_empty_output_directory_of_its_own(places: AttemptPlaces, tmp_path: Path) -> None:
    (places.output / "model.bin").touch()
    second = AttemptPlaces.of(tmp_path / "jobs", JOB, 2)
    second.make()
    assert list(second.output.iterdir()) == []


def test_pins_lie_on_the_file_system_of_the_output(places: AttemptPlaces, tmp_path: Path) -> None:
    users = AttemptPlaces.of(tmp_path / "jobs", JOB, 1, tmp_path / "scratch" / "out")
    assert places.pins.parent == places.output.parent
    assert users.pins == tmp_path / "scratch" / ".out.flexai-pins"


def test_a_folder_of_a_job_is_its_owners_alone(places: AttemptPlaces) -> None:
    assert places.folder.stat().st_mode & 0o077 == 0


def test_output_that_was_captured_is_removed_and_the_log_kept(places: AttemptPlaces) -> None:
    places.log.write_text("log")
    places.input.mkdir()
    places.clean(keep_output=False)
    assert [path.name for path in places.folder.iterdir()] == ["log.txt"]
    places.clean(keep_output=False)


def test_output_that_was_not_captured_is_kept(places: AttemptPlaces) -> None:
    places.input.mkdir()
    places.clean(keep_output=True)
    assert places.output.is_dir()
    assert not places.input.exists()


def test_a_directory_that_the_user_named_is_never_removed(tmp_path: Path) -> None:
    places = AttemptPlaces.of(tmp_path / "jobs", JOB, 1, tmp_path / "deep" / "out")
    places.make()
    places.clean(keep_output=False)
    assert (tmp_path / "deep" / "out").is_dir()


def left(tmp_path: Path, before: int = 2) -> list[LeftAttempt]:
    return list(left_attempts(tmp_path / "jobs", JOB, before=before))


def test_an_attempt_of_which_nothing_is_left_to_do_has_only_its_log(places: AttemptPlaces, tmp_path: Path) -> None:
    places.mark_running(os.getpid())
    places.log.touch()
    assert [one.name for one in left(tmp_path)] == ["attempt-1"]
    places.clean(keep_output=False)
    places.unmark()
    assert left(tmp_path) == []


def test_an_attempt_of_an_earlier_version_that_left_its_output_is_seen_without_a_mark(
    places: AttemptPlaces, tmp_path: Path
) -> None:
    (one,) = left(tmp_path)
    assert (one.places, one.end) == (places, None)


def test_how_an_attempt_ended_is_kept_until_nothing_is_left(places: AttemptPlaces, tmp_path: Path) -> None:
    places.mark_running(os.getpid())
    assert end_of(places.folder) is None
    end = AttemptEnd(JobStatus.FAILED, 3, "it broke", lost=2, ended_at=now(), is_swept=True)
    places.mark_ended(end)
    (one,) = left(tmp_path)
    assert (one.end, one.pid, end_of(places.folder)) == (end, os.getpid(), end)


def test_an_output_whose_removal_was_cut_off_is_not_taken_for_an_output(
    places: AttemptPlaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places.output / "model.bin").touch()
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda _folder: None)
        places.clean(keep_output=False)
    assert not places.output.exists()
    assert [one.name for one in left(tmp_path)] == ["attempt-1"]
    places.clean(keep_output=False)
    assert list(places.folder.iterdir()) == []


def test_what_no_rule_knows_is_set_aside_where_no_attempt_looks_again(places: AttemptPlaces, tmp_path: Path) -> None:
    (places.output / "deep").mkdir()
    (places.output / "deep" / "weights.custom").write_text("kept")
    kept = places.set_aside(["deep/weights.custom", "gone"])
    assert (kept / "deep" / "weights.custom").read_text() == "kept"
    places.clean(keep_output=False)
    assert left(tmp_path) == []


def test_the_attempt_that_runs_now_is_not_left(places: AttemptPlaces, tmp_path: Path) -> None:
    places.mark_running()
    assert left(tmp_path, before=1) == []


def test_a_broken_attempt_knows_the_directory_that_the_user_named(tmp_path: Path) -> None:
    places = AttemptPlaces.of(tmp_path / "jobs", JOB, 1, tmp_path / "out")
    places.make()
    places.mark_running()
    (broken,) = left(tmp_path)
    assert broken.places == places


@pytest.mark.parametrize("text", ['{"host": ', "[]", '{"isUsersOutput": false}', "null"])
def test_a_mark_that_is_damaged_is_no_mark(places: AttemptPlaces, tmp_path: Path, text: str) -> None:
    (places.folder / "running.json").write_text(text)
    (one,) = left(tmp_path)
    assert (one.pid, one.end) == (None, None)


def test_a_command_that_outlived_its_runner_is_ended(places: AttemptPlaces, tmp_path: Path) -> None:
    command = subprocess.Popen(["sleep", "600"], start_new_session=True)
    places.mark_running(command.pid)
    (broken,) = left(tmp_path)
    broken.end_command(0.1)
    assert process_start(command.pid) is None
    assert command.wait() == -signal.SIGTERM


@pytest.mark.parametrize("change", [{"host": "another"}, {"processStarted": "0"}, {"pid": None}])
def test_a_process_that_only_has_the_commands_id_is_left_alone(
    places: AttemptPlaces, tmp_path: Path, change: dict[str, object]
) -> None:
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    places.mark_running(other.pid)
    mark = places.folder / "running.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | change))
    (broken,) = left(tmp_path)
    broken.end_command(0.0)
    time.sleep(0.05)
    assert other.poll() is None
    other.kill()
    other.wait()


def test_the_mark_names_this_machine(places: AttemptPlaces) -> None:
    places.mark_running()
    assert json.loads((places.folder / "running.json").read_text())["host"] == this_host()
