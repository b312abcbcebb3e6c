"""What the callbacks of all frameworks share, without a framework."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flexai.checkpoints.errors import UsageError
from flexai.integrations.callback import ReportingCallback, numbers
from flexai.training import Run


@pytest.fixture(autouse=True)
def below_no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FLEXAI_REPORTS_DIR", "FLEXAI_OUTPUT_CHECKPOINT_DIR"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(("name", "folder"), [("", "out"), ("my-run", None)])
def test_a_callback_without_a_name_or_a_folder_says_what_it_needs(name: str, folder: str | None) -> None:
    with pytest.raises(UsageError, match="has no training job") as raised:
        ReportingCallback(name, folder).resume_path()
    assert "output_dir" in raised.value.hint


def test_a_run_that_is_given_is_used_and_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_HOME", str(tmp_path / "home"))
    with Run("my-run", tmp_path / "out") as run:
        callback = ReportingCallback(run)
        callback._end("failed", "the training failed")
        assert callback.run is run


def test_of_metrics_only_numbers_under_names_that_can_be_shown_are_reported() -> None:
    given = {"loss": 0.5, "step": 3, "state": "best", "is_best": True, "all": [1, 2], "two\nlines": 1.0, "": 1.0}
    assert numbers(given) == {"loss": 0.5, "step": 3.0}


def test_the_package_imports_no_framework() -> None:
    code = "import sys, flexai.integrations, flexai.integrations.callback, flexai.trackers\n"
    code += "assert not {'torch', 'transformers', 'lightning', 'accelerate', 'wandb', 'mlflow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
