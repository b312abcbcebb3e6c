"""How the program ends: one sentence, a hint, an exit code."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from flexai.checkpoints import errors
from flexai.checkpoints.errors import CheckpointError, JobExistsError, NameTakenError
from flexai.cli import failures, terminal
from flexai.cli.commands import Command
from flexai.cli.root import cli
from tests.cli.conftest import Run
from tests.cli.program import PROGRAM, Program
from tests.servers.keeper import free_ports

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, CheckpointError)
    # The two that carry a record are made of that.
    and kind not in {NameTakenError, JobExistsError}
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_a_sentence_a_hint_and_its_exit_code(
    kind: type[CheckpointError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failures.report(kind("it broke", hint="do this"), []) == kind.exit_code
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "error: it broke\nhint: do this\n")


def test_an_error_without_a_hint_has_no_empty_one(capsys: pytest.CaptureFixture[str]) -> None:
    failures.report(CheckpointError("it broke"), [])
    assert capsys.readouterr().err == "error: it broke\n"


def test_an_unexpected_error_is_one_line_with_a_way_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.report(KeyError("x"), ["checkpoint", "inspect", "my name"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: internal error: KeyError: 'x'",
        "hint: flexai --debug checkpoint inspect 'my name' shows the traceback",
    ]


@pytest.mark.parametrize(
    "arguments", [["training", "run", "x", "-E", "TOKEN=5ecret", "--", "a"], ["x", "--", "5ecret"], ["--env=T=5ecret"]]
)
def test_what_a_training_job_gets_is_not_repeated(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    failures.report(KeyError("x"), arguments)
    printed = capsys.readouterr().err
    assert "5ecret" not in printed
    assert "--debug" in printed


def test_a_failure_of_the_operating_system_is_no_internal_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.report(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x"), []) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: no space left on device: /data/x",
        "hint: free some room and run the same command again",
    ]


def test_an_error_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    failures.report(CheckpointError("bad name \x1b]0;owned\x07"), [])
    assert "\x1b" not in capsys.readouterr().err


def test_clicks_errors_speak_as_ours_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.report(click.UsageError("No such option '--foo'."), []) == 2
    assert capsys.readouterr().err.splitlines()[0] == "error: no such option '--foo'"
    assert failures.report(click.FileError("x", "gone"), []) == 1


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.verbosity, "debug", True)
    try:
        raise KeyError("x")
    except KeyError as error:
        failures.report(error, [])
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed
    assert printed.endswith("error: internal error: KeyError: 'x'\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--debug", "checkpoint", "inspect", "unknown"],
        ["checkpoint", "inspect", "unknown", "--debug"],
        ["checkpoint", "inspect", "--debug", "unknown"],
    ],
)
def test_debug_may_stand_before_and_after_the_command(flexai: Run, arguments: list[str]) -> None:
    done = flexai(*arguments)
    assert done.code == 3
    assert "Traceback" in done.err
    assert "Traceback" not in flexai("checkpoint", "inspect", "unknown").err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["checkpoint", "list"], 0),
        (["checkpoint", "inspect", "unknown"], 3),
        (["checkpoint", "inspect", "a b"], 2),
        (["checkpoint", "inspect"], 2),
        (["checkpoint", "inspect", "a-name", "b-name"], 2),
        (["--unknown"], 2),
        (["checkpoint", "list", "--unknown"], 2),
    ],
)
def test_the_real_program_exits_with_the_code(program: Program, arguments: list[str], code: int) -> None:
    done = program.run(*arguments)
    assert done.code == code
    assert bool(done.error) == (code != 0)
    assert "Traceback" not in done.err


def test_a_catalog_that_cannot_be_read_is_said_in_one_sentence(program: Program) -> None:
    program.home.mkdir()
    (program.home / "catalog.db").write_bytes(b"no database" * 100)
    done = program.run("checkpoint", "list")
    assert done.code == 1
    assert done.error == f"the catalog {program.home}/catalog.db cannot be used: file is not a database"


def test_a_store_that_does_not_answer_is_told_of_while_it_is_asked_again(program: Program) -> None:
    program.file("a.bin")
    program.environment |= {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_ports(1)[0]}",
        "FLEXAI_STORE": "s3://bucket/prefix",
    }
    process = program.start("checkpoint", "push", "base", "-f", "a.bin")
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert first.endswith("; trying again (3 of 8)\n"), first
    assert process.returncode == 130


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["checkpoint", "push", "--help"], ["checkpoint", "list"]]
)
def test_a_reader_that_goes_away_early_is_no_failure(program: Program, arguments: list[str]) -> None:
    process = program.start(*arguments)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait()) == ("", 0)
    process.stderr.close()


def test_writing_to_a_full_disk_is_a_failure(program: Program) -> None:
    full = Path("/dev/full")
    if not full.exists():
        full = program.file("unused")
    with full.open("w") as stdout:
        process = program.start("checkpoint", "list", stdout=stdout)
        _, stderr = process.communicate()
    if full.name == "full":
        assert process.returncode == 1
        assert "no space left on device" in stderr
        assert "Traceback" not in stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_from_the_start_is_no_failure(program: Program, closed: str) -> None:
    program.file("a.bin")
    for arguments in ("checkpoint push base a.bin", "training run job-1 -- echo printed", "checkpoint verify"):
        shell = ["sh", "-c", f"exec {shlex.quote(str(PROGRAM))} {arguments} {closed}"]
        done = subprocess.run(shell, cwd=program.cwd, env=program.environment, capture_output=True, check=False)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert program.run("training", "logs", "job-1").out.startswith("printed\n")


def test_a_terminal_that_lacks_a_character_is_no_failure(program: Program) -> None:
    done = program.run("training", "checkpoints", "--help", env={"PYTHONIOENCODING": "ascii"})
    assert done.code == 0
    done = program.run("checkpoint", env={"PYTHONIOENCODING": "ascii"})
    assert (done.code, "Traceback" in done.err) == (2, False)


def test_names_are_told_where_python_would_read_them_as_ascii(program: Program) -> None:
    program.file("gr\u00f6\u00dfe/\u00fc.bin")
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0"}
    pushed = program.run("checkpoint", "push", "base", "-f", "gr\u00f6\u00dfe", env=ascii_alone)
    assert pushed.code == 0, pushed.err
    fetched = program.run("checkpoint", "fetch", "base", "-d", "\u00e4", env=ascii_alone)
    assert fetched.code == 0, fetched.err
    assert (program.cwd / "\u00e4" / "\u00fc.bin").exists()
    printed = program.run("training", "run", "job-1", "--", "printenv", "PYTHONUTF8", env=ascii_alone)
    assert printed.out == "0\n"  # the trainer's own choice stays


def test_colours_do_not_reach_a_pipe(program: Program) -> None:
    assert "\x1b" not in program.run("checkpoint", "inspect", "unknown", env={"TERM": "xterm"}).err


def test_a_connection_that_breaks_is_not_taken_for_a_reader_that_went_away(
    flexai: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr("flexai.checkpoints.catalog.catalog.Catalog.look", broken)
    done = flexai("checkpoint", "list")
    assert (done.code, done.error) == (1, "a connection was closed by its other end")


_SLOW_PUSH = """
import sys, threading, time
from flexai.checkpoints.service import push as module
def pushing():
    print("pushing", file=sys.stderr, flush=True)
def slow(*args, **kwargs):
    {work}
module.push = slow
sys.argv = ["flexai", "checkpoint", "push", "my-name", "-f", "a file.bin"]
from flexai.cli import main
main()
"""


def _interrupted(program: Program, work: str, *signals: signal.Signals) -> tuple[int, str]:
    """Exit code and standard error of a push that gets signals while it works."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_PUSH.format(work=work)],
        cwd=program.cwd,
        env=program.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "pushing\n"
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    stderr = process.stderr.read()
    process.stderr.close()
    return process.wait(), stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_how_to_go_on(program: Program, number: signal.Signals) -> None:
    program.file("a file.bin")
    code, stderr = _interrupted(program, "pushing(); time.sleep(60)", number)
    assert code == 130
    assert stderr.splitlines() == [
        "error: interrupted",
        "hint: the same command again goes on where it stopped: flexai checkpoint push my-name -f 'a file.bin'",
    ]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_before_and_after_the_work_shows_no_traceback(program: Program, moment: str) -> None:
    waits = "print('here', flush=True); time.sleep(60)"
    code = {
        "before": f"class Slow:\n    def find_spec(self, name, *_):\n        if name == 'click':\n            {waits}\n"
        "sys.meta_path.insert(0, Slow())\n",
        "after": f"def wait():\n    {waits}\natexit.register(wait)\n",
    }[moment]
    start = "from flexai.cli import main\nsys.argv = ['flexai', '--version']\nmain()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import atexit, sys, time\n{code}{start}"],
        env=program.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "here\n":
        pass
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (-signal.SIGINT, "")


def test_an_ignored_signal_stays_ignored(program: Program) -> None:
    program.file("a file.bin")
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", ignoring + _SLOW_PUSH.format(work="pushing(); time.sleep(1); sys.exit(9)")],
        cwd=program.cwd,
        env=program.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "pushing\n"
    process.send_signal(signal.SIGINT)
    assert process.wait() == 9
    process.stderr.close()


def test_a_second_signal_ends_it_at_once(program: Program) -> None:
    program.file("a file.bin")
    work = """
    try:
        pushing()
        time.sleep(60)
    finally:
        time.sleep(60)"""
    code, stderr = _interrupted(program, work, signal.SIGINT, signal.SIGTERM)
    assert (code, stderr) == (130, "")


IN_FLAGS = {
    "training run abc --exclude / -- true": ("a pattern of --exclude names nothing", "name files or folders"),
    "training capture abc --exclude x": (
        "--exclude needs --watch: what an attempt has left is stored as it was begun",
        "name the directory to capture",
    ),
    "training capture abc --watch . --exclude /": ("a pattern of --exclude names nothing", "name files or folders"),
    "checkpoint fetch abc:x --delete-extra": (
        "--delete-extra and NAME|UUID cannot be used together",
        "fetch all of the checkpoint, or delete the rest by hand",
    ),
    "checkpoint fetch abc --force": ("--force needs --delete-extra", "nothing else has to be insisted on"),
    "checkpoint push abc . --exclude /": ("a pattern of --exclude names nothing", "name files or folders"),
    "checkpoint push abc --no-default-excludes --from-checkpoint other": (
        "--no-default-excludes and --from-checkpoint cannot be used together",
        "flexai checkpoint push abc --file SOURCE",
    ),
    "storage create abc --provider s3 --anonymous --requester-pays": (
        "connection: who pays for requests has to say who it is: --requester-pays needs credentials",
        "flexai storage create abc --provider s3",
    ),
    "storage create abc --provider gcs --anonymous --user-project my-project": (
        "connection: who pays for requests has to say who it is: --user-project needs credentials",
        "flexai storage create abc --provider gcs",
    ),
}


@pytest.mark.parametrize("typed", IN_FLAGS)
def test_an_option_is_called_by_its_flag_in_errors_and_hints_of_the_command_line(flexai: Run, typed: str) -> None:
    done = flexai(*typed.split())
    error, hint = IN_FLAGS[typed]
    assert (done.code, done.error) == (2, error)
    assert done.hint.startswith(hint)


@pytest.mark.parametrize(
    ("typed", "flag"),
    [
        ("checkpoint list --owner ''", "--owner"),
        ("checkpoint list --since=", "--since"),
        ("checkpoint list --job ''", "--job"),
        ("checkpoint list --columns ''", "--columns"),
        ("checkpoint undelete abc --name ''", "--name"),
        ("checkpoint push abc a.bin --storage-provider ''", "--storage-provider"),
        ("checkpoint push abc -f a.bin -f ''", "--file"),
        ("checkpoint push abc a.bin --bwlimit ''", "--bwlimit"),
        ("checkpoint prune --keep-last 1 --keep-within ''", "--keep-within"),
        ("checkpoint gc --grace-period ''", "--grace-period"),
        ("checkpoint fetch abc -d ''", "--destination"),
        ("training run abc --checkpoint '' -- true", "--checkpoint"),
        ("training run abc --grace '' -- true", "--grace"),
        ("training capture abc --watch ''", "--watch"),
        ("storage create abc --provider s3 --secret-from ''", "--secret-from"),
        ("storage create abc --provider s3 --region ''", "--region"),
        ("history --by ''", "--by"),
        ("deploy --pool ''", "--pool"),
    ],
)
def test_an_option_that_is_given_an_empty_text_is_wrong_and_not_left_out(flexai: Run, typed: str, flag: str) -> None:
    done = flexai(*shlex.split(typed))
    assert (done.code, done.error, done.hint) == (2, f"{flag} is empty", f"give a value, or leave {flag} out")


def _commands(group: click.Group) -> Iterator[click.Command]:
    for name in group.list_commands(ctx := click.Context(group)):
        found = group.get_command(ctx, name)
        if isinstance(found, click.Group):
            yield from _commands(found)
        elif found is not None:
            yield found


def test_every_command_looks_for_empty_options() -> None:
    """The look is one of our own class of commands."""
    assert all(isinstance(one, Command) for one in _commands(cli))


def test_an_empty_argument_of_a_training_command_is_its_own_matter(program: Program, flexai: Run) -> None:
    done = flexai(
        "training", "run", "abc", "--", sys.executable, "-c", "import sys; sys.exit(sys.argv[1:] != [''])", ""
    )
    assert done.code == 0
    assert flexai("checkpoint", "list", "--owner", "", "--help").code == 0
