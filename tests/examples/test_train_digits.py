"""The example that trains on digits, run as a user runs it."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flexai.checkpoints.training.completeness.by_format import completeness
from flexai.checkpoints.training.formats.facts import read_facts
from flexai.checkpoints.training.formats.verdict import Outcome
from tests.support.folders import local_folder

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_digits.py"
SMALL = ["--epochs", "2", "--hidden", "32", "--save-steps", "300"]  # 720 steps


def run(*arguments: str, output: Path, start: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the example; one thread, because sums that are split among threads may be rounded otherwise."""
    environment = os.environ | {"FLEXAI_OUTPUT_CHECKPOINT_DIR": str(output), "OMP_NUM_THREADS": "1"}
    environment["OPENBLAS_NUM_THREADS"] = "1"
    environment.pop("FLEXAI_INPUT_CHECKPOINT_DIR", None)
    if start is not None:
        environment["FLEXAI_INPUT_CHECKPOINT_DIR"] = str(start)
    command = [sys.executable, str(EXAMPLE), *arguments]
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of one uninterrupted run that kept all its checkpoints."""
    output = tmp_path_factory.mktemp("trained")
    done = run(*SMALL, "--keep", "9", output=output)
    assert done.returncode == 0, done.stderr
    return output


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_training_writes_a_folder_per_checkpoint_and_the_final_model_in_the_root(trained: Path) -> None:
    assert {path.name for path in trained.iterdir() if path.is_dir()} == {f"checkpoint-{n}" for n in (300, 600, 720)}
    assert {path.name for path in trained.iterdir() if path.is_file()} == {"config.json", "model.safetensors"}


def test_its_checkpoints_are_whole_resumable_and_ready_for_inference(trained: Path) -> None:
    folder = local_folder(trained / "checkpoint-600")
    verdict, facts = completeness(folder), read_facts(folder)
    assert (verdict.outcome, verdict.rule, verdict.conclusive) == (Outcome.WHOLE, "transformers", True)
    assert (facts.step, facts.model, facts.inference_ready, facts.resumable) == (600, "DigitsMLP", True, True)
    assert facts.train_loss is not None and facts.eval_loss is not None
    assert 0 < facts.eval_loss < 1


def test_its_final_model_is_ready_for_inference_but_not_resumable(trained: Path) -> None:
    folder = local_folder(trained, "", nested=False)
    facts = read_facts(folder)
    assert completeness(folder).outcome is Outcome.WHOLE
    assert (facts.inference_ready, facts.resumable) == (True, False)


def test_training_rows_and_evaluation_rows_alternate_in_the_log(trained: Path) -> None:
    history = json.loads((trained / "checkpoint-720" / "trainer_state.json").read_text())["log_history"]
    assert ["loss" in row for row in history] == [True, False] * 3
    assert ["eval_loss" in row and "eval_accuracy" in row for row in history] == [False, True] * 3
    assert [row["step"] for row in history] == [300, 300, 600, 600, 720, 720]


def test_it_learns_to_read_digits(trained: Path) -> None:
    state = json.loads((trained / "checkpoint-720" / "trainer_state.json").read_text())
    assert state["log_history"][-1]["eval_accuracy"] > 0.9


def test_a_resumed_run_writes_the_same_bytes_as_one_that_never_stopped(trained: Path, tmp_path: Path) -> None:
    resumed = run(*SMALL, "--keep", "9", output=tmp_path, start=trained / "checkpoint-300")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[0] == "Continuing training from global step 300"
    names = sorted(files_below(tmp_path))
    assert set(names) == {name for name in files_below(trained) if not name.startswith("checkpoint-300/")}
    assert filecmp.cmpfiles(trained, tmp_path, names, shallow=False) == (names, [], [])


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    done = run("--epochs", "1", "--hidden", "8", "--save-steps", "100", "--keep", "2", output=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"checkpoint-300", "checkpoint-360"}


def test_evaluating_a_checkpoint_prints_the_accuracy_that_was_recorded_with_it(trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "checkpoint-300"
    recorded = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"][-1]["eval_accuracy"]
    shown = run("--evaluate", str(checkpoint), output=tmp_path)
    assert shown.stdout == f"accuracy {recorded:.4f}\n"
    assert files_below(tmp_path) == set()


def test_training_cannot_go_on_from_a_final_model(trained: Path, tmp_path: Path) -> None:
    refused = run(*SMALL, output=tmp_path, start=trained)
    assert refused.returncode == 1
    assert refused.stderr == f"{trained} holds a model only: training cannot go on without trainer_state.json\n"
