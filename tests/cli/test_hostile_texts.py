"""Names, reasons, logs and manifests of hostile authors, through every command that shows them, on a real terminal."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest

from flexai.cli.training.logs import readable
from tests.cli.program import Program, on_a_terminal
from tests.hostile.texts import ALL, assert_harmless

pytestmark = pytest.mark.slow

_PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "FLEXAI_QUIET_PERIOD": "0.05"}
_TRAIN = f"""
import os, sys
folder = os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"] + "/c"
os.mkdir(folder)
open(folder + "/net.weights", "wb").write(bytes(8))
os.write(1, {ALL!r}.encode() + b"\\n")
os.write(2, b"\\r10 %\\r20 %\\r\\x1b[32m30 %\\x1b[0m\\r\\n")
"""
# What the catalog of another machine, or of another user of the same database, may hold.
_TEXTS = {
    "checkpoints": ("reason", "model", "version"),
    "jobs": ("reason", "host", "output_dir", "code_commit"),
    "exports": ("destination_path",),
}


@pytest.fixture
def hostile(program: Program) -> Program:
    """A program whose catalog, store and logs say what hostile authors want."""
    program.environment.update(_PLAIN)
    program.file("a.bin")
    program.file("train.py", _TRAIN)
    assert program.run("checkpoint", "push", "pushed", "-f", "a.bin").code == 0
    assert program.run("training", "run", "my-run", "--", sys.executable, "train.py").code == 0
    (captured,) = program.run("training", "checkpoints", "my-run", "--json").json()
    with sqlite3.connect(program.home / "catalog.db") as catalog:
        for table, columns in _TEXTS.items():
            for column in columns:
                catalog.execute(f"UPDATE {table} SET {column} = ?", (ALL,))
        catalog.execute("UPDATE checkpoints SET name = ? WHERE id = ?", (ALL, captured["id"]))
        catalog.execute("UPDATE jobs SET command = ?", (json.dumps(["echo", ALL]),))
        catalog.execute("UPDATE contents SET is_damaged = 1")
    catalog.close()
    for blob in (program.home / "store" / "blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o600)
            blob.write_bytes(b"x" * blob.stat().st_size)
    return program


_LINES = (
    "checkpoint list",
    "checkpoint list --json",
    "checkpoint inspect pushed",
    "checkpoint inspect pushed --json",
    "checkpoint inspect pushed --executable",
    "checkpoint verify",
    "checkpoint fetch pushed -d out",
    "checkpoint prune --job my-run --keep-last 1 --dry-run",
    "checkpoint gc --dry-run",
    "checkpoint push other --from-checkpoint pushed --dry-run",
    "checkpoint recover",
    "training list",
    "training list --json",
    "training inspect my-run",
    "training checkpoints my-run",
    "training checkpoints my-run --json",
    "training logs my-run",
    "training delete my-run",
    "--verbose checkpoint verify",
    "--debug checkpoint verify",
    "config show",
    "status",
)


def test_nothing_that_others_wrote_commands_the_terminal(hostile: Program) -> None:
    for line in _LINES:
        assert_harmless(hostile.on_a_terminal(*line.split()))


def test_no_argument_and_no_setting_commands_the_terminal(program: Program) -> None:
    program.environment.update(_PLAIN)
    for words in (
        [ALL],
        [f"--{ALL}"],
        ["checkpoint", ALL],
        ["checkpoint", "inspect", ALL],
        ["checkpoint", "push", "name", "-f", ALL],
        ["--debug", "checkpoint", "push", "name", "-f", ALL],
        ["training", "run", "name", "--", ALL],
    ):
        assert_harmless(program.on_a_terminal(*words))
    assert_harmless(program.on_a_terminal("config", "show", env={"FLEXAI_PART_SIZE": ALL}))


def test_a_manifest_that_is_recovered_cannot_command_the_terminal(hostile: Program) -> None:
    (hostile.home / "catalog.db").unlink()
    for path in (hostile.home / "store" / "manifests").glob("*.json"):
        document = json.loads(path.read_bytes())

        def spoil(value: object) -> object:
            match value:
                case dict():
                    return {key: spoil(member) for key, member in value.items()}
                case str() if value in ("pushed", "c", "a.bin"):
                    return ALL
            return value

        path.chmod(0o600)
        path.write_text(json.dumps({key: spoil(value) for key, value in document.items()}))
    assert_harmless(hostile.on_a_terminal("checkpoint", "recover"))
    assert_harmless(hostile.on_a_terminal("checkpoint", "list"))


def test_json_stays_json_and_says_what_there_is(hostile: Program) -> None:
    done = hostile.run("training", "inspect", "my-run", "--json")
    assert_harmless(done.out)
    assert done.json()["runtime"]["reason"] == ALL


def test_no_hostile_name_is_put_on_a_shells_line(hostile: Program) -> None:
    with sqlite3.connect(hostile.home / "catalog.db") as catalog:
        catalog.execute("UPDATE checkpoints SET name = ? WHERE kind = 'pushed'", (f"pushed{ALL}",))
        catalog.execute("UPDATE jobs SET name = ?", (f"my-run{ALL}",))
    catalog.close()
    for shell in ("bash", "zsh", "fish"):
        for words in ("flexai checkpoint inspect p", "flexai training inspect m", "flexai checkpoint inspect "):
            *before, last = words.split(" ")
            # Fish tells the word itself, and takes a tab before what the word means.
            current = last if shell == "fish" else str(len(before))
            variables = {"_FLEXAI_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": current}
            done = hostile.run(env=variables)
            assert done.code == 0
            assert_harmless(done.out.replace("\t", " "))
            assert "owned" not in done.out


def test_a_log_is_raw_for_those_who_ask_and_for_programs(hostile: Program) -> None:
    assert ALL.replace("\r", "\n") in hostile.run("training", "logs", "my-run").out
    assert "\x1b]0;owned\x07" in hostile.on_a_terminal("training", "logs", "my-run", "--raw")
    lines = hostile.on_a_terminal("training", "logs", "my-run").splitlines()
    assert [line for line in lines if "%" in line] == ["10 %", "20 %", "30 %"]


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_a_bar_is_a_line_for_each_drawing_however_the_log_is_cut(cut: int) -> None:
    text = "begin\r\n\n\r 10%\r   \r 20%\r\r 30%\r\nend \x1b[1;32mgreen\x1b[0m"
    pieces = [text[start : start + cut] for start in range(0, len(text), cut)]
    assert "".join(readable(pieces)) == "begin\n\n 10%\n 20%\n 30%\nend green"


def test_a_line_without_an_end_is_not_kept() -> None:
    assert max(map(len, readable(["x" * 1000] * 1000))) < 100_000
    assert sum(map(len, readable(["\r"] * 200_000))) == 0


def test_what_a_library_prints_goes_through_the_same_door(program: Program, tmp_path: Path) -> None:
    code = f"""
import logging, sys, warnings, click
from rich.console import Console
from flexai.cli import terminal
text = {ALL!r}
logging.basicConfig()
with terminal.guarded():
    print(text); print(text, file=sys.stderr); sys.stdout.writelines([text])
    click.echo(text); click.secho(text, fg="red", err=True)
    warnings.warn(text); logging.getLogger().handlers[0].setStream(sys.stderr); logging.error(text)
    Console().print(text); terminal.write(text); terminal.say(text, label="error", colour="red")
    terminal.write_document({{text: text}}, as_json=False)
    sys.stdout.flush()
"""
    status, shown = on_a_terminal([sys.executable, "-c", code], env=program.environment | _PLAIN, cwd=tmp_path)
    assert status == 0
    assert_harmless(shown)


def test_what_is_printed_beside_a_bar_goes_through_the_same_door(program: Program, tmp_path: Path) -> None:
    code = f"""
import sys, time
from flexai.cli import progress_display as showing, terminal
showing.BRIEF = 0.1
with terminal.guarded(), showing.shown_progress() as progress:
    progress.begin("push", total_bytes=10, total_files=1)
    time.sleep(0.5)
    progress.note("note " + {ALL!r})
    terminal.say("said " + {ALL!r})
    print("print " + {ALL!r}, file=sys.stderr)
"""
    status, shown = on_a_terminal([sys.executable, "-c", code], env=program.environment, cwd=tmp_path)
    assert status == 0
    assert "━" in shown
    for text in ("\x1b]", "\x1b[8m", "\x1b[2J", "\x05", "\x9b", "\x9d", "\u202e", "\u200b", "\x85"):
        assert text not in shown
