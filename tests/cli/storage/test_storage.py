"""Connections, saved by a real Prefect server."""

from __future__ import annotations

import uuid

import pytest
import yaml

from flexai.blocks import LocalStorageProvider, S3StorageProvider
from tests.blocks.saved import save_document
from tests.cli.conftest import Run
from tests.cli.program import Program
from tests.servers.prefect import PrefectServer


@pytest.fixture
def saved(program: Program, prefect_server: PrefectServer) -> dict[str, str]:
    """The environment of a machine with a Prefect API."""
    return {"PREFECT_API_URL": prefect_server.api_url}


@pytest.fixture
def name() -> str:
    """A name that no other test's connection has."""
    return f"conn-{uuid.uuid4().hex[:12]}"


@pytest.mark.slow
def test_a_connection_is_created_shown_checked_and_deleted(program: Program, saved: dict[str, str], name: str) -> None:
    (program.cwd / "share").mkdir()
    created = program.run("storage", "create", name, "--provider", "local", "--root", "share", env=saved)
    assert (created.code, created.out) == (0, "")
    assert created.err.splitlines()[0] == f"saved connection '{name}' (local: {program.cwd}/share)"

    again = program.run("storage", "create", name, "--provider", "local", "--root", "share", env=saved)
    assert again.code == 4
    options = ("--provider", "local", "--root", ".", "--overwrite", "--json")
    replaced = program.run("storage", "create", name, *options, env=saved)
    assert replaced.code == 0, replaced.err

    listed = program.run("storage", "list", env=saved)
    row = next(line for line in listed.out.splitlines() if name in line)
    assert [cell.strip() for cell in row.split("|")] == [name, "local", str(program.cwd)]
    documents = program.run("storage", "list", "--json", env=saved).json()
    (document,) = [entry for entry in documents if entry["metadata"]["name"] == name]
    assert replaced.json() == document

    inspected = program.run("storage", "inspect", name, env=saved)
    assert yaml.safe_load(inspected.out) == document
    assert (document["spec"]["provider"], document["spec"]["root"]) == ("local", str(program.cwd))

    checked = program.run("storage", "check", name, "bucket", env=saved)
    assert checked.code == 0, checked.err
    assert "PROBE" in checked.out
    after = program.run("storage", "inspect", name, "--json", env=saved).json()
    assert after["status"]["capabilities"]["put"] == "passed"
    assert set(after["status"]["capabilities"].values()) == {"passed", "absent"}

    probed = program.run("storage", "check", name, "bucket", "--json", env=saved)
    assert (probed.code, probed.json()["storageProvider"], probed.json()["path"]) == (0, name, "bucket")
    outcomes = {probe["name"]: probe["outcome"] for probe in probed.json()["probes"]}
    assert outcomes == after["status"]["capabilities"]

    deleted = program.run("storage", "delete", name, "--json", env=saved)
    assert (deleted.code, deleted.json()) == (0, {"name": name, "id": document["metadata"]["id"]})
    for verb in ("inspect", "check", "delete"):
        gone = program.run("storage", verb, name, env=saved)
        assert (gone.code, gone.error) == (3, f"there is no storage provider connection '{name}'")


def test_a_name_that_two_kinds_have_is_a_conflict_and_not_two_documents(
    program: Program, saved: dict[str, str], prefect_api: PrefectServer, name: str
) -> None:
    save_document(prefect_api, LocalStorageProvider, name, {"root": "/mnt"})
    save_document(prefect_api, S3StorageProvider, name, {})
    for flags in ([], ["--json"]):
        done = program.run("storage", "inspect", name, *flags, env=saved)
        assert (done.code, done.out) == (4, "")
        assert done.error == f"connection '{name}' is there more than once, as 'local' and 's3'"
        assert "flexai storage list --json" in done.hint


def test_a_check_that_fails_is_a_failure(program: Program, saved: dict[str, str], name: str) -> None:
    (program.cwd / "share").mkdir()
    assert program.run("storage", "create", name, "--provider", "local", "--root", "share", env=saved).code == 0
    (program.cwd / "share").rmdir()
    done = program.run("storage", "check", name, env=saved)
    assert done.code == 1
    assert done.error == f"connection '{name}' failed 1 probe: reach"
    assert "is not there" in done.out
    told = program.run("storage", "check", name, "--json", env=saved)
    assert (told.code, told.error) == (1, done.error)
    (probe,) = told.json()["probes"]
    assert (probe["name"], probe["outcome"], probe["denied"]) == ("reach", "failed", False)


@pytest.mark.slow
def test_an_embedded_api_keeps_connections_too(program: Program) -> None:
    (program.cwd / "share").mkdir()
    created = program.run("storage", "create", "my-share", "--provider", "local", "--root", "share", "--json")
    assert created.code == 0, created.err
    assert created.err.splitlines()[0] == "starting an embedded Prefect API to save the connection…"
    (document,) = program.run("storage", "list", "--json").json()
    assert document["metadata"]["name"] == "my-share"
    assert created.json() == document


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "missing option '--provider'"),
        (["--provider", "local"], "--provider local needs --root"),
        (["--provider", "nfs", "--root", "x"], "invalid value for '--provider': 'nfs' is not"),
    ],
)
def test_wrong_flags_are_refused_before_prefect_is_asked(flexai: Run, flags: list[str], message: str) -> None:
    done = flexai("storage", "create", "my-share", *flags)
    assert done.code == 2
    assert done.error.startswith(message)
    assert "starting" not in done.err
