"""Training commands as real processes: their output, their signals, their ends, and the end of their runner."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.catalog.leases import process_start
from flexai.checkpoints.errors import InterruptedByUserError, JobFailedError
from flexai.checkpoints.settings import WITHHELD_VARIABLE
from flexai.checkpoints.training.job_log import JobLog
from flexai.checkpoints.training.runner import (
    PASSED_SIGNALS,
    Ended,
    SignalRelay,
    Stream,
    TrainingCommand,
    command_environment,
    end_orphan,
    pass_through,
    signal_name,
)
from tests.checkpoints.training.trainers import program, wait_for

# A process that says when it is ready (FILE), with handlers as its test needs them.
READY = "Path(FILE).touch()"


class Run:
    """Starts commands and keeps what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = JobLog(folder / "log.txt")
        self.printed: list[tuple[Stream, bytes]] = []
        self.started: list[TrainingCommand] = []

    def start(self, command: list[str], *, grace: float = 20.0) -> TrainingCommand:
        started = TrainingCommand(
            command, os.environ, log=self.log, on_output=lambda *what: self.printed.append(what), grace=grace
        )
        self.started.append(started)
        return started

    def run(self, text: str, **options: float) -> Ended:
        """Run a Python program to its end."""
        return self.start(program(text), **options).wait(lambda: False)

    def start_ready(self, text: str, **options: float) -> TrainingCommand:
        """Start a Python program and wait until it has made the file ``FILE``."""
        ready = self.folder / f"ready-{len(self.started)}"
        command = self.start(program(text.replace("FILE", repr(str(ready)))), **options)
        wait_for(ready)
        return command

    def text(self, stream: Stream) -> str:
        return b"".join(data for name, data in self.printed if name == stream).decode()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    running = Run(tmp_path)
    yield running
    for command in running.started:
        if not command._is_reaped:
            command.kill()
    running.log.close()


def is_running(pid: int) -> bool:
    return process_start(pid) is not None


def send_until(number: int, condition: Callable[[], bool]) -> None:
    """Send this process a signal again and again."""
    while not condition():
        os.kill(os.getpid(), number)
        time.sleep(0.05)


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_the_exit_code_is_the_commands(run: Run, code: int) -> None:
    assert run.run(f"sys.exit({code})") == Ended(code, "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_command_ended_by_a_signal_has_the_exit_code_that_a_shell_reports(run: Run, number: signal.Signals) -> None:
    assert run.run(f"os.kill(os.getpid(), {number.value})") == Ended(128 + number, number.name)


def test_both_streams_are_handed_on_and_kept_in_the_log(run: Run) -> None:
    run.run("os.write(1, b'to out\\n'); os.write(2, b'to err\\n')")
    assert (run.text("stdout"), run.text("stderr")) == ("to out\n", "to err\n")
    assert sorted(run.log.path.read_text().splitlines()) == ["to err", "to out"]


def test_output_without_a_newline_is_handed_on_while_the_command_runs(run: Run) -> None:
    command = run.start_ready(f"os.write(1, b'no newline'); {READY}; time.sleep(600)")
    wait_until(lambda: run.text("stdout") == "no newline")
    assert not command.is_over


def test_bytes_that_are_no_text_are_kept_as_they_are(run: Run) -> None:
    run.run("os.write(1, bytes(range(256)) * 1000)")
    assert run.log.path.read_bytes() == bytes(range(256)) * 1000


def test_a_print_of_a_python_program_is_not_held_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in command_environment({}, {}).items():
        monkeypatch.setenv(name, value)
    code = "import time; print('epoch 1'); time.sleep(600)"
    run.start([sys.executable, "-S", "-c", code])
    wait_until(lambda: run.text("stdout") == "epoch 1\n")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: folder / "missing", "no such file"),
        (lambda folder: folder, "permission denied"),
        (lambda folder: _file(folder / "text", 0o644), "permission denied"),
        (lambda folder: _file(folder / "format", 0o755), "exec format error"),
    ],
    ids=["missing", "a folder", "not executable", "of no format"],
)
def test_a_command_that_cannot_be_started_is_a_clear_error(run: Run, make: Callable[[Path], Path], why: str) -> None:
    command = str(make(run.folder))
    with pytest.raises(JobFailedError) as caught:
        run.start([command])
    assert caught.value.message.startswith(f"the command {command!r} cannot be started: {why}")


def _file(path: Path, mode: int) -> Path:
    path.write_text("neither a script nor a program")
    path.chmod(mode)
    return path


def test_the_command_is_searched_for_in_its_own_path(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = run.folder / "bin" / "my-trainer"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho trained\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    run.start(["my-trainer"]).wait(lambda: False)
    assert run.text("stdout") == "trained\n"


def test_the_command_is_the_leader_of_a_session_of_its_own(run: Run) -> None:
    command = run.start(program("print(os.getpid(), os.getpgid(0), os.getsid(0))"))
    command.wait(lambda: False)
    assert run.text("stdout").split() == [str(command.pid)] * 3


def test_the_command_finds_no_child_that_it_never_started(run: Run) -> None:
    run.run("""
try:
    print(os.wait())
except ChildProcessError:
    print("none")
""")
    assert run.text("stdout") == "none\n"


def test_the_command_holds_no_descriptor_of_ours(run: Run) -> None:
    run.run("print(sorted(os.listdir('/proc/self/fd'), key=int)[:-1])")
    assert run.text("stdout") == "['0', '1', '2']\n"


def test_broken_pipes_end_the_command_as_they_would_without_us(run: Run) -> None:
    ended = run.run("""
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
sys.exit(subprocess.run(["sh", "-c", "yes | head -n 1"], capture_output=True).stdout != b"y\\n")
""")
    assert ended.exit_code == 0
    run.start(["sh", "-c", "trap"]).wait(lambda: False)
    assert "PIPE" not in run.text("stdout")


def test_a_stop_reaches_every_process_of_the_group(run: Run) -> None:
    command = run.start_ready(f"""
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
print(child.pid)
{READY}
child.wait()
""")
    wait_until(lambda: run.text("stdout").endswith("\n"))
    command.stop(signal.SIGINT)
    ended = command.wait(lambda: False)
    assert ended.exit_code != 0
    wait_until(lambda: not is_running(int(run.text("stdout"))))


def test_a_command_that_ends_in_order_after_a_signal_has_its_own_exit_code(run: Run) -> None:
    command = run.start_ready(f"""
def save_and_leave(*_):
    print("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save_and_leave)
{READY}
time.sleep(600)
""")
    command.stop(signal.SIGTERM)
    assert command.wait(lambda: False) == Ended(0, "")
    assert run.text("stdout") == "saved\n"


_DEAF = f"""
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
{READY}
time.sleep(600)
"""


def test_a_command_that_ignores_the_signal_is_killed_after_the_grace_time(run: Run) -> None:
    command = run.start_ready(_DEAF, grace=0.1)
    command.stop(signal.SIGTERM)
    assert command.wait(lambda: False) == Ended(137, "SIGKILL")


def test_the_second_signal_kills_at_once(run: Run) -> None:
    command = run.start_ready(_DEAF, grace=600)
    command.stop(signal.SIGINT)
    command.stop(signal.SIGINT)
    assert command.wait(lambda: False) == Ended(137, "SIGKILL")


_SAVES_SLOWLY = """
def save(*_):
    Path(SAVED).write_text("half")
    time.sleep(0.5)
    Path(SAVED).write_text("whole")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
READY
time.sleep(600)
"""


def _saves_slowly(folder: Path) -> str:
    """Shell words that run a trainer which saves for a while once it is told to end, and prints nothing."""
    text = _SAVES_SLOWLY.replace("SAVED", repr(str(folder / "saved"))).replace("READY", READY)
    return shlex.join(program(text.replace("FILE", repr(str(folder / "ready"))))) + " >/dev/null 2>&1"


def test_a_trainer_whose_shell_dies_of_the_stop_saves_to_its_end(run: Run) -> None:
    command = run.start(["sh", "-c", f"{_saves_slowly(run.folder)}; true"])
    wait_for(run.folder / "ready")
    command.stop(signal.SIGTERM)
    assert command.wait(lambda: False) == Ended(143, "SIGTERM")
    assert not command.was_outlived
    assert (run.folder / "saved").read_text() == "whole"


def test_what_the_command_leaves_behind_is_told_to_end_and_may_save(run: Run) -> None:
    ready = shlex.quote(str(run.folder / "ready"))
    command = run.start(["sh", "-c", f"{_saves_slowly(run.folder)} & while ! [ -e {ready} ]; do sleep 0.1; done"])
    assert command.wait(lambda: False) == Ended(0, "")
    assert command.was_outlived
    assert not command.was_stopped
    assert (run.folder / "saved").read_text() == "whole"


def test_a_second_signal_kills_also_what_outlived_the_command(run: Run) -> None:
    deaf = _DEAF.replace("FILE", repr(str(run.folder / "ready")))
    command = run.start(["sh", "-c", f"{shlex.join(program(deaf))}; true"], grace=600)
    wait_for(run.folder / "ready")
    command.stop(signal.SIGTERM)
    command._ended.wait()
    command.stop(signal.SIGTERM)
    assert command.wait(lambda: False) == Ended(143, "SIGTERM")


def test_a_command_that_a_real_time_signal_ends_has_its_name(run: Run) -> None:
    number = signal.SIGRTMIN + 3
    assert run.run(f"os.kill(os.getpid(), {number})") == Ended(128 + number, "SIGRTMIN+3")


def test_a_request_to_stop_is_noticed_while_the_command_runs(run: Run) -> None:
    command = run.start_ready(f"{READY}; time.sleep(600)")
    assert command.wait(lambda: True) == Ended(143, "SIGTERM")
    assert command.was_stopped


def test_what_the_command_leaves_behind_does_not_outlive_the_job(run: Run) -> None:
    ended = run.run("""
left = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
print(left.pid, flush=True)
os._exit(0)
""")
    assert ended == Ended(0, "")
    wait_until(lambda: not is_running(int(run.text("stdout"))))


def test_output_of_what_the_command_leaves_behind_is_kept(run: Run) -> None:
    code = "import os, time; time.sleep(0.3); os.write(1, b'late')"
    run.run(f"subprocess.Popen([sys.executable, '-I', '-S', '-c', {code!r}])")
    assert run.text("stdout") == "late"


def test_a_process_that_has_left_the_session_does_not_hold_the_end_up(run: Run) -> None:
    run.run(
        """
left = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
print(left.pid, flush=True)
os._exit(0)
""",
        grace=0.1,
    )
    pid = int(run.text("stdout"))
    assert is_running(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_reader_of_the_output_that_is_gone_does_not_end_the_training(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)

    def broken(_stream: Stream, data: bytes) -> None:
        os.write(write, data)

    log = JobLog(tmp_path / "log.txt")
    command = TrainingCommand(program("print('one'); print('two')"), os.environ, log=log, on_output=broken, grace=20)
    assert command.wait(lambda: False) == Ended(0, "")
    os.close(write)
    log.close()
    assert log.path.read_text() == "one\ntwo\n"


def test_an_error_of_the_receiver_of_the_output_ends_the_command_and_is_raised(tmp_path: Path) -> None:
    def wrong(_stream: Stream, _data: bytes) -> None:
        raise RuntimeError("a mistake")

    log = JobLog(tmp_path / "log.txt")
    command = TrainingCommand(
        program("print('one', flush=True); time.sleep(600)"), os.environ, log=log, on_output=wrong, grace=20
    )
    with pytest.raises(RuntimeError, match="a mistake"):
        command.wait(lambda: False)
    assert not is_running(command.pid)
    log.close()


def test_output_passes_through_to_our_own_streams(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    pass_through("stdout", b"to out")
    pass_through("stderr", b"to err \xff")
    captured = capfdbinary.readouterr()
    assert (captured.out, captured.err) == (b"to out", b"to err \xff")


def test_output_for_a_closed_stream_is_dropped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = (tmp_path / "closed").open("w")
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    pass_through("stdout", b"no process reads this")


def test_the_environment_is_ours_with_the_users_variables_and_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    monkeypatch.setenv("FLEXAI_INPUT_CHECKPOINT_DIR", "/of/an/outer/job")
    environment = command_environment(
        {"OURS": "2", "THEIRS": "3"},
        {"FLEXAI_OUTPUT_CHECKPOINT_DIR": Path("/out"), "FLEXAI_INPUT_CHECKPOINT_DIR": None},
    )
    assert environment["OURS"] == "2"
    assert environment["THEIRS"] == "3"
    assert environment["FLEXAI_OUTPUT_CHECKPOINT_DIR"] == "/out"
    assert "FLEXAI_INPUT_CHECKPOINT_DIR" not in environment


def test_a_credential_that_flexai_set_for_itself_is_not_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "flexai:s3cret")
    assert command_environment({}, {})["PREFECT_API_AUTH_STRING"] == "flexai:s3cret", "the user's own"
    monkeypatch.setenv(WITHHELD_VARIABLE, "PREFECT_API_AUTH_STRING")
    environment = command_environment({}, {})
    assert "s3cret" not in "".join(environment.values())
    assert WITHHELD_VARIABLE not in environment
    assert command_environment({"PREFECT_API_AUTH_STRING": "x"}, {})["PREFECT_API_AUTH_STRING"] == "x"


# What the guard does. The runner is a process of its own, so that it can be killed.

_RUNNER = """
import os, sys
from pathlib import Path
from flexai.checkpoints.training.job_log import JobLog
from flexai.checkpoints.training.runner import TrainingCommand
folder, grace, *command = sys.argv[1:]
running = TrainingCommand(
    command, os.environ, log=JobLog(Path(folder) / "log.txt"), on_output=lambda *_: None, grace=float(grace)
)
Path(folder, "pid").write_text(str(running.pid))
running.wait(lambda: False)
"""


def start_runner(folder: Path, text: str, *, grace: float) -> tuple[subprocess.Popen[bytes], int]:
    """Start a runner of a program; returns when the program has made the file ``FILE``, with the program's pid."""
    ready = folder / "ready"
    command = program(text.replace("FILE", repr(str(ready))))
    runner = subprocess.Popen([sys.executable, "-c", _RUNNER, str(folder), str(grace), *command])
    wait_for(ready)
    wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text() != "")
    return runner, int((folder / "pid").read_text())


def test_a_command_does_not_outlive_a_runner_that_is_killed(tmp_path: Path) -> None:
    children = f"""
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
{READY}
time.sleep(600)
"""
    runner, pid = start_runner(tmp_path, children, grace=20)
    child = int((tmp_path / "child").read_text())
    runner.kill()
    runner.wait()
    wait_until(lambda: not is_running(pid) and not is_running(child))


def test_a_command_that_ignores_signals_does_not_outlive_a_killed_runner_either(tmp_path: Path) -> None:
    runner, pid = start_runner(tmp_path, _DEAF, grace=0.2)
    runner.kill()
    runner.wait()
    wait_until(lambda: not is_running(pid))


def test_a_command_that_outlived_its_runner_can_be_ended_by_the_next_one(tmp_path: Path) -> None:
    runner, pid = start_runner(tmp_path, _DEAF, grace=600)
    started = process_start(pid)
    runner.kill()
    runner.wait()
    end_orphan(pid, 0.1, lambda: process_start(pid) == started)
    assert not is_running(pid)


def test_an_id_that_is_another_process_by_now_is_left_alone() -> None:
    end_orphan(os.getpid(), 0.0, lambda: False)


# Signals that reach this process.


def test_a_signal_is_passed_on_to_the_command(run: Run) -> None:
    with SignalRelay() as relay:
        command = relay.start(lambda: run.start_ready(f"{READY}; time.sleep(600)"))
        os.kill(os.getpid(), signal.SIGTERM)
        assert command.wait(lambda: False) == Ended(143, "SIGTERM")
    assert relay.received == [signal.SIGTERM]
    assert command.was_stopped


_TELLS = f"""
told = []
def said(text):
    os.write(1, text.encode())  # which a second signal may interrupt, unlike print
def tell(number, _frame):
    said("got %d\\n" % number)
    told.append(number)
for number in NUMBERS:
    signal.signal(number, tell)
{READY}
while True:
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Signals as a terminal's processes have them: a shell's background ignores some, and other tests handle some."""
    former = {number: signal.getsignal(number) for number in {*PASSED_SIGNALS, signal.SIGINT}}
    former = {number: handler for number, handler in former.items() if handler is not signal.SIG_DFL}
    for number in former:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in former.items():
        if handler is not None:
            signal.signal(number, handler)


@pytest.mark.parametrize("number", sorted(PASSED_SIGNALS))
def test_a_signal_that_asks_for_no_end_is_the_commands_own_matter(run: Run, number: int) -> None:
    with SignalRelay() as relay:
        command = relay.start(lambda: run.start_ready(_TELLS.replace("NUMBERS", f"[{number}]")))
        send_until(number, lambda: f"got {number}\n" in run.text("stdout"))
        assert not command.was_stopped
        command.kill()
    assert relay.received == []


def test_every_signal_that_a_user_may_send_is_passed_on() -> None:
    named = {signal_name(number) for number in PASSED_SIGNALS}
    assert named >= {"SIGUSR1", "SIGUSR2", "SIGCONT", "SIGQUIT", "SIGWINCH", "SIGALRM", "SIGXCPU", "SIGPWR"}
    assert named >= {"SIGRTMIN+1"}
    ours = {
        "SIGINT",
        "SIGTERM",
        "SIGHUP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGCHLD",
        "SIGPIPE",
        "SIGSEGV",
        "SIGABRT",
        "SIGURG",
    }
    assert not named & ours


def test_a_shell_that_waits_for_the_trainer_does_not_die_of_the_trainers_signal(run: Run) -> None:
    text = _TELLS.replace("NUMBERS", "[signal.SIGUSR1]").replace(
        "    time.sleep(600)", "    time.sleep(0.02)\n    if told: sys.exit(7)"
    )
    trainer = shlex.join(program(text.replace("FILE", repr(str(run.folder / "ready")))))
    with SignalRelay() as relay:
        command = relay.start(lambda: run.start(["sh", "-c", f"{trainer}; exit $?"]))
        wait_for(run.folder / "ready")
        send_until(signal.SIGUSR1, lambda: "got" in run.text("stdout"))
        assert command.wait(lambda: False) == Ended(7, "")
    assert set(run.text("stdout").splitlines()) == {f"got {signal.SIGUSR1.value}"}


def test_workers_that_inherited_the_trainers_handler_are_spared_the_signal(run: Run) -> None:
    text = _TELLS.replace("NUMBERS", "[signal.SIGUSR1]").replace(
        READY,
        f"""
if os.fork() == 0:
    said = lambda _: os.write(1, b"the worker\\n")
    {READY}
    time.sleep(600)
""",
    )
    with SignalRelay() as relay:
        command = relay.start(lambda: run.start_ready(text))
        send_until(signal.SIGUSR1, lambda: "got" in run.text("stdout"))
        command.kill()
    assert set(run.text("stdout").splitlines()) == {f"got {signal.SIGUSR1.value}"}


def test_a_signal_that_no_process_of_the_command_handles_ends_the_command(run: Run) -> None:
    with SignalRelay() as relay:
        command = relay.start(lambda: run.start_ready(f"{READY}; time.sleep(600)"))
        os.kill(os.getpid(), signal.SIGUSR2)
        assert command.wait(lambda: False) == Ended(128 + signal.SIGUSR2, "SIGUSR2")
    assert not command.was_stopped


def test_continuing_wakes_every_process_of_the_command(run: Run) -> None:
    with SignalRelay() as relay:
        command = relay.start(
            lambda: run.start_ready(f"""
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"])
os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
{READY}
sys.exit(child.wait())
""")
        )
        os.kill(os.getpid(), signal.SIGCONT)
        assert command.wait(lambda: False) == Ended(0, "")


def test_a_signal_before_the_command_begins_that_asks_for_no_end_ends_nothing(run: Run) -> None:
    with SignalRelay() as relay:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert relay.start(lambda: run.start(["true"])).wait(lambda: False) == Ended(0, "")
        os.kill(os.getpid(), signal.SIGUSR1)
    assert relay.received == []


def test_a_hangup_behind_a_stop_is_no_second_one(run: Run) -> None:
    text = f"""
def save(*_):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    time.sleep(0.3)
    print("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
{READY}
time.sleep(600)
"""
    with SignalRelay() as relay:
        command = relay.start(lambda: run.start_ready(text, grace=600))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert command.wait(lambda: False) == Ended(0, "")
    assert run.text("stdout") == "saved\n"


def test_a_signal_that_this_process_handles_itself_is_left_to_it(run: Run) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: seen.append(number))
    try:
        with SignalRelay() as relay:
            command = relay.start(lambda: run.start_ready(f"{READY}; time.sleep(600)"))
            os.kill(os.getpid(), signal.SIGALRM)
            wait_until(lambda: bool(seen))
            assert not command.is_over
            command.kill()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_signal_that_comes_while_the_command_starts_reaches_it_afterwards(run: Run) -> None:
    def start() -> TrainingCommand:
        os.kill(os.getpid(), signal.SIGINT)
        return run.start_ready(f"{READY}; time.sleep(600)")

    with SignalRelay() as relay:
        ended = relay.start(start).wait(lambda: False)
    assert ended == Ended(130, "SIGINT")


def test_a_signal_for_the_command_that_comes_before_its_start_is_over_reaches_it(run: Run) -> None:
    def start() -> TrainingCommand:
        handled = f"import signal; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7)); {READY}; time.sleep(600)"
        started = run.start_ready(handled)
        os.kill(os.getpid(), signal.SIGUSR1)
        return started

    with SignalRelay() as relay:
        ended = relay.start(start).wait(lambda: False)
    assert ended == Ended(7, "")


def test_a_signal_that_the_command_does_not_handle_yet_when_it_starts_ends_nothing(run: Run) -> None:
    def start() -> TrainingCommand:
        os.kill(os.getpid(), signal.SIGUSR1)
        return run.start_ready(READY)

    with SignalRelay() as relay:
        ended = relay.start(start).wait(lambda: False)
    assert ended == Ended(0, "")


def test_a_signal_before_the_command_is_an_interruption() -> None:
    with SignalRelay(), pytest.raises(InterruptedByUserError, match="SIGTERM before the command"):
        os.kill(os.getpid(), signal.SIGTERM)


def test_after_the_command_the_first_signal_is_no_interruption_and_the_second_is(run: Run) -> None:
    with SignalRelay() as relay:
        relay.start(lambda: run.start(["true"])).wait(lambda: False)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(InterruptedByUserError, match="last checkpoints"):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_handlers_of_before_are_back_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with SignalRelay():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalRelay() as relay:
            os.kill(os.getpid(), signal.SIGHUP)
        assert relay.received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_signals_are_left_to_their_owner() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def relay() -> None:
        with SignalRelay():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=relay)
    thread.start()
    thread.join()
    assert seen == [before]
