"""What a failure looks like: one sentence, what to try next, and an exit code. No traceback unless asked for."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence

import click

from flexai.checkpoints.errors import CheckpointError, InterruptedByUserError
from flexai.cli import terminal
from flexai.cli.commands import Command, filled_in, may_be_secret

FAILED = 1
DONE = 0


def report(error: BaseException, arguments: Sequence[str]) -> int:
    """Say what went wrong and return the exit code; ``arguments`` are what the user typed."""
    if isinstance(error, terminal.OutputClosedError | BrokenPipeError):
        # Like `flexai checkpoint list | head -1`: the reader has what it wanted.
        terminal.close_output()
        return DONE
    if terminal.verbosity.debug:
        _show_traceback(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        error = InterruptedByUserError("interrupted", hint="")
    message, hint, code = _explain(error, arguments)
    terminal.say(message, label="error", colour="red")
    if hint:
        terminal.hint(hint)
    return code


def _explain(error: BaseException, arguments: Sequence[str]) -> tuple[str, str, int]:
    match error:
        case CheckpointError():
            return error.message, error.hint, error.exit_code
        case click.UsageError():
            return _sentence(error.format_message()), _usage(error), error.exit_code
        case click.ClickException():
            return _sentence(error.format_message()), "", error.exit_code
        case OSError() if error.strerror:
            place = f": {error.filename}" if error.filename is not None else ""
            return f"{error.strerror[:1].lower()}{error.strerror[1:]}{place}", _advice(error), FAILED
        case _:
            detail = " ".join(str(error).split())
            kind = type(error).__name__
            return (
                f"internal error: {kind}: {detail}" if detail else f"internal error: {kind}",
                _debug(arguments),
                FAILED,
            )


def _sentence(text: str) -> str:
    """Click's sentences in our form: a small first letter, no full stop."""
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _usage(error: click.UsageError) -> str:
    if error.ctx is None:
        return "flexai --help shows the commands"
    command = error.ctx.command
    if isinstance(command, click.Group):
        return f"{error.ctx.command_path} --help shows the commands"
    return (
        filled_in(command.form(error.ctx), error.ctx)
        if isinstance(command, Command)
        else f"{error.ctx.command_path} --help"
    )


def _advice(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "free some room and run the same command again"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "check who owns it and what it allows"
    return ""


def _debug(arguments: Sequence[str]) -> str:
    if terminal.verbosity.debug:
        return ""
    if may_be_secret(arguments):
        return "put --debug after 'flexai' to see the traceback"
    import shlex

    return f"{shlex.join(['flexai', '--debug', *arguments])} shows the traceback"


def _show_traceback(error: BaseException) -> None:
    import traceback

    # Not through `say`: its lines are meant to be many.
    sys.stderr.write("".join(traceback.format_exception(error)))


_left_behind = False


def leave_behind() -> None:
    """Note that threads are at work for which the program must not wait when it ends."""
    global _left_behind  # noqa: PLW0603 - as the process itself, there is one
    _left_behind = True


def leave(code: object) -> None:
    """End the process with an exit code where threads are left behind; otherwise it ends by itself."""
    if _left_behind:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else DONE if code is None else FAILED)


def exit_at_once(*_: object) -> None:
    """Leave without tidying up: the user has asked a second time. What is stored is safe at any instant."""
    os._exit(InterruptedByUserError.exit_code)
