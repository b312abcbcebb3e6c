"""Patterns that name files by their paths, as in a ``.gitignore`` (https://git-scm.com/docs/gitignore).

- ``*`` stands for any letters of a name, ``?`` for one; ``**`` for any folders.
- ``[a-z]`` stands for one of these letters, ``[!a-z]`` and ``[^a-z]`` for another one, ``[[:digit:]]`` for a digit.
- A pattern with a ``/`` at its beginning or in its middle is a path from the root. Another one names files and folders
  wherever they lie.
- A folder is named with all that is in it; with a ``/`` at its end a pattern names only folders.
- ``!`` at the beginning takes back what an earlier pattern named, but nothing that lies in a folder that is named.
- ``\\`` before a letter takes it as it is.
- A pattern that is not finished, as ``[ab`` is, names nothing.

Three things differ from git. A letter is a character here, and in git a byte of its UTF-8. Slashes that follow each
other are one. And two stars that stand beside letters, as in ``a**/b``, are one star always, which git's page says too;
git itself lets them pass slashes where no other star is before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

DEFAULT_EXCLUDES = (".git", "__pycache__", "**/.cache/huggingface/**/*.lock")
"""What of a folder of this machine is taken only where the caller, or the folder's ignore file, asks for it."""
IGNORE_FILE = ".flexaiignore"
"""Beside a folder's files: patterns of what is not taken, one a line. It is not taken itself."""
LONGEST_IGNORE_FILE = 64 * 1024
"""Bytes of it that are read: its patterns are compared with every file."""

# Texts, which are compiled where they are first used: every fetch imports this module.
_SECRET = (
    r"(?i)(.*/)?(\.env(\.(?!example$|sample$|template$).*)?|.*\.(pem|key|p12|pfx|ppk|kdbx)|id_(rsa|dsa|ecdsa|ed25519)"
    r"|[._]netrc|\.git-credentials|\.pypirc|\.npmrc|\.htpasswd|kaggle\.json|\.git/config|\.aws/credentials"
    r"|\.kube/config|\.docker/config\.json|\.?huggingface/(token|stored_tokens))"
)


def looks_secret(path: str) -> bool:
    """Whether a file's name is one under which keys, tokens and passwords are kept."""
    return re.fullmatch(_SECRET, path) is not None


def ignored(text: str) -> list[str]:
    """The patterns of an ignore file: a line each, but for empty ones and those that begin with ``#``."""
    # Not splitlines(), which knows more ends of a line than a line feed.
    lines = (_without_blanks(line.removesuffix("\r")) for line in text.removeprefix("\ufeff").split("\n"))
    return [line for line in lines if line.removeprefix("!").strip("/") and not line.startswith("#")]


def _without_blanks(line: str) -> str:
    """A line without the blanks at its end, but for one behind a backslash that no other one takes."""
    kept = line.rstrip(" ")
    backslashes = len(kept) - len(kept.rstrip("\\"))
    return line[: len(kept) + backslashes % 2]


def of_folder(ignore_file: bytes, defaults: Sequence[str] = DEFAULT_EXCLUDES) -> Patterns:
    """What a folder leaves out by itself, from its root: the defaults and what its ignore file names.

    Of one that is longer than ``LONGEST_IGNORE_FILE`` the whole lines up to there count.
    """
    if len(ignore_file) > LONGEST_IGNORE_FILE:
        ignore_file = ignore_file[:LONGEST_IGNORE_FILE].rpartition(b"\n")[0]
    return Patterns([*defaults, f"/{IGNORE_FILE}", *ignored(ignore_file.decode(errors="replace"))])


class _Pattern:
    """One pattern, ready to be compared."""

    __slots__ = ("_name", "_parts", "for_folders", "takes_back", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.takes_back = text.startswith("!")
        rest = text.removeprefix("!")
        self.for_folders = rest.endswith("/")
        rest = rest.rstrip("/")
        found = [_compiled(name) for name in _names_of(rest)]
        # Two ``**`` that follow each other are one.
        parts = [one for at, one in enumerate(found) if one is not None or at == 0 or found[at - 1] is not None]
        is_name = "/" not in rest and len(parts) == 1 and parts[0] is not None
        self._name = parts[0] if is_name else None
        self._parts = parts

    def matches(self, parts: Sequence[str], *, is_folder: bool) -> bool:
        """Whether it names this path itself."""
        if self.for_folders and not is_folder:
            return False
        if self._name is not None:
            return _fits(self._name, parts[-1])
        return len(parts) in _lengths(self._parts, parts)

    def named(self, parts: Sequence[str], *, is_folder: bool) -> Iterable[int]:
        """How many of a path's names make a path that it names itself, from the few to the many."""
        if self.for_folders and not is_folder:
            parts = parts[:-1]
        if self._name is not None:
            name = self._name
            return (count for count, part in enumerate(parts, 1) if _fits(name, part))
        return _lengths(self._parts, parts)


_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t\n\r\f\v",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
# As in git's wildmatch.c. A set's first letter may be ``]``, and the end of a range may be ``[``.
_END = r"(?:-(?:\\.|[^]\\]))?+"
_SET = rf"\[[!^]?+(?:]{_END})?+(?:\[:[^]]*:]|(?:\\.|[^]\\]){_END})*+]"
_TOKEN = rf"(?s){_SET}|\\.|."
_MEMBER = r"(?s)\[:(?P<name>[^]]*):]|(?P<first>\\.|[^\\])(?:-(?P<last>\\.|[^\\]))?"
_ANY, _STAR = "(?s:.)", ""
"""What stands for one letter, and for any letters: no letter has their length."""


def _names_of(text: str) -> list[list[str]]:
    """The names of a pattern: letters that stand for themselves, and regular expressions, which are longer than one.

    None of them where the pattern is not finished.
    """
    names: list[list[str]] = [[]]
    for token in re.findall(_TOKEN, text):
        if token in {"[", "\\"}:
            return []
        if token in {"/", r"\/"}:
            names.append([])
        elif token in {"?", "*"}:
            names[-1].append(_ANY if token == "?" else _STAR)
        elif token.startswith("["):
            names[-1].append(_letters_of(token[1:-1]))
        else:
            names[-1].append(token[-1])
    return [name for name in names if name]


def _letters_of(text: str) -> str:
    """The regular expression of a set of letters, which is given without its brackets."""
    is_negated = text[0] in "!^"
    found = []
    for member in re.finditer(_MEMBER, text[int(is_negated) :]):
        name, first, last = member.group("name", "first", "last")
        if name is not None:
            if name not in _CLASSES:
                return "(?!)"
            found.append(_CLASSES[name])
        elif last is None:
            found.append(re.escape(first[-1]))
        elif first[-1] <= last[-1]:
            found.append(f"{re.escape(first[-1])}-{re.escape(last[-1])}")
    if not found:
        return _ANY if is_negated else "(?!)"
    return f"[{'^' if is_negated else ''}{''.join(found)}]"


def _compiled(name: list[str]) -> re.Pattern[str] | str | None:
    """One name of a pattern: None for ``**``, a text where it stands for itself."""
    if len(name) > 1 and not any(name):
        return None
    if all(len(letter) == 1 for letter in name):
        return "".join(name)
    chunks = [""]
    for one in name:
        if one == _STAR:
            chunks.append("")
        else:
            chunks[-1] += re.escape(one) if len(one) == 1 else one
    first, *others = chunks
    # What stands between two stars is looked for once, as far in front as it can be: no name takes long.
    middle = "".join(f"(?>.*?{chunk})" for chunk in others[:-1] if chunk)
    last = f".*{others[-1]}" if others else ""
    return re.compile(rf"(?s:{first}{middle}{last})\Z")


def _fits(pattern: re.Pattern[str] | str, name: str) -> bool:
    return pattern == name if isinstance(pattern, str) else pattern.match(name) is not None


def _lengths(pattern: Sequence[re.Pattern[str] | str | None], parts: Sequence[str]) -> Iterator[int]:
    """How many of the names fit a pattern's, where ``**`` takes any number of them: at its end one at least, as in git.

    All places in the pattern that the names so far can have come to are followed at once: a path of hundreds of names
    is looked at once, and not once more for each of the folders that it is in.
    """
    end = len(pattern)
    places = {0}
    for count, part in enumerate(parts, 1):
        following = set()
        for place in places:
            while place < end and pattern[place] is None:
                following.add(place)
                place += 1
                if place == end:
                    following.add(end)
            if place < end and _fits(pattern[place] or "", part):
                following.add(place + 1)
        if end in following:
            yield count
        if not following:
            return
        places = following


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
        decided: dict[int, bool] = {}
        for pattern in self._patterns:
            decided.update(dict.fromkeys(pattern.named(parts, is_folder=is_folder), not pattern.takes_back))
        return any(decided.values())

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
