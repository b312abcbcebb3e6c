"""Which of a job's checkpoints are meant, and what they are called."""

from __future__ import annotations

import math
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import InvalidNameError, NotFoundError, UsageError
from flexai.flows.selection import CapturedDocument, name_checkpoints, select_checkpoints
from flexai.flows.training_forms import PushSpec, Selection


def row(name: str, **fields: Any) -> CapturedDocument:
    """A captured checkpoint; one that can be used unless told otherwise."""
    defaults: dict[str, Any] = {"node": "0", "step": None, "trainLoss": None, "evalLoss": None}
    usable = {"status": "available", "inferenceReady": True, "resumable": True}
    return {"id": str(uuid.uuid4()), "name": name, **defaults, **usable, **fields}


ROWS = [
    row("checkpoint-10", step=10, evalLoss=0.5, trainLoss=0.1),
    row("checkpoint-20", step=20, evalLoss=0.3, trainLoss=0.3, inferenceReady=False),
    row("checkpoint-30", step=30, evalLoss=0.4, trainLoss=0.2, resumable=False),
    row("", inferenceReady=True, resumable=False),
]


def selected(rows: list[CapturedDocument] = ROWS, **spec: Any) -> list[str]:
    return [found["name"] for found in select_checkpoints(rows, PushSpec(**spec), job="digits")]


def test_the_best_one_has_the_lowest_loss_that_counts() -> None:
    assert selected() == ["checkpoint-20"]
    assert selected(metric="train-loss") == ["checkpoint-10"]


def test_the_latest_one_has_the_highest_step() -> None:
    assert selected([*ROWS[:3], row("checkpoint-25", step=25)], select=Selection.LATEST) == ["checkpoint-30"]


def test_what_tells_no_step_is_the_latest_where_it_was_captured_last() -> None:
    assert selected(select=Selection.LATEST) == [""]
    assert selected([ROWS[3], *ROWS[:3]], select=Selection.LATEST) == ["checkpoint-30"]


def test_where_none_tells_its_step_the_latest_is_the_one_that_was_captured_last() -> None:
    assert selected([row("a"), row("b")], select=Selection.LATEST) == ["b"]


def test_all_come_in_the_order_of_their_capture() -> None:
    assert selected(select=Selection.ALL) == ["checkpoint-10", "checkpoint-20", "checkpoint-30", ""]


def test_what_is_not_fit_for_its_purpose_is_left_out() -> None:
    assert selected(only_inference_ready=True) == ["checkpoint-30"]
    assert selected(only_resumable=True, select=Selection.LATEST) == ["checkpoint-20"]
    assert selected(only_inference_ready=True, only_resumable=True, select=Selection.ALL) == ["checkpoint-10"]


def test_of_equals_the_earlier_is_best() -> None:
    assert selected([row("a", evalLoss=0.1), row("b", evalLoss=0.1), row("c", evalLoss=0.2)]) == ["a"]


def test_only_whole_checkpoints_count() -> None:
    assert selected([row("a", evalLoss=0.1, status="failed"), row("b", evalLoss=0.2)]) == ["b"]


def test_of_a_folder_that_two_attempts_wrote_the_newer_counts() -> None:
    rows = [row("a", step=1, evalLoss=0.1), row("b", step=2, evalLoss=0.3), row("a", step=1, evalLoss=0.2)]
    assert [found["evalLoss"] for found in select_checkpoints(rows, PushSpec(), job="digits")] == [0.2]
    assert selected(rows, select=Selection.ALL) == ["b", "a"]


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_a_loss_that_is_no_number_is_never_the_best(loss: float | None) -> None:
    assert selected([row("a", evalLoss=loss), row("b", evalLoss=9.0)]) == ["b"]
    with pytest.raises(NotFoundError, match="no checkpoint of training job 'digits' tells its eval loss"):
        selected([row("a", evalLoss=loss)])


def test_a_job_without_checkpoints_and_one_without_fitting_ones_say_so() -> None:
    with pytest.raises(NotFoundError, match=r"training job 'digits' has no checkpoint$"):
        selected([])
    with pytest.raises(NotFoundError, match="has 1 checkpoint, but none as it is wanted") as caught:
        selected([row("a", resumable=False)], only_resumable=True)
    assert caught.value.hint == "flexai training checkpoints digits shows what there is"


@given(st.lists(st.floats(allow_nan=True), min_size=1), st.booleans())
def test_the_best_is_never_worse_than_another(losses: list[float], missing: bool) -> None:
    rows = [row(f"checkpoint-{number}", evalLoss=loss) for number, loss in enumerate(losses)]
    rows += [row("silent")] if missing else []
    finite = [loss for loss in losses if math.isfinite(loss)]
    if finite:
        (best,) = select_checkpoints(rows, PushSpec(), job="digits")
        assert best["evalLoss"] == min(finite)


def names(rows: list[CapturedDocument], template: str) -> list[str]:
    return list(name_checkpoints(rows, PushSpec(name_template=template), job="digits").values())


def test_names_follow_the_template() -> None:
    assert names(ROWS[:2], "{job}-{step}") == ["digits-10", "digits-20"]
    assert names(ROWS[:1], "{job}-{checkpoint}-{step:06d}") == ["digits-checkpoint-10-000010"]
    assert names(ROWS[:1], "{job}-{id}") == [f"digits-{ROWS[0]['id'][:8]}"]


def test_files_in_the_output_directory_itself_are_final() -> None:
    assert names([ROWS[3]], "{job}-{checkpoint}") == names([ROWS[3]], "{job}-{step}") == ["digits-final"]


def test_a_folders_name_that_no_checkpoint_can_have_is_made_fit() -> None:
    assert names([row("epoch=3.ckpt")], "{job}-{checkpoint}") == ["digits-epoch-3-ckpt"]


def test_a_name_that_breaks_the_rules_after_all_is_refused() -> None:
    with pytest.raises(InvalidNameError):
        names([row("x" * 60)], "{job}-{checkpoint}")


def test_two_checkpoints_with_one_name_are_refused_before_the_first_is_pushed() -> None:
    with pytest.raises(
        UsageError, match="gives two checkpoints of training job 'digits' the name 'digits-a-b'"
    ) as caught:
        names([row("a b"), row("a.b")], "{job}-{checkpoint}")
    assert caught.value.hint == "add {id} to the template"


def test_names_that_differ_only_by_case_are_one_name() -> None:
    with pytest.raises(UsageError):
        names([row("A"), row("a")], "{job}-{checkpoint}")
