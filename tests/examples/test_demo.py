"""The demo, as `flexai demo` and `make demo` run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from flexai.checkpoints.errors import SettingsError
from flexai.checkpoints.training.completeness.by_format import completeness
from flexai.checkpoints.training.formats.facts import read_facts
from flexai.checkpoints.training.formats.verdict import Outcome
from flexai.demo import story, train_line
from flexai.demo.command import demo
from tests.support.folders import local_folder

FLEXAI = Path(sys.executable).with_name("flexai")


@pytest.mark.slow
def test_the_demo_works_fits_on_a_page_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = os.environ | {
        "TMPDIR": str(tmp_path),
        "HOME": str(tmp_path),
        # A user's own settings, which the demo must neither use nor change.
        "FLEXAI_HOME": str(tmp_path / "mine"),
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "FLEXAI_STORE": "no-such-connection:bucket",
    }
    done = subprocess.run(
        [FLEXAI, "demo"],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert str(Path(story.__file__).parent) not in done.stdout
    assert sum("<- best" in line for line in lines) == 1
    assert any(line.startswith("  Continuing training from global step ") for line in lines)
    assert lines[-1].startswith("All of it worked")
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_goes_wrong_says_so_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(story, "show", lambda home: story.expect(False, "two and two are five"))
    with pytest.raises(story.DemoFailedError, match="the demo failed: two and two are five"):
        story.tell(keep=False)
    assert list(tmp_path.iterdir()) == []


def test_what_the_demo_trains_with_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "TRAINS_WITH", {"numpy": "no_such_numpy", "scikit-learn": "no_such_sklearn"})
    with pytest.raises(SettingsError, match="numpy and scikit-learn are not installed") as caught:
        story.tell(keep=False)
    assert caught.value.hint == "the extra 'demo' has them; or: pip install numpy scikit-learn"


def test_a_command_that_fails_ends_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(story.DemoFailedError, match="ended with exit code 3"):
        story.run([sys.executable, "-c", "print('so far'); raise SystemExit(3)"], shown_as=["flexai", "something"])
    assert capsys.readouterr().out == "$ flexai something\n  so far\n"


def test_a_long_command_is_broken_as_a_shell_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    story.run([sys.executable, "-c", ""], shown_as=["flexai", *("argument-that-is-long",) * 5])
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(" \\") and len(first) <= 80
    assert second.startswith("    argument-that-is-long")


def test_the_small_trainer_goes_on_from_its_checkpoint_as_if_it_had_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FLEXAI_INPUT_CHECKPOINT_DIR", raising=False)
    monkeypatch.setenv("FLEXAI_OUTPUT_CHECKPOINT_DIR", str(tmp_path / "whole"))
    train_line.train()
    monkeypatch.setenv("FLEXAI_INPUT_CHECKPOINT_DIR", str(tmp_path / "whole" / "checkpoint-50"))
    monkeypatch.setenv("FLEXAI_OUTPUT_CHECKPOINT_DIR", str(tmp_path / "resumed"))
    capsys.readouterr()
    train_line.train()
    assert capsys.readouterr().out.startswith("going on from step 50\nstep  60")
    models = [
        json.loads((tmp_path / run / "checkpoint-100" / "trainer_state.json").read_text())["model"]
        for run in ("whole", "resumed")
    ]
    assert models[0] == models[1]
    folder = local_folder(tmp_path / "whole" / "checkpoint-50")
    facts = read_facts(folder)
    assert completeness(folder).outcome is Outcome.WHOLE
    assert (facts.step, facts.resumable) == (50, True)
    assert facts.eval_loss is not None


def test_the_small_trainer_dies_of_a_kill(tmp_path: Path) -> None:
    done = subprocess.run(
        [FLEXAI, "demo", "--trainer", "--killed-at", "20"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == -9
    assert {path.name for path in (tmp_path / "output-checkpoint").iterdir()} == {"checkpoint-10", "checkpoint-20"}


def test_the_trainer_s_option_alone_is_refused() -> None:
    assert "--killed-at goes with --trainer only" in CliRunner().invoke(demo, ["--killed-at", "3"]).output
