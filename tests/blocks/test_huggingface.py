"""Connections to the Hugging Face Hub, against a stand-in that answers as the Hub does."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from flexai.blocks import (
    HuggingFaceStorageProvider,
    Probe,
    ProbeOutcome,
    check_connection,
    load_connection,
    save_connection,
)
from flexai.checkpoints.errors import AccessDeniedError, NotFoundError, UsageError
from flexai.checkpoints.storage.protocol import BytesBody
from tests.servers.hub import Fault, Hub, HubFile, serve_hub
from tests.servers.keeper import free_ports
from tests.servers.prefect import PrefectServer

TOKEN = "hf_CanaryToken"
FILES: dict[str, bytes | HubFile] = {
    "config.json": b'{"architectures": ["Qwen2ForCausalLM"]}',
    "model.safetensors": HubFile(bytes(range(256)) * 4096, is_large=True),
    "onnx/model.onnx": HubFile(b"onnx" * 1000, is_large=True),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A stand-in with an open, a private and a gated repository."""
    with serve_hub() as hub:
        hub.readers = {TOKEN: {"org/private", "org/gated"}}
        hub.add("Qwen/Qwen2.5-72B", FILES)
        hub.add("org/private", FILES, is_private=True)
        hub.add("org/gated", FILES, is_gated=True)
        yield hub


def connection_to(hub: Hub, **fields: Any) -> HuggingFaceStorageProvider:
    return HuggingFaceStorageProvider(endpoint_url=hub.endpoint, **fields)


def named(found: list[Probe], outcome: ProbeOutcome) -> set[str]:
    return {probe.name for probe in found if probe.outcome is outcome}


def read(provider: HuggingFaceStorageProvider, path: str) -> bytes:
    place = provider.open(path)
    return b"".join(bytes(block) for block in place.storage.get(place.key))


def test_without_any_field_it_is_the_hub_itself() -> None:
    assert HuggingFaceStorageProvider().location == "https://huggingface.co"
    assert HuggingFaceStorageProvider(endpoint_url="").location == "https://huggingface.co"


def test_a_mirror_may_live_below_a_path() -> None:
    mirror = HuggingFaceStorageProvider(endpoint_url="https://mirror.example/api/hf/")
    assert mirror.location == "https://mirror.example/api/hf"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"endpoint_url": "https://canary@hub.example"}, "a user name or password in it"),
        ({"endpoint_url": "https://hub.example/?token=canary"}, "a query or a fragment"),
        ({"endpoint_url": "http://169.254.169.254"}, "credentials"),
        ({"token": "canary", "credentials_block": "b"}, "a token or the name of a Secret block"),
        ({"credentials_block": "aws-credentials/b"}, "of type secret"),
        ({"repo_type": "kernel"}, "Input should be"),
    ],
)
def test_fields_that_make_no_sense_are_refused_without_being_quoted(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        HuggingFaceStorageProvider(**fields)
    assert message in str(refused.value)
    assert "canary" not in str(refused.value)


def test_a_branch_is_opened_at_the_commit_that_it_is_now(hub: Hub) -> None:
    place = connection_to(hub).open("Qwen/Qwen2.5-72B/onnx")
    (repository,) = [one for one in hub.repositories if one.name == "Qwen/Qwen2.5-72B"]
    before = repository.find("main")
    repository.commit({"onnx/other.onnx": HubFile(b"other")})
    assert (place.key, place.revision) == ("onnx", before)
    assert [info.key for info in place.storage.list(place.prefix)] == ["onnx/model.onnx"]


def test_small_and_large_files_are_read(hub: Hub) -> None:
    provider = connection_to(hub)
    assert read(provider, "Qwen/Qwen2.5-72B/config.json") == FILES["config.json"]
    assert read(provider, "Qwen/Qwen2.5-72B@main/onnx/model.onnx") == b"onnx" * 1000


def test_private_and_gated_repositories_need_the_token(hub: Hub) -> None:
    with pytest.raises(NotFoundError, match="org/private"):
        connection_to(hub).open("org/private")
    with pytest.raises(AccessDeniedError, match="gated"):
        read(connection_to(hub), "org/gated/config.json")
    provider = connection_to(hub, token=TOKEN)
    assert read(provider, "org/private/config.json") == read(provider, "org/gated/config.json")


def test_a_repository_is_only_read(hub: Hub) -> None:
    with pytest.raises(UsageError, match="read-only"):
        connection_to(hub).open("Qwen/Qwen2.5-72B").storage.put("x", BytesBody(b""))


@pytest.mark.parametrize("path", ["", "Qwen//x", "https://huggingface.co/Qwen/Qwen2.5-72B", "a/b/../c"])
def test_a_path_that_is_none_is_refused(hub: Hub, path: str) -> None:
    with pytest.raises(UsageError):
        connection_to(hub).open(path)


def test_a_check_without_a_path_asks_whose_token_it_is(hub: Hub) -> None:
    assert connection_to(hub).reach() == f"{hub.endpoint} answers, no token is used"
    assert connection_to(hub, token=TOKEN).reach() == f"{hub.endpoint} answers, the token is somebody's"
    with pytest.raises(AccessDeniedError, match="refused the token") as refused:
        connection_to(hub, token="hf_Wrong").reach()
    assert "hf_Wrong" not in refused.value.message


def test_a_mirror_that_does_not_know_tokens_answers_all_the_same(hub: Hub) -> None:
    hub.faults.append(Fault("hub", "whoami", status=404))
    assert connection_to(hub, token=TOKEN).reach() == f"{hub.endpoint} answers"


@pytest.mark.parametrize("path", ["Qwen/Qwen2.5-72B", "Qwen/Qwen2.5-72B/onnx", "Qwen/Qwen2.5-72B/model.safetensors"])
def test_a_check_reads_what_is_there_and_writes_nothing(hub: Hub, path: str) -> None:
    found = connection_to(hub, token=TOKEN).check(path)
    assert named(found, ProbeOutcome.PASSED) == {"reach", "list", "head", "get", "range"}
    assert named(found, ProbeOutcome.ABSENT) == {"put", "overwrite", "copy", "multipart", "abort", "delete"}
    assert {request.method for request in hub.asked("hub") + hub.asked("cdn")} <= {"GET", "HEAD"}


def test_a_check_of_a_gated_repository_says_that_it_is_denied(hub: Hub) -> None:
    found = connection_to(hub).check("org/gated")
    assert {probe.name for probe in found if probe.denied} == {"get", "range"}


def test_a_check_of_nothing_fails(hub: Hub) -> None:
    found = connection_to(hub).check("Qwen/Qwen2.5-72B/nothing")
    assert named(found, ProbeOutcome.FAILED) == {"list"}
    assert named(found, ProbeOutcome.NOT_TRIED) == {"head", "get", "range"}
    assert connection_to(hub).check("org/nobodys")[0].outcome is ProbeOutcome.FAILED


def test_a_hub_that_is_not_there_is_said_so() -> None:
    (port,) = free_ports(1)
    found = HuggingFaceStorageProvider(endpoint_url=f"http://127.0.0.1:{port}").check("org/model")
    assert (found[0].outcome, found[0].denied) == (ProbeOutcome.FAILED, False)


def test_a_saved_connection_keeps_its_token_from_everybody(prefect_api: PrefectServer, hub: Hub) -> None:
    name = f"hub-{uuid.uuid4().hex[:12]}"
    save_connection(connection_to(hub, token=TOKEN), name)
    check_connection(name, "org/private")
    loaded = load_connection(name)
    assert loaded.capabilities["get"] == "passed"
    assert loaded.open("org/private").revision
    for text in (repr(loaded), str(loaded.model_dump()), loaded.model_dump_json()):
        assert TOKEN not in text


@pytest.mark.parametrize("document", [{}, {"token": None, "endpoint_url": None}, {"token": "hf_x", "capabilities": {}}])
def test_a_document_with_fewer_fields_loads(document: dict[str, Any]) -> None:
    assert HuggingFaceStorageProvider.model_validate(document).location == "https://huggingface.co"
