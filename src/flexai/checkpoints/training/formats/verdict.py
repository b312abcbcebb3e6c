"""The three answers that a format rule can give, and the two ways in which a file fails one."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from flexai.checkpoints.names import some


class Outcome(enum.StrEnum):
    """Whether a file or a folder is all there."""

    WHOLE = "whole"
    PARTIAL = "partial"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One file's outcome; `reason` is a sentence without its full stop, empty when the file is whole."""

    outcome: Outcome
    reason: str = ""

    @property
    def whole(self) -> bool:
        """Whether the rule vouches for the file."""
        return self.outcome is Outcome.WHOLE


class NotWholeError(Exception):
    """A rule speaks, and says that the file is torn or contradicts itself."""


class CannotTellError(Exception):
    """No rule speaks about this file."""


def shown(text: str, limit: int = 120) -> str:
    """`text` made fit for a sentence: one line, printable, at most `limit` characters.

    File names and the values inside a checkpoint come from its writer; escape sequences, bidirectional
    marks and lone surrogates would otherwise reach terminals and JSON documents.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def sentence(reasons: list[str], most: int = 3) -> str:
    """The first `most` reasons as one line, with the number of those left out."""
    return some(reasons, most, between="; ")
