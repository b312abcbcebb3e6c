"""What S3's errors and the SDK's mean in our words.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; other services have some of their own.
"""

from __future__ import annotations

from typing import Any

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    DestinationExistsError,
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    StorageError,
    StorageFullError,
    UnsupportedError,
)
from flexai.checkpoints.storage.http import find_within, is_certificate_error, parse_retry_after, unavailable

PERMISSIONS = {
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "complete_multipart_upload": "s3:PutObject",
    "copy_object": "s3:GetObject and s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "delete_objects": "s3:DeleteObject",
    "get_object": "s3:GetObject",
    # Without the second, a missing object is answered like a forbidden one.
    "head_object": "s3:GetObject, or s3:ListBucket for an object that is not there,",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "list_objects_v2": "s3:ListBucket",
    "list_parts": "s3:ListMultipartUploadParts",
    "put_object": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "upload_part_copy": "s3:GetObject and s3:PutObject",
}
"""The permission that each call needs: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html."""

EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
"""The codes that say that a session token was good once."""

_BAD_CREDENTIALS = EXPIRED | {
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "SignatureDoesNotMatch",
    "Unauthorized",
    "UnrecognizedClientException",
}
DAMAGE_CODES = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"}
"""Other bytes arrived than were sent, as AWS, SeaweedFS and MinIO say it."""
_PASSING = DAMAGE_CODES | {
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServerBusy",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
_STORES = {"complete_multipart_upload", "put_object"}
"""Calls whose only condition is that there is no object yet."""
_FULL = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
_PASSING_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_MAX_MESSAGE = 200


def translate(
    error: Exception, *, service: str, operation: str = "", bucket: str = "", key: str = ""
) -> CheckpointError:
    """Our error for one of the SDK's; ``service``, ``bucket`` and ``key`` are how the message says what it is about."""
    from botocore.exceptions import ClientError

    place = f"{bucket}/{key}" if key else bucket or service
    if isinstance(error, ClientError):
        return _translate_answer(error.response, service=service, operation=operation, bucket=bucket, place=place)
    return _translate_failure(error, service=service, place=place)


def sdk_errors() -> tuple[type[Exception], ...]:
    """What a call of the SDK raises, but for what Python says of a number or a date that is none (``readable``)."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)


def code_of(error: BaseException | None) -> str:
    """The code in the answer that an error of the SDK's holds, or the empty text."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _translate_answer(
    response: dict[str, Any], *, service: str, operation: str, bucket: str, place: str
) -> CheckpointError:
    details = response.get("Error", {})
    metadata = response.get("ResponseMetadata", {})
    code = str(details.get("Code", ""))
    status = int(metadata.get("HTTPStatusCode", 0))
    said = _said(code, str(details.get("Message", "")))
    if code == "NoSuchBucket":
        return NotFoundError(f"there is no bucket {bucket!r} at {service}", hint="check the bucket's name and region")
    if code == "NoSuchUpload":
        return NotFoundError(f"the upload of {place} is gone", hint="run the same command again: it starts a new one")
    if code in _BAD_CREDENTIALS or status == 401:
        return AccessDeniedError(f"{service} refused the credentials ({said})")
    if code == "RequestTimeTooSkewed":
        return AccessDeniedError(f"{service} refused the request's time ({said})", hint="set this machine's clock")
    if code == "InvalidObjectState":
        return StorageError(f"{place} is in an archive ({said})", hint="restore the object from its archive first")
    if code == "EntityTooLarge":
        return StorageError(f"{place} is too large for {service} ({said})")
    if code in _FULL or status == 507:
        return StorageFullError(f"{service} has no room for {place} ({said})")
    if code in _PASSING or status in _PASSING_STATUSES:
        wait = parse_retry_after(str(metadata.get("HTTPHeaders", {}).get("retry-after", "")))
        return unavailable(f"{service} is not available ({said})", retry_after=wait)
    if status == 403 or code == "AccessDenied":
        needed = PERMISSIONS.get(operation, operation)
        return AccessDeniedError(f"{needed} is denied on {place} at {service} ({said})")
    if status == 404:
        return NotFoundError(f"there is no {place} at {service}", hint="")
    if status == 412 and operation in _STORES:
        return DestinationExistsError(f"{place} is there already at {service}")
    if status == 412:
        return SourceChangedError(f"{place} changed while it was read")
    if status == 416:
        return IntegrityError(f"{place} is shorter than recorded")
    if code == "NotImplemented" or status in {405, 501}:
        return UnsupportedError(f"{service} cannot do {operation} ({said})")
    return StorageError(f"{operation} of {place} failed at {service} ({said})")


def _said(code: str, message: str) -> str:
    message = " ".join(message.split()).rstrip(".")
    if len(message) > _MAX_MESSAGE:
        message = message[:_MAX_MESSAGE] + "…"
    return ": ".join(part for part in (code, message) if part) or "without a reason"


def _translate_failure(error: Exception, *, service: str, place: str) -> CheckpointError:
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    kind = type(error).__name__
    if ours := find_within(error, CheckpointError):
        return ours
    if is_certificate_error(error):
        return StorageError(
            f"{service} has no certificate that this machine trusts",
            hint="give the certificate authority's file, or use the endpoint's right name",
        )
    if isinstance(error, (exceptions.ReadTimeoutError, exceptions.ConnectTimeoutError)):
        return unavailable(f"{service} does not answer ({kind})")
    if isinstance(error, (exceptions.EndpointConnectionError, exceptions.ProxyConnectionError)):
        return unavailable(f"{service} cannot be reached ({_reason(error)})")
    broke_off = (
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
        exceptions.ResponseStreamingError,
        HTTPError,
        OSError,
    )
    if isinstance(error, broke_off):
        return unavailable(f"the connection to {service} broke off ({kind})")
    if type(error).__module__ == "botocore.parsers":
        return unavailable(f"{service} gave an answer that cannot be read ({kind})")
    if isinstance(
        error,
        (
            exceptions.CredentialRetrievalError,
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.SSOError,
            exceptions.TokenRetrievalError,
        ),
    ):
        return AccessDeniedError(f"there are no usable credentials for {service} ({kind})")
    if isinstance(error, exceptions.ProfileNotFound):
        return AccessDeniedError(f"there are no credentials for {service}: {error}".rstrip("."))
    return StorageError(f"{place} cannot be used at {service} ({_said(kind, str(error))})")


def _reason(error: Exception) -> str:
    """The cause that the SDK wraps, by its kind: its text may hold a URL."""
    cause: object = error.__cause__ or error.__context__
    kwargs = getattr(error, "kwargs", {})
    cause = kwargs.get("error", cause) if isinstance(kwargs, dict) else cause
    return type(cause).__name__ if isinstance(cause, BaseException) else type(error).__name__
