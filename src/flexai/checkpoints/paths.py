"""The one type that holds a path inside a checkpoint.

Everything that takes such a path takes :class:`CheckpointPath`, and only :func:`parse_path` makes one. The rules
are those of every system at once, because a checkpoint pushed on one is fetched on another: what POSIX or Windows
would read as absolute, as a step upwards, as a device, or as something other than what it says, is refused.
Paths are never URL-decoded, so ``%2e%2e`` can only be refused, never turned into ``..`` further down.

Windows' reserved names and characters: https://learn.microsoft.com/windows/win32/fileio/naming-a-file.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NewType

from flexai.checkpoints.errors import UnsafePathError
from flexai.checkpoints.names import some

CheckpointPath = NewType("CheckpointPath", str)
"""A relative, normalised path with ``/`` between its parts."""

MAX_PATH_BYTES = 1000
"""UTF-8 bytes. Object stores allow keys of 1,024 bytes; the rest is room for a prefix."""
MAX_PART_BYTES = 200
"""UTF-8 bytes of one part: ext4, xfs, APFS and NTFS allow 255, and unfinished files have longer names."""

_WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"}
    | {f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"}
)
_FORBIDDEN_CHARACTERS = re.compile(r'[\\:*?"<>|]')
_ENCODED = re.compile(r"%(?:25)*(?:2e|2f|5c|00)", re.IGNORECASE)
_Refusal = Callable[[str], UnsafePathError]

# Private-use characters among them: Samba, WSL and macOS write a colon, a backslash or a dot at the end as such.
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
# The rest of Unicode's Default_Ignorable_Code_Point: letters and marks that show nothing and that ext4 ignores.
_IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
# Windows' best-fit tables turn most of these into real ones; NFKC does not know them.
_SLASH_LOOK_ALIKES = re.compile("[\u2044\u2215\u2216\u29f5\u29f8\u29f9]")


def parse_path(text: str) -> CheckpointPath:
    """Return the text as a path inside a checkpoint.

    Raises UnsafePathError, naming what is wrong, for anything that is not plainly a relative path.
    """

    def refuse(why: str) -> UnsafePathError:
        return UnsafePathError(f"path {text!r} {why}")

    if not text:
        raise refuse("is empty")
    if text.isascii():
        if not text.isprintable():
            raise refuse("has a control character")
    else:
        _check_unicode(text, refuse)
    if _FORBIDDEN_CHARACTERS.search(text):
        raise refuse("has a character that not every file system can hold ('\\', ':', '*', '?', '\"', '<', '>' or '|')")
    if _ENCODED.search(text):
        raise refuse("has a percent-encoded '.', '/', '\\' or NUL")
    if len(text.encode()) > MAX_PATH_BYTES:
        raise refuse(f"is longer than {MAX_PATH_BYTES} bytes")
    if text.startswith("/"):
        raise refuse("is absolute")
    if text.startswith("~"):
        raise refuse("begins with '~'")
    for part in text.split("/"):
        _check_part(part, refuse)
    return CheckpointPath(text)


def is_path(text: str) -> bool:
    """Whether ``parse_path`` takes the text."""
    try:
        parse_path(text)
    except UnsafePathError:
        return False
    return True


def _check_unicode(text: str, refuse: _Refusal) -> None:
    if _IGNORABLE.search(text) or any(unicodedata.category(character) in _INVISIBLE_CATEGORIES for character in text):
        raise refuse("has a control, invisible, private or unassigned character")
    if unicodedata.normalize("NFC", text) != text:
        raise refuse("is not in Unicode's composed form (NFC)")
    compatible = unicodedata.normalize("NFKC", text)
    if _SLASH_LOOK_ALIKES.search(text) or any(compatible.count(mark) > text.count(mark) for mark in "./\\:~"):
        raise refuse("has a look-alike of '.', '/', '\\', ':' or '~'")


def _check_part(part: str, refuse: _Refusal) -> None:
    if not part:
        raise refuse("has an empty part")
    if part in {".", ".."}:
        raise refuse(f"has the part {part!r}")
    if part[-1] in ". ":
        raise refuse("has a part that ends with a dot or a space")
    if part[0] == " ":
        raise refuse("has a part that begins with a space")
    if len(part.encode()) > MAX_PART_BYTES:
        raise refuse(f"has a part longer than {MAX_PART_BYTES} bytes")
    if part.split(".", 1)[0].rstrip(" ").casefold() in _WINDOWS_DEVICES:
        raise refuse(f"has the reserved device name {part!r}")


def join_path(*parts: str) -> CheckpointPath:
    """Join parts with ``/``, leaving out empty ones; UnsafePathError where the result is no safe path."""
    return parse_path("/".join(part for part in parts if part))


def twin_key(path: str) -> str:
    """The form under which two paths are the same file on a file system that ignores case or Unicode form.

    Unicode's compatibility caseless match: https://www.unicode.org/versions/latest/core-spec/chapter-3/, D146.
    """
    if path.isascii():
        return path.lower()
    folded = unicodedata.normalize("NFD", path).casefold()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", folded).casefold())


def check_path_set(paths: Iterable[CheckpointPath], *, hint: Callable[[str], str] | None = None) -> None:
    """Check that the paths can lie beside each other on every system.

    Raises UnsafePathError when two are twins (they differ only by case or Unicode form), or when one is
    a folder of another; with a ``hint`` that is made of one of the two, which ends with a ``/`` where it is a folder.
    """

    def refuse(message: str, one: str) -> UnsafePathError:
        return UnsafePathError(message, hint=None if hint is None else hint(one))

    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        key = twin_key(path)
        if key in seen:
            if seen[key] == path:
                raise UnsafePathError(f"path {path!r} is given twice")
            raise refuse(f"paths {seen[key]!r} and {path!r} are the same file where case is ignored", path)
        seen[key] = path
        parent: str = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            known = folders.setdefault(twin_key(parent), parent)
            if known != parent:
                raise refuse(f"folders {known!r} and {parent!r} are the same where case is ignored", f"{parent}/")
    for key, folder in folders.items():
        if key in seen:
            raise refuse(f"path {seen[key]!r} is both a file and a folder ({folder!r})", f"{folder}/")


def only_empty(folders: Iterable[CheckpointPath], paths: Iterable[str]) -> tuple[CheckpointPath, ...]:
    """Those folders in which none of the paths lies, and no other one of them; in order."""
    folders, full = set(folders), set()
    for path in (*folders, *paths):
        while path := path.rpartition("/")[0]:
            full.add(path)
    return tuple(sorted(folders - full))


def first_of(paths: Sequence[str]) -> str:
    """Paths in a sentence: the first one, and how many more there are."""
    return some([repr(path) for path in paths], 1)
