"""Names of resources, references to checkpoints (NAME, UUID, JOB/PATH), and how to show a text that other people wrote.

The naming rule is FlexAI's resource naming convention
(https://docs.flex.ai/resource-naming-conventions): 3 to 63 characters, letters, digits, ``-`` and ``_``,
the first and last a letter or digit. Two rules are ours: a name never has the shape of a UUID, so that
NAME|UUID arguments are never ambiguous, and names are compared without regard to case. No name has a slash,
so ``JOB/PATH`` is a captured checkpoint wherever a checkpoint's name is taken.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, NewType

from flexai.checkpoints.errors import InvalidNameError

Name = NewType("Name", str)
"""A name that obeys the rules; made by :func:`parse_name` alone."""

RESERVED_NAMES = frozenset({"latest", "best"})

ROOT_TITLE = "."
"""How tables show the checkpoint that a job's output directory itself is; documents have the empty text."""

VARIABLE_PATTERN = "[A-Za-z._-][A-Za-z0-9._-]*"
"""What the same page says of the keys of KEY=VALUE pairs, as a regular expression."""

LONGEST_METRIC = 100
"""Characters of a metric's name."""

Id = NewType("Id", str)
"""A UUID as lower-case text: of a checkpoint, a job, a user, an organisation, a connection, an export."""

NIL_ID = Id("00000000-0000-0000-0000-000000000000")
"""Stands for "no storage provider" in the reference's documents."""

MAX_CAPTURED_NAME = 4096
"""Characters of a path that the kernel takes."""
_MAX_PART = 255
"""Bytes of a folder's or a file's name, on all file systems."""

MAX_NAME = 63
"""Characters of a name."""
_ID_START = 8
"""Digits of a UUID that may stand for it, where no other one begins with them."""

_HEX_DIGITS = "0123456789ABCDEFabcdef"


def is_metric_name(name: str) -> bool:
    """Whether a metric can have this name: it is short, and can be shown."""
    return 0 < len(name) <= LONGEST_METRIC and name.isprintable()


def is_uuid(text: str) -> bool:
    """Whether the text has the shape of a UUID: 36 characters in five groups."""
    # Not by a pattern: every command would wait until it is compiled.
    return len(text) == 36 and text[8:24:5] == "----" and is_hex(text.replace("-", ""), 32)


def is_hex(text: str, length: int) -> bool:
    """Whether the text is so many hexadecimal digits, in letters of either case."""
    return len(text) == length and not text.strip(_HEX_DIGITS)


def begins_id(text: str) -> bool:
    """Whether the text is the beginning of a UUID that may stand for it: its first eight digits, or more."""
    return len(text) >= _ID_START and not is_uuid(text) and is_uuid(text + NIL_ID[len(text) :])


def new_id() -> Id:
    """An id that nothing else has."""
    # Commands that only show something have no use for the module.
    from uuid import uuid4

    return Id(str(uuid4()))


def parse_id(text: object) -> Id:
    """A UUID, however it is written, as an id; ValueError for what is none."""
    from uuid import UUID

    return Id(str(UUID(str(text))))


def parse_name(text: str, *, what: str = "name") -> Name:
    """Return the text as a name; ``what`` is how an error calls it.

    Raises InvalidNameError for anything that breaks the naming rules.
    """
    if is_uuid(text):
        raise InvalidNameError(
            f"{what} {text!r} has the form of a UUID", hint="choose a name that cannot be mistaken for an ID"
        )
    if text.casefold() in RESERVED_NAMES:
        raise InvalidNameError(f"{what} {text!r} is reserved", hint="'latest' and 'best' select checkpoints")
    if not _is_name(text):
        near = _name_like(text)
        hint = f"{near!r} would do: {InvalidNameError.default_hint}" if near else None
        raise InvalidNameError(f"{what} {text!r} breaks the naming rules", hint=hint)
    return Name(text)


def _is_name(text: str) -> bool:
    ends, inside = text[:1] + text[-1:], text.replace("-", "").replace("_", "")
    return text.isascii() and 3 <= len(text) <= MAX_NAME and ends.isalnum() and inside.isalnum()


def _name_like(text: str) -> str:
    """A name that is most like a text that is none; empty where nothing of the text would be left."""
    kept = (part.strip("-") for part in re.findall(r"[A-Za-z0-9_-]+", text))
    near = "-".join(filter(None, kept)).strip("-_")[:MAX_NAME].rstrip("-_")
    return near if _is_name(near) and not is_uuid(near) and near.casefold() not in RESERVED_NAMES else ""


_NEIGHBOURS = 250
"""Of many names, how many on either side of a text are compared with it."""


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """A question for the name that is most like a text, such as ``did you mean 'llama'?``; empty where none is.

    Of many names only those are compared that begin or end as the text does.
    """
    from difflib import get_close_matches

    by_key = {name_key(name): name for name in known}
    key = name_key(text)
    close = get_close_matches(key, _neighbours(key, by_key), n=1)
    return f"did you mean {by_key[close[0]]!r}?" if close else ""


def _neighbours(text: str, names: Collection[str]) -> Collection[str]:
    """The names beside a text in their order, and in that of their last letters: a slip leaves one end as it is.

    All names where they are few. A comparison takes ten microseconds, so that of 100,000 names takes a second.
    """
    if len(names) <= 4 * _NEIGHBOURS:
        return names
    from bisect import bisect_left

    found: set[str] = set()
    for step in (1, -1):
        ordered = sorted(name[::step] for name in names)
        at = bisect_left(ordered, text[::step])
        found.update(name[::step] for name in ordered[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS])
    return found


def is_variable(text: str) -> bool:
    """Whether the text can be the name of an environment variable."""
    return re.fullmatch(VARIABLE_PATTERN, text) is not None


def name_key(name: str) -> str:
    """The form under which names are compared: without regard to case."""
    return name.casefold()


def printable(text: str, *, keep: str = "\n\t") -> str:
    """The text with all characters spelled out that are not to be seen, but for those to ``keep``.

    So it can neither command a terminal (controls, C1 as well) nor show itself in another order than it has
    (marks of direction, https://www.unicode.org/reports/tr9). Spelled as in JSON, so that a document stays one.
    """
    rest = text
    for kept in keep:
        rest = rest.replace(kept, "")
    if rest.isprintable():
        return text  # nearly always, and a document has millions of characters
    return "".join(
        character if character.isprintable() or character in keep else _spelled(character) for character in text
    )


def _spelled(character: str) -> str:
    units = character.encode("utf-16-be", errors="surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def in_unicode(text: str) -> str:
    """The text with a question mark for each byte of it that is no UTF-8: a catalog and a document hold no such byte.

    Python shows one in an argument or a path of this machine as half of a surrogate pair.
    """
    return text.encode(errors="replace").decode()


def title_of(kind: str, name: str, job_name: str) -> str:
    """What to call a checkpoint in a sentence: its name, or ``JOB/FOLDER`` for a captured one."""
    return name if kind == "pushed" else f"{job_name}/{name or ROOT_TITLE}"


class Reference(NamedTuple):
    """What a user typed to mean one checkpoint or job: its name, its UUID, or a captured checkpoint's ``JOB/PATH``."""

    text: str
    id: Id | None
    """The UUID in canonical (lower-case) form, or None where the text is none."""
    job: str = ""
    """NAME or UUID of the job that captured it; empty where the text is no ``JOB/PATH``."""
    path: str = ""
    """Its path below the job's output directory; empty for that itself, which is written ``JOB/.``."""

    def __str__(self) -> str:
        return self.text


def parse_reference(text: str) -> Reference:
    """Read a NAME, UUID or JOB/PATH argument; no name has a slash, so none of them can be another.

    The beginning of a UUID stays a text: it may be a name as well, and ``catalog.meaning`` tells which.
    Raises InvalidNameError for a text that can be none of them.
    """
    if is_uuid(text):
        return Reference(text=text, id=parse_id(text))
    job, slash, path = text.partition("/")
    if not slash:
        return Reference(text=text if begins_id(text) else parse_name(text, what="checkpoint"), id=None)
    if is_uuid(job):
        job = parse_id(job)
    elif not begins_id(job):
        parse_name(job, what="training job")
    if path != ROOT_TITLE and not is_captured_name(path):
        raise InvalidNameError(
            f"{text!r} names no checkpoint of training job {job!r}: what follows '/' is no path",
            hint=f"flexai training checkpoints {job} lists their names",
        )
    return Reference(text=text, id=None, job=job, path="" if path == ROOT_TITLE else path)


def parse_job_reference(text: str) -> Reference:
    """Read a training job's NAME or UUID; InvalidNameError for a text that can be neither."""
    if is_uuid(text):
        return Reference(text=text, id=parse_id(text))
    return Reference(text=text if begins_id(text) else parse_name(text, what="training job"), id=None)


def is_captured_name(name: str) -> bool:
    """Whether a captured checkpoint can be called so: a path below the output directory that can be shown."""
    return (
        len(name) <= MAX_CAPTURED_NAME
        and name.isprintable()
        and all(part not in {"", ".", ".."} and len(part.encode()) <= _MAX_PART for part in name.split("/"))
    )


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def some(texts: Sequence[str], most: int = 3, *, between: str = ", ") -> str:
    """The first of what may be many, in a sentence: ``a, b, c and 5 more``; with ``"; "``, ``a; b; c; and 5 more``."""
    left_out = len(texts) - most
    return between.join(texts[:most]) + (f"{between.strip(', ')} and {left_out} more" if left_out > 0 else "")
