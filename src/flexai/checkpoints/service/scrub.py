"""Scrub: verify a part of the store in each run, the content that was not read for the longest time first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexai.checkpoints.contents import StoredContent
from flexai.checkpoints.documents import Document
from flexai.checkpoints.models import now
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.repair import RepairReport, repair
from flexai.checkpoints.service.store_requests import ScrubRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.verify import Damage, OnDamage, VerifyReport, check_contents

_BATCH = 500
"""Contents that are looked up at a time."""
_STEP = 1024**3
"""Bytes after which what was found is recorded, so that a run that dies has not read them for nothing."""


@dataclass(frozen=True)
class ScrubReport(VerifyReport):
    """What a scrub found."""

    is_round_complete: bool = False
    """Whether the budget sufficed for all that checkpoints need."""

    def to_dict(self) -> Document:
        """What the task returns; sizes in bytes."""
        return super().to_dict() | {"roundComplete": self.is_round_complete}


def scrub(
    system: System,
    request: ScrubRequest,
    *,
    on_damage: OnDamage | None = None,
    progress: Progress | None = None,
) -> ScrubReport:
    """Verify about as many bytes as the budget is, and repair what is damaged from exports where that is wanted.

    The content that was verified the longest ago, or never, comes first, so that runs one after the other go through
    the whole store, even where some of them die. A run reads one content at least, however large it is. It tells
    ``on_damage`` of damage as soon as it finds some. Raises what the store raises.
    """
    budget = request.budget
    progress = progress or Progress()
    checked_contents = checked_bytes = 0
    all_damaged: list[Damage] = []
    is_round_complete = False
    began = now()
    needed = system.soundness.verification()
    progress.begin("scrub", total_bytes=min(budget, needed.size), total_files=0)
    try:
        while not checked_contents or checked_bytes < budget:
            found = system.soundness.least_recently_verified(before=began, limit=_BATCH)
            if not found:
                is_round_complete = True
                break
            step = _fitting(found, budget - checked_bytes, is_first=not checked_contents)
            if not step:
                break
            damaged = check_contents(system, step, progress=progress)
            checked_contents += len(step)
            checked_bytes += sum(content.size for content in step)
            all_damaged += damaged
            if damaged and on_damage is not None:
                on_damage(damaged)
    finally:
        progress.end()
    return ScrubReport(
        checked_contents,
        checked_bytes,
        tuple(all_damaged),
        repair(system, progress=progress) if request.repair else RepairReport(),
        repairs=request.repair,
        is_round_complete=is_round_complete,
    )


def _fitting(found: Sequence[StoredContent], left: int, *, is_first: bool) -> list[StoredContent]:
    """The first contents that fit into what is left of the budget, and into one step."""
    step: list[StoredContent] = []
    size = 0
    for content in found:
        if (step or not is_first) and size + content.size > min(left, _STEP if step else left):
            break
        step.append(content)
        size += content.size
    return step
