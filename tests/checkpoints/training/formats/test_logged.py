"""What loggers write beside checkpoints, by step."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flexai.checkpoints.training.formats.logged import metrics_by_step
from tests.checkpoints.training.formats.test_pickled_state import Files


def logged(**files: str) -> dict[int, dict[str, float]]:
    return metrics_by_step(Files({path.replace("__", "."): content.encode() for path, content in files.items()}))


def test_a_table_tells_the_metrics_of_each_row_that_has_a_step() -> None:
    table = "step,epoch,loss,accuracy\n10,1,0.5,\n20,1,0.25,0.75\n,2,0.1,0.2\nx,2,0.1,0.2\n"
    assert logged(metrics__csv=table) == {10: {"loss": 0.5}, 20: {"loss": 0.25, "accuracy": 0.75}}


def test_rows_of_one_step_complement_one_another_and_the_last_counts() -> None:
    table = "global_step,loss,val_loss\n10,0.5,\n10,,0.25\n10,0.4,\n"
    assert logged(log__csv=table) == {10: {"loss": 0.4, "val_loss": 0.25}}


def test_lightnings_logger_counts_the_batches_before_the_one_that_it_logs() -> None:
    table = "epoch,step,train_loss,val_loss\n0,9,0.5,\n0,9,,0.25\n"
    files = Files({"run/lightning_logs/version_0/metrics.csv": table.encode()})
    assert metrics_by_step(files) == {10: {"train_loss": 0.5, "val_loss": 0.25}}


@pytest.mark.parametrize(
    "text",
    [
        '[{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25}]',
        '{"step": 10, "loss": 0.5}\n{"step": 20, "loss": 0.25}\n{"step": 30, "lo',
        '{"iteration": 10, "metrics": {"loss": 0.5}}\nno json\n[1]\n{"iteration": 20, "metrics": {"loss": 0.25}}',
    ],
)
def test_json_and_lines_of_json_tell_the_same(text: str) -> None:
    assert logged(metrics__json=text) == logged(train__jsonl=text) == {10: {"loss": 0.5}, 20: {"loss": 0.25}}


def test_one_object_with_a_step_is_one_row() -> None:
    assert logged(metrics__json='{"step": 10, "eval_f1": 0.5, "epoch": 2}') == {10: {"eval_f1": 0.5}}
    assert logged(metrics__json='{"eval_f1": 0.5}') == {}


def test_numbers_that_are_none_and_names_that_cannot_be_shown_are_left_out() -> None:
    row = '{"step": 10, "a": NaN, "b": Infinity, "c": 1e999, "d": true, "e": "1", "f\\n": 1, "g": 1}'
    assert logged(log__jsonl=row) == {10: {"g": 1.0}}
    assert logged(metrics__csv="step,a,b,c\n10,nan,inf,1\n") == {10: {"c": 1.0}}


def test_what_two_logs_say_differently_of_a_step_is_not_believed() -> None:
    one, other = "step,loss,lr\n10,0.5,1\n", "step,loss,lr\n10,0.6,1\n"
    files = Files({"a/metrics.csv": one.encode(), "b/metrics.csv": other.encode(), "c/metrics.csv": one.encode()})
    assert metrics_by_step(files) == {10: {"lr": 1.0}}


def test_files_of_other_names_are_not_read() -> None:
    files = Files({"config.json": b'{"step": 1, "a": 1}', "trainer_state.json": b'{"step": 1, "a": 1}'})
    assert metrics_by_step(files) == {}
    assert files.reads == 0


@pytest.mark.parametrize(
    "row", [lambda step: f"{step},{step / 2}\n", lambda step: json.dumps({"step": step, "loss": step / 2}) + "\n"]
)
def test_of_a_long_log_the_end_is_read(row: Any) -> None:
    name = "metrics.csv" if row(1).startswith("1,") else "metrics.jsonl"
    text = ("step,loss\n" if name.endswith(".csv") else "") + "".join(map(row, range(400_000)))
    files = Files({name: text.encode()})
    found = metrics_by_step(files)
    assert found[399_999] == {"loss": 399_999 / 2}
    assert 1000 < len(found) <= 30_000
    assert files.reads == 2


def test_a_step_has_no_more_metrics_than_a_checkpoint_can_have() -> None:
    row = {"step": 1} | {f"m{number}": number for number in range(1000)}
    assert len(logged(log__jsonl=json.dumps(row))[1]) == 200


@pytest.mark.parametrize("content", ["", "\0\0", "step\n", '"', "[" * 100_000, "step,loss\n1\n", "step,step\n1,2\n"])
def test_any_content_is_taken(content: str) -> None:
    assert logged(metrics__csv=content, metrics__json=content) in ({}, {1: {}}, {2: {}})
