"""Lightning's callback: both packages, files that are written later, ways to end; and the scripts of the examples."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Done, Program

pytestmark = pytest.mark.frameworks

EXAMPLES = Path(__file__).parents[2] / "examples" / "callbacks"
SCRIPT = """
from flexai.integrations.lightning import FlexAICallback
from PACKAGE import Trainer
from PACKAGE.callbacks import Callback, ModelCheckpoint
from PACKAGE.demos.boring_classes import BoringModel
from PACKAGE.plugins import AsyncCheckpointIO

class Model(BoringModel):
    def training_step(self, batch, number):
        self.log("train_loss", float(self.global_step + 1))
        return super().training_step(batch, number)

    def validation_step(self, batch, number):
        self.log("val_loss", float(self.global_step))

    def on_train_batch_end(self, *_):
        if self.global_step == FAILS_AT:
            raise OSError("the disk of the data is gone")

BEFORE
callback = FlexAICallback("my-run", output_dir="out")
assert isinstance(callback, Callback) and isinstance(callback, FlexAICallback)
saving = ModelCheckpoint(dirpath="out", EVERY, save_top_k=-1, save_last=True, OPTIONS)
trainer = Trainer(max_steps=30, limit_train_batches=100, limit_val_batches=1, val_check_interval=10, logger=False,
    enable_progress_bar=False, accelerator="cpu", callbacks=[callback, saving], TRAINER)
trainer.fit(Model())
"""

_USUAL = {
    "PACKAGE": "lightning.pytorch",
    "EVERY": "every_n_train_steps=5",
    "OPTIONS": "",
    "TRAINER": "",
    "FAILS_AT": "-1",
    "BEFORE": "",
}
_DEVELOPMENT_RUN = """
development = FlexAICallback("development", output_dir="development")
Trainer(fast_dev_run=True, accelerator="cpu", callbacks=[development]).fit(Model())
"""


def train(frameworks: Path, tmp_path: Path, **words: str) -> tuple[Done, Program]:
    program = Program(tmp_path)
    script = SCRIPT
    for word, text in (_USUAL | words).items():
        script = script.replace(word, text)
    done = subprocess.run(
        [frameworks / "bin/python", "-c", script],
        cwd=program.cwd,
        env=program.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr), program


def captured(program: Program) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = program.run("training", "checkpoints", "my-run", "--json").json()
    return rows


def names(steps: Iterable[int]) -> list[str]:
    return [f"epoch=0-step={step}.ckpt" for step in steps]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("every_n_train_steps=5", dict.fromkeys(range(5, 31, 5))),  # saved before the validation of that step
        ("every_n_epochs=1, save_on_train_epoch_end=False", {10: 10.0, 20: 20.0, 30: 30.0}),
    ],
    ids=["before-the-validation", "after-it"],
)
def test_a_checkpoint_has_the_metrics_of_its_own_step_alone(
    every: str, expected: dict[int, float | None], frameworks: Path, tmp_path: Path
) -> None:
    done, program = train(frameworks, tmp_path, EVERY=every)
    assert done.code == 0, done.err
    rows = captured(program)
    assert [row["name"] for row in rows] == names(expected)
    assert {row["step"]: row["metrics"].get("val_loss") for row in rows} == expected
    assert all(row["metrics"]["train_loss"] == row["step"] for row in rows)


def test_a_file_that_the_other_package_writes_in_the_background_is_reported_when_it_is_there(
    frameworks: Path, tmp_path: Path
) -> None:
    done, program = train(frameworks, tmp_path, PACKAGE="pytorch_lightning", TRAINER="plugins=[AsyncCheckpointIO()]")
    assert done.code == 0, done.err
    assert "was not captured" not in done.err
    rows = captured(program)
    assert [row["name"] for row in rows] == names(range(5, 31, 5))
    assert [row["metrics"]["train_loss"] for row in rows] == [5, 10, 15, 20, 25, 30]


def test_a_training_that_fails_saves_once_more_and_makes_the_job_failed_and_a_development_run_makes_none(
    frameworks: Path, tmp_path: Path
) -> None:
    done, program = train(
        frameworks, tmp_path, FAILS_AT="12", OPTIONS="save_on_exception=True", BEFORE=_DEVELOPMENT_RUN
    )
    assert done.code == 1
    assert [row["name"] for row in program.run("training", "list", "--json").json()] == ["my-run"]
    assert [row["step"] for row in captured(program)] == [5, 10, 12]
    job = program.run("training", "inspect", "my-run", "--json").json()["runtime"]
    assert job["status"] == "failed"
    assert "OSError: the disk of the data is gone" in job["reason"]


@pytest.mark.parametrize("framework", ["transformers", "lightning", "accelerate"])
def test_an_example_runs_and_stores_each_of_its_checkpoints(framework: str, frameworks: Path, tmp_path: Path) -> None:
    program = Program(tmp_path)
    done = subprocess.run(
        [frameworks / "bin/python", EXAMPLES / f"train_{framework}.py", "out"],
        cwd=program.cwd,
        env=program.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = program.run("training", "checkpoints", f"{framework}-demo", "--json").json()
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
