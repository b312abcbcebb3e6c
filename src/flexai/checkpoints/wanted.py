"""Which files of a checkpoint are wanted: by ``patterns`` and by ``roles``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.names import did_you_mean, some
from flexai.checkpoints.patterns import Patterns
from flexai.checkpoints.roles import ROLES, role_of_path

_LISTED = 8
"""Paths that an error lists."""
_COMPARED = 2000
"""Paths that a pattern without a match is compared with, for the one that was meant."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which files of a checkpoint are wanted: all of them, where nothing is said."""

    include: tuple[str, ...] = ()
    """Patterns of files and folders; all where there is none."""
    exclude: tuple[str, ...] = ()
    """Patterns of what is not wanted of them."""
    only: tuple[str, ...] = ()
    """Roles; all files where there is none."""

    @property
    def is_part(self) -> bool:
        """Whether anything is said, so that what is wanted may be less than the whole."""
        return bool(self.include or self.exclude or self.only)

    def of(self, paths: Sequence[str], title: str) -> set[str]:
        """Those of a checkpoint's paths that are wanted; ``title`` is what errors call the checkpoint.

        Raises NotFoundError for a pattern of ``include`` or a role that no file has, and where nothing is left.
        """
        if not self.is_part:
            return set(paths)
        found = set(paths)
        if self.include:
            for text in self.include:
                if not text.startswith("!") and not any(map(Patterns([text]).name, paths)):
                    raise _nothing(title, f"that --include {text!r} names", text, paths)
            wanted = Patterns(self.include)
            found = {path for path in found if wanted.name(path)}
        if self.only:
            roles = {path: role_of_path(path) for path in paths}
            for role in self.only:
                if role not in roles.values():
                    there = [one for one in ROLES if one in roles.values()]
                    hint = f"it has files for {', '.join(there)}" if there else _having(paths)
                    raise NotFoundError(f"checkpoint {title!r} has no file for {role!r}", hint=hint)
            found = {path for path in found if roles[path] in self.only}
        if self.exclude:
            unwanted = Patterns(self.exclude)
            found = {path for path in found if not unwanted.name(path)}
        if not found:
            raise NotFoundError(f"nothing of checkpoint {title!r} is asked for", hint=_having(paths))
        return found

    def folders(self, folders: Sequence[str]) -> list[str]:
        """Those of a checkpoint's empty folders that are wanted; a role has none."""
        wanted, unwanted = Patterns(self.include), Patterns(self.exclude)
        return [
            folder
            for folder in folders
            if not self.only
            and (not self.include or wanted.name(folder, is_folder=True))
            and not unwanted.name(folder, is_folder=True)
        ]


def _nothing(title: str, what: str, text: str, paths: Sequence[str]) -> NotFoundError:
    plain = text.replace("\\", "").strip("/")
    some = paths[:_COMPARED]
    known = some if "/" in plain else [*some, *(path.rpartition("/")[2] for path in some)]
    near = did_you_mean(plain, known)
    return NotFoundError(
        f"checkpoint {title!r} has no file {what}", hint=f"{near} {_having(paths)}" if near else _having(paths)
    )


def _having(paths: Sequence[str]) -> str:
    """What there is, from the top: folders with their last letter ``/``, at most as many as can be read at a glance."""
    tops = list(dict.fromkeys(path[: path.index("/") + 1] if "/" in path else path for path in paths))
    shown = paths if len(paths) <= _LISTED else tops
    return f"it has {some(shown, _LISTED)}"
