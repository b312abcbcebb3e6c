"""Connections as flow parameters: chosen in Prefect's form, or named."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret
from prefect.logging.handlers import APILogWorker
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import BaseModel, SecretStr, ValidationError

from flexai.blocks import PROVIDERS, S3StorageProvider, save_connection
from flexai.flows.connection_field import Connection, connection_schema
from flexai.flows.export import export
from flexai.tasks import push_checkpoint
from tests.flows.conftest import RunDeployed
from tests.servers.fixtures import S3Server
from tests.servers.prefect import PrefectServer


class Holder(BaseModel):
    """A model with a connection in it, as the flows' requests are."""

    connection: Connection


def errors_of(value: object) -> list[Any]:
    """What the server says of a parameter of this type, before it makes a run."""
    schema = {"type": "object", "properties": {"c": connection_schema()}, "required": ["c"]}
    return list(validate({"c": value}, schema, raise_on_error=False))


def reference(block_id: uuid.UUID | str) -> dict[str, Any]:
    return {"$ref": {"block_document_id": str(block_id)}}


def test_the_form_offers_a_name_and_a_picker_for_each_kind_of_connection() -> None:
    name, *pickers = connection_schema()["anyOf"]
    assert name["type"] == "string"
    assert [picker["block_type_slug"] for picker in pickers] == [
        kind.get_block_type_slug() for kind in PROVIDERS.values()
    ]
    assert len({tab["title"] for tab in (name, *pickers)}) == len(PROVIDERS) + 1


def test_the_schema_of_a_flow_keeps_the_pickers() -> None:
    schema = parameter_schema(export).model_dump_for_openapi()
    field = schema["definitions"]["ExportForm"]["properties"]["storage_provider"]
    assert field["anyOf"] == connection_schema()["anyOf"]
    assert field["title"] and field["description"]


def test_the_server_takes_a_name_and_a_reference_and_nothing_else() -> None:
    assert errors_of("aws-storage-conn-eu") == []
    assert errors_of(reference(uuid.uuid4())) == []
    refused: list[object] = [
        "",
        "ab",
        "With Spaces",
        5,
        None,
        {},
        {"$ref": "x"},
        {"$ref": {}},
        {"name": "x"},
        {"root": "/"},
    ]
    for wrong in refused:
        assert errors_of(wrong), wrong


def test_a_saved_block_becomes_its_name_and_leaves_its_fields_behind() -> None:
    block = S3StorageProvider(access_key_id="key", secret_access_key=SecretStr("canary"))
    with pytest.raises(ValidationError, match="is not saved") as caught:
        Holder.model_validate({"connection": block})
    assert "canary" not in str(caught.value)
    block._block_document_name = "lab"
    assert Holder.model_validate({"connection": block}).model_dump() == {"connection": "lab"}


@pytest.mark.parametrize("wrong", [None, 5, "With Spaces", {"$ref": {}}, SecretStr("canary")])
def test_anything_else_is_refused_without_being_quoted_as_a_block(wrong: object) -> None:
    with pytest.raises(ValidationError):
        Holder.model_validate({"connection": wrong})


def test_a_run_made_by_a_form_stores_a_reference_and_no_secret(
    prefect_api: PrefectServer, home: Path, files: Path, seaweedfs: S3Server, run_deployed: RunDeployed
) -> None:
    push_checkpoint.fn("picked", files=[str(files)])
    name = f"picked-{uuid.uuid4().hex[:8]}"
    # What the server checks the signature with has been stored already: blocks are where secrets belong.
    block = S3StorageProvider(
        endpoint_url=seaweedfs.url,
        access_key_id=seaweedfs.access_key_id,
        secret_access_key=SecretStr(seaweedfs.secret_access_key),
        addressing_style="path",
    )
    block_id = save_connection(block, name)
    place = f"{seaweedfs.bucket}/{name}"
    request = {"checkpoint": "picked", "storage_provider": reference(block_id), "destination_path": place}

    ended = run_deployed(export, {"request": request})

    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    assert ended["parameters"] == {"request": request}
    assert ended["name"] == f"export picked (16 KiB) to {name}"
    listed = seaweedfs.client().list_objects_v2(Bucket=seaweedfs.bucket, Prefix=f"{name}/")
    assert len(listed["Contents"]) == 3
    _logs_are_there(prefect_api, ended["id"])
    assert set(prefect_api.database_holds(seaweedfs.secret_access_key)) <= {"block_document"}


def test_a_connection_that_is_gone_fails_the_run_in_words(home: Path, files: Path, run_deployed: RunDeployed) -> None:
    push_checkpoint.fn("picked", files=[str(files)])
    request = {"checkpoint": "picked", "destination_path": "bucket/place"}
    by_name = run_deployed(export, {"request": request | {"storage_provider": "no-such-share"}})
    assert "there is no storage provider connection 'no-such-share'" in by_name["state"]["message"]
    by_id = run_deployed(export, {"request": request | {"storage_provider": reference(uuid.uuid4())}})
    assert by_id["state"]["type"] == "FAILED"


def test_a_block_that_is_no_connection_is_refused_without_its_secret(
    prefect_api: PrefectServer, home: Path, run_deployed: RunDeployed, capfd: pytest.CaptureFixture[str]
) -> None:
    canary = f"canary-{uuid.uuid4().hex}"
    block_id = Secret(value=canary).save(f"secret-{uuid.uuid4().hex[:8]}")
    request = {
        "checkpoint": "picked",
        "destination_path": "bucket/place",
        "storage_provider": reference(str(block_id)),
    }
    ended = run_deployed(export, {"request": request})
    assert ended["state"]["type"] == "FAILED"
    assert "a storage provider connection is needed" in ended["state"]["message"]
    assert canary not in "".join(capfd.readouterr())
    assert prefect_api.database_holds(canary) == []


def _logs_are_there(server: PrefectServer, flow_run_id: str) -> None:
    """Wait until the server has what the run logged."""
    APILogWorker.drain_all(timeout=60, at_exit=False)
    assert server.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run_id]}}})
