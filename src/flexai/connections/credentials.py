"""Where a connection's credentials come from: its own fields, a credentials block of another package, or nowhere.

Who uses prefect-aws or prefect-gcp has their keys in a block already. A connection can name that block instead of
holding the keys once more. The block's document is read, not the block loaded, so those packages need not be installed
where the transfer runs.

Keys that expire are renewed while a transfer runs: stores ask for them with every request, and the named block is read
again each minute.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    ConflictError,
    NotFoundError,
    SettingsError,
    StorageUnavailableError,
    UsageError,
)
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.local_paths import expanded
from flexai.checkpoints.storage.endpoints import check_address, check_endpoint
from flexai.checkpoints.storage.http import readable

if TYPE_CHECKING:
    from flexai.checkpoints.storage.s3.client import S3Credentials

AWS = "aws-credentials"
MINIO = "minio-credentials"
"""``AwsCredentials`` and ``MinIOCredentials`` of prefect-aws, by what Prefect calls the types of blocks."""
GCP = "gcp-credentials"
"""``GcpCredentials`` of prefect-gcp."""
SECRET = "secret"
"""Prefect's own ``Secret``."""

MAX_AGE = 60.0
"""Seconds after which a block is read again."""

_GOOGLE_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
_RESERVED = ("/", "\\", "?", "#", "%")

BlockReader: TypeAlias = Callable[[Sequence[str], str], list[tuple[str, Mapping[str, Any]]]]
"""Reads the blocks of a name and of some types: of each its type and its fields, secrets included."""

logger = logging.getLogger(__name__)


def check_reference(text: str, kinds: Sequence[str]) -> str:
    """Return the name of a credentials block: ``NAME`` or ``TYPE/NAME``; ValueError where it is neither."""
    text = text.strip()
    kind, slash, name = text.rpartition("/")
    if slash and kind not in kinds:
        raise ValueError(f"a credentials block for this provider is of type {' or '.join(kinds)}: write TYPE/NAME")
    if not name or not name.isprintable() or any(mark in text.removeprefix(f"{kind}/") for mark in _RESERVED):
        raise ValueError("a credentials block is given by its name, or by TYPE/NAME")
    return text


class SavedCredentials:
    """A credentials block by its name, read when it is first needed and again each minute. Safe to use from threads."""

    def __init__(
        self,
        reference: str,
        kinds: Sequence[str],
        read_blocks: BlockReader,
        *,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``kinds`` are the types of blocks it may be, in order of preference; ``max_age`` is in seconds."""
        self.reference = check_reference(reference, kinds)
        self._kinds = tuple(kinds)
        self._read_blocks = read_blocks
        self._max_age = max_age
        self._clock = clock
        self._lock = threading.Lock()
        # Which Prefect API is in force is a matter of context, which the threads of a transfer have not got.
        self._context = contextvars.copy_context()
        self._found: tuple[str, Mapping[str, Any]] | None = None
        self._read_at = 0.0

    def __repr__(self) -> str:
        return f"SavedCredentials({self.reference!r})"

    @property
    def identity(self) -> str:
        """Equal for two that mean the same block."""
        return f"block:{self.reference}"

    def read(self) -> tuple[str, Mapping[str, Any]]:
        """The type of the block and its fields, secrets included, as they were within the last minute.

        Raises NotFoundError where there is no such block, ConflictError where there are several of the name, and what
        the reader of blocks raises where it has never been read; later a Prefect API that is away is waited for.
        """
        found = self._found
        # While one thread reads it again, the others go on with what they have.
        if found is not None and (self._is_fresh() or not self._lock.acquire(blocking=False)):
            return found
        if found is None:
            self._lock.acquire()
        try:
            if self._found is None or not self._is_fresh():
                self._found = self._read()
            return self._found
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Read the block again when it is next needed: what it gave was refused."""
        self._read_at = float("-inf")

    def _is_fresh(self) -> bool:
        return self._clock() - self._read_at < self._max_age

    def _read(self) -> tuple[str, Mapping[str, Any]]:
        try:
            found = self._context.run(self._find)
        except StorageUnavailableError as error:
            if self._found is None:
                raise
            logger.warning("%s cannot be read again, its last content is used: %s", self, error.message)
            found = self._found
        self._read_at = self._clock()
        return found

    def _find(self) -> tuple[str, Mapping[str, Any]]:
        kind, _, name = self.reference.rpartition("/")
        found = self._read_blocks([kind] if kind else self._kinds, name)
        if not found:
            raise NotFoundError(
                f"there is no credentials block {self.reference!r} ({' or '.join(self._kinds)})",
                hint="prefect block ls shows the blocks there are",
            )
        if len(found) > 1:
            raise ConflictError(
                f"there is more than one credentials block {name!r}",
                hint=f"write {' or '.join(f'{slug}/{name}' for slug, _ in found)}",
            )
        return found[0]


class SavedAWSCredentials:
    """What a block of prefect-aws gives for each request: its keys, a profile's, an assumed role's, or the chain's."""

    def __init__(self, saved: SavedCredentials) -> None:
        self.saved = saved
        self._lock = threading.Lock()
        self._fields: Mapping[str, Any] | None = None
        self._credentials: Any = None

    def __repr__(self) -> str:
        return f"SavedAWSCredentials({self.saved.reference!r})"

    @property
    def region(self) -> str:
        """The region that the block names, if any."""
        return str(self.saved.read()[1].get("region_name") or "")

    def __call__(self) -> S3Credentials:
        """The credentials of this moment.

        Raises SettingsError for a block that lacks some, AccessDeniedError where a role may not be assumed or there is
        nothing to be found, StorageUnavailableError where who gives a role's keys does not answer, and what
        ``SavedCredentials.read`` raises.
        """
        from flexai.checkpoints.storage.s3.client import S3Credentials
        from flexai.checkpoints.storage.s3.error_mapping import sdk_errors

        kind, fields = self.saved.read()
        try:
            with self._lock:
                if fields != self._fields:
                    # Kept while the block is the same: an assumed role is good for an hour.
                    self._credentials = self._resolve(kind, fields)
                    self._fields = fields
                credentials = self._credentials
            with readable("AWS STS"):
                frozen = credentials.get_frozen_credentials()
        except sdk_errors() as error:
            raise self._refused(error, fields) from error
        return S3Credentials(frozen.access_key, frozen.secret_key, frozen.token or "")

    def forget(self) -> None:
        """Read the block, and assume its role, again when they are next needed."""
        with self._lock:
            self._fields = None
        self.saved.forget()

    def check_endpoint(self, endpoint_url: str) -> None:
        """Raise SettingsError where the block has an endpoint of its own that the connection does not have."""
        parameters = self.saved.read()[1].get("aws_client_parameters")
        own = parameters.get("endpoint_url") if isinstance(parameters, Mapping) else None
        if own and not endpoint_url:
            raise SettingsError(
                f"credentials block {self.saved.reference!r} is for an endpoint of its own, the connection for AWS",
                hint="save the connection again with --endpoint-url",
            )

    def _resolve(self, kind: str, fields: Mapping[str, Any]) -> Any:
        from botocore.config import Config
        from botocore.credentials import AssumeRoleCredentialFetcher, Credentials, DeferredRefreshableCredentials

        from flexai.checkpoints.storage.s3.client import guard_client, new_session

        def create_client(*arguments: Any, **options: Any) -> Any:
            client = session.create_client(*arguments, **options)
            guard_client(client, "AWS STS")
            return client

        session = new_session(fields.get("profile_name") or "")
        if kind == MINIO:
            names = ("minio_root_user", "minio_root_password", "")
        else:
            names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        key, secret, token = (str(fields.get(name) or "") for name in names)
        if bool(key) != bool(secret) or (kind == MINIO and not key):
            raise SettingsError(f"credentials block {self.saved.reference!r} lacks {names[1] if key else names[0]}")
        credentials = Credentials(key, secret, token or None) if key else session.get_credentials()
        if credentials is None:
            raise AccessDeniedError(
                f"credentials block {self.saved.reference!r} names no keys, and none are found here"
            )
        role = fields.get("assume_role_arn")
        if not role:
            return credentials
        # It logs answers when debugging is on, and the one to this request is a secret.
        logging.getLogger("botocore.parsers").addFilter(_is_no_debugging)
        wanted = fields.get("assume_role_kwargs")
        fetcher = AssumeRoleCredentialFetcher(
            client_creator=partial(
                create_client,
                region_name=fields.get("region_name") or None,
                # Who makes the request that needs the keys tries again.
                config=Config(retries={"total_max_attempts": 1}, connect_timeout=10.0),
            ),
            source_credentials=credentials,
            role_arn=role,
            extra_args={name: value for name, value in wanted.items() if value} if isinstance(wanted, Mapping) else {},
        )
        return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")

    def _refused(self, error: Exception, fields: Mapping[str, Any]) -> CheckpointError:
        from botocore.exceptions import ClientError, NoRegionError

        from flexai.checkpoints.storage.s3.error_mapping import code_of, translate

        block = f"credentials block {self.saved.reference!r}"
        if isinstance(error, NoRegionError):
            return SettingsError(f"{block} names a role and no region to ask for its keys", hint="give it a region")
        role = fields.get("assume_role_arn")
        found = translate(error, service="AWS STS" if role else "AWS", operation="sts:AssumeRole")
        if role and isinstance(error, ClientError) and not isinstance(found, StorageUnavailableError):
            return AccessDeniedError(f"role {role} of {block} is refused ({code_of(error)})")
        return found


def _is_no_debugging(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


def saved_token(saved: SavedCredentials) -> Callable[[], str]:
    """A function that gives the text that a ``Secret`` block holds."""

    def token() -> str:
        value = saved.read()[1].get("value")
        if not isinstance(value, str) or not value.strip():
            raise SettingsError(f"block {saved.reference!r} holds no text")
        return value

    return token


def check_service_account(info: object) -> Mapping[str, Any]:
    """Return the content of a service account's key file; ValueError, without quoting it, for anything else.

    Other kinds of key files can name programs to run and addresses to ask:
    https://cloud.google.com/docs/authentication/external/externally-sourced-credentials.
    """
    if not isinstance(info, Mapping) or info.get("type") != "service_account":
        raise ValueError("it is no service account's key: a JSON object of type service_account")
    for name in ("client_email", "private_key", "token_uri"):
        if not isinstance(info.get(name), str) or not info[name]:
            raise ValueError(f"the service account's key lacks {name}")
    try:
        check_endpoint(info["token_uri"], allow_path=True)
    except UsageError as error:
        raise ValueError(f"the service account's key has a token_uri that is none: {error.message}") from None
    return info


def parse_service_account(text: str) -> Mapping[str, Any]:
    """Read a service account's key file; ValueError, without quoting it, for anything else."""
    try:
        info = parse_json(text.encode())
    except ValueError:
        raise ValueError("it is no service account's key: it is not even JSON") from None
    return check_service_account(info)


def google_scoped(info: Mapping[str, Any]) -> Any:
    """Credentials of Google's SDK for a service account's key; ValueError for a key that cannot be used."""
    from google.oauth2.service_account import Credentials

    check_address(info["token_uri"])
    of_account: Any = Credentials.from_service_account_info
    return of_account(info, scopes=_GOOGLE_SCOPES)


def saved_google_credentials(saved: SavedCredentials) -> Any:
    """Credentials of Google's SDK that look at the block again whenever they need a new token."""
    import google.auth
    from google.auth.credentials import Credentials

    base: Any = Credentials

    class Renewed(base):  # type: ignore[misc]
        def refresh(self, request: Any) -> None:
            from flexai.checkpoints.storage.gcs.session import guarded_request

            info, _ = read_service_account(saved)
            try:
                inner = google.auth.default(scopes=_GOOGLE_SCOPES)[0] if info is None else google_scoped(info)
            except ValueError:
                # Without its text, which may quote the key.
                raise SettingsError(f"the private key in credentials block {saved.reference!r} is damaged") from None
            inner.refresh(request if info is None else guarded_request())
            self.token, self.expiry = inner.token, inner.expiry

    return Renewed()


def read_service_account(saved: SavedCredentials) -> tuple[Mapping[str, Any] | None, str]:
    """The service account key that a ``GcpCredentials`` block names, and its project.

    None where it names none: the chain is meant. Raises SettingsError for one that cannot be read here.
    """
    fields = saved.read()[1]
    project = str(fields.get("project") or "")
    info, place = fields.get("service_account_info"), fields.get("service_account_file")
    try:
        if isinstance(info, str) and info:
            return parse_service_account(info), project
        if not info and place:
            file = expanded(Path(str(place)))
            if not file.is_file():
                raise FileNotFoundError(file)  # a FIFO would keep us waiting
            return parse_service_account(file.read_text(encoding="utf-8")), project
        return (check_service_account(info) if info else None), project
    except OSError as error:
        raise SettingsError(f"the key file of credentials block {saved.reference!r} is not here: {place}") from error
    except ValueError as error:
        raise SettingsError(f"credentials block {saved.reference!r} cannot be used: {error}") from None
