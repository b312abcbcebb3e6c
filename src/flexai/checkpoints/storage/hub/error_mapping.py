"""What the Hugging Face Hub means by its answers.

Its codes are those that huggingface_hub reads (``utils/_http.py``, ``hf_raise_for_status``). Nothing of a request gets
into a message: neither the token nor an address, which may be signed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    IntegrityError,
    NotFoundError,
    StorageError,
)
from flexai.checkpoints.storage.http import parse_retry_after, unavailable

_PASSING = frozenset({408, 425, 429})
_DISABLED = "Access to this resource is disabled."
_BAD_TOKEN = "Invalid credentials in Authorization header"
# `RateLimit: "api";r=0;t=55`: nothing is left for the next 55 seconds. https://huggingface.co/docs/hub/rate-limits.
_RATE_LIMIT = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")


@dataclass(frozen=True, slots=True)
class Subject:
    """What was asked for."""

    repo: str
    page: str
    """The repository's page, for people."""
    revision: str
    has_token: bool
    key: str = ""


def error_of(status: int, headers: Mapping[str, str], subject: Subject) -> CheckpointError:
    """The error that an answer of the Hub stands for."""
    if is_passing(status):
        return _failure(status, headers, f"the Hub answered {status} for {subject.repo}")
    code, said = headers.get("X-Error-Code", ""), headers.get("X-Error-Message", "")
    if code == "GatedRepo":
        return _gated(subject)
    if code == "RevisionNotFound":
        return NotFoundError(
            f"{subject.repo} has no revision {subject.revision!r} on the Hub",
            hint=f"{subject.page}/tree/main lists its branches; a tag or a commit will do as well",
        )
    if code == "EntryNotFound":
        return NotFoundError(
            f"{subject.repo}@{subject.revision} has no file or folder {subject.key!r}", hint=f"look at {subject.page}"
        )
    if said == _DISABLED:
        return AccessDeniedError(f"the Hub has disabled {subject.repo}", hint=f"{subject.page} says why")
    if status == 401 and (said == _BAD_TOKEN or (subject.has_token and code != "RepoNotFound")):
        return AccessDeniedError(
            "the Hub refused the connection's token",
            hint="it may have expired: make another and save the connection again",
        )
    if code == "RepoNotFound" or status in {401, 404}:
        return _no_repository(subject)
    if status == 403:
        return AccessDeniedError(
            f"the Hub refused access to {subject.repo}" + (f": {_readable(said)}" if said else ""),
            hint="the connection's token needs the permission to read this repository",
        )
    if status == 416:
        return IntegrityError(f"{subject.key!r} of {subject.repo} is shorter than its listing says")
    return _failure(status, headers, f"the Hub answered {status} for {subject.repo}")


def location_error(status: int, headers: Mapping[str, str], subject: Subject) -> CheckpointError:
    """The error that an answer of the server behind the Hub, which holds the content, stands for."""
    if status == 416:
        return IntegrityError(f"{subject.key!r} of {subject.repo} is shorter than its listing says")
    if status in {401, 403}:
        return AccessDeniedError(
            f"the server that holds {subject.key!r} of {subject.repo} refused it ({status})",
            hint="check this machine's clock and its proxy",
        )
    return _failure(status, headers, f"the server that holds {subject.key!r} of {subject.repo} answered {status}")


def asked_wait(headers: Mapping[str, str]) -> float:
    """The seconds that a server asks us to wait; 0 where it does not say."""
    if match := _RATE_LIMIT.search(headers.get("RateLimit", "")):
        return float(match[1]) + 1  # whole seconds, rounded down
    return parse_retry_after(headers.get("Retry-After", ""))


def is_passing(status: int) -> bool:
    """Whether a failure may pass by itself."""
    return status in _PASSING or status >= 500


def _failure(status: int, headers: Mapping[str, str], what: str) -> CheckpointError:
    if not is_passing(status):
        return StorageError(what)
    error = unavailable(f"{what}: too many requests" if status == 429 else what, retry_after=asked_wait(headers))
    if status == 429:
        error.hint = "try again in some minutes; with a token the Hub allows more requests"
    return error


def _gated(subject: Subject) -> AccessDeniedError:
    account = "the account of the connection's token" if subject.has_token else "your account"
    token = "" if subject.has_token else ", then give the connection a token of that account"
    return AccessDeniedError(
        f"{subject.repo} is gated: its owners ask for an agreement first",
        hint=f"accept the terms at {subject.page} with {account}{token}",
    )


def _no_repository(subject: Subject) -> NotFoundError:
    if subject.has_token:
        return NotFoundError(
            f"there is no repository {subject.repo} on the Hub that the connection's token may read",
            hint="check the name and the token's permissions",
        )
    return NotFoundError(
        f"there is no public repository {subject.repo} on the Hub",
        hint="check the name; a private repository needs a connection with a token",
    )


def _readable(text: str) -> str:
    return "".join(character for character in text[:200] if character.isprintable()).rstrip(".")
