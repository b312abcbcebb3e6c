"""The paths of a Hugging Face connection: ``ORG/REPO[@REVISION][/FOLDER-or-FILE]``.

The grammar is the one of ``hf://`` addresses without their prefix, and the rules for a repository's name are those of
huggingface_hub (``utils/_validators.py``, ``utils/_hf_uris.py``): https://github.com/huggingface/huggingface_hub.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from flexai.checkpoints.errors import UsageError

DEFAULT_REVISION = "main"

_NAME = re.compile(r"(?![-.])[A-Za-z0-9._-]{1,96}(?<![-.])")
# Revisions that hold a slash and are known by their form; in others a slash is written %2F.
_REFERENCE = re.compile(r"refs/(?:pr/\d+|convert/[\w.-]+)(?=/|$)", re.ASCII)
# What git forbids in a name: https://git-scm.com/docs/git-check-ref-format.
_NO_REVISION = re.compile(r"[\x00-\x20\x7f~^:?*\[\\%]|\.\.|@\{|//|^[/.-]|/\.|[/.]$|\.lock(?:/|$)")
_NO_KEY = re.compile("[\x00-\x1f\x7f]")
_HINT = "write ORG/REPO[@REVISION][/FOLDER], for instance Qwen/Qwen2.5-7B@main"


class HubPath(NamedTuple):
    """A place in a repository of the Hugging Face Hub."""

    repo: str
    """``ORG/REPO``; one name alone for a repository from before there were organisations (``gpt2``)."""
    revision: str
    """A branch, a tag or a commit."""
    key: str
    """A file's path, or a folder's without its final ``/``; empty for the whole repository."""


def parse_hub_path(text: str) -> HubPath:
    """Split ``ORG/REPO[@REVISION][/FOLDER-or-FILE]``; without a revision ``main`` is meant.

    The first two parts are the repository, so a repository without an organisation has to stand alone (``gpt2``) or
    with its revision (``gpt2@main/onnx``). An ``@`` further down belongs to a file's name. A revision that holds a
    ``/`` is ``refs/pr/N``, ``refs/convert/NAME``, or has it written as ``%2F``; nothing else is decoded.

    Raises UsageError for anything else, addresses (``https://…``) among it.
    """

    def refuse(why: str) -> UsageError:
        return UsageError(f"{text!r} is no path on the Hugging Face Hub: {why}", hint=_HINT)

    place = text.strip()
    if "://" in place:
        raise refuse("it is an address")
    head, at, tail = place.partition("@")
    if at and head.count("/") <= 1:
        repo = head
        revision, key = _split_revision(tail)
    else:
        organisation, _, rest = place.partition("/")
        name, _, key = rest.partition("/")
        repo, revision = (f"{organisation}/{name}" if name else organisation), DEFAULT_REVISION
        if rest and not name:
            raise refuse("it has an empty part")
    names = repo.split("/")
    if not all(_NAME.fullmatch(name) for name in names) or ".." in repo or "--" in repo or repo.endswith(".git"):
        raise refuse(f"{repo!r} is no repository's name")
    if not revision or _NO_REVISION.search(revision):
        raise refuse(f"{revision!r} is no branch, tag or commit")
    key = key.removesuffix("/")
    if key and (_NO_KEY.search(key) or any(part in {"", ".", ".."} for part in key.split("/"))):
        raise refuse(f"{key!r} is no folder or file")
    return HubPath(repo, revision, key)


def _split_revision(text: str) -> tuple[str, str]:
    if reference := _REFERENCE.match(text):
        return reference[0], text[reference.end() + 1 :]
    revision, _, key = text.partition("/")
    return re.sub("%2f", "/", revision, flags=re.IGNORECASE), key
