# pyright: strict
"""A user's script, as type checkers see it. What is wrong, they find: see ``test_types.py``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import flexai
from flexai import (
    CheckpointDetails,
    CheckpointSummary,
    DeletedCheckpoint,
    DiffReport,
    ExportReport,
    FetchReport,
    OnProgress,
    ProtectedCheckpoint,
    RestoredCheckpoint,
    StageProgress,
    VerifyReport,
    errors,
)


def show(stage: StageProgress) -> None:
    """Print how far a stage is."""
    print(stage.verb, stage.fraction, stage.seconds_left)


def work() -> dict[str, object]:
    """Call everything, with every kind of argument."""
    shown: OnProgress = show
    pushed: CheckpointDetails = flexai.push("my-model", ["out", Path("config.json")], progress=shown)
    size: int = sum(file.size for file in pushed.files)
    named: str = flexai.push("other", from_checkpoint=pushed.id, if_not_exists=True).name
    from_provider: str | None = flexai.push("third", from_provider="share:bucket/x").manifest_digest
    fetched: FetchReport = flexai.fetch(named, Path("restored"), progress=lambda stage: print(stage.done))
    exported: ExportReport = flexai.export(named, "share", "bucket/models", overwrite=True)
    verified: VerifyReport = flexai.verify([named], repair=True)
    protected: list[ProtectedCheckpoint] = flexai.protect([named], force=True)
    assert protected[0].protected != flexai.unprotect(named)[0].protected
    deleted: DeletedCheckpoint = flexai.delete(named)
    restored: RestoredCheckpoint = flexai.undelete(deleted.id, "again")
    captured: list[CheckpointSummary] = flexai.checkpoints("my-run")
    best = min((one for one in captured if one.eval_loss is not None), key=lambda one: one.eval_loss or 0.0)
    step: int | None = best.step
    differing: DiffReport = flexai.diff(named, "third", values=True)
    print(fetched.to_dict()["movedBytes"], [one.path for one in differing.files if one.change != "same"])
    return {
        "size": size,
        "from_provider": from_provider,
        "exported": exported.exported_files,
        "verified": verified.checked_bytes,
        "status": restored.status,
        "step": step,
    }


async def main() -> CheckpointDetails | None:
    """Push in a thread, and handle what goes wrong."""
    try:
        return await asyncio.to_thread(flexai.push, "my-model", files="out")
    except errors.NotFoundError as error:
        print(error.message, error.hint)
    except flexai.errors.IntegrityError as error:
        print([damage.users for damage in error.damaged])
    return None
