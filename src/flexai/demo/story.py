"""What ``flexai demo`` tells: it trains a model, keeps every checkpoint, and goes on from the best one."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from flexai.checkpoints.errors import SettingsError

EXAMPLE = Path(__file__).resolve().with_name("train_digits.py")
PYTHON = Path(sys.executable).name
TRAIN = [PYTHON, EXAMPLE.name]
TRAINS_WITH = {"numpy": "numpy", "scikit-learn": "sklearn"}
"""Modules by their packages."""
WIDTH = 80
START_SECONDS = 120
SUMMARY = Path("summary.json")


class DemoFailedError(click.ClickException):
    """Something is not as it should be."""


def tell(*, keep: bool) -> None:
    """Run the demo in a folder of its own, which is left there with ``keep``.

    Raises SettingsError where what it trains with is not installed, and DemoFailedError.
    """
    if missing := [package for package, module in TRAINS_WITH.items() if find_spec(module) is None]:
        raise SettingsError(
            f"the demo trains a model, and {' and '.join(missing)} {'are' if missing[1:] else 'is'} not installed",
            hint=f"the extra 'demo' has them; or: pip install {' '.join(missing)}",
        )
    home = Path(tempfile.mkdtemp(prefix="flexai-demo-")).resolve()
    try:
        isolate(home)
        began = time.monotonic()
        show(home)
        say(f"All of it worked, in {time.monotonic() - began:.0f} seconds.")
    finally:
        os.chdir(home.parent)
        if keep:
            click.echo(
                f"Look around: cd {home} && export FLEXAI_HOME={home / 'flexai'} PREFECT_HOME={home / 'prefect'}"
            )
        else:
            shutil.rmtree(home, ignore_errors=True)


def isolate(home: Path) -> None:
    """Let this process and its children work in a folder of their own."""
    for name in list(os.environ):
        if name.startswith(("FLEXAI_", "PREFECT_")):
            del os.environ[name]
    os.environ |= {
        "FLEXAI_HOME": str(home / "flexai"),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_PROFILES_PATH": str(home / "prefect" / "profiles.toml"),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "COLUMNS": str(WIDTH),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    (home / "share").mkdir()
    shutil.copy(EXAMPLE, home)
    os.chdir(home)


def show(home: Path) -> None:
    """The story."""
    say(f"""
        A demo of flexai, in {home}.
        A Prefect server starts for it (about ten seconds)…
    """)
    with prefect_server(home) as api_url:
        heading("A folder of this machine stands for a bucket in the cloud")
        flexai("storage", "create", "demo-share", "--provider", "local", "--root", "share", PREFECT_API_URL=api_url)

        heading("A Prefect flow trains a network, pushes the best checkpoint, exports it")
        say("""
            The trainer saves every 500 steps and, as trainers do, keeps only its newest two checkpoints. flexai
            captures each one before it is gone.
        """)
        run([sys.executable, "-m", "flexai.demo"], shown_as=["train_push_export"], PREFECT_API_URL=api_url)
    best = json.loads(SUMMARY.read_text())["checkpoints"][0]

    heading("Every checkpoint is there, those that the trainer deleted as well")
    captured = json.loads(flexai("training", "checkpoints", "digits", "--json", is_shown=False))
    show_captured(captured, best["id"])
    expect(len(captured) == 10, f"10 checkpoints should have been captured, not {len(captured)}")
    say("The trainer itself kept only checkpoint-4000 and checkpoint-4320, and its final model in the root, '.'.")
    click.echo()
    flexai("checkpoint", "list")
    exported = sorted(path.name for path in Path("share", "models", best["pushed"]["name"]).iterdir())
    say(f"In the bucket, share/models/{best['pushed']['name']}: {', '.join(exported)}.")
    expect("flexai-manifest.json" in exported, "the export is not complete")

    heading("The best one comes back, every byte checked, and is as good as it was")
    name = str(best["pushed"]["name"])
    flexai("checkpoint", "fetch", name, "--destination", "restored")
    recorded = json.loads(Path("restored", "trainer_state.json").read_text())["log_history"][-1]["eval_accuracy"]
    shown = run([*TRAIN, "--evaluate", "restored"])
    say(f"The accuracy that was recorded while it was trained: {recorded:.4f}.")
    expect(shown.split() == ["accuracy", f"{recorded:.4f}"], "the restored model does not score what was recorded")

    heading("Training goes on from it, as if it had never stopped")
    printed = flexai("training", "run", "digits-resumed", "--checkpoint", name, "--", *TRAIN)
    expect(f"Continuing training from global step {best['step']}" in printed, "the training did not continue")
    click.echo()


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """A Prefect server for as long as it is needed; yields its API's URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = home / "prefect-server.log"
    application = ["--factory", "prefect.server.api.server:create_app"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", *application, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        api_url = f"http://127.0.0.1:{port}/api"
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{api_url}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise DemoFailedError(f"the demo failed: the Prefect server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield api_url
    finally:
        # No run will use what it has stored.
        server.kill()
        server.wait()


def answers(url: str) -> bool:
    """Whether a server is up."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def show_captured(rows: Sequence[dict[str, Any]], best: str) -> None:
    """The table of `flexai training checkpoints`, cut down to the width of a page."""
    click.echo("$ flexai training checkpoints digits      (some of its columns)")
    click.echo(f"  {'NAME':<16} {'STEP':>5}  {'TRAIN LOSS':>10}  {'EVAL LOSS':>9}  {'RESUMABLE':<9}  SIZE")
    for row in rows:
        step, train, evaluated = (
            "-" if row[key] is None else f"{row[key]:.{digits}f}"
            for key, digits in (("step", 0), ("trainLoss", 4), ("evalLoss", 4))
        )
        mark = "  <- best" if row["id"] == best else ""
        resumable = {True: "yes", False: "no", None: "unknown"}[row["resumable"]]
        click.echo(
            f"  {row['name'] or '.':<16} {step:>5}  {train:>10}  {evaluated:>9}  {resumable:<9}  {row['size']}{mark}"
        )
    click.echo()


def flexai(*arguments: str, is_shown: bool = True, **environment: str) -> str:
    """Run the `flexai` program as a user does."""
    script = Path(sys.executable).with_name("flexai")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "flexai.cli"]
    return run([*program, *arguments], shown_as=["flexai", *arguments], is_shown=is_shown, **environment)


def run(command: Sequence[str], *, shown_as: Sequence[str] = (), is_shown: bool = True, **environment: str) -> str:
    """Run a command and return what it printed, showing both line by line."""
    if is_shown:
        lines = textwrap.wrap(
            shlex.join(shown_as or command), WIDTH - 6, break_long_words=False, break_on_hyphens=False
        )
        click.echo("$ " + " \\\n    ".join(lines))
    process = subprocess.Popen(
        command,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        # Only what is shown may have remarks in between: the rest is data.
        stderr=subprocess.STDOUT if is_shown else None,
        text=True,
    )
    printed = []
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            printed.append(line)
            if is_shown:
                click.echo(cut(f"  {line.rstrip()}"))
    if process.returncode:
        raise DemoFailedError(
            f"the demo failed: {shlex.join(shown_as or command)} ended with exit code {process.returncode}"
        )
    return "".join(printed)


def cut(line: str) -> str:
    """A line that fits on the page."""
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def heading(text: str) -> None:
    """The next part of the story."""
    click.echo(f"\n{text}\n{'-' * len(text)}")


def say(text: str) -> None:
    """A remark."""
    click.echo(textwrap.fill(" ".join(text.split()), WIDTH))


def expect(holds: bool, otherwise: str) -> None:
    """Raise DemoFailedError unless something holds."""
    if not holds:
        raise DemoFailedError(f"the demo failed: {otherwise}")
