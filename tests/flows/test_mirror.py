"""The mirror, as a form of Prefect's UI runs it."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

from flexai.checkpoints.errors import UsageError
from flexai.flows.mirror import mirror
from flexai.flows.store_forms import MirrorForm
from flexai.tasks import mirror_checkpoints, push_checkpoint, run_training
from tests.flows.conftest import RunDeployed
from tests.servers.prefect import PrefectServer


@pytest.mark.slow
def test_a_mirror_copies_what_is_new_and_says_so(
    prefect_api: PrefectServer, home: Path, files: Path, share: str, run_deployed: RunDeployed, tmp_path: Path
) -> None:
    names = [f"mirrored-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    request = {"storage_provider": share, "destination_path": "copies"}
    push_checkpoint.fn(names[0], files=[str(files)])
    first = run_deployed(mirror, {"request": request})
    assert (first["state"]["type"], first["name"]) == (
        "COMPLETED",
        f"mirror to {share}: 1 copied (16 KiB), 0 there already",
    )
    push_checkpoint.fn(names[1], files=[str(files)])
    second = run_deployed(mirror, {"request": request})
    assert second["name"] == f"mirror to {share}: 1 copied (16 KiB), 1 there already"
    assert {path.name for path in (tmp_path / "share" / "copies").iterdir()} == set(names)

    (tmp_path / "share" / "copies" / names[0] / "flexai-manifest.json").write_text("torn")
    third = run_deployed(mirror, {"request": request})
    assert third["state"]["type"] == "FAILED"
    assert f"1 of 2 checkpoints could not be mirrored: '{names[0]}'" in third["state"]["message"]
    pages = prefect_api.post("/artifacts/filter", {"artifacts": {"key": {"any_": [f"mirrored-to-{share}"]}}})
    assert "1 there already, 1 failed" in max(pages, key=lambda page: str(page["created"]))["data"]


@pytest.mark.parametrize(
    ("which", "copied"),
    [
        ({}, {"llama-1", "llama-2", "mistral-1"}),
        ({"checkpoints": {"names": "llama-*"}}, {"llama-1", "llama-2"}),
        ({"checkpoints": {"checkpoints": ["mistral-1"]}}, {"mistral-1"}),
    ],
)
def test_checkpoints_are_chosen_by_a_pattern_or_one_by_one(
    home: Path, files: Path, share: str, which: dict[str, object], copied: set[str]
) -> None:
    for name in ("llama-1", "llama-2", "mistral-1"):
        push_checkpoint.fn(name, files=[str(files)])
    request = MirrorForm.model_validate({"storage_provider": share, "destination_path": "copies"} | which)
    assert {row["name"] for row in mirror(request)["copied"]} == copied


def test_a_jobs_checkpoints_are_copied_below_its_name(
    home: Path, share: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXAI_QUIET_PERIOD", "0")
    code = "import os, pathlib; pathlib.Path(os.environ['FLEXAI_OUTPUT_CHECKPOINT_DIR'], 'a.bin').write_text('a')"
    run_training.fn("mirror-run", [sys.executable, "-c", code])
    done = mirror_checkpoints.fn(share, "copies", job="mirror-run")
    (row,) = done["copied"]
    assert row["destinationPath"] == f"copies/mirror-run/a.bin-{row['id'][:8]}"
    assert (tmp_path / "share" / row["destinationPath"] / "a.bin").read_text() == "a"
    with pytest.raises(UsageError):
        mirror_checkpoints.fn(share, "copies", job="mirror-run", checkpoints=["llama-1"])
