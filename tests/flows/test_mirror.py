"""The mirror, as a form of Prefect's UI runs it."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from flexai.checkpoints.service import mirror as service
from flexai.flows.composed import MirrorRequest
from flexai.flows.mirror import chosen, mirror
from flexai.tasks import push_checkpoint
from tests.flows.conftest import RunDeployed
from tests.servers.prefect import PrefectServer


def test_a_mirror_copies_what_is_new_and_says_so(
    prefect_api: PrefectServer, home: Path, files: Path, share: str, run_deployed: RunDeployed, tmp_path: Path
) -> None:
    names = [f"mirrored-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    request = {"storage_provider": share, "destination_path": "copies"}
    push_checkpoint.fn(names[0], files=[str(files)])
    first = run_deployed(mirror, {"request": request})
    assert (first["state"]["type"], first["name"]) == (
        "COMPLETED",
        f"mirror to {share}: 1 copied (16 KB), 0 there already",
    )
    push_checkpoint.fn(names[1], files=[str(files)])
    second = run_deployed(mirror, {"request": request})
    assert second["name"] == f"mirror to {share}: 1 copied (16 KB), 1 there already"
    assert {path.name for path in (tmp_path / "share" / "copies").iterdir()} == set(names)

    (tmp_path / "share" / "copies" / names[0] / "flexai-manifest.json").write_text("torn")
    third = run_deployed(mirror, {"request": request})
    assert third["state"]["type"] == "FAILED"
    assert f"1 of 2 checkpoints could not be mirrored: '{names[0]}'" in third["state"]["message"]
    pages = prefect_api.post("/artifacts/filter", {"artifacts": {"key": {"any_": [f"mirrored-to-{share}"]}}})
    assert "1 there already, 1 failed" in max(pages, key=lambda page: str(page["created"]))["data"]


@pytest.mark.parametrize(
    ("which", "meant"),
    [
        ({}, service.PushedCheckpoints("*")),
        ({"checkpoints": {"names": "mistral-*"}}, service.PushedCheckpoints("mistral-*")),
        ({"checkpoints": {"checkpoints": ["mistral-1"]}}, service.NamedCheckpoints(("mistral-1",))),
        ({"checkpoints": {"job": "mistral-run"}}, service.JobCheckpoints("mistral-run")),
    ],
)
def test_checkpoints_are_chosen_by_name_by_job_or_one_by_one(which: dict[str, object], meant: object) -> None:
    request = MirrorRequest.model_validate({"storage_provider": "share", "destination_path": "copies"} | which)
    assert chosen(request) == meant
