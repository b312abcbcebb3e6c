"""Scrub: verify a part of the store in each run, the content that was not read for the longest time first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexai.checkpoints.contents import StoredContent
from flexai.checkpoints.models import now
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.repair import repair
from flexai.checkpoints.service.store_requests import ScrubRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.verify import OnDamage, VerifyReport, check_contents

_BATCH = 500
"""Contents that are looked up at a time."""
_STEP = 1024**3
"""Bytes after which what was found is recorded, so that a run that dies has not read them for nothing."""


@dataclass
class ScrubReport(VerifyReport):
    """What a scrub found."""

    is_round_complete: bool = False
    """Whether the budget sufficed for all that checkpoints need."""


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
    report = ScrubReport(repairs=request.repair)
    began = now()
    needed = system.soundness.verification()
    progress.begin("scrub", total_bytes=min(budget, needed.size), total_files=0)
    try:
        while not report.checked_contents or report.checked_bytes < budget:
            found = system.soundness.least_recently_verified(before=began, limit=_BATCH)
            if not found:
                report.is_round_complete = True
                break
            step = _fitting(found, budget - report.checked_bytes, is_first=not report.checked_contents)
            if not step:
                break
            damaged = check_contents(system, step, progress=progress)
            report.checked_contents += len(step)
            report.checked_bytes += sum(content.size for content in step)
            report.damaged += damaged
            if damaged and on_damage is not None:
                on_damage(damaged)
    finally:
        progress.end()
    if request.repair:
        report.repair = repair(system, progress=progress)
    return report


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
