"""Training jobs from beginning to end: real commands, a real catalog and store, and what is in them afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.catalog.leases import process_start
from flexai.checkpoints.catalog.tables import jobs
from flexai.checkpoints.errors import (
    ConflictError,
    InterruptedByUserError,
    InvalidNameError,
    JobExistsError,
    JobFailedError,
    NotFoundError,
    UsageError,
)
from flexai.checkpoints.models import CheckpointStatus, JobStatus
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training import (
    delete_job,
    inspect_job,
    job_log,
    run_training,
    stop_job,
)
from flexai.checkpoints.service.training_requests import DeleteJobRequest, TrainingRequest
from flexai.checkpoints.storage.local import LocalStorage
from tests.checkpoints.training.trainers import (
    Files,
    model_files,
    trainer_files,
    unknown_files,
    weights,
)
from tests.support.faults import Call
from tests.support.fixtures import NewMachine, work_in_a_deleted_directory
from tests.support.machine import Machine, check_nothing_is_torn, lose_catalog
from tests.support.tables import tables_of
from tests.support.training import (
    SAVE,
    WAIT,
    Notes,
    captured,
    captures,
    contents,
    kill_a_runner,
    left_of,
    run,
    wait_until,
)

# A job that succeeds.


def test_a_job_runs_its_command_and_captures_what_it_writes(machine: Machine) -> None:
    job = run(
        machine,
        """
for step in (5, 10):
    save(output() / f"checkpoint-{step}", trainer_files(step, eval_loss=1 / step))
save(output(), model_files(10))
""",
    )
    assert (job.status, job.exit_code, job.reason, job.attempt) == (JobStatus.SUCCEEDED, 0, "", 1)
    assert inspect_job(machine.system, "run") == job == machine.system.catalog.jobs.list()[0]
    expected = [(f"checkpoint-{step}", trainer_files(step, eval_loss=1 / step)) for step in (5, 10)]
    assert contents(machine) == [*expected, ("", model_files(10))]
    check_nothing_is_torn(machine)


def test_a_captured_checkpoint_says_what_its_files_say(machine: Machine) -> None:
    run(machine, "save(output() / 'checkpoint-5', trainer_files(5, eval_loss=0.25)); save(output(), model_files(5))")
    first, root = captured(machine)
    assert (first.job_name, first.node, first.name) == ("run", "0", "checkpoint-5")
    assert (first.facts.step, first.facts.train_loss, first.facts.eval_loss) == (5, 0.2, 0.25)
    assert (first.facts.model, first.facts.version) == ("TinyModel", "4.57.6")
    assert first.facts.inference_ready and first.facts.resumable
    assert root.facts.inference_ready and not root.facts.resumable
    assert root.facts.resumable_missing == ("No optimizer state is there.",)


def test_output_that_was_captured_is_removed_and_the_log_is_kept(machine: Machine) -> None:
    job = run(machine, "save(output() / 'checkpoint-5', trainer_files(5))")
    assert left_of(machine, job) == {"log.txt"}


def test_a_command_that_writes_nothing_is_a_job_like_any_other(machine: Machine) -> None:
    job = run_training(machine.system, TrainingRequest("run", ["true"]))
    assert (job.status, captured(machine), left_of(machine, job)) == (JobStatus.SUCCEEDED, [], {"log.txt"})


def test_a_command_runs_though_the_working_directory_was_deleted(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_in_a_deleted_directory(tmp_path, monkeypatch)
    job = run_training(machine.system, TrainingRequest("run", ["true"]))
    assert (job.status, job.code_commit) == (JobStatus.SUCCEEDED, "")


def test_checkpoints_are_in_the_catalog_while_the_command_runs(machine: Machine, tmp_path: Path) -> None:
    seen: list[tuple[str, JobStatus]] = []

    def look(_stream: str, data: bytes) -> None:
        if b"saved" in data:
            wait_until(lambda: len(captured(machine)) > 0)
            seen.append((captured(machine)[0].name, inspect_job(machine.system, "run").status))
            (tmp_path / "seen").touch()

    run(
        machine,
        f"""
save(output() / "checkpoint-5", trainer_files(5))
say("saved")
wait_for(Path({str(tmp_path / "seen")!r}))
""",
        on_output=look,
    )
    assert seen == [("checkpoint-5", JobStatus.IN_PROGRESS)]


def test_output_passes_through_to_our_own_streams(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    run_training(machine.system, TrainingRequest("run", ["sh", "-c", "echo to out; echo to err >&2"]))
    assert capfd.readouterr() == ("to out\n", "to err\n")


def test_what_the_command_left_running_is_said_to_have_been_ended(machine: Machine) -> None:
    notes = Notes()
    run(machine, "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])", progress=notes)
    assert any("still ran when the command had ended" in message for message in notes.messages)


def test_a_job_that_has_succeeded_goes_on_from_its_latest_checkpoint(machine: Machine) -> None:
    run(machine, "save(output() / 'checkpoint-1', trainer_files(1))")
    job = run(machine, "save(output() / 'checkpoint-2', trainer_files(2))", checkpoint="latest")
    assert (job.attempt, job.status, job.input_checkpoint_name) == (2, JobStatus.SUCCEEDED, "checkpoint-1")
    assert [name for name, _ in contents(machine)] == ["checkpoint-1", "checkpoint-2"]


def test_a_job_that_has_succeeded_is_not_run_again(machine: Machine) -> None:
    job = run(machine, "print('once')")
    with pytest.raises(JobExistsError):
        run(machine, "print('twice')")
    again = run(machine, "print('twice')", reuse_succeeded=True)
    assert again == job
    # Whatever has become since of the checkpoint that it began with.
    assert run(machine, "print('twice')", reuse_succeeded=True, checkpoint="deleted-since") == job


# What trainers do.


def test_checkpoints_that_the_trainer_deletes_while_it_trains_are_all_captured(machine: Machine) -> None:
    job = run(
        machine,
        """
saved = []
for step in range(1, 51):
    saved.append(output() / f"checkpoint-{step}")
    save(saved[-1], trainer_files(step))
    rotate(2, saved)
    time.sleep(0.1)
""",
    )
    assert job.status is JobStatus.SUCCEEDED
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in range(1, 51)]
    assert [checkpoint.sequence for checkpoint in captured(machine)] == list(range(1, 51))
    assert left_of(machine, job) == {"log.txt"}


def test_checkpoints_are_captured_though_they_are_deleted_before_the_store_takes_them(
    machine: Machine, tmp_path: Path
) -> None:
    def hold_up(_number: int, call: Call) -> None:
        # The store is read once before the trainer begins.
        while call.name != "get" and not (tmp_path / "all-deleted").exists():
            time.sleep(0.01)

    machine.storage.before_call = hold_up
    run(
        machine,
        f"""
for step in range(1, 4):
    save(output() / f"checkpoint-{{step}}", trainer_files(step))
    time.sleep(0.5)
    shutil.rmtree(output() / f"checkpoint-{{step}}")
Path({str(tmp_path / "all-deleted")!r}).touch()
""",
    )
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in range(1, 4)]


def test_slow_saves_are_captured_whole(machine: Machine) -> None:
    run(
        machine,
        """
for step in (1, 2):
    save(output() / f"checkpoint-{step}", trainer_files(step), pause=0.1)
""",
    )
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in (1, 2)]


def test_checkpoints_saved_under_another_name_first_are_captured_under_their_own(machine: Machine) -> None:
    job = run(
        machine,
        """
for step in (1, 2):
    save(output() / f"tmp-checkpoint-{step}", trainer_files(step), pause=0.05)
    (output() / f"tmp-checkpoint-{step}").rename(output() / f"checkpoint-{step}")
""",
    )
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in (1, 2)]
    assert job.reason == ""


@pytest.mark.parametrize("way", ["save", "save_by_rename"])
def test_a_checkpoint_that_is_saved_over_itself_is_captured_again_and_never_half_of_each(
    new_machine: NewMachine, tmp_path: Path, way: str
) -> None:
    machine = new_machine(quiet_period=timedelta(seconds=0.3))

    def let_go_on(_stream: str, data: bytes) -> None:
        for step in map(int, data.split()):
            wait_until(lambda step=step: len(captured(machine)) == step)  # type: ignore[misc]
            (tmp_path / f"captured-{step}").touch()

    run(
        machine,
        f"""
for step in range(1, 4):
    {way}(output() / "last", trainer_files(step), pause=0.02)
    say(step)
    wait_for(Path({str(tmp_path)!r}, f"captured-{{step}}"))
for step in range(4, 30):
    {way}(output() / "last", trainer_files(step), pause=0.002)
""",
        on_output=let_go_on,
    )
    found = contents(machine)
    steps = [trainer_step(files) for _, files in found]
    assert found == [("last", trainer_files(step)) for step in steps]
    assert steps == sorted(steps)
    assert (steps[:3], steps[-1]) == ([1, 2, 3], 29)


def trainer_step(files: Files) -> int:
    """The step whose weights a checkpoint has."""
    return next(step for step in range(1, 200) if weights(step) == files["model.safetensors"])


def test_a_checkpoint_that_is_written_again_with_the_same_content_is_not_captured_again(
    new_machine: NewMachine,
) -> None:
    machine = new_machine(quiet_period=timedelta(seconds=0.1))
    job = run(
        machine,
        """
for _ in range(2):
    save(output() / "last", trainer_files(1))
    time.sleep(1.5)
""",
    )
    assert contents(machine) == [("last", trainer_files(1))]
    assert left_of(machine, job) == {"log.txt"}


def test_folders_of_unknown_format_are_captured_after_the_quiet_period(new_machine: NewMachine, tmp_path: Path) -> None:
    machine = new_machine(quiet_period=timedelta(seconds=0.3))

    def look(_stream: str, _data: bytes) -> None:
        wait_until(lambda: len(captured(machine)) > 0)
        (tmp_path / "seen").touch()

    run(
        machine,
        f"save(output() / 'run-1', unknown_files(1)); say('saved'); wait_for(Path({str(tmp_path / 'seen')!r}))",
        on_output=look,
    )
    assert contents(machine) == [("run-1", unknown_files(1))]


def test_a_symbolic_link_that_leads_elsewhere_is_left_out_and_the_job_says_so(machine: Machine) -> None:
    job = run(
        machine,
        """
save(output() / "checkpoint-1", trainer_files(1))
(output() / "checkpoint-1" / "passwd").symlink_to("/etc/passwd")
save(output() / "checkpoint-2", trainer_files(2))
time.sleep(0.3)
""",
    )
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in (1, 2)]
    assert job.status is JobStatus.SUCCEEDED
    assert "'checkpoint-1/passwd' is a link that leads elsewhere" in job.reason


def test_a_file_name_that_no_checkpoint_can_hold_keeps_its_checkpoint_out_and_no_other(machine: Machine) -> None:
    job = run(
        machine,
        """
save(output() / "checkpoint-1", {"epoch=1:step=5.pt": archive(1)})
save(output() / "checkpoint-2", trainer_files(2))
""",
    )
    assert [name for name, _ in contents(machine)] == ["checkpoint-2"]
    assert job.status is JobStatus.SUCCEEDED
    assert "'epoch=1:step=5.pt'" in job.reason


# A job that does not succeed.


def test_a_command_that_fails_is_recorded_and_what_it_had_saved_is_captured(machine: Machine) -> None:
    job = run(machine, "save(output() / 'checkpoint-5', trainer_files(5)); sys.exit(3)")
    assert (job.status, job.exit_code) == (JobStatus.FAILED, 3)
    assert job.reason == "the command ended with exit code 3"
    assert contents(machine) == [("checkpoint-5", trainer_files(5))]
    assert inspect_job(machine.system, "run") == job


def test_a_command_that_dies_in_the_middle_of_a_save_leaves_no_torn_checkpoint(machine: Machine) -> None:
    job = run(
        machine,
        """
save(output() / "checkpoint-5", trainer_files(5))
files = trainer_files(6)
save(output() / "checkpoint-6", {"model.safetensors": files["model.safetensors"]})
(output() / "checkpoint-6" / "optimizer.pt").write_bytes(files["optimizer.pt"][:50])
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert (job.status, job.exit_code) == (JobStatus.FAILED, 137)
    assert job.reason.startswith("the command was ended by SIGKILL")
    assert "checkpoint 'checkpoint-6' is not whole" in job.reason
    assert contents(machine) == [("checkpoint-5", trainer_files(5))]
    assert (Path(job.output_dir) / "checkpoint-6" / "optimizer.pt").exists()


def test_a_command_that_cannot_be_started_is_an_error_and_the_job_has_failed(machine: Machine) -> None:
    with pytest.raises(JobFailedError, match="'no-such-trainer' cannot be started: no such file") as caught:
        run_training(machine.system, TrainingRequest("run", ["no-such-trainer"]))
    job = inspect_job(machine.system, "run")
    assert (job.status, job.reason) == (JobStatus.FAILED, caught.value.message)
    assert left_of(machine, job) == {"log.txt"}
    assert run_training(machine.system, TrainingRequest("run", ["true"])).attempt == 2


def test_a_checkpoint_that_the_store_does_not_take_fails_the_job_and_is_kept(machine: Machine) -> None:
    shutil.rmtree(machine.store_folder / "blobs", ignore_errors=True)
    (machine.store_folder / "blobs").write_text("in the way")
    job = run(machine, "save(output() / 'checkpoint-5', trainer_files(5))")
    assert (job.status, job.exit_code) == (JobStatus.FAILED, 0)
    assert job.reason.startswith("the command succeeded, but not all of its checkpoints could be stored")
    kept = Path(job.output_dir) / "checkpoint-5"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == trainer_files(5)


def test_a_store_that_is_away_for_a_moment_costs_nothing(machine: Machine, tmp_path: Path) -> None:
    def fail_until_seen(number: int, _call: object) -> None:
        machine.storage.down_from = number if not (tmp_path / "up").exists() else None

    machine.storage.before_call = fail_until_seen

    def look(_stream: str, _data: bytes) -> None:
        wait_until(lambda: bool(captures(machine, "run")))
        (tmp_path / "up").touch()

    job = run(machine, "save(output() / 'checkpoint-5', trainer_files(5)); say('saved')", on_output=look)
    machine.storage.reset()
    assert job.status is JobStatus.SUCCEEDED
    assert contents(machine) == [("checkpoint-5", trainer_files(5))]
    assert [one.status for one in captures(machine, "run")] == [CheckpointStatus.AVAILABLE]


# Signals, stops and deaths.


def test_a_job_that_gets_a_signal_is_stopped_and_what_it_saved_is_captured(machine: Machine) -> None:
    def interrupt(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            os.kill(os.getpid(), signal.SIGTERM)

    job = run(machine, f"step = 5; {SAVE}; {WAIT}", on_output=interrupt)
    assert (job.status, job.exit_code, job.reason) == (JobStatus.STOPPED, 143, "preempted by SIGTERM: stored step 5")
    assert contents(machine) == [("checkpoint-5", trainer_files(5))]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_checkpoint_that_a_trainer_saves_when_it_is_told_to_stop_is_captured(machine: Machine) -> None:
    def interrupt(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            os.kill(os.getpid(), signal.SIGINT)

    job = run(
        machine,
        f"""
def save_and_leave(*_):
    save(output() / "emergency", unknown_files(7))
    sys.exit(0)
signal.signal(signal.SIGINT, save_and_leave)
{WAIT}
""",
        on_output=interrupt,
    )
    assert (job.status, job.exit_code, job.reason) == (JobStatus.STOPPED, 0, "stopped by SIGINT")
    assert contents(machine) == [("emergency", unknown_files(7))]


def test_a_command_that_ignores_the_signal_is_killed_after_the_grace_time(machine: Machine) -> None:
    def interrupt(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            os.kill(os.getpid(), signal.SIGTERM)

    text = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}"
    job = run(machine, text, on_output=interrupt, grace=timedelta(seconds=0.1))
    assert (job.status, job.exit_code) == (JobStatus.STOPPED, 137)


def test_the_grace_is_a_setting(new_machine: NewMachine) -> None:
    def interrupt(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            os.kill(os.getpid(), signal.SIGTERM)

    machine = new_machine(grace=timedelta(0))
    job = run(machine, f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}", on_output=interrupt)
    assert (job.status, job.exit_code) == (JobStatus.STOPPED, 137)


def test_a_checkpoint_that_a_trainer_saves_at_a_schedulers_signal_is_captured_and_nothing_is_stopped(
    machine: Machine,
) -> None:
    def announce(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            os.kill(os.getpid(), signal.SIGUSR1)

    job = run(
        machine,
        f"""
def save_and_leave(*_):
    save(output() / "checkpoint-7", trainer_files(7))
    sys.exit(0)
signal.signal(signal.SIGUSR1, save_and_leave)
{WAIT}
""",
        on_output=announce,
    )
    assert (job.status, job.exit_code, job.reason) == (JobStatus.SUCCEEDED, 0, "")
    assert contents(machine) == [("checkpoint-7", trainer_files(7))]


def test_a_signal_before_the_command_begins_stops_the_job(machine: Machine) -> None:
    machine.push("base", machine.write("base", trainer_files(1)))

    class Interrupting(Progress):
        def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedByUserError):
        run(machine, "", checkpoint="base", progress=Interrupting())
    job = inspect_job(machine.system, "run")
    assert (job.status, job.reason) == (JobStatus.STOPPED, "stopped by SIGINT before the command began")


def test_a_job_is_stopped_from_another_process(machine: Machine) -> None:
    code = f"""
from pathlib import Path
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training import stop_job
from flexai.checkpoints.settings import load_settings
with System.open(load_settings(home=Path({str(machine.settings.home)!r}))) as system:
    print(stop_job(system, "run").status)
"""
    answers: list[str] = []

    def stop(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            answers.append(subprocess.check_output([sys.executable, "-c", code], text=True))

    job = run(machine, f"step = 5; {SAVE}; {WAIT}", on_output=stop)
    assert answers == ["stop in progress\n"]
    assert (job.status, job.reason) == (JobStatus.STOPPED, "stopped on request")
    assert contents(machine) == [("checkpoint-5", trainer_files(5))]


def test_a_job_taken_over_by_another_process_ends_here(machine: Machine) -> None:
    pids: list[int] = []

    def take_over(_stream: str, data: bytes) -> None:
        pids.append(int(data))
        with tables_of(machine.system.catalog.database) as connection:
            connection.execute(jobs.update().values(claim_token="another"))

    with pytest.raises(ConflictError, match="taken over"):
        run(machine, "say(os.getpid()); time.sleep(600)", on_output=take_over)
    assert process_start(pids[0]) is None


def test_a_job_whose_runner_was_killed_is_interrupted_and_its_command_ends_too(machine: Machine) -> None:
    pid = kill_a_runner(machine, "")
    assert inspect_job(machine.system, "run").status is JobStatus.INTERRUPTED
    assert stop_job(machine.system, "run").status is JobStatus.INTERRUPTED
    wait_until(lambda: process_start(pid) is None)


def test_a_rerun_after_a_killed_runner_goes_on_from_the_newest_checkpoint(machine: Machine, tmp_path: Path) -> None:
    def both_are_captured() -> bool:
        return len(captured(machine)) == 2

    saves = "\n".join(f"step = {step}; {SAVE}; time.sleep(0.3)" for step in (5, 10))
    kill_a_runner(machine, f"\n{saves}\n", until=both_are_captured)
    job = run(
        machine,
        f"""
start = Path(os.environ["FLEXAI_INPUT_CHECKPOINT_DIR"])
shutil.copytree(start, {str(tmp_path / "input")!r})
step = 15; {SAVE}
""",
        checkpoint="latest",
    )
    newest = captured(machine)[1]
    assert (job.status, job.attempt, job.input_checkpoint_id) == (JobStatus.SUCCEEDED, 2, newest.id)
    assert {path.name: path.read_bytes() for path in (tmp_path / "input").iterdir()} == trainer_files(10)
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in (5, 10, 15)]
    assert captured(machine)[2].parent_id == newest.id
    assert left_of(machine, job) == {"log.txt"}
    check_nothing_is_torn(machine)


def test_checkpoints_that_a_killed_runner_had_not_stored_are_stored_by_the_next(
    new_machine: NewMachine, tmp_path: Path
) -> None:
    machine = new_machine()
    pid = kill_a_runner(
        machine,
        f"""
step = 5; {SAVE}; save(output() / "checkpoint-6", {{"model.safetensors": weights(6)[:-1]}})
""",
    )
    job = run(machine, f"step = 7; {SAVE}", checkpoint="latest")
    assert process_start(pid) is None
    assert contents(machine) == [("checkpoint-5", trainer_files(5)), ("checkpoint-7", trainer_files(7))]
    assert job.input_checkpoint_id == captured(machine)[0].id
    first = machine.settings.jobs_path / job.id / "attempt-1"
    assert {path.name for path in first.iterdir()} == {"log.txt"}, "what was torn is of no use"


def test_what_a_killed_runner_left_in_a_directory_that_the_user_named_is_stored_and_stays(
    machine: Machine, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    kill_a_runner(machine, f"\nstep = 5; {SAVE}\n", output=str(output))
    job = run(machine, "print('done')", output_dir=tmp_path / "out-2")
    assert job.status is JobStatus.SUCCEEDED
    assert contents(machine) == [("checkpoint-5", trainer_files(5))]
    assert (output / "checkpoint-5").is_dir()
    assert not list(tmp_path.glob(".*pins*"))


# Where a job starts from, and with what.

INPUT = "print(sorted(path.name for path in Path(os.environ['FLEXAI_INPUT_CHECKPOINT_DIR']).iterdir()))"


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_job_starts_from_a_checkpoint_by_name_or_uuid(machine: Machine, by: str) -> None:
    base = machine.push("base", machine.write("base", trainer_files(1)))
    job = run(machine, INPUT, checkpoint="base" if by == "name" else str(base.id))
    assert "".join(job_log(machine.system, "run")).splitlines()[1] == str(sorted(trainer_files(1)))
    assert job.input_checkpoint_id == base.id
    assert left_of(machine, job) == {"log.txt"}


def test_without_a_checkpoint_no_input_directory_is_set(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_INPUT_CHECKPOINT_DIR", "/of/an/outer/job")
    run(machine, "print(os.environ.get('FLEXAI_INPUT_CHECKPOINT_DIR'))")
    assert "".join(job_log(machine.system, "run")).startswith("None\n")


def test_a_checkpoint_that_is_not_there_is_refused_before_the_job_begins(machine: Machine) -> None:
    with pytest.raises(NotFoundError):
        run(machine, "", checkpoint="missing")
    assert machine.system.catalog.jobs.list() == []


def test_the_latest_of_a_job_without_checkpoints_is_to_start_from_scratch(machine: Machine) -> None:
    notes = Notes()
    job = run(machine, "print(os.environ.get('FLEXAI_INPUT_CHECKPOINT_DIR'))", checkpoint="latest", progress=notes)
    assert (job.status, job.input_checkpoint_id) == (JobStatus.SUCCEEDED, None)
    assert "there is no checkpoint to continue from yet, so the command starts from scratch" in notes.messages


def test_latest_and_best_are_chosen_among_the_resumable_checkpoints_of_the_job(machine: Machine) -> None:
    losses = {1: 0.5, 2: 0.25, 3: 0.75}
    saves = "\n".join(
        f"save(output() / 'checkpoint-{step}', trainer_files({step}, eval_loss={loss}))"
        for step, loss in losses.items()
    )
    # Neither the one without an eval loss nor the model without an optimizer's state is the best or can be resumed.
    run(machine, f"{saves}\nsave(output() / 'checkpoint-4', trainer_files(4)); save(output(), model_files(5)); exit(1)")
    by_step = {checkpoint.facts.step: checkpoint.id for checkpoint in captured(machine)}
    assert run(machine, "exit(1)", checkpoint="best").input_checkpoint_id == by_step[2]
    assert run(machine, "exit(1)", checkpoint="Latest").input_checkpoint_id == by_step[4]


def test_the_latest_has_the_highest_step_whatever_was_captured_last(machine: Machine) -> None:
    saves = "\n".join(f"step = {step}; {SAVE}; time.sleep(0.3)" for step in (10, 5))
    run(machine, f"{saves}\nexit(1)")
    assert [checkpoint.facts.step for checkpoint in captured(machine)] == [10, 5]
    assert run(machine, "exit(1)", checkpoint="latest").input_checkpoint_id == captured(machine)[0].id


def test_a_metric_that_no_checkpoint_tells_is_refused_with_those_that_there_are(machine: Machine) -> None:
    run(machine, "save(output() / 'checkpoint-4', trainer_files(4, eval_loss=0.5)); exit(1)")
    with pytest.raises(UsageError, match="no checkpoint tells its 'bleu'") as caught:
        run(machine, "", checkpoint="best:bleu:max")
    assert caught.value.hint == "there is eval-loss, train-loss, loss, eval_loss"


def test_a_log_beside_the_checkpoints_tells_their_metrics_also_when_it_is_written_after_them(machine: Machine) -> None:
    run(
        machine,
        """
for step in (10, 20):
    save(output() / f"checkpoint-{step}", trainer_files(step))
(output() / "logs").mkdir()
(output() / "logs" / "metrics.csv").write_text("step,epoch,val_f1,loss\\n10,0,0.5,9\\n20,1,0.75,9\\n30,1,1,9\\n")
""",
    )
    told = [dict(one.facts.metrics) for one in captured(machine) if one.facts.step]
    assert told == [{"loss": 0.1, "val_f1": 0.5}, {"loss": 0.05, "val_f1": 0.75}]


def test_the_best_of_a_job_without_one_is_refused(machine: Machine) -> None:
    with pytest.raises(NotFoundError, match="no checkpoints yet"):
        run(machine, "", checkpoint="best")
    assert machine.system.catalog.jobs.list() == []
    run(machine, "save(output() / 'checkpoint-4', trainer_files(4)); exit(1)")
    with pytest.raises(NotFoundError, match="no resumable checkpoint with an eval loss"):
        run(machine, "", checkpoint="best")


def test_values_of_variables_reach_the_command_and_are_stored_nowhere(machine: Machine) -> None:
    secret = "hf-0123456789-secret"
    job = run(machine, "sys.exit(os.environ['TOKEN'] != 'hf-0123456789' + '-secret')", env={"TOKEN": secret})
    assert (job.status, job.env_names) == (JobStatus.SUCCEEDED, ("TOKEN",))
    files = [path for path in machine.root.rglob("*") if path.is_file()]
    assert files
    assert not any(secret.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"env": {"1TOKEN": "x"}}, "no name of an environment variable"),
        ({"env": {"A B": "x"}}, "no name of an environment variable"),
        ({"env": {"TOKEN": "hidden\0value"}}, "has a NUL character"),
        ({"env": {"FLEXAI_OUTPUT_CHECKPOINT_DIR": "/tmp"}}, "set for the command by flexai itself"),
        ({"name": "a b"}, "breaks the naming rules"),
        ({"name": "latest"}, "is reserved"),
        ({"command": []}, "no command"),
        ({"grace": timedelta(seconds=-1)}, "less than nothing"),
        ({"preempt_signal": "KILL"}, "no signal that can give notice"),
        ({"command": ["true", "a\0b"]}, "NUL character"),
    ],
)
def test_requests_that_make_no_sense_are_refused(machine: Machine, options: dict[str, Any], why: str) -> None:
    arguments = {"name": "run", "command": ["true"], "env": {}} | options
    with pytest.raises(UsageError, match=why) as caught:
        run_training(machine.system, TrainingRequest(**arguments))
    assert "hidden" not in str(caught.value)
    assert machine.system.catalog.jobs.list() == []


def test_a_directory_that_the_user_names_is_used_and_kept(machine: Machine, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    job = run(machine, "save(output() / 'checkpoint-5', trainer_files(5))", output_dir=output)
    assert job.output_dir == str(output)
    assert contents(machine) == [("checkpoint-5", trainer_files(5))]
    assert (output / "checkpoint-5" / "model.safetensors").stat().st_nlink == 1
    assert [path.name for path in output.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path.mkdir(), (path / "old").touch())])
def test_a_directory_that_is_not_empty_is_refused(
    machine: Machine, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "out")
    with pytest.raises(UsageError, match=r"out (is not empty|cannot be used: not a directory)"):
        run(machine, "", output_dir=tmp_path / "out")
    assert machine.system.catalog.jobs.list() == []


# Logs.


def test_a_log_has_what_the_command_printed_and_what_became_of_it(machine: Machine) -> None:
    run(machine, "print('epoch 1'); os.write(2, b'a warning'); save(output() / 'checkpoint-5', trainer_files(5))")
    lines = "".join(job_log(machine.system, "run")).splitlines()
    assert "epoch 1" in lines
    assert "a warning" in lines
    assert any(line.startswith("[flexai] captured checkpoint 'checkpoint-5' (4 files,") for line in lines)
    assert lines[-1] == "[flexai] the job has succeeded"


def test_a_log_is_followed_while_the_command_runs(machine: Machine, tmp_path: Path) -> None:
    followed: list[str] = []

    def follow() -> None:
        for text in job_log(machine.again().system, "run", follow=True):
            followed.append(text)
            (tmp_path / "seen").touch()

    follower = threading.Thread(target=follow)

    def begin(_stream: str, data: bytes) -> None:
        if b"first" in data:
            follower.start()

    run(machine, f"say('first'); wait_for(Path({str(tmp_path / 'seen')!r})); say('second')", on_output=begin)
    follower.join()
    assert "".join(followed).splitlines()[:2] == ["first", "second"]
    assert "".join(followed) == "".join(job_log(machine.system, "run"))


def test_a_log_is_read_on_another_machine_once_the_job_has_ended(machine: Machine) -> None:
    job = run(machine, "print('epoch 1: é')")
    here = "".join(job_log(machine.system, "run"))
    shutil.rmtree(machine.settings.jobs_path)
    assert "".join(job_log(machine.system, "run")) == here
    with tables_of(machine.system.catalog.database) as connection:
        connection.execute(jobs.update().values(host="elsewhere"))
    assert "".join(job_log(machine.system, job.id, follow=True)) == here


def test_the_log_of_a_job_that_runs_elsewhere_cannot_be_read_yet(machine: Machine) -> None:
    def move(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            with tables_of(machine.system.catalog.database) as connection:
                connection.execute(jobs.update().values(host="elsewhere"))
            with pytest.raises(ConflictError, match="runs on elsewhere"):
                job_log(machine.system, "run")
            os.kill(os.getpid(), signal.SIGTERM)

    assert run(machine, WAIT, on_output=move).status is JobStatus.STOPPED


def test_a_log_that_was_never_stored_is_not_found(machine: Machine) -> None:
    job = run(machine, "")
    shutil.rmtree(machine.settings.jobs_path)
    machine.system.store.delete_log(job.id)
    with pytest.raises(NotFoundError, match="was not stored"):
        job_log(machine.system, "run")


# Deleting.


def test_a_deleted_job_takes_its_checkpoints_and_its_log_with_it(machine: Machine) -> None:
    job = run(machine, "save(output() / 'checkpoint-5', trainer_files(5))")
    (checkpoint,) = captured(machine)
    assert delete_job(machine.system, DeleteJobRequest("run")).id == job.id
    assert machine.system.catalog.jobs.list() == []
    assert machine.system.catalog.checkpoints.get_by_id(checkpoint.id).status is CheckpointStatus.DELETING
    assert not list(machine.settings.jobs_path.iterdir())
    assert not list(LocalStorage(machine.store_folder).list("logs/"))
    assert run(machine, "").attempt == 1


def test_checkpoints_of_a_deleted_job_can_be_kept(machine: Machine) -> None:
    run(machine, "save(output() / 'checkpoint-5', trainer_files(5))")
    (checkpoint,) = captured(machine)
    delete_job(machine.system, DeleteJobRequest("run", keep_checkpoints=True))
    assert machine.fetched(checkpoint.id) == trainer_files(5)
    machine.collect()
    assert machine.fetched(checkpoint.id) == trainer_files(5)


def test_a_job_that_runs_is_not_deleted_and_neither_are_its_checkpoints(machine: Machine) -> None:
    def delete(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            wait_until(lambda: len(captured(machine)) == 1)
            with pytest.raises(ConflictError, match="in progress"):
                delete_job(machine.system, DeleteJobRequest("run"))
            os.kill(os.getpid(), signal.SIGTERM)

    run(machine, f"step = 5; {SAVE}; {WAIT}", on_output=delete)
    assert contents(machine) == [("checkpoint-5", trainer_files(5))]


def test_a_directory_that_the_user_named_outlives_its_job(machine: Machine, tmp_path: Path) -> None:
    run(machine, "save(output() / 'checkpoint-5', trainer_files(5))", output_dir=tmp_path / "out")
    delete_job(machine.system, DeleteJobRequest("run"))
    assert (tmp_path / "out" / "checkpoint-5").is_dir()


def test_jobs_that_are_not_there_are_not_found(machine: Machine) -> None:
    def delete(system: System, reference: str) -> None:
        delete_job(system, DeleteJobRequest(reference))

    for ask in (inspect_job, stop_job, delete, job_log):
        with pytest.raises(NotFoundError, match="there is no training job 'missing'"):
            ask(machine.system, "missing")
        with pytest.raises(InvalidNameError, match="training job"):
            ask(machine.system, "a b")


def test_an_argument_that_is_no_utf_8_reaches_the_command_and_spoils_nothing_that_is_stored(machine: Machine) -> None:
    printed: list[bytes] = []
    command = [sys.executable, "-c", "import os, sys; print(os.fsencode(sys.argv[1]))", os.fsdecode(b"a\xff")]
    job = run_training(
        machine.system, TrainingRequest("run", command), on_output=lambda _stream, data: printed.append(data)
    )
    assert (job.status, job.command[-1], b"".join(printed)) == (JobStatus.SUCCEEDED, "a?", b"b'a\\xff'\n")
    machine.push("base", machine.write("source", {"a.bin": b"a"}))
    with lose_catalog(machine) as recovered:
        recover(recovered.system)
        assert inspect_job(recovered.system, "run").command == job.command


def test_an_output_directory_whose_path_is_no_utf_8_is_refused(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no UTF-8"):
        run(machine, "", output_dir=os.fsdecode(os.fsencode(tmp_path) + b"/out\xff"))
