"""Patterns that name files by their paths, as in a ``.gitignore`` (https://git-scm.com/docs/gitignore).

- ``*`` stands for any letters of a name, ``?`` for one, ``[a-z]`` for one of these; ``**`` for any folders.
- A pattern with a ``/`` at its beginning or in its middle is a path from the root. Another one names files and folders
  wherever they lie.
- A folder is named with all that is in it; with a ``/`` at its end a pattern names only folders.
- ``!`` at the beginning takes back what an earlier pattern named, but nothing that lies in a folder that is named.
- ``\\`` before a letter takes it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate

DEFAULT_EXCLUDES = (".git", "__pycache__", "**/.cache/huggingface/**/*.lock")
"""What of a folder of this machine is pushed only where the caller asks for it."""
IGNORE_FILE = ".flexaiignore"
"""Beside a folder's files: patterns of what is not pushed, one a line. It is not pushed itself."""

_SECRET = re.compile(
    r"(.*/)?(\.env(\.(?!example$|sample$|template$).*)?|.*\.(pem|key|p12|pfx|ppk|kdbx)|id_(rsa|dsa|ecdsa|ed25519)"
    r"|[._]netrc|\.git-credentials|\.pypirc|\.npmrc|\.htpasswd|kaggle\.json|\.git/config|\.aws/credentials"
    r"|\.kube/config|\.docker/config\.json|\.?huggingface/(token|stored_tokens))",
    re.IGNORECASE,
)


def looks_secret(path: str) -> bool:
    """Whether a file's name is one under which keys, tokens and passwords are kept."""
    return _SECRET.fullmatch(path) is not None


def ignored(text: str) -> list[str]:
    """The patterns of an ignore file: a line each, but for empty ones and those that begin with ``#``."""
    lines = (line.rstrip("\r\n").rstrip(" ") for line in text.splitlines())
    return [line for line in lines if line.removeprefix("!").strip("/ ") and not line.startswith("#")]


class _Pattern:
    """One pattern, ready to be compared."""

    __slots__ = ("_name", "_parts", "for_folders", "takes_back", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.takes_back = text.startswith("!")
        rest = text.removeprefix("!")
        self.for_folders = rest.endswith("/")
        rest = rest.rstrip("/")
        parts = [_compiled(part) for part in rest.split("/") if part]
        is_name = "/" not in rest and len(parts) == 1 and parts[0] is not None
        self._name = parts[0] if is_name else None
        self._parts = parts

    def matches(self, parts: Sequence[str], *, is_folder: bool) -> bool:
        """Whether it names this path itself."""
        if self.for_folders and not is_folder:
            return False
        if self._name is not None:
            return _fits(self._name, parts[-1])
        return _match_path(self._parts, parts)


def _compiled(part: str) -> re.Pattern[str] | str | None:
    """One name of a pattern: None for ``**``, a text where it stands for itself."""
    if part == "**":
        return None
    # fnmatch knows no escapes: a letter in brackets stands for itself.
    plain = re.sub(r"\\(.)", lambda match: f"[{match[1]}]" if match[1] in "*?[" else match[1], part)
    return re.compile(translate(plain)) if any(letter in plain for letter in "*?[") else plain


def _fits(pattern: re.Pattern[str] | str, name: str) -> bool:
    return pattern == name if isinstance(pattern, str) else pattern.match(name) is not None


def _match_path(pattern: Sequence[re.Pattern[str] | str | None], parts: Sequence[str]) -> bool:
    """Whether names fit a pattern's, where ``**`` takes any number of them: at its end one at least, as in git."""
    at, there, star, taken = 0, 0, -1, 0
    while there < len(parts):
        if at < len(pattern) and pattern[at] is None:
            if at == len(pattern) - 1:
                return True
            star, taken, at = at, there, at + 1
        elif at < len(pattern) and _fits(pattern[at] or "", parts[there]):
            at, there = at + 1, there + 1
        elif star >= 0:
            taken += 1
            at, there = star + 1, taken
        else:
            return False
    return at == len(pattern)


class Patterns:
    """Patterns in their order: of those that name a path, the last one decides."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_Pattern(text) for text in patterns]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def name_itself(self, path: str, *, is_folder: bool = False) -> bool:
        """Whether a path is named, where no folder that it is in is."""
        return bool(self._patterns) and self._names(_parts(path), is_folder=is_folder)

    def name(self, path: str, *, is_folder: bool = False) -> bool:
        """Whether a path, or a folder that it is in, is named."""
        if not self._patterns:
            return False
        parts = _parts(path)
        return any(
            self._names(parts[:count], is_folder=is_folder or count < len(parts)) for count in range(1, len(parts) + 1)
        )

    def _names(self, parts: Sequence[str], *, is_folder: bool) -> bool:
        for pattern in reversed(self._patterns):
            if pattern.matches(parts, is_folder=is_folder):
                return not pattern.takes_back
        return False


def _parts(path: str) -> list[str]:
    # A key of a provider may have a slash too many.
    return [part for part in path.split("/") if part]


def exactly(path: str) -> str:
    """The pattern that names this path from the root, and no other."""
    return "/" + re.sub(r"([*?\[\\])", r"\\\1", path.strip("/"))
