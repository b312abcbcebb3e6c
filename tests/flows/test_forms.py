"""The operations' forms: they explain themselves, and refuse what makes no sense before there is a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import BaseModel, ValidationError
from requests import HTTPError

from flexai.flows import forms, store_forms
from flexai.flows.alert import alert
from flexai.flows.catalog_report import report
from flexai.flows.delete import delete
from flexai.flows.export import export
from flexai.flows.fetch import fetch
from flexai.flows.gc import collect_garbage
from flexai.flows.inspect import inspect
from flexai.flows.list import list_checkpoints
from flexai.flows.mirror import mirror
from flexai.flows.protect import protect
from flexai.flows.prune import RetentionForm, retention
from flexai.flows.push import push
from flexai.flows.scrub import scrub
from flexai.flows.train_push_export import train_push_export
from flexai.flows.verify import verify
from tests.flows.conftest import RunDeployed

FLOWS = [
    alert,
    collect_garbage,
    delete,
    export,
    fetch,
    inspect,
    list_checkpoints,
    mirror,
    protect,
    push,
    report,
    retention,
    scrub,
    train_push_export,
    verify,
]
MODELS: set[type[BaseModel]] = {
    found
    for module in (forms, store_forms)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, forms.Form) and found is not forms.Form
} | {RetentionForm}

FILES = {"name": "mistral-500", "source": {"files": ["out"]}}
MIRROR = {"storage_provider": "share", "destination_path": "bucket"}
PLACE = {"checkpoint": "mistral-500", "storage_provider": "share", "destination_path": "bucket/place"}
TRAINING = {"name": "digits-{date}", "command": ["python", "train.py"]}
EXPORT = {"storage_provider": "share", "path_template": "bucket/{name}"}


def server_refuses(flow: Flow[Any, Any], parameters: dict[str, Any]) -> bool:
    """Whether the server would refuse to make a run with these parameters."""
    schema = parameter_schema(flow).model_dump_for_openapi()
    return bool(validate(parameters, schema, raise_on_error=False, preprocess=True))


def training(**fields: Any) -> dict[str, Any]:
    """Parameters of train-push-export that make sense but for these fields of the training."""
    return {"training": TRAINING | fields}


def pushing(**fields: Any) -> dict[str, Any]:
    """The same, for fields of the push."""
    return {"training": TRAINING, "push": fields}


def exporting(**fields: Any) -> dict[str, Any]:
    """The same, for fields of the export."""
    return {"training": TRAINING, "export": EXPORT | fields}


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_flow_says_what_it_does_and_names_its_runs(flow: Flow[Any, Any]) -> None:
    assert flow.description
    assert flow.flow_run_name
    assert flow.persist_result is False


@pytest.mark.parametrize("operation", ["fetch", "export", "inspect", "delete", "protect", "list", "verify"])
def test_the_page_about_flows_names_every_field(operation: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "flows.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {operation} \|(.*)\|$", page, re.MULTILINE)
    form = getattr(forms, f"{operation.title()}Form")
    assert re.findall(r"`([a-z_]+)`", row) == list(form.model_fields)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_field_says_its_place_which_a_server_on_postgresql_keeps_no_other_way(flow: Flow[Any, Any]) -> None:
    schema = parameter_schema(flow).model_dump_for_openapi()
    for title, form in {"": schema, **schema.get("definitions", {})}.items():
        fields = form.get("properties", {})
        assert [field["position"] for field in fields.values()] == [*range(len(fields))], title


@pytest.mark.parametrize("model", sorted(MODELS, key=str))
def test_every_field_has_a_title_and_a_description(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.title and field.description and field.description.endswith("."), name


@pytest.mark.parametrize("model", sorted(MODELS, key=str))
def test_every_field_that_must_be_written_has_an_example(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        if field.annotation in {str, list[str]} and field.is_required() and name != "storage_provider":
            assert field.examples, name


@pytest.mark.parametrize(
    ("flow", "request_"),
    [
        (push, FILES),
        (push, FILES | {"source": {"files": ["a", "b=c"], "follow_symlinks": True}, "if_not_exists": True}),
        (push, FILES | {"source": {"storage_provider": "share", "source_path": "bucket"}}),
        (push, FILES | {"source": {"storage_provider": "share", "source_path": "bucket/models/x"}}),
        (push, FILES | {"source": {"checkpoint": "3f0c3a4e-9d7b-4c58-8f0e-0c5d8b7a6e21"}}),
        (export, PLACE),
        (fetch, {"checkpoint": "mistral-500", "destination": "/data"}),
        (mirror, MIRROR),
        (mirror, MIRROR | {"checkpoints": {"names": "llama-*"}}),
        (mirror, MIRROR | {"checkpoints": {"checkpoints": ["llama-1"]}, "destination_path": "bucket/mirror"}),
        (mirror, MIRROR | {"checkpoints": {"job": "llama-run"}}),
        (scrub, {"budget_gib": 0.5, "repair": False}),
        (collect_garbage, {}),
        (collect_garbage, {"grace_period": "0s"}),
        (retention, {}),
        (retention, {"jobs": ["mistral-run"], "keep_last": 1, "keep_every": "6h", "apply": True}),
        (report, {"newest": 1}),
        (verify, {}),
        (verify, {"checkpoints": ["mistral-500"]}),
        (list_checkpoints, {"names": "mistral-*"}),
        (inspect, {"checkpoint": "mistral-500"}),
        (inspect, {"checkpoint": "mistral-run/lightning_logs/version_0/checkpoints/epoch=0-step=100.ckpt"}),
        (fetch, {"checkpoint": "mistral-run/.", "destination": "/data"}),
        (delete, {"checkpoint": "mistral-500"}),
        (protect, {"checkpoints": ["mistral-500", "run/step-5"]}),
        (protect, {"checkpoints": ["mistral-500"], "protected": False}),
    ],
)
def test_what_makes_sense_is_taken_by_the_form_and_by_the_flow(flow: Flow[Any, Any], request_: dict[str, Any]) -> None:
    assert not server_refuses(flow, {"request": request_})
    assert flow.validate_parameters({"request": request_})


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        (train_push_export, training()),
        (train_push_export, training(name="digits")),
        (train_push_export, training(name="{date}")),
        (train_push_export, training(name="d{date}-{time}", command=["true"], checkpoint="latest")),
        (train_push_export, training(name="x" * 63)),
        (train_push_export, training(env={"WANDB_MODE": "", "a.b-c_1": "x y"}, secrets={"HF_TOKEN": "hf-token"})),
        (train_push_export, pushing(name_template="{checkpoint}", select="all")),
        (train_push_export, pushing(name_template="{step:08d}-x", metric="train-loss")),
        (train_push_export, exporting(approval={"timeout_hours": 1}, overwrite=True)),
        (train_push_export, exporting(path_template="{job}/{{runs}}/{step:08d}/{id}")),
        (alert, {"title": "two damaged contents"}),
        (alert, {"title": "x", "details": {"a": [1, {"b": None}]}, "notify": "slack-webhook/team"}),
    ],
)
def test_other_forms_take_what_makes_sense_as_well(flow: Flow[Any, Any], parameters: dict[str, Any]) -> None:
    assert not server_refuses(flow, parameters)
    assert flow.validate_parameters(parameters)


@pytest.mark.parametrize(
    ("flow", "request_"),
    [
        (push, {}),
        (push, {"name": "mistral-500"}),
        (push, FILES | {"name": "ab"}),
        (push, FILES | {"name": "-abc"}),
        (push, FILES | {"name": "a b c"}),
        (push, FILES | {"name": "x" * 64}),
        (push, FILES | {"source": {}}),
        (push, FILES | {"source": {"files": []}}),
        (push, FILES | {"source": {"files": [""]}}),
        (push, FILES | {"source": {"files": ["out"], "checkpoint": "mistral-500"}}),
        (push, FILES | {"source": {"storage_provider": "share"}}),
        (push, FILES | {"source": {"source_path": "bucket/models"}}),
        (push, FILES | {"source": {"storage_provider": "share", "source_path": "/models"}}),
        (push, FILES | {"if_not_exist": True}),
        (export, PLACE | {"destination_path": "bucket"}),
        (export, PLACE | {"destination_path": "bucket/"}),
        (export, PLACE | {"storage_provider": "Share"}),
        (export, PLACE | {"overwrite": "perhaps"}),
        (fetch, {"checkpoint": "mistral-500", "destination": ""}),
        (fetch, {"checkpoint": "mistral-run/", "destination": "/data"}),
        (fetch, {"checkpoint": "/checkpoint-5", "destination": "/data"}),
        (mirror, MIRROR | {"checkpoints": {"job": "llama-run/checkpoint-5"}}),
        (mirror, {"destination_path": "bucket"}),
        (mirror, MIRROR | {"checkpoints": {"checkpoints": []}}),
        (mirror, MIRROR | {"checkpoints": {"job": "llama-run", "names": "*"}}),
        (mirror, MIRROR | {"destination_path": "/mirror"}),
        (scrub, {"budget_gib": 0}),
        (collect_garbage, {"grace_period": "soon"}),
        (collect_garbage, {"grace_period": "-1d"}),
        (retention, {"keep_last": -1}),
        (retention, {"keep_best": "many"}),
        (retention, {"metric": "accuracy" * 20}),
        (retention, {"keep_every": "6 hours"}),
        (retention, {"keep_within": "soon"}),
        (retention, {"pushed": [""]}),
        (retention, {"jobs": ["a b"]}),
        (retention, {"keep_lats": 3}),
        (report, {"newest": 0}),
        (report, {"newest": 201}),
        (verify, {"checkpoints": "mistral-500"}),
        (list_checkpoints, {"names": ""}),
    ],
)
def test_what_makes_none_is_refused_by_the_form_and_by_the_flow(flow: Flow[Any, Any], request_: dict[str, Any]) -> None:
    assert server_refuses(flow, {"request": request_})
    with pytest.raises(Exception, match="invalid parameters"):
        flow.validate_parameters({"request": request_})


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        (train_push_export, {}),
        (train_push_export, training(name="")),
        (train_push_export, training(name="ab")),
        (train_push_export, training(name="a b c")),
        (train_push_export, training(name="-digits")),
        (train_push_export, training(name="digits_")),
        (train_push_export, training(name="x" * 64)),
        (train_push_export, training(name="digits/{date}")),
        (train_push_export, training(name="digits-{step}")),
        (train_push_export, training(name="digits-{date")),
        (train_push_export, training(name="digits-{date!r}")),
        (train_push_export, training(command=[])),
        (train_push_export, training(command=[""])),
        (train_push_export, training(command="python train.py")),
        (train_push_export, training(checkpoint="a/b")),
        (train_push_export, training(env={"": "x"})),
        (train_push_export, training(env={"1ST": "x"})),
        (train_push_export, training(env={"MY VARIABLE": "x"})),
        (train_push_export, training(secrets={"HF=TOKEN": "hf-token"})),
        (train_push_export, training(secrets={"HF_TOKEN": ""})),
        (train_push_export, training(secrets={"HF_TOKEN": "HF token"})),
        (train_push_export, training(comand=["true"])),
        (train_push_export, pushing(name_template="")),
        (train_push_export, pushing(name_template="a b c")),
        (train_push_export, pushing(name_template="{job}/{step}")),
        (train_push_export, pushing(name_template="{name}")),
        (train_push_export, pushing(name_template="{job.x}-{step}")),
        (train_push_export, pushing(select="some")),
        (train_push_export, exporting(storage_provider="a b")),
        (train_push_export, exporting(path_template="bucket")),
        (train_push_export, exporting(path_template="bucket/")),
        (train_push_export, exporting(path_template="bucket/{loss}")),
        (train_push_export, exporting(path_template="bucket/{name")),
        (train_push_export, exporting(approval={"timeout_hours": 0})),
        (alert, {}),
        (alert, {"title": ""}),
        (alert, {"title": "x" * 501}),
        (alert, {"title": "x", "details": "text"}),
        (alert, {"title": "x", "notify": "team"}),
    ],
)
def test_other_forms_refuse_what_makes_none_as_well(flow: Flow[Any, Any], parameters: dict[str, Any]) -> None:
    assert server_refuses(flow, parameters)
    with pytest.raises(Exception, match=r"invalid parameters|missing a required argument"):
        flow.validate_parameters(parameters)


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        (train_push_export, training(name="a b c")),
        (train_push_export, training(env={"MY VARIABLE": "x"})),
        (retention, {"request": {"keep_within": "soon"}}),
        (alert, {"title": ""}),
    ],
)
def test_a_server_makes_no_run_of_what_a_form_refuses(
    run_deployed: RunDeployed, flow: Flow[Any, Any], parameters: dict[str, Any]
) -> None:
    with pytest.raises(HTTPError, match="409 Client Error"):
        run_deployed.begin(flow, parameters)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (forms.PushForm, FILES | {"name": "latest"}, "is reserved"),
        (forms.PushForm, FILES | {"name": "3f0c3a4e-9d7b-4c58-8f0e-0c5d8b7a6e21"}, "form of a UUID"),
        (forms.InspectForm, {"checkpoint": "best"}, "is reserved"),
        (forms.ExportForm, PLACE | {"destination_path": "bucket/../place"}, "is no path"),
    ],
)
def test_what_a_pattern_cannot_tell_is_refused_when_the_run_begins(
    model: type[BaseModel], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate(fields)


def test_an_error_names_a_field_as_the_form_does_and_shows_no_value() -> None:
    training = {"name": "run", "command": ["python"], "env": {"no name": "5ecret"}}
    export = {"storage_provider": "share", "path_template": "bucket/{nothing}", "approval": {"timeout_hours": -1}}
    with pytest.raises(ParameterTypeError) as refused:
        train_push_export.validate_parameters({"training": training, "export": export})
    said = str(refused.value)
    assert " - training.Environment: 'no name' is no name of an environment variable\n" in said
    assert " - export.Path: 'bucket/{nothing}' may hold " in said
    assert " - export.Approval.Timeout: Input should be greater than 0" in said
    assert "5ecret" not in said
