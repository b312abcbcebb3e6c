"""The flows' parameters: what makes no sense is refused before anything is run."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flexai.flows.training_forms import ApprovalSpec, ExportSpec, PushSpec, Selection, TrainingSpec

COMMAND = ["python", "train.py"]


def test_the_defaults_push_the_best_checkpoint_by_what_the_trainer_chooses_by() -> None:
    spec = PushSpec()
    assert (spec.select, spec.metric, spec.name_template) == ("best", "", "{job}-{checkpoint}")
    assert not (spec.only_inference_ready or spec.only_resumable)


def test_a_schedule_that_spells_a_metric_as_earlier_versions_did_is_understood() -> None:
    assert PushSpec.model_validate({"metric": "train loss"}).metric == "train-loss"


@pytest.mark.parametrize("name", ["digits", "digits-{date}", "digits_{date}-{time}"])
def test_a_job_has_a_name_or_a_template_of_one(name: str) -> None:
    assert TrainingSpec(name=name, command=COMMAND).name == name


@pytest.mark.parametrize("name", ["", "ab", "-digits", "a b c", "latest", "{job}", "{date", "x" * 64, "digits/{date}"])
def test_a_job_name_that_no_job_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        TrainingSpec(name=name, command=COMMAND)


def test_a_command_is_needed() -> None:
    with pytest.raises(ValidationError):
        TrainingSpec(name="digits", command=[])


def test_a_variable_has_one_value() -> None:
    with pytest.raises(ValidationError, match="'TOKEN' is among both"):
        TrainingSpec(name="digits", command=COMMAND, env={"TOKEN": "x"}, secrets={"TOKEN": "block"})


@pytest.mark.parametrize("name", ["USR1", "SIGUSR2", "int", ""])
def test_a_signal_can_give_notice_beside_term(name: str) -> None:
    assert TrainingSpec(name="digits", command=COMMAND, preempt_signal=name).preempt_signal == name


@pytest.mark.parametrize("name", ["KILL", "CHLD", "12", "USR3"])
def test_a_signal_that_cannot_give_notice_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="no signal that can give notice"):
        TrainingSpec(name="digits", command=COMMAND, preempt_signal=name)


@pytest.mark.parametrize("template", ["{job}", "{job}-{step}", "{step:08d}-x", "release-{id}", "fixed-name"])
def test_a_checkpoint_has_a_template_of_a_name(template: str) -> None:
    assert PushSpec(name_template=template).name_template == template


@pytest.mark.parametrize("template", ["", "ab", "-{job}", "{job}/{step}", "{name}", "{job.x}", "{loss}", "{step}"])
def test_a_template_that_gives_no_name_is_refused(template: str) -> None:
    with pytest.raises(ValidationError):
        PushSpec(name_template=template)


@pytest.mark.parametrize("template", ["{job}", "fixed-name"])
def test_all_checkpoints_need_names_of_their_own(template: str) -> None:
    with pytest.raises(ValidationError, match="gives all checkpoints one name"):
        PushSpec(name_template=template, select=Selection.ALL)


@pytest.mark.parametrize("template", ["bucket/{loss}", "bucket/{job.x}", "bucket/{", "{name}", "bucket/"])
def test_a_path_holds_known_fields_alone(template: str) -> None:
    with pytest.raises(ValidationError):
        ExportSpec(storage_provider="share", path_template=template)


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (TrainingSpec, {"name": "digits", "command": COMMAND}),
        (PushSpec, {}),
        (ExportSpec, {"storage_provider": "share", "path_template": "bucket/{name}"}),
    ],
)
def test_a_mistyped_field_is_refused(spec: type[Any], fields: dict[str, Any]) -> None:
    assert spec(**fields)
    with pytest.raises(ValidationError):
        spec(**fields, onlyresumable=True)


@pytest.mark.parametrize(
    "checkpoint",
    ["", "latest", "best", "mistral-500", "run-1/exp/checkpoint-5", "3f0c3a4e-9d7b-4c58-8f0e-0c5d8b7a6e21"],
)
def test_a_training_starts_from_scratch_or_from_a_checkpoint(checkpoint: str) -> None:
    assert TrainingSpec(name="digits", command=COMMAND, checkpoint=checkpoint).checkpoint == checkpoint


@pytest.mark.parametrize("checkpoint", ["ab", "a/b", "x" * 64])
def test_what_can_be_no_checkpoint_is_refused(checkpoint: str) -> None:
    with pytest.raises(ValidationError):
        TrainingSpec(name="digits", command=COMMAND, checkpoint=checkpoint)


@pytest.mark.parametrize("hours", [0, -1, 24 * 30 + 1])
def test_an_approval_is_waited_for_within_bounds(hours: float) -> None:
    assert ApprovalSpec().timeout_hours == 72
    with pytest.raises(ValidationError):
        ApprovalSpec(timeout_hours=hours)


@pytest.mark.parametrize("spec", [TrainingSpec, PushSpec, ExportSpec, ApprovalSpec])
def test_every_field_has_a_title_and_a_description_for_prefects_form(spec: type[Any]) -> None:
    for name, field in spec.model_fields.items():
        assert field.title and field.description and field.description.endswith("."), name


def test_what_the_form_of_a_schedule_leaves_empty_is_empty_and_its_json_is_read() -> None:
    # As Prefect's UI saves it with the schedule, and hands it to the run.
    by_form: dict[str, Any] = {"name": "digits", "command": ["python"], "env": {"__prefect_kind": "json"}}
    training = TrainingSpec.model_validate(by_form | {"secrets": {"__prefect_kind": "json", "value": '{"A": "b"}'}})
    assert training == TrainingSpec(name="digits", command=["python"], secrets={"A": "b"})
