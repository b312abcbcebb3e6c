"""Jobs whose machine goes away: what is stored by then, what the record says, and where the next run goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from flexai.checkpoints.models import CheckpointStatus, JobStatus
from flexai.checkpoints.service.training import capture_left, inspect_job, job_log
from flexai.checkpoints.service.training_requests import CaptureJobRequest
from flexai.checkpoints.training.job_files import job_folder
from flexai.checkpoints.training.runner import OnOutput
from tests.checkpoints.training.trainers import program, trainer_files
from tests.support.faults import Call
from tests.support.fixtures import NewMachine
from tests.support.machine import KIB, PART, Machine, check_nothing_is_torn
from tests.support.training import RUNNER, SAVE, WAIT, captured, captures, contents, kill_a_runner, run, wait_until

pytestmark = pytest.mark.slow

PARTS = 16
LARGE = "save(output() / 'checkpoint-5', {'optimizer.bin': bytes(range(256)) * 4096, **trainer_files(5)})"
"""A checkpoint with a file of so many parts."""
SMALL = f"step = 10; {SAVE}"


def give_notice(number: int = signal.SIGTERM, when: Callable[[], bool] = lambda: True) -> OnOutput:
    """Send a signal to this process once the command says that it is ready."""

    def tell(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            wait_until(when)
            os.kill(os.getpid(), number)

    return tell


def parts_sent(machine: Machine) -> int:
    return sum(call.name == "put_part" and call.size == PART for call in machine.storage.calls)


@pytest.fixture
def slow(new_machine: NewMachine) -> Machine:
    """A machine whose store takes a part a second."""
    return new_machine(bandwidth_limit=f"{PART // KIB}KiB")


def test_the_newest_is_stored_by_the_deadline_the_record_says_what_is_not_and_a_capture_stores_that(
    slow: Machine,
) -> None:
    job = run(slow, f"{LARGE}; {SMALL}; {WAIT}", on_output=give_notice(), grace=timedelta(seconds=3))
    assert job.status is JobStatus.STOPPED
    stored, missing, *others = job.reason.split("; ")
    assert stored == "preempted by SIGTERM: stored step 10"
    assert missing == f"not stored: step 5 (pins kept on {job.host})"
    pins = job_folder(slow.settings.jobs_path, job.id) / "attempt-1" / "pins"
    assert f"what could not be stored is kept in {pins}" in others
    assert any(pins.iterdir())
    assert contents(slow) == [("checkpoint-10", trainer_files(10))]
    assert [one.name for one in captures(slow, "run")] == ["checkpoint-5", "checkpoint-10"], "in the order of the saves"
    assert inspect_job(slow.system, "run").reason == job.reason
    assert job.reason in "".join(job_log(slow.system, "run"))
    with slow.again(bandwidth_limit="0") as machine:
        found = capture_left(machine.system, CaptureJobRequest("run"))
        assert (found.stored, found.left) == (1, ())
        assert [one.name for one in captured(machine)] == ["checkpoint-5", "checkpoint-10"]


def test_the_next_run_here_goes_on_with_the_parts_that_had_arrived(slow: Machine) -> None:
    text = f"{LARGE}; {SMALL}; {WAIT}"
    run(slow, text, on_output=give_notice(when=lambda: parts_sent(slow) > 1), grace=timedelta(seconds=3))
    arrived = parts_sent(slow)
    assert 1 < arrived < PARTS
    with slow.again(bandwidth_limit="0") as machine:
        job = run(machine, f"step = 15; {SAVE}", checkpoint="latest")
        # Two were cut off on their way: when a later save came first, and at the deadline.
        assert parts_sent(machine) <= PARTS - arrived + 2, "what had arrived moved again"
        assert [one.name for one in captured(machine)] == ["checkpoint-5", "checkpoint-10", "checkpoint-15"]
        assert {one.status for one in captures(machine, "run")} == {CheckpointStatus.AVAILABLE}
        assert job.input_checkpoint_name == "checkpoint-10"
        check_nothing_is_torn(machine)


def test_a_checkpoint_that_the_trainer_saves_at_the_notice_comes_before_those_that_wait(slow: Machine) -> None:
    job = run(
        slow,
        f"""
{LARGE}
def save_and_leave(*_):
    save(output() / "checkpoint-7", trainer_files(7))
    sys.exit(0)
signal.signal(signal.SIGTERM, save_and_leave)
{WAIT}
""",
        on_output=give_notice(when=lambda: bool(captures(slow, "run"))),
        grace=timedelta(seconds=4),
    )
    assert (job.status, job.exit_code) == (JobStatus.STOPPED, 0)
    assert job.reason.startswith("preempted by SIGTERM: stored step 7; not stored: step 5 ")


def test_all_is_stored_where_there_is_time_for_it(machine: Machine) -> None:
    job = run(machine, f"{LARGE}; {SMALL}; {WAIT}", on_output=give_notice())
    assert (job.status, job.reason) == (JobStatus.STOPPED, "preempted by SIGTERM: stored step 10")
    assert [one.name for one in captured(machine)] == ["checkpoint-5", "checkpoint-10"]


def test_a_version_of_the_same_path_that_is_stored_later_does_not_pass_for_the_last_one(slow: Machine) -> None:
    text = f"""
save(output() / 'last', {{'optimizer.bin': b'x' * 2 * {PART}, **trainer_files(5)}})
say('ready')
time.sleep(0.5)
shutil.rmtree(output() / 'last')
save(output() / 'last', trainer_files(6))
signal.pause()
"""
    run(slow, text, on_output=give_notice(when=lambda: bool(captures(slow, "run"))), grace=timedelta(seconds=60))
    last = slow.system.available("run/last")
    assert last.facts.step == max(one.facts.step or 0 for one in captured(slow))


def test_a_signal_that_the_user_names_is_a_notice_too(machine: Machine) -> None:
    text = f"signal.signal(signal.SIGUSR1, lambda *_: (save(output() / 'checkpoint-7', trainer_files(7)))); {WAIT}"
    job = run(
        machine,
        text,
        on_output=give_notice(signal.SIGUSR1),
        grace=timedelta(seconds=2),
        preempt_signal="USR1",
    )
    assert (job.status, job.exit_code) == (JobStatus.STOPPED, 137), "it was not killed at the deadline"
    assert job.reason == "preempted by SIGUSR1: stored step 7"


def test_a_command_that_succeeds_before_the_deadline_has_succeeded(machine: Machine) -> None:
    def tell(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            wait_until(lambda: bool(captured(machine)))

    job = run(machine, f"step = 5; {SAVE}; say('ready')", on_output=tell, preempt_signal="USR1")
    assert (job.status, job.reason) == (JobStatus.SUCCEEDED, "")


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "SIGINT"), (signal.SIGHUP, "SIGHUP")])
def test_other_stops_store_all_however_long_it_takes(slow: Machine, number: int, name: str) -> None:
    text = f"save(output() / 'checkpoint-5', {{'optimizer.bin': b'x' * 2 * {PART}, **trainer_files(5)}}); {WAIT}"
    job = run(slow, text, on_output=give_notice(number), grace=timedelta(seconds=0.1))
    assert (job.status, job.reason) == (JobStatus.STOPPED, f"stopped by {name}")
    assert [one.name for one in captured(slow)] == ["checkpoint-5"]


def test_a_notice_before_the_command_begins_is_the_jobs_reason(machine: Machine) -> None:
    notices = iter([signal.SIGTERM])

    def interrupt(_number: int, call: Call) -> None:
        # Not the look at whose store it is, which comes before the job begins.
        for number in notices if call.key.startswith("blobs/") else ():
            os.kill(os.getpid(), number)

    machine.push("base", machine.write("base", trainer_files(1)))
    machine.storage.before_call = interrupt
    with pytest.raises(Exception, match="preempted by SIGTERM before the command began"):
        run(machine, "", checkpoint="base")
    job = inspect_job(machine.system, "run")
    assert (job.status, job.reason) == (JobStatus.STOPPED, "preempted by SIGTERM before the command began")


def test_what_a_killed_runner_was_sending_is_continued_by_the_next_run_here(
    slow: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("part_size", "pack_threshold", "pack_size", "concurrency"):
        monkeypatch.setenv(f"FLEXAI_{name.upper()}", str(getattr(slow.settings, name)))
    monkeypatch.setenv("FLEXAI_BANDWIDTH_LIMIT", f"{PART // KIB}KiB")
    parts = "SELECT COUNT(*) FROM blob_parts"

    def arrived() -> int:
        with slow.system.catalog.database.reading() as transaction:
            return int(transaction.value(parts))

    kill_a_runner(slow, LARGE, until=lambda: arrived() > 2)
    before = arrived()
    with slow.again(bandwidth_limit="0") as machine:
        run(machine, SMALL)
        assert parts_sent(machine) <= PARTS - before
        assert [one.name for one in captures(machine, "run")] == ["checkpoint-5", "checkpoint-10"]
        assert {one.status for one in captures(machine, "run")} == {CheckpointStatus.AVAILABLE}
        check_nothing_is_torn(machine)


SAVING = """
def leave(*_):
    os.write(1, b"noticed\\n")
    save(output() / f"checkpoint-{step + 1}", trainer_files(step + 1))
    os.write(1, f"saved {step + 1}\\n".encode())
    os._exit(0)
step = 0
for number in range(1, 200):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    save(output() / f"checkpoint-{number}", trainer_files(number))
    step = number
    say(f"saved {number}")
    signal.signal(signal.SIGTERM, leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    time.sleep(0.05)
"""


def test_no_save_is_lost_and_no_step_where_the_last_save_fits_in_the_notice(machine: Machine) -> None:
    chance = random.Random(14)
    lost, steps = 0, 0
    for number in range(4):
        name = f"run-{number}"
        after = chance.randrange(1, 12)
        text = RUNNER.replace('"run"', repr(name))
        runner = subprocess.Popen(
            [sys.executable, "-c", text, str(machine.settings.home), "", "", *program(SAVING)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert runner.stdout is not None
        saved = []
        for line in runner.stdout:
            if line.startswith("saved "):
                saved.append(int(line.split()[1]))
                if len(saved) == after:
                    time.sleep(chance.random() / 10)
                    runner.send_signal(signal.SIGTERM)
        assert runner.wait() == 0
        runner.stdout.close()
        kept = {one.facts.step for one in captured(machine, name)}
        lost += len(set(saved) - kept)
        steps += max(saved) - max(step or 0 for step in kept)
        job = inspect_job(machine.system, name)
        assert (job.status, job.reason) == (JobStatus.STOPPED, f"preempted by SIGTERM: stored step {max(saved)}")
    assert (lost, steps) == (0, 0)
