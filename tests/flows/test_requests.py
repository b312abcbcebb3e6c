"""The operations' forms: they explain themselves, and refuse what makes no sense before there is a run."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import BaseModel, ValidationError

from flexai.flows import composed, requests
from flexai.flows.delete import delete
from flexai.flows.export import export
from flexai.flows.fetch import fetch
from flexai.flows.inspect import inspect
from flexai.flows.list import list_checkpoints
from flexai.flows.mirror import mirror
from flexai.flows.push import push
from flexai.flows.report import report
from flexai.flows.scrub import scrub
from flexai.flows.verify import verify

FLOWS = [delete, export, fetch, inspect, list_checkpoints, mirror, push, report, scrub, verify]
MODELS: set[type[BaseModel]] = {
    found
    for module in (requests, composed)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, requests.Request) and found is not requests.Request
}

FILES = {"name": "mistral-500", "source": {"files": ["out"]}}
MIRROR = {"storage_provider": "share", "destination_path": "bucket"}
PLACE = {"checkpoint": "mistral-500", "storage_provider": "share", "destination_path": "bucket/place"}


def server_refuses(flow: Flow[Any, Any], request: dict[str, Any]) -> bool:
    """Whether the server would refuse to make a run with this request."""
    schema = parameter_schema(flow).model_dump_for_openapi()
    return bool(validate({"request": request}, schema, raise_on_error=False, preprocess=True))


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_flow_says_what_it_does_and_names_its_runs(flow: Flow[Any, Any]) -> None:
    assert flow.description
    assert flow.flow_run_name
    assert flow.persist_result is False


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
        (report, {"newest": 1}),
        (verify, {}),
        (verify, {"checkpoints": ["mistral-500"]}),
        (list_checkpoints, {"names": "mistral-*"}),
        (inspect, {"checkpoint": "mistral-500"}),
        (delete, {"checkpoint": "mistral-500"}),
    ],
)
def test_what_makes_sense_is_taken_by_the_form_and_by_the_flow(flow: Flow[Any, Any], request_: dict[str, Any]) -> None:
    assert not server_refuses(flow, request_)
    assert flow.validate_parameters({"request": request_})


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
        (mirror, {"destination_path": "bucket"}),
        (mirror, MIRROR | {"checkpoints": {"checkpoints": []}}),
        (mirror, MIRROR | {"checkpoints": {"job": "llama-run", "names": "*"}}),
        (mirror, MIRROR | {"destination_path": "/mirror"}),
        (scrub, {"budget_gib": 0}),
        (report, {"newest": 0}),
        (report, {"newest": 201}),
        (verify, {"checkpoints": "mistral-500"}),
        (list_checkpoints, {"names": ""}),
    ],
)
def test_what_makes_none_is_refused_by_the_form_and_by_the_flow(flow: Flow[Any, Any], request_: dict[str, Any]) -> None:
    assert server_refuses(flow, request_)
    with pytest.raises(Exception, match="invalid parameters"):
        flow.validate_parameters({"request": request_})


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (requests.PushRequest, FILES | {"name": "latest"}, "is reserved"),
        (requests.PushRequest, FILES | {"name": "3f0c3a4e-9d7b-4c58-8f0e-0c5d8b7a6e21"}, "form of a UUID"),
        (requests.InspectRequest, {"checkpoint": "best"}, "is reserved"),
        (requests.ExportRequest, PLACE | {"destination_path": "bucket/../place"}, "is no path"),
    ],
)
def test_what_a_pattern_cannot_tell_is_refused_when_the_run_begins(
    model: type[BaseModel], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate(fields)
