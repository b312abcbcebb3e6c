"""What trackers are told, where one of them does not do what it should; the real ones are in tests/frameworks."""

from __future__ import annotations

from tests.cli.conftest import program
from tests.cli.program import Program

__all__ = ["program"]

TRACKER = """
import sys, threading, time, types
from pathlib import Path
from flexai import trackers
from flexai.training import Run

class Client:
    def set_tag(self, run, key, value):
        if key == "flexai.latest.url":
            told(value)

mlflow = types.ModuleType("mlflow")
mlflow.exceptions = types.SimpleNamespace(MlflowException=OSError)
mlflow.MlflowClient = Client
mlflow.active_run = lambda: types.SimpleNamespace(info=types.SimpleNamespace(run_id="1"))
sys.modules["mlflow"] = mlflow
"""


def test_one_that_does_not_answer_holds_up_neither_a_wait_nor_the_end_of_the_program(program: Program) -> None:
    script = """
def told(url):
    print("asked", flush=True)
    threading.Event().wait()

trackers._LONGEST_SECONDS = 0.1
trackers.tell("my-run", 5, "flexai://my-run/step-5", "id")
trackers.wait()
print("ends")
"""
    assert program.python(TRACKER + script).splitlines() == ["asked", "ends"]


def test_one_that_fails_in_an_unforeseen_way_is_told_of_the_next_checkpoint(program: Program) -> None:
    script = """
def told(url):
    print(url, flush=True)
    if url.endswith("1"):
        raise KeyError(url)

for step in (1, 2):
    trackers.tell("my-run", step, f"flexai://my-run/step-{step}", "id")
    trackers.wait(time.monotonic() + 1)
trackers.wait()
"""
    assert program.python(TRACKER + script).splitlines() == ["flexai://my-run/step-1", "flexai://my-run/step-2"]


def test_one_is_told_of_what_is_stored_at_the_end_of_the_program(program: Program) -> None:
    script = """
def told(url):
    print(url, flush=True)

run = Run("my-run", "out")
Path("out/step-1.data").write_bytes(b"WEIGHTS")
run.saved("out/step-1.data", step=1)
"""
    assert program.python(TRACKER + script).splitlines() == ["flexai://my-run/step-1.data"]
