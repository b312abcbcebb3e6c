"""Scrubbing and repairing, as forms of Prefect's UI do it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from flexai.flows.scrub import scrub
from flexai.flows.verify import verify
from flexai.tasks import export_checkpoint, push_checkpoint, verify_checkpoints
from tests.flows.conftest import RunDeployed
from tests.servers.prefect import PrefectServer
from tests.support.trees import flip_byte

pytestmark = pytest.mark.slow


@pytest.fixture
def pushed(home: Path, files: Path) -> str:
    """The name of a pushed checkpoint."""
    name = f"rotten-{uuid.uuid4().hex[:8]}"
    push_checkpoint.fn(name, files=[str(files)])
    return name


def rot(home: Path) -> None:
    """Flip a byte of the largest blob."""
    blobs = [path for path in (home / "store" / "blobs").rglob("*") if path.is_file()]
    largest = max(blobs, key=lambda path: path.stat().st_size)
    largest.chmod(0o600)
    flip_byte(largest, 100)


def page(server: PrefectServer, run: dict[str, Any]) -> str:
    (found,) = server.post(
        "/artifacts/filter", {"artifacts": {"key": {"any_": ["scrub"]}, "flow_run_id": {"any_": [run["id"]]}}}
    )
    return str(found["data"])


def test_a_sound_store_is_scrubbed(
    prefect_api: PrefectServer, home: Path, pushed: str, run_deployed: RunDeployed
) -> None:
    ended = run_deployed(scrub, {})
    assert (ended["state"]["type"], ended["name"]) == ("COMPLETED", "scrub (16 KiB verified)")
    assert "all that checkpoints need was read" in page(prefect_api, ended)


def test_rot_is_repaired_from_a_mirror_and_the_run_ends_well(
    prefect_api: PrefectServer, home: Path, pushed: str, share: str, run_deployed: RunDeployed
) -> None:
    export_checkpoint.fn(pushed, share, f"copies/{pushed}")
    rot(home)
    ended = run_deployed(scrub, {"request": {"budget_gib": 1}})
    assert (ended["state"]["type"], ended["name"]) == ("COMPLETED", "scrub (16 KiB verified, 1 damaged)")
    assert f"from `{share}:copies/{pushed}`" in page(prefect_api, ended)
    assert verify_checkpoints.fn()["damagedContents"] == 0


def test_rot_without_a_mirror_fails_the_run_and_is_named(
    prefect_api: PrefectServer, home: Path, pushed: str, run_deployed: RunDeployed
) -> None:
    rot(home)
    ended = run_deployed(scrub, {"request": {"repair": False}})
    assert ended["state"]["type"] == "FAILED"
    assert pushed in ended["state"]["message"]
    assert "not tried" in page(prefect_api, ended)
    tried = run_deployed(verify, {"request": {"repair": True}})
    assert tried["state"]["type"] == "FAILED"
    assert "could not be repaired" in tried["state"]["message"]


@pytest.mark.parametrize("budget", [0, -1, 1e9])
def test_a_budget_has_bounds(budget: float) -> None:
    with pytest.raises(Exception, match="invalid parameters"):
        scrub.validate_parameters({"request": {"budget_gib": budget}})
