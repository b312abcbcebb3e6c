"""Runs in a training process, with real helper processes."""

from __future__ import annotations

import doctest
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import flexai
from flexai import training
from flexai.checkpoints.errors import ConflictError, InvalidNameError, JobFailedError, UsageError
from flexai.checkpoints.models import JobStatus, TrainingJob
from flexai.checkpoints.service.training import inspect_job, run_training, stop_job
from flexai.checkpoints.service.training_requests import (
    JOB_VARIABLE,
    OUTPUT_VARIABLE,
    REPORTS_VARIABLE,
    TrainingRequest,
)
from flexai.integrations.callback import ReportingCallback
from flexai.training import Run
from tests.checkpoints.training.trainers import save, script_file, trainer_files, unknown_files
from tests.support.machine import Machine
from tests.support.small_disk import needs_tmpfs, small_disk
from tests.support.training import captured, contents, wait_until


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The machine that helpers find too, by the environment."""
    for variable in ("LOCAL_RANK", REPORTS_VARIABLE, OUTPUT_VARIABLE, JOB_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("FLEXAI_HOME", str(tmp_path / "home"))
    made = Machine.start(tmp_path)
    yield made
    made.system.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def steps(machine: Machine, name: str = "run") -> list[int | None]:
    return [one.facts.step for one in captured(machine, name)]


def job(machine: Machine, name: str = "run") -> TrainingJob:
    return inspect_job(machine.system, name)


def wait_for_the_end(machine: Machine) -> None:
    """Wait until a helper, which may still have to begin the job, has ended it."""
    wait_until(lambda: any(one.status.is_final for one in machine.system.catalog.jobs.list()))


def python(text: str) -> list[str]:
    """A training script."""
    head = "import os, sys, time\nfrom pathlib import Path\nfrom flexai.training import Run\n"
    head += "from tests.checkpoints.training.trainers import *\n"
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {os.getcwd()!r})\n{head}{textwrap.dedent(text)}"]


def run_below(machine: Machine, text: str, **options: str) -> TrainingJob:
    """Run a training script as a training job."""
    return run_training(machine.system, TrainingRequest("run", python(text), **options))  # type: ignore[arg-type]


def test_each_save_is_captured_although_it_is_deleted_at_once(machine: Machine, out: Path) -> None:
    with Run("run", out) as here:
        for step in range(1, 31):
            save(out / f"run-{step}", unknown_files(step))
            here.saved(out / f"run-{step}", step=step, metrics={"eval_loss": 1 / step})
            shutil.rmtree(out / f"run-{step}")
        assert here.wait(check=True)
        assert here.url(30) == "flexai://run/run-30"
    assert contents(machine) == [(f"run-{step}", unknown_files(step)) for step in range(1, 31)]
    assert [one.facts.eval_loss for one in captured(machine)] == [1 / step for step in range(1, 31)]
    ended = job(machine)
    assert (ended.status, ended.lost, ended.command) == (JobStatus.SUCCEEDED, 0, tuple(sys.orig_argv))
    assert sorted(path.name for path in out.parent.iterdir()) == ["home", "out"]


def test_what_a_run_excludes_is_in_no_checkpoint_and_stays_where_it_is(machine: Machine, out: Path) -> None:
    with Run("run", out, exclude="optimizer.pt") as here:
        save(out / "checkpoint-5", trainer_files(5))
        here.saved(out / "checkpoint-5", step=5)
        assert here.wait(check=True)
    expected = {name: content for name, content in trainer_files(5).items() if name != "optimizer.pt"}
    assert contents(machine) == [("checkpoint-5", expected)]
    assert (out / "checkpoint-5" / "optimizer.pt").is_file()


def test_an_empty_pattern_is_refused_before_anything_begins(machine: Machine, out: Path) -> None:
    with pytest.raises(UsageError, match="a pattern of exclude names nothing"):
        Run("run", out, exclude=["", "*.tmp"])
    assert not out.exists()


def test_below_a_command_what_a_run_excludes_is_a_warning_and_the_commands_patterns_count(machine: Machine) -> None:
    text = """
        import warnings
        warnings.simplefilter("error")
        try:
            Run("other", os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"], exclude="scheduler.pt")
        except RuntimeWarning as warning:
            assert "give its --exclude" in str(warning), warning
        else:
            raise AssertionError("no warning")
        save(Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"]) / "checkpoint-5", trainer_files(5))
    """
    ended = run_training(machine.system, TrainingRequest("run", python(text), exclude=["optimizer.pt"]))
    assert ended.status is JobStatus.SUCCEEDED
    ((_, files),) = contents(machine)
    assert {*files} == {*trainer_files(5)} - {"optimizer.pt"}


def test_the_next_run_goes_on_from_the_latest(machine: Machine, out: Path) -> None:
    with Run("run", out) as here:
        assert here.resume_path() is None
        save(out / "checkpoint-5", trainer_files(5))
        here.saved(out / "checkpoint-5", step=5)
    shutil.rmtree(out)
    with Run("run", out) as here:
        path = here.resume_path()
        assert path is not None
        assert path.name == "checkpoint-5"
        assert {one.name: one.read_bytes() for one in path.iterdir()} == trainer_files(5)
    assert job(machine).attempt == 2
    assert job(machine).input_checkpoint_id == captured(machine)[0].id


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_all_unfit_says_so(machine: Machine, out: Path) -> None:
    with Run("run", out) as here:
        save(out / "model-5", {"model.safetensors": trainer_files(5)["model.safetensors"], "config.json": b"{}"})
        here.saved(out / "model-5", step=5)
    with Run("run", out) as here, pytest.raises(ConflictError, match="can go on from none of them"):
        here.resume_path()


def test_an_error_makes_the_job_failed_and_keeps_the_last_save(machine: Machine, out: Path) -> None:
    with pytest.raises(ZeroDivisionError), Run("run", out) as here:
        save(out / "run-1", unknown_files(1))
        here.saved(out / "run-1", step=1)
        _ = 1 / 0
    assert (job(machine).status, job(machine).exit_code) == (JobStatus.FAILED, 1)
    assert "the training failed: ZeroDivisionError: division by zero" in job(machine).reason
    assert steps(machine) == [1]


def test_an_interrupt_makes_it_stopped(machine: Machine, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Run("run", out):
        raise KeyboardInterrupt
    assert job(machine).status is JobStatus.STOPPED


@pytest.mark.parametrize(
    ("end", "status"),
    [("", "succeeded"), ("raise SystemExit(0)", "succeeded"), ("1 / 0", "failed"), ("os._exit(0)", "failed")],
)
def test_a_script_that_closes_nothing_ends_the_job_all_the_same(
    machine: Machine, out: Path, end: str, status: str
) -> None:
    script = f"""
        run = Run("run", {str(out)!r})
        save(Path({str(out)!r}) / "run-1", unknown_files(1))
        run.saved({str(out / "run-1")!r}, step=1)
        {end}
    """
    subprocess.run(python(script), check=False, capture_output=True)
    wait_for_the_end(machine)
    assert (job(machine).status, steps(machine)) == (status, [1])


def test_a_trainer_that_is_killed_loses_nothing_that_it_reported(machine: Machine, out: Path) -> None:
    script = f"""
        run = Run("run", {str(out)!r})
        for step in range(1, 100):
            save(Path({str(out)!r}) / f"run-{{step}}", unknown_files(step))
            run.saved(Path({str(out)!r}) / f"run-{{step}}", step=step)
            print(step, flush=True)
    """
    with subprocess.Popen(python(script), stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        for line in trainer.stdout:
            if line == "5\n":
                trainer.kill()
                break
        reported = 5 + sum(1 for _ in trainer.stdout)
    wait_for_the_end(machine)
    assert job(machine).status is JobStatus.FAILED
    assert job(machine).reason.startswith("the command ended with exit code 1; the training process ended without")
    assert steps(machine)[:reported] == list(range(1, reported + 1))


@pytest.mark.slow
def test_a_helper_that_is_killed_is_started_again_and_nothing_is_lost(machine: Machine, out: Path) -> None:
    with pytest.warns(RuntimeWarning, match="was started again"), Run("run", out) as here:
        for step in range(1, 21):
            save(out / f"run-{step}", unknown_files(step))
            here.saved(out / f"run-{step}", step=step)
            shutil.rmtree(out / f"run-{step}")
            if step in (5, 12):
                assert here._helper is not None
                here._helper.kill()
                here._helper.wait()
    assert sorted(filter(None, steps(machine))) == list(range(1, 21))
    assert job(machine).status is JobStatus.SUCCEEDED


@pytest.mark.slow
def test_what_trainer_and_helper_left_when_both_were_killed_is_stored_by_the_next_run(
    machine: Machine, out: Path
) -> None:
    script = f"""
        run = Run("run", {str(out)!r})
        run.resume_path()
        os.kill(run._helper.pid, 19)  # SIGSTOP
        for step in range(1, 4):
            save(Path({str(out)!r}) / f"run-{{step}}", unknown_files(step))
            run.saved(Path({str(out)!r}) / f"run-{{step}}", step=step)
        print(run._helper.pid, flush=True)
        time.sleep(100)
    """
    with subprocess.Popen(python(script), stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        helper = int(trainer.stdout.readline())
        trainer.kill()
        os.kill(helper, signal.SIGKILL)
    shutil.rmtree(out)
    with Run("run", out) as here:
        path = here.resume_path()
        assert path is not None and path.name == "run-3"
    assert steps(machine) == [1, 2, 3]


def test_a_training_that_begins_again_at_once_waits_until_what_was_reported_is_stored(
    machine: Machine, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXAI_BANDWIDTH_LIMIT", "2MiB")
    script = f"""
        run = Run("run", {str(out)!r})
        Path({str(out)!r}, "run-1").mkdir()
        Path({str(out)!r}, "run-1", "data.bin").write_bytes(os.urandom(4 * 1024 * 1024))
        run.saved({str(out / "run-1")!r}, step=1)
        os.kill(os.getpid(), 9)
    """
    subprocess.run(python(script), check=False)
    with Run("run", out) as here:
        path = here.resume_path()
        assert path is not None and path.name == "run-1"
        save(out / "run-2", unknown_files(2))
        here.saved(out / "run-2", step=2)
        assert here.wait(check=True)
    assert steps(machine) == [1, 2]
    assert sorted(path.name for path in out.parent.iterdir()) == ["home", "out"]


@pytest.mark.slow
def test_a_second_training_of_a_job_that_runs_is_refused(machine: Machine, out: Path) -> None:
    with Run("run", out) as here:
        here.resume_path()
        refused = pytest.raises(JobFailedError, match="is running")
        with warnings.catch_warnings(action="ignore"), Run("run", out) as other, refused:
            other.resume_path()
        save(out / "run-1", unknown_files(1))
        here.saved(out / "run-1", step=1)
        assert here.wait(check=True)
    assert steps(machine) == [1]


def test_a_run_of_another_job_with_the_same_output_directory_is_refused_until_the_first_one_ends(
    machine: Machine, out: Path
) -> None:
    with Run("run", out) as here:
        with pytest.raises(ConflictError, match="'run' is running with the output directory"):
            Run("other", out)
        save(out / "run-1", unknown_files(1))
        here.saved(out / "run-1", step=1)
        assert here.wait(check=True)
    with Run("other", out) as other:
        save(out / "run-2", unknown_files(2))
        other.saved(out / "run-2", step=2)
        assert other.wait(check=True)
    assert steps(machine) == [1]


@pytest.fixture
def held_up(machine: Machine, out: Path) -> Iterator[Callable[..., Run]]:
    """Makes runs whose helper stands still."""
    runs: list[Run] = []

    def make(**options: object) -> Run:
        made = Run("run", out, **options)  # type: ignore[arg-type]
        made.resume_path()
        assert made._helper is not None
        pid = made._helper.pid
        os.kill(made._helper.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        runs.append(made)
        return made

    yield make
    for one in runs:
        if one._helper is not None:
            one._helper.send_signal(signal.SIGCONT)
        one.close()


def test_where_too_many_saves_wait_the_oldest_is_skipped(
    machine: Machine, out: Path, held_up: Callable[..., Run]
) -> None:
    here = held_up(on_full="skip", most_waiting=2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(1, 6):
            save(out / f"run-{step}", unknown_files(step))
            here.saved(out / f"run-{step}", step=step)
    assert len([one for one in said if "was skipped" in str(one.message)]) == 3
    assert here._helper is not None
    os.kill(here._helper.pid, signal.SIGCONT)
    with pytest.raises(JobFailedError, match="was skipped"):
        here.wait(check=True)
    assert steps(machine) == [4, 5]
    assert here.wait(check=True)


def test_a_wait_ends_after_its_time(out: Path, held_up: Callable[..., Run]) -> None:
    here = held_up()
    save(out / "run-1", unknown_files(1))
    here.saved(out / "run-1", step=1)
    assert here.wait(timeout=0.05) is False


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_ends_though_a_thread_was_saving_when_it_was_forked(held_up: Callable[..., Run]) -> None:
    here = held_up()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(here._lock.acquire).result()
        child = os.fork()
        if not child:
            signal.alarm(60)
            here.close()  # as at the end of its interpreter
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        thread.submit(here._lock.release).result()


@pytest.mark.filterwarnings("ignore:.*goes on with it:RuntimeWarning")
def test_a_helper_that_stands_still_holds_up_no_training(
    machine: Machine, out: Path, held_up: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What awaits the helper ends after its time, and what the helper does later is not lost."""
    monkeypatch.setattr(training, "_FULL_SECONDS", 0.05)
    here = held_up(most_waiting=1)
    with pytest.raises(JobFailedError, match="was not there in time"):
        here.resume_path(timeout=0.05)
    save(out / "run-1", unknown_files(1))
    here.saved(out / "run-1", step=1)
    for step in (2, 3):
        with pytest.warns(RuntimeWarning, match=f"run-{step}' was not captured: too many saves wait, and none was"):
            here.saved(out / f"run-{step}", step=step)
    helper = here._helper
    assert helper is not None
    with pytest.warns(RuntimeWarning, match="the helper process goes on with it"):
        here.close(timeout=0.05)
    os.kill(helper.pid, signal.SIGCONT)
    helper.wait()
    assert steps(machine) == [1]
    assert job(machine).status is JobStatus.SUCCEEDED


def test_an_answer_that_comes_late_is_given_to_the_next_who_asks(out: Path, held_up: Callable[..., Run]) -> None:
    here = held_up()
    for _ in range(2):
        with pytest.raises(JobFailedError, match="was not there in time"):
            here.resume_path(timeout=0.05)
    assert here._helper is not None
    os.kill(here._helper.pid, signal.SIGCONT)
    assert here.resume_path() is None
    assert here.resume_path() is None


def test_a_rank_whose_first_one_asks_nothing_learns_that_in_time(
    machine: Machine, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run("run", out):
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        second = Run("run", out)
        with pytest.raises(JobFailedError, match="was not there in time") as raised:
            second.resume_path(timeout=0.05)
        assert "first rank" in raised.value.hint
        assert second.wait(timeout=0.05)
        second.close()


def test_the_other_ranks_learn_that_the_first_one_was_not_answered(
    machine: Machine, out: Path, held_up: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = held_up()
    with pytest.raises(JobFailedError, match="was not there in time"):
        first.resume_path(timeout=0.05)
    monkeypatch.setenv("LOCAL_RANK", "1")
    second = Run("run", out)
    with pytest.raises(JobFailedError, match="was not there in time") as raised:
        second.resume_path()
    assert "longer timeout" in raised.value.hint
    second.close()
    monkeypatch.delenv("LOCAL_RANK")


def test_no_wait_in_a_training_is_without_end_unless_that_is_asked_for() -> None:
    for method in (Run.wait, Run.resume_path, Run.close, ReportingCallback.resume_path):
        (timeout,) = (one for one in inspect.signature(method).parameters.values() if one.name == "timeout")
        assert isinstance(timeout.default, float), method
        assert method.__doc__ and "timeout: Seconds to wait" in method.__doc__


def test_what_cannot_be_reported_is_a_warning_and_never_an_error(machine: Machine, out: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.pt").write_bytes(script_file(1))
    (out / "torn.safetensors").parent.mkdir()
    (out / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.warns(RuntimeWarning) as said, Run("run", out) as here:
        here.saved(out / "missing.pt")
        here.saved(tmp_path / "elsewhere.pt")
        here.saved(out / "torn.safetensors", metrics={"loss": float("nan")})
        here.wait()
        with pytest.raises(JobFailedError) as raised:
            here.wait(check=True)
    expected = ["is not there", "is not below the output directory", "it is not whole"]
    for text in expected:
        assert text in raised.value.message
        assert any(text in str(one.message) for one in said)


class _Tensor:
    """Of two values: torch's raises a RuntimeError."""

    def __float__(self) -> float:
        raise RuntimeError("a tensor with 2 elements cannot be converted")


@pytest.mark.parametrize(
    ("step", "metrics", "said"),
    [
        ("one", None, "invalid literal for int"),
        (float("nan"), None, "cannot convert float NaN"),
        (10**30, None, "is no step"),
        (1, {"loss": "low", "f1": 0.5}, "could not convert string"),
        (1, {"loss": None, "f1": 0.5}, "must be a string or a real number"),
        (1, {"loss": 10**400, "f1": 0.5}, "too large"),
        (1, {"loss": _Tensor(), "f1": 0.5}, "2 elements"),
        (1, {"a\nb": 1, "f1": 0.5}, "is no name of a metric"),
        (1, {5: 1, "f1": 0.5}, "5"),
        (1, "low", "metrics"),
        (1, 5, "metrics"),
    ],
)
def test_a_step_or_a_metric_that_is_none_is_left_out_and_the_save_is_stored(
    machine: Machine, out: Path, step: Any, metrics: Any, said: str
) -> None:
    with pytest.warns(RuntimeWarning, match=said), Run("run", out) as here:
        save(out / "save-1", unknown_files(1))
        here.saved(out / "save-1", step=step, metrics=metrics)
        assert here.wait(timeout=60, check=True)
    (stored,) = flexai.checkpoints("run")
    assert stored.step == (1 if step == 1 else None)
    assert dict(stored.metrics) == ({"f1": 0.5} if isinstance(metrics, dict) else {})


@pytest.mark.parametrize("path", [None, 5, b"bytes", ["a"], "nul\0"])
def test_a_path_that_is_none_is_a_warning(machine: Machine, out: Path, path: Any) -> None:
    with Run("run", out) as here, pytest.warns(RuntimeWarning, match="was not captured"):
        here.saved(path)


def test_a_run_refuses_arguments_of_other_types_in_words(out: Path) -> None:
    takes: list[tuple[dict[str, Any], str]] = [
        ({"name": 5}, "name takes a text, not 5"),
        ({"output_dir": ""}, "output_dir is empty"),
        ({"output_dir": None}, "output_dir takes a text or a path, not None"),
        ({"most_waiting": "8"}, "most_waiting takes a whole number, not '8'"),
        ({"exclude": [1]}, "each of exclude takes a text, not 1"),
    ]
    for given, said in takes:
        with pytest.raises(UsageError) as raised:
            Run(**{"name": "run", "output_dir": out, **given})
        assert raised.value.message == said
    assert not list(out.parent.glob(".*reports*"))


def test_a_timeout_that_is_no_number_is_refused(machine: Machine, out: Path) -> None:
    with Run("run", out) as here:
        for call in (here.wait, here.resume_path):
            for timeout in ("60", float("nan"), True):
                with pytest.raises(UsageError, match="timeout"):
                    call(timeout=timeout)  # type: ignore[arg-type]


def test_what_is_saved_after_the_end_is_a_warning_and_leaves_nothing(machine: Machine, out: Path) -> None:
    with Run("run", out) as here:
        pass
    save(out / "run-1", unknown_files(1))
    with pytest.warns(RuntimeWarning, match="the run is closed"):
        here.saved(out / "run-1")
    here.close()
    assert sorted(path.name for path in out.parent.iterdir()) == ["home", "out"]


def test_its_example_does_what_it_shows(machine: Machine, tmp_path: Path) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(Run, globs={"Run": Run, "tmp": tmp_path, "weights": npz()})
    assert doctest.DocTestRunner().run(example) == (0, 4)
    assert steps(machine, "docs-run") == [5]


def npz() -> bytes:
    """An archive as numpy writes one."""
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.zeros(3))
    return buffer.getvalue()


def test_a_job_that_cannot_begin_is_a_warning(out: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_STORE", "ftp://nowhere")
    with pytest.warns(RuntimeWarning) as said, Run("run", out) as here:
        save(out / "run-1", unknown_files(1))
        here.saved(out / "run-1")
        wait_until(lambda: here.wait(0) or any("the helper process ended" in str(one.message) for one in said))


def test_what_makes_no_sense_is_refused(machine: Machine, out: Path) -> None:
    with pytest.raises(InvalidNameError):
        Run("no name", out)
    with pytest.raises(UsageError, match="on_full"):
        Run("run", out, on_full="drop")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="most_waiting"):
        Run("run", out, most_waiting=0)
    with Run("run", out) as here, pytest.raises(UsageError, match="no way in which a training ends"):
        here.close("done")


def test_below_training_run_the_runner_is_told(machine: Machine, tmp_path: Path) -> None:
    assert Run.current() is None
    text = """
        run = Run.current()
        assert run.name == "run" and run.output_dir == output() and run.resume_path() is None
        for step in range(1, 11):
            save(output() / f"run-{step}", unknown_files(step))
            run.saved(output() / f"run-{step}", step=step, metrics={"f1": step / 10})
            shutil.rmtree(output() / f"run-{step}")
        assert run.wait(check=True)
        other = Run("another-name", "OUT")  # a script that is made to be run alone
        save(Path("OUT") / "run-11", unknown_files(11))
        other.saved(Path("OUT") / "run-11", step=11)
    """.replace("OUT", str(tmp_path / "other"))
    ended = run_below(machine, text)
    assert (ended.status, ended.lost) == (JobStatus.SUCCEEDED, 0)
    assert contents(machine) == [(f"run-{step}", unknown_files(step)) for step in range(1, 12)]
    assert captured(machine)[3].facts.metrics == {"f1": 0.4}
    assert captured(machine)[3].facts.reported == ("step", "f1")


def test_a_command_below_training_run_finds_what_it_starts_from(machine: Machine) -> None:
    run_below(machine, "save(output() / 'checkpoint-5', trainer_files(5))")
    text = "assert Run.current().resume_path().name == 'checkpoint-5'"
    assert run_below(machine, text, checkpoint="latest").status is JobStatus.SUCCEEDED


def test_the_ranks_of_a_machine_make_one_checkpoint_of_each_save(
    machine: Machine, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"""
        rank = int(os.environ["LOCAL_RANK"])
        out = Path({str(out)!r})
        with Run("run", out) as run:
            assert run.resume_path() is None
            for step in (1, 2):
                save(out / f"step-{{step}}", {{f"rank-{{rank}}.data": bytes([rank, step])}})
                run.saved(out / f"step-{{step}}", step=step)
            if rank:
                assert run._helper is None
            else:
                run.wait()
    """
    ranks = 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    processes = [subprocess.Popen(python(script), env={**os.environ, "LOCAL_RANK": str(rank)}) for rank in range(ranks)]
    assert [process.wait() for process in processes] == [0] * ranks
    expected = {f"rank-{rank}.data": rank for rank in range(ranks)}
    assert contents(machine) == [
        (f"step-{step}", {path: bytes([rank, step]) for path, rank in expected.items()}) for step in (1, 2)
    ]


def test_a_stop_of_the_job_reaches_the_training(machine: Machine, out: Path) -> None:
    script = f"""
        import signal
        run = Run("run", {str(out)!r})
        run.resume_path()
        def stop(number, frame):
            save(Path({str(out)!r}) / "run-9", unknown_files(9))
            run.saved({str(out / "run-9")!r}, step=9)
            raise KeyboardInterrupt
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        with run:
            time.sleep(100)
    """
    with subprocess.Popen(python(script), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as trainer:
        assert trainer.stdout is not None and trainer.stdout.readline() == "ready\n"
        stop_job(machine.system, "run")
    assert (job(machine).status, steps(machine)) == (JobStatus.STOPPED, [9])


def test_a_training_that_a_stop_ends_at_once_is_stopped(machine: Machine, out: Path) -> None:
    script = f"""
        run = Run("run", {str(out)!r})
        run.resume_path()
        save(Path({str(out)!r}) / "run-1", unknown_files(1))
        run.saved({str(out / "run-1")!r}, step=1)
        print("ready", flush=True)
        time.sleep(100)
    """
    with subprocess.Popen(python(script), stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None and trainer.stdout.readline() == "ready\n"
        stop_job(machine.system, "run")
    assert trainer.returncode == -signal.SIGTERM
    wait_for_the_end(machine)
    assert (job(machine).status, job(machine).reason, steps(machine)) == (JobStatus.STOPPED, "stopped on request", [1])


def test_a_notice_to_all_processes_of_the_machine_is_a_preemption(machine: Machine, out: Path) -> None:
    script = f"""
        run = Run("run", {str(out)!r})
        run.resume_path()
        for step in (1, 2):
            save(Path({str(out)!r}) / f"run-{{step}}", unknown_files(step))
            run.saved(Path({str(out)!r}) / f"run-{{step}}", step=step)
        print(run._helper.pid, flush=True)
        time.sleep(100)
    """
    with subprocess.Popen(python(script), stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        os.kill(int(trainer.stdout.readline()), signal.SIGTERM)
        trainer.terminate()
    wait_for_the_end(machine)
    assert (job(machine).status, steps(machine)) == (JobStatus.STOPPED, [1, 2])
    assert job(machine).reason.startswith("preempted by SIGTERM")


def test_inspect_says_what_was_reported(machine: Machine, out: Path) -> None:
    with Run("run", out) as here:
        save(out / "checkpoint-5", trainer_files(5, eval_loss=0.25))
        here.saved(out / "checkpoint-5", metrics={"eval_loss": 0.5})
    command = [sys.executable, "-m", "flexai.cli", "checkpoint", "inspect", "run/checkpoint-5", "--json"]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["status"]["metadata"]
    assert (shown["step"], shown["evalLoss"], shown["reported"]) == (5, 0.5, ["eval_loss"])


def test_the_helper_leaves_the_cores_to_the_training_and_is_not_starved_by_it(machine: Machine, out: Path) -> None:
    with Run("run", out) as here:
        save(out / "checkpoint-5", trainer_files(5))
        here.saved(out / "checkpoint-5")
        here.wait(check=True)
        assert here._helper is not None
        own, found = (os.getpriority(os.PRIO_PROCESS, pid) for pid in (0, here._helper.pid))
    assert found == min(own + 10, 19)  # of which there is none lower


@needs_tmpfs
def test_a_volume_of_its_own_holds_what_was_saved_on_itself(machine: Machine, out: Path) -> None:
    with small_disk(out, 8 * 1024):
        with Run("run", out) as here:
            here.resume_path()
            for step in (1, 2):
                save(out / f"run-{step}", {"data.bin": bytes([step]) * 3 * 1024 * 1024})
                here.saved(out / f"run-{step}", step=step)
                shutil.rmtree(out / f"run-{step}")
                here.wait(check=True)
        assert steps(machine) == [1, 2]
        assert list(out.iterdir()) == []
    assert sorted(path.name for path in out.parent.iterdir()) == ["home", "out"]


@pytest.mark.slow
def test_one_content_that_is_saved_again_takes_the_new_step(machine: Machine, out: Path) -> None:
    with Run("run", out) as here:
        for step in (1, 2):
            save(out / "last", unknown_files(0))
            here.saved(out / "last", step=step)
            here.wait(check=True)
    assert steps(machine) == [2]


@pytest.mark.slow
def test_what_was_reported_in_a_folder_is_not_captured_again_by_a_later_run(machine: Machine, out: Path) -> None:
    with Run("run", out) as here:
        save(out / "exp" / "step-1", {"model.pt": script_file(1), "notes.txt": b"one"})
        here.saved(out / "exp" / "step-1", step=1)
    with Run("run", out):
        pass
    assert [one.name for one in captured(machine)] == ["exp/step-1"]
