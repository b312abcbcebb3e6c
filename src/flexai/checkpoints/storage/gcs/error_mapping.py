"""What Google Cloud Storage's errors and those below it mean in our words.

Statuses: https://cloud.google.com/storage/docs/json_api/v1/status-codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    StorageError,
    UnsupportedError,
)
from flexai.checkpoints.storage.http import find_within, is_certificate_error, parse_retry_after, unavailable

_PASSING_STATUSES = {408, 429, 500, 502, 503, 504}
_PASSING_REASONS = {"rateLimitExceeded", "userRateLimitExceeded", "backendError", "internalError"}
_MAX_MESSAGE = 200


def translate_answer(
    status: int, headers: Mapping[str, str], document: object, *, service: str, permission: str, bucket: str, key: str
) -> CheckpointError:
    """Our error for an answer; ``permission`` is what the request needed, ``document`` the answer's JSON."""
    place = f"{bucket}/{key}" if key else bucket
    message, reason = _details(document)
    said = f"{status}: {message}" if message else str(status)
    if status == 401:
        return AccessDeniedError(f"{service} refused the credentials ({said})")
    if status in _PASSING_STATUSES or reason in _PASSING_REASONS:
        wait = parse_retry_after(headers.get("Retry-After", ""))
        return unavailable(f"{service} is not available ({said})", retry_after=wait)
    if status == 403:
        return AccessDeniedError(f"{permission} is denied on {place} at {service} ({said})")
    if status == 404:
        if "bucket" in message.lower():
            return NotFoundError(f"there is no bucket {bucket!r} at {service}", hint="check the bucket's name")
        return NotFoundError(f"there is no {place} at {service}", hint="")
    if status == 412:
        return SourceChangedError(f"{place} changed while it was read")
    if status == 416:
        return IntegrityError(f"{place} is shorter than recorded")
    if status in {405, 501}:
        return UnsupportedError(f"{service} cannot do what needs {permission} ({said})")
    return StorageError(f"the request for {place} failed at {service} ({said})")


def translate_failure(error: Exception, *, service: str) -> CheckpointError:
    """Our error for a request that got no answer, or only a part of it."""
    from google.auth import exceptions as auth
    from requests import exceptions as web

    kind = type(error).__name__
    if ours := find_within(error, CheckpointError):
        return ours
    if is_certificate_error(error):
        return StorageError(
            f"{service} has no certificate that this machine trusts",
            hint="give the certificate authority's file, or use the endpoint's right name",
        )
    if isinstance(error, auth.TransportError) or (isinstance(error, auth.GoogleAuthError) and error.retryable):
        return unavailable(f"the credentials for {service} cannot be renewed now ({kind})")
    if isinstance(error, (auth.GoogleAuthError, ValueError)) and not isinstance(error, web.RequestException):
        return AccessDeniedError(
            f"there are no usable credentials for {service} ({kind})",
            hint="gcloud auth application-default login makes some, or give a service account's key",
        )
    if isinstance(error, web.Timeout):
        return unavailable(f"{service} does not answer ({kind})")
    if isinstance(error, web.ConnectionError) and not _broke_off(error):
        return unavailable(f"{service} cannot be reached ({kind})")
    return unavailable(f"the connection to {service} broke off ({kind})")


def _broke_off(error: Exception) -> bool:
    from urllib3.exceptions import ProtocolError, ReadTimeoutError

    return bool(error.args) and isinstance(error.args[0], (ProtocolError, ReadTimeoutError))


def _details(document: object) -> tuple[str, str]:
    """The message and the first reason of an error's JSON."""
    error: Any = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return "", ""
    message = " ".join(str(error.get("message", "")).split()).rstrip(".")
    items = error.get("errors")
    first = items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}
    if len(message) > _MAX_MESSAGE:
        message = message[:_MAX_MESSAGE] + "…"
    return message, str(first.get("reason", ""))
