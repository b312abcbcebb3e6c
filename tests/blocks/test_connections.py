"""Saving, finding and deleting connections, on a real Prefect server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

from flexai import blocks
from flexai.blocks import LocalStorageProvider, ProbeOutcome
from flexai.checkpoints.errors import (
    AlreadyExistsError,
    InvalidNameError,
    NotFoundError,
    SettingsError,
    StorageError,
    StorageUnavailableError,
)
from flexai.checkpoints.names import parse_id
from flexai.checkpoints.storage.local import LocalStorage
from flexai.connections.saved import parse_connection_name
from tests.servers.prefect import PrefectServer


@pytest.fixture
def name() -> str:
    """A name that no other test uses: all share one server."""
    return f"share-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def provider(tmp_path: Path) -> LocalStorageProvider:
    (tmp_path / "share").mkdir()
    return LocalStorageProvider(root=str(tmp_path / "share"))


def saved(name: str) -> list[blocks.SavedConnection]:
    return [connection for connection in blocks.list_connections() if connection.name == name]


def change_document(server: PrefectServer, connection_id: str, data: dict[str, Any]) -> None:
    """Change what is saved as Prefect's UI does: the API does not look at it."""
    server.patch(f"/block_documents/{connection_id}", {"data": data, "merge_existing_data": True})


@pytest.mark.parametrize("text", ["aws-storage-conn-eu", "s3-1", "0ne"])
def test_a_name_of_lower_case_letters_digits_and_dashes_is_a_connections_name(text: str) -> None:
    assert parse_connection_name(text) == text


@pytest.mark.parametrize(
    ("text", "better"), [("HF-STORAGE", "hf-storage"), ("my_share", "my-share"), ("My_Share", "my-share")]
)
def test_a_name_that_prefect_would_refuse_is_refused_with_one_that_it_takes(text: str, better: str) -> None:
    with pytest.raises(InvalidNameError, match="breaks Prefect's rule for blocks") as caught:
        parse_connection_name(text)
    assert caught.value.hint.endswith(better)


@pytest.mark.parametrize("text", ["", "ab", "-abc", "a b c", "a/b/c", "latest", str(uuid.UUID(int=1)), "abc\n"])
def test_a_name_that_breaks_the_naming_rules_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        parse_connection_name(text)


def test_a_saved_connection_is_loaded_as_it_was(
    prefect_api: PrefectServer, name: str, provider: LocalStorageProvider
) -> None:
    connection_id = blocks.save_connection(provider, name)
    loaded = blocks.load_connection(name)
    assert isinstance(loaded, LocalStorageProvider)
    assert (loaded.connection_name, loaded.connection_id) == (name, parse_id(connection_id))
    assert (loaded.root, loaded.create_buckets) == (provider.root, True)


def test_a_connection_is_found_by_prefects_own_ways_too(
    prefect_api: PrefectServer, name: str, provider: LocalStorageProvider
) -> None:
    blocks.save_connection(provider, name)
    loaded = LocalStorageProvider.load(name)
    assert isinstance(loaded, LocalStorageProvider)
    assert loaded.root == provider.root


def test_a_name_that_is_taken_stays_with_its_holder(
    prefect_api: PrefectServer, name: str, provider: LocalStorageProvider, tmp_path: Path
) -> None:
    blocks.save_connection(provider, name)
    with pytest.raises(AlreadyExistsError, match=f"connection '{name}' .local. already exists"):
        blocks.save_connection(LocalStorageProvider(root=str(tmp_path)), name)
    assert blocks.load_connection(name).location == provider.root


def test_a_server_that_meets_with_a_conflict_of_its_own_is_asked_again(
    prefect_api: PrefectServer, name: str, provider: LocalStorageProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Prefect's does on PostgreSQL when two processes save its first blocks at one moment."""
    create = PrefectClient.create_block_document
    refused: list[bool] = []

    async def refuse_once(client: PrefectClient, *args: Any, **options: Any) -> Any:
        if not refused:
            refused.append(True)
            request = httpx.Request("POST", prefect_api.api_url)
            conflict = httpx.HTTPStatusError("conflict", request=request, response=httpx.Response(409, request=request))
            raise ObjectAlreadyExists(http_exc=conflict)
        return await create(client, *args, **options)

    monkeypatch.setattr(PrefectClient, "create_block_document", refuse_once)
    blocks.save_connection(provider, name)
    assert refused and blocks.load_connection(name).location == provider.root


def test_overwriting_keeps_the_id(
    prefect_api: PrefectServer, name: str, provider: LocalStorageProvider, tmp_path: Path
) -> None:
    connection_id = blocks.save_connection(provider, name)
    assert blocks.save_connection(LocalStorageProvider(root=str(tmp_path)), name, overwrite=True) == connection_id
    assert blocks.load_connection(name).location == str(tmp_path)


def test_a_loaded_connection_overwrites_the_one_of_the_name_it_is_saved_under(
    prefect_api: PrefectServer, name: str, provider: LocalStorageProvider, tmp_path: Path
) -> None:
    """Prefect itself would overwrite the one that it was loaded from."""
    blocks.save_connection(provider, name)
    blocks.save_connection(LocalStorageProvider(root=str(tmp_path)), f"{name}-b")
    blocks.save_connection(blocks.load_connection(name), f"{name}-b", overwrite=True)
    assert blocks.load_connection(f"{name}-b").location == provider.root
    assert blocks.load_connection(name).location == provider.root


def test_a_deleted_connection_is_gone(prefect_api: PrefectServer, name: str, provider: LocalStorageProvider) -> None:
    blocks.save_connection(provider, name)
    blocks.delete_connection(name)
    assert saved(name) == []
    for look in (blocks.load_connection, blocks.delete_connection):
        with pytest.raises(NotFoundError, match=f"there is no storage provider connection '{name}'") as caught:
            look(name)
        assert "flexai storage list" in caught.value.hint


def test_a_connection_that_was_broken_in_prefects_ui_says_what_is_wrong_with_it(
    prefect_api: PrefectServer, name: str, provider: LocalStorageProvider
) -> None:
    connection_id = blocks.save_connection(provider, name)
    change_document(prefect_api, connection_id, {"root": "not/absolute"})
    with pytest.raises(SettingsError) as caught:
        blocks.load_connection(name)
    assert caught.value.message == (
        f"connection '{name}' cannot be used: Root directory: the root directory must be an absolute path"
    )
    (listed,) = saved(name)
    assert listed.block is None
    assert listed.problem == "Root directory: the root directory must be an absolute path"


def test_a_list_has_what_people_look_for(prefect_api: PrefectServer, name: str, provider: LocalStorageProvider) -> None:
    connection_id = blocks.save_connection(provider, name)
    (listed,) = saved(name)
    assert (listed.id, listed.provider, listed.problem) == (connection_id, "local", "")
    assert listed.block is not None
    assert listed.block.location == provider.root
    assert listed.created_at is not None


def test_a_list_is_whole_whether_or_not_the_api_gives_it_page_by_page(
    prefect_api: PrefectServer, name: str, provider: LocalStorageProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexai.blocks.connections._PAGE", 2)
    names = [f"{name}-{number}" for number in range(5)]
    for one in names:
        blocks.save_connection(provider, one)
    assert [one.name for one in blocks.list_connections() if one.name.startswith(name)] == names


def test_a_check_saves_what_it_found(prefect_api: PrefectServer, name: str, provider: LocalStorageProvider) -> None:
    connection_id = blocks.save_connection(provider, name)
    probes = blocks.check_connection(name, "bucket/scratch")
    loaded = blocks.load_connection(name)
    assert loaded.connection_id == connection_id
    assert loaded.capabilities == {probe.name: probe.outcome.value for probe in probes}
    assert loaded.capabilities["put"] == "passed"


def test_a_check_that_does_not_reach_the_provider_leaves_the_record_as_it_was(
    prefect_api: PrefectServer, name: str, provider: LocalStorageProvider
) -> None:
    blocks.save_connection(provider, name)
    blocks.check_connection(name, "bucket")
    record = blocks.load_connection(name).capabilities
    Path(provider.root).rename(f"{provider.root}-away")
    assert blocks.check_connection(name, "bucket")[0].outcome is ProbeOutcome.FAILED
    assert blocks.load_connection(name).capabilities == record


def test_what_a_check_could_not_try_keeps_its_last_outcome(
    prefect_api: PrefectServer, name: str, provider: LocalStorageProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks.save_connection(provider, name)
    blocks.check_connection(name, "bucket")

    def full(self: LocalStorage, *_: object, **__: object) -> None:
        raise StorageError("there is no room")

    monkeypatch.setattr(LocalStorage, "put", full)
    blocks.check_connection(name, "bucket")
    record = blocks.load_connection(name).capabilities
    assert (record["put"], record["multipart"], record["part copy"]) == ("failed", "passed", "absent")


@pytest.mark.parametrize("moved", [False, True])
def test_what_is_changed_while_a_check_runs_is_kept(
    prefect_api: PrefectServer,
    name: str,
    provider: LocalStorageProvider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moved: bool,
) -> None:
    """The record is not that of another place."""
    connection_id = blocks.save_connection(provider, name)
    change = {"root": str(tmp_path)} if moved else {"create_buckets": False}
    reach = LocalStorageProvider.reach

    def meanwhile(self: LocalStorageProvider) -> str:
        change_document(prefect_api, connection_id, change)
        return reach(self)

    monkeypatch.setattr(LocalStorageProvider, "reach", meanwhile)
    blocks.check_connection(name, "bucket")
    loaded = blocks.load_connection(name)
    assert isinstance(loaded, LocalStorageProvider)
    assert (loaded.root, loaded.create_buckets) == (str(tmp_path) if moved else provider.root, moved)
    assert loaded.capabilities.get("put", "") == ("" if moved else "passed")


def test_a_connection_works_inside_a_flow_and_inside_an_asynchronous_one(
    prefect_api: PrefectServer, name: str, provider: LocalStorageProvider
) -> None:
    blocks.save_connection(provider, name)

    @flow
    def plain() -> str:
        return blocks.load_connection(name).location

    @flow
    async def asynchronous() -> str:
        return blocks.load_connection(name).location

    assert plain() == provider.root
    assert asyncio.run(asynchronous()) == provider.root


def test_prefects_command_registers_the_blocks(prefect_api: PrefectServer) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "block", "register", "-m", "flexai.blocks"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kinds = [kind.get_block_type_slug() for kind in blocks.PROVIDERS.values()]
    assert f"Successfully registered {len(kinds)} block" in done.stdout
    for slug in kinds:
        assert prefect_api.get(f"/block_types/slug/{slug}")["slug"] == slug


def test_a_server_beside_the_package_knows_the_blocks_by_itself(prefect_server: PrefectServer) -> None:
    assert "flexai-local-storage-provider" in {
        found["slug"] for found in prefect_server.post("/block_types/filter", {"limit": 200})
    }


def test_an_api_that_does_not_answer_is_a_passing_failure(name: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(StorageUnavailableError, match=r"http://127\.0\.0\.1:9/api does not answer"),
    ):
        blocks.load_connection(name)


def test_no_api_and_none_allowed_is_said_in_words(name: str) -> None:
    with (
        temporary_settings({PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}, restore_defaults={PREFECT_API_URL}),
        pytest.raises(SettingsError, match="no Prefect API is configured"),
    ):
        blocks.load_connection(name)


@pytest.mark.slow
def test_without_an_api_connections_are_kept_by_prefects_embedded_one_and_no_server_is_started(
    tmp_path: Path, name: str
) -> None:
    code = f"""
import sys
from flexai import blocks
if sys.argv[1] == "save":
    blocks.save_connection(blocks.LocalStorageProvider(root={str(tmp_path)!r}), {name!r})
else:
    print(blocks.load_connection({name!r}).location, [one.name for one in blocks.list_connections()])
from prefect.server.api.server import SubprocessASGIServer
assert not SubprocessASGIServer._instances
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}

    def run(what: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, what]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    first = run("save")
    assert (first.returncode, first.stdout, first.stderr) == (0, "", "")
    second = run("load")
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout == f"{tmp_path} ['{name}']\n"
