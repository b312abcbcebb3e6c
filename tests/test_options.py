"""Whether an option of an operation can be given everywhere: in forms, to tasks, in Python and on the command line."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

import click
import pytest
from prefect.tasks import Task

from flexai import api, tasks
from flexai.checkpoints.roles import Role
from flexai.checkpoints.service import change_requests, push_requests, requests, store_requests, training_requests
from flexai.checkpoints.service import prune as prune_service
from flexai.checkpoints.service.prune import PruneScope
from flexai.checkpoints.service.support.retention import RetentionPolicy
from flexai.cli.checkpoint.delete import delete
from flexai.cli.checkpoint.export import export
from flexai.cli.checkpoint.fetch import fetch
from flexai.cli.checkpoint.gc import collect_garbage
from flexai.cli.checkpoint.protect import protect, unprotect
from flexai.cli.checkpoint.prune import prune
from flexai.cli.checkpoint.push import push
from flexai.cli.checkpoint.undelete import undelete
from flexai.cli.checkpoint.verify import verify
from flexai.cli.training.capture import capture as capture_job
from flexai.cli.training.delete import delete as delete_job
from flexai.cli.training.run import run
from flexai.flows.forms import DeleteForm, ExportForm, FetchForm, Form, ProtectForm, PushForm, VerifyForm
from flexai.flows.prune import RetentionForm
from flexai.flows.store_forms import GarbageForm, MirrorForm, ScrubForm
from flexai.flows.training_forms import TrainingSpec

PARTS = (RetentionPolicy, PruneScope)
"""Requests may be made of these."""
SCHEDULED = "it is for the store as a whole, and scheduled"
BY_HAND = "it is for a person at a terminal"
SHARE = {"storage_provider": "share"}
PUSH = {"name": "llama-8b", "if_not_exists": True}


@dataclass(frozen=True)
class Operation:
    """A request and what makes one."""

    request: type
    task: Task[..., Any]
    command: click.Command | None = None
    function: Callable[..., Any] | None = None
    """That of the Python API."""
    forms: Sequence[Form] = ()
    """Filled in so that together they say something about each field that they have."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Why there is no flag, function or form, at all, or for a field."""


OPERATIONS = [
    Operation(
        push_requests.AnyPushRequest,
        tasks.push_checkpoint,
        push,
        api.push,
        [
            PushForm.model_validate(
                PUSH
                | {
                    "source": {
                        "files": ["out"],
                        "exclude": ["*.tmp"],
                        "follow_symlinks": True,
                        "rehash": True,
                        "default_excludes": False,
                    }
                }
            ),
            PushForm.model_validate(
                PUSH | {"source": SHARE | {"source_path": "bucket/llama", "refuse_executable": True}}
            ),
            PushForm.model_validate(PUSH | {"source": {"checkpoint": "llama-7b"}}),
        ],
        without={
            "function storage_provider": "from_provider names the connection and the path in one",
            "function source_path": "from_provider names the connection and the path in one",
        },
    ),
    Operation(
        requests.FetchRequest,
        tasks.fetch_checkpoint,
        fetch,
        api.fetch,
        [
            FetchForm(
                checkpoint="llama-8b",
                destination="out",
                overwrite=True,
                refuse_executable=True,
                require_digests=True,
                node=1,
            ),
            FetchForm(checkpoint="llama-8b", destination="out", delete_extra=True, force=True),
            FetchForm(checkpoint="llama-8b", destination="out", include=["*"], exclude=["*.pt"], only=[Role.WEIGHTS]),
        ],
    ),
    Operation(
        requests.ExportRequest,
        tasks.export_checkpoint,
        export,
        api.export,
        [
            ExportForm(
                checkpoint="llama-8b",
                storage_provider="share",
                destination_path="bucket/llama",
                overwrite=True,
                delete_extra=True,
                force=True,
            ),
            ExportForm(
                checkpoint="llama-8b",
                storage_provider="share",
                destination_path="bucket/weights",
                include=["*.safetensors"],
                exclude=["optimizer*"],
                only=["weights"],
            ),
        ],
    ),
    Operation(
        store_requests.MirrorRequest,
        tasks.mirror_checkpoints,
        forms=[
            MirrorForm.model_validate({"destination_path": "bucket", "overwrite": True, "checkpoints": which} | SHARE)
            for which in ({"names": "llama-*"}, {"checkpoints": ["llama-8b"]}, {"job": "train"})
        ],
        without={"command": "what is mirrored changes from day to day, so it is scheduled", "function": SCHEDULED},
    ),
    Operation(
        change_requests.DeleteRequest,
        tasks.delete_checkpoint,
        delete,
        api.delete,
        [DeleteForm(checkpoint="llama-8b", force=True)],
    ),
    Operation(
        change_requests.UndeleteRequest,
        tasks.undelete_checkpoint,
        undelete,
        api.undelete,
        without={"form": "a person who has made a mistake is at a terminal"},
    ),
    *(
        Operation(
            change_requests.ProtectRequest,
            tasks.protect_checkpoints,
            command,
            function,
            [ProtectForm(checkpoints=["llama-8b"], protected=False, force=True)],
            without={f"{one} protected": "to protect and to unprotect are two" for one in ("command", "function")},
        )
        for command, function in ((protect, api.protect), (unprotect, api.unprotect))
    ),
    Operation(
        store_requests.VerifyRequest,
        tasks.verify_checkpoints,
        verify,
        api.verify,
        [VerifyForm(checkpoints=["llama-8b"], repair=True)],
    ),
    Operation(
        store_requests.ScrubRequest,
        tasks.scrub_store,
        forms=[ScrubForm(budget_gib=1, repair=False)],
        without={
            "command": "a store is scrubbed part by part, on a schedule; `verify` reads all of it",
            "function": SCHEDULED,
        },
    ),
    Operation(
        store_requests.GarbageRequest,
        tasks.collect_garbage,
        collect_garbage,
        forms=[GarbageForm(grace_period="7d", unreferenced=True)],
        without={"function": SCHEDULED},
    ),
    Operation(
        prune_service.PruneRequest,
        tasks.prune_checkpoints,
        prune,
        forms=[
            RetentionForm.model_validate(
                {
                    "jobs": ["train"],
                    "pushed": ["nightly-*"],
                    "keep_last": 7,
                    "keep_best": 2,
                    "metric": "train-loss",
                    "keep_every_steps": 1000,
                    "keep_every": "1d",
                    "keep_within": "36h",
                    "keep_since": "2026-01-31T00:00:00Z",
                    "keep_exported": False,
                    "include_failed": True,
                    "drop_last": True,
                    "drop_best": True,
                    "apply": True,
                    "force": True,
                }
            )
        ],
        without={"function": SCHEDULED},
    ),
    Operation(
        training_requests.TrainingRequest,
        tasks.run_training,
        run,
        forms=[
            TrainingSpec(
                name="digits",
                command=["python"],
                checkpoint="latest",
                continue_failed=True,
                env={"A": "b"},
                secrets={},
                grace="2m",
                preempt_signal="USR1",
                strict=True,
                exclude=["samples/"],
            )
        ],
        without={
            "function": "a training script reports to flexai.training.Run",
            "command reuse_succeeded": "a user at a terminal is told that the job has succeeded",
            "form reuse_succeeded": "every run of the flow goes on where the last one stopped",
            "form output_dir": "the worker's machine has no directory of the user's",
            "form node_rank": "a run of a flow is one machine's; what starts several calls the command on each",
            "form nodes": "the same",
        },
    ),
    Operation(
        training_requests.DeleteJobRequest,
        tasks.delete_training_job,
        delete_job,
        without={"form": "a user deletes a job by hand", "function": BY_HAND},
    ),
    Operation(
        training_requests.CaptureJobRequest,
        tasks.capture_training_job,
        capture_job,
        without={"form": "it is for the machine that ran the job, whose user calls it", "function": BY_HAND},
    ),
]


def options_of(request: type) -> dict[str, Field[Any]]:
    """The fields of a request, those of the values in it among them."""
    hints = get_type_hints(request)
    found: dict[str, Field[Any]] = {}
    for one in fields(request):
        kind = hints[one.name]
        found |= options_of(kind) if kind in PARTS else {one.name: one}
    return found


def without_flag(request: type, command: click.Command) -> set[str]:
    return options_of(request).keys() - {one.name for one in command.params}


def without_parameter(request: type, function: Callable[..., Any]) -> set[str]:
    return {one.name for one in fields(request)} - inspect.signature(function).parameters.keys()


def without_form_field(request: type, forms: Sequence[Form]) -> set[str]:
    """The fields that are as they would be without the forms."""
    found = set(options_of(request))
    for form in forms:
        asked = form.request() if hasattr(form, "request") else form
        found -= _said(asked, options_of(request))
    return found


def _said(asked: object, options: Mapping[str, Field[Any]]) -> set[str]:
    said = set()
    for name, one in options.items():
        holder = next((part for part in _parts(asked) if hasattr(part, name)), None)
        default = () if one.default is MISSING else one.default
        if holder is not None and getattr(holder, name) not in (default, None):
            said.add(name)
    return said


def _parts(asked: object) -> list[object]:
    if not is_dataclass(asked):
        return [asked]
    values = [getattr(asked, one.name) for one in fields(asked)]
    return [asked, *(value for value in values if isinstance(value, PARTS))]


def _named(operation: Operation) -> str:
    return operation.request.__name__


def test_every_request_is_looked_at() -> None:
    known = {
        value
        for module in (requests, push_requests, change_requests, store_requests, training_requests, prune_service)
        for name, value in vars(module).items()
        if name.endswith("Request") and value.__module__ == module.__name__
    }
    # What users call a push is one of the two.
    assert known - {push_requests.PushRequest, push_requests.NameRequest} == {one.request for one in OPERATIONS}
    both = options_of(push_requests.PushRequest) | options_of(push_requests.NameRequest)
    assert both.keys() == options_of(push_requests.AnyPushRequest).keys()


@pytest.mark.parametrize("operation", OPERATIONS, ids=_named)
def test_every_option_has_a_flag(operation: Operation) -> None:
    if operation.command is None:
        assert operation.without["command"]
        return
    missing = without_flag(operation.request, operation.command)
    assert missing == {name for name in missing if f"command {name}" in operation.without}


@pytest.mark.parametrize("operation", OPERATIONS, ids=_named)
def test_every_option_is_a_parameter_of_the_task_and_told_of(operation: Operation) -> None:
    assert without_parameter(operation.request, operation.task.fn) == set()
    documentation = inspect.getdoc(operation.task.fn) or ""
    for one in fields(operation.request):
        assert re.search(rf"^ +{one.name}: \S", documentation, re.MULTILINE), one.name


@pytest.mark.parametrize("operation", OPERATIONS, ids=_named)
def test_every_option_is_a_parameter_of_the_function(operation: Operation) -> None:
    if operation.function is None:
        assert operation.without["function"]
        return
    missing = without_parameter(operation.request, operation.function)
    assert missing == {name for name in missing if f"function {name}" in operation.without}
    defaults = {one.name: one.default for one in inspect.signature(operation.function).parameters.values()}
    for one in fields(operation.request):
        if one.name not in missing and one.default is not MISSING:
            assert defaults[one.name] == one.default, one.name


@pytest.mark.parametrize("operation", OPERATIONS, ids=_named)
def test_every_option_is_in_a_form(operation: Operation) -> None:
    if not operation.forms:
        assert operation.without["form"]
        return
    missing = without_form_field(operation.request, operation.forms)
    assert missing == {name for name in missing if f"form {name}" in operation.without}


@pytest.mark.parametrize("operation", OPERATIONS, ids=_named)
def test_an_option_that_a_command_a_task_or_a_form_lacks_is_found(operation: Operation) -> None:
    for name in options_of(operation.request):
        if operation.command is not None and f"command {name}" not in operation.without:
            lacking = copy.copy(operation.command)
            lacking.params = [one for one in lacking.params if one.name != name]
            assert name in without_flag(operation.request, lacking)
        if operation.forms and f"form {name}" not in operation.without:
            assert name in without_form_field(operation.request, [])
    for one in fields(operation.request):
        parameters = dict(inspect.signature(operation.task.fn).parameters)
        del parameters[one.name]

        def lacks() -> None: ...

        lacks.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        assert without_parameter(operation.request, lacks) == {one.name}
