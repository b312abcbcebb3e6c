"""The ``flexai`` program: its groups, its global options, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import click

from flexai import __version__
from flexai.cli import failures, terminal
from flexai.cli.commands import ARGUMENTS, LazyGroup

PROGRAM = "flexai"
COMPLETE_VARIABLE = "_FLEXAI_COMPLETE"


class Program(LazyGroup):
    """The outermost group: one place where every failure is reported and gets its exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the program and exit with its code."""
        with terminal.guarded():
            if COMPLETE_VARIABLE in os.environ:
                try:
                    return super().main(args, PROGRAM, COMPLETE_VARIABLE, standalone_mode, **extra)
                except (Exception, KeyboardInterrupt):  # noqa: BLE001 - nothing is shown in the midst of what is typed
                    sys.exit(failures.FAILED)
            arguments = list(sys.argv[1:] if args is None else args)
            terminal.verbosity.reset()
            try:
                with self.make_context(PROGRAM, list(arguments), **extra) as ctx:
                    ctx.meta[ARGUMENTS] = arguments
                    self.invoke(ctx)
                code = failures.DONE
            except click.exceptions.Exit as leaving:
                code = leaving.exit_code
            except click.exceptions.NoArgsIsHelpError as error:
                click.echo(error.ctx.get_help() if error.ctx else "", err=True)
                code = error.exit_code
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where all failures end
                code = failures.report(error, arguments)
            sys.exit(code)


@click.group(
    PROGRAM,
    cls=Program,
    lazy={
        "checkpoint": ("flexai.cli.checkpoint:checkpoint", "Push, fetch, export and look after checkpoints."),
        "training": ("flexai.cli.training:training", "Run training commands and capture their checkpoints."),
        "storage": ("flexai.cli.storage:storage", "Keep connections to storage providers."),
        "store": ("flexai.cli.store:store", "Look after the managed store."),
        "catalog": ("flexai.cli.catalog:catalog", "Look after the catalog."),
        "history": ("flexai.cli.history:history", "Show what was changed, by whom and from where."),
        "up": ("flexai.cli.orchestration.up:up", "Start Prefect on this machine: a server, a worker, every flow."),
        "down": ("flexai.cli.orchestration.down:down", "Stop what flexai up has started."),
        "status": ("flexai.cli.orchestration.status:status", "Show what runs: server, worker, deployments, flow runs."),
        "deploy": ("flexai.cli.orchestration.deploy:deploy", "Deploy every flow to the Prefect API."),
        "config": ("flexai.cli.config:config", "Show the settings in force."),
        "demo": ("flexai.demo.command:demo", "See it work: train a real model, keep its checkpoints, go on from one."),
        "help": ("flexai.cli.help:help_", "Show the help of a command, or of a topic."),
        "completion": ("flexai.cli.completion:completion", "Print the completion script of a shell."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit codes:
  0  done                          4  already exists, or a conflict
  1  failed                        5  refused by a provider
  2  wrong usage                   6  a digest does not match
  3  not found                   130  interrupted

Topics: names, sizes, resuming, output (flexai help TOPIC).""",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Keep the checkpoints of your models: push, fetch, export, and capture them while you train.

    \b
    flexai checkpoint push mistral-500 --file output/ckpt.pt
    flexai checkpoint fetch mistral-500 --destination restored
    flexai training run my-run -- python train.py
    """


cli.params += terminal.verbosity_options()


def run() -> None:
    """What ``flexai.cli.main`` does."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is no reason to fail.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    _handle_signals(_interrupt)
    try:
        cli.main(prog_name=PROGRAM)
    except SystemExit as leaving:
        # All is done and said: from here on a signal ends the process, and shows nothing.
        _handle_signals(signal.SIG_DFL)
        failures.leave(leaving.code)
        raise


def _open_closed_streams() -> None:
    """Lead streams that were closed at the start (``>&-``) to nowhere.

    The next file to be opened would get the number of such a stream: the catalog's, say, and what a training command
    prints would be written into it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _handle_signals(failures.exit_at_once)
    raise KeyboardInterrupt


def _handle_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        # What is ignored stays ignored: that is how shells protect what runs in the background.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
