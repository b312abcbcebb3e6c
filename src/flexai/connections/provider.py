"""What every kind of storage provider connection is: fields that are checked, and open ``BUCKET/PREFIX`` paths.

Prefect saves connections as blocks (``flexai.blocks``), which are these classes and Prefect's ``Block`` in one.
"""

from __future__ import annotations

import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)

from flexai.checkpoints.errors import AccessDeniedError, CheckpointError, SettingsError, UsageError
from flexai.checkpoints.names import NIL_ID, Id, parse_id
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.endpoints import check_endpoint
from flexai.connections import credentials, probes
from flexai.connections.credentials import BlockReader
from flexai.connections.probes import Probe, ProbeFunction, ProbeOutcome

SCRATCH_PREFIX = ".flexai-check-"
KEPT_BY_US = frozenset({"schema_version", "capabilities"})
"""Fields of a saved connection that the program keeps: no form asks for them."""


def _stripped(value: object) -> object:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return value.strip() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_stripped)]
"""A text without the white space that pasting brings along."""
Secret = Annotated[SecretStr, BeforeValidator(_stripped)]
"""A secret likewise; empty where there is none."""

CA_BUNDLE: Any = Field(
    default="",
    title="Certificate authorities",
    description="The path of a PEM file with the authorities to trust, for a server with a certificate of its own.",
    examples=["/etc/ssl/certs/company.pem"],
)
ANONYMOUS: Any = Field(
    default=False, title="Anonymous", description="Ask without credentials, for buckets that everyone may read."
)
STORAGE_CLASS: Any = Field(
    default="",
    title="Storage class",
    description="The class of what is stored; empty for the bucket's own.",
    examples=["STANDARD_IA"],
)
_CLASS = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_ARCHIVES = {"GLACIER", "DEEP_ARCHIVE"}


def _check_class(value: str) -> str:
    if value in _ARCHIVES:
        raise ValueError(f"{value} is an archive, whose objects have to be restored before they can be read")
    if value and not _CLASS.fullmatch(value):
        raise ValueError("a storage class is a name in capital letters, such as STANDARD_IA or NEARLINE")
    return value


StorageClass = Annotated[Text, AfterValidator(_check_class)]
"""The class that objects are stored in; empty for the bucket's own."""


def endpoint_field(value: str, *, allow_path: bool = False) -> str:
    """Return an endpoint in its usual form; empty stays empty. Raises ValueError, for validators."""
    try:
        return check_endpoint(value, allow_path=allow_path) if value else ""
    except UsageError as error:
        raise ValueError(f"{error.message} ({error.hint})") from None


def check_only_one(given: Mapping[str, object]) -> None:
    """Raise ValueError where more than one source of credentials is given, each by what to call it."""
    names = [name for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise ValueError(f"give either {' or '.join(names)}, not {'both' if len(names) == 2 else 'all'}")


def existing_bundle(path: str) -> str:
    """Return the path of a file of certificate authorities; SettingsError where it is not on this machine."""
    if path and not Path(path).is_file():
        raise SettingsError(
            f"the certificate authorities of the connection are not on this machine: {path}",
            hint="put the file there, or save the connection again with another --ca-bundle",
        )
    return path


class ProviderConnection(BaseModel, ABC):
    """Credentials and endpoint of a remote object store. The bucket is part of the path, not of the connection.

    A kind of provider is a subclass with flat fields. The Prefect API stores what it is given without looking, and a
    saved connection outlives the version that saved it, so a field that is added has a default, and one that goes is
    named in ``retired_fields``; a field is never renamed.
    """

    # A model's own errors quote all that it was given, secrets too. Unknown fields are refused below, with our words.
    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    # Named as Prefect's blocks name them.
    _block_document_id: UUID | None = PrivateAttr(None)
    _block_document_name: str | None = PrivateAttr(None)
    _read_blocks: BlockReader = PrivateAttr()

    provider: ClassVar[str]
    """What ``flexai storage create --provider`` calls this kind."""
    schema_generation: ClassVar[int] = 1
    """Raised when an older version could misread what this one saves."""
    retired_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields of earlier versions: accepted in a saved connection and forgotten."""
    credential_kinds: ClassVar[tuple[str, ...]] = ()
    """The types of blocks that ``credentials_block`` may name, where a kind has that field, in order of preference."""

    schema_version: int = Field(default=1, ge=1, description="The form in which this connection was saved.")
    capabilities: dict[str, str] = Field(
        default_factory=dict, description="What the last check found, each ability and whether it passed."
    )

    # The fields that several kinds have.
    @field_validator("credentials_block", check_fields=False)
    @classmethod
    def _names_a_block(cls, value: str) -> str:
        return credentials.check_reference(value, cls.credential_kinds) if value else value

    @field_validator("endpoint_url", check_fields=False)
    @classmethod
    def _endpoint_is_an_address(cls, value: str) -> str:
        return endpoint_field(value)

    @model_validator(mode="before")
    @classmethod
    def _nothing_means_the_default(cls, values: Any) -> Any:
        # A form that was cleared saves null.
        return (
            {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else values
        )

    @model_validator(mode="after")
    def _holds_only_what_is_known(self) -> Self:
        if self.schema_version > self.schema_generation:
            raise ValueError(
                f"it was saved by a newer version (form {self.schema_version}): upgrade flexai-checkpoints"
            )
        # Any field is accepted, so that a mistyped one would silently mean its default.
        extra = self.__pydantic_extra__ or {}
        for name in [name for name in extra if name in self.retired_fields]:
            del extra[name]
        unknown = sorted(name for name in extra if not name.startswith("_") and name != "block_type_slug")
        if unknown:
            raise ValueError(f"there is no field {unknown[0]!r}")
        return self

    @property
    def connection_name(self) -> str:
        """The name it is saved under; empty while it is not saved."""
        return self._block_document_name or ""

    @property
    def connection_id(self) -> Id:
        """The id of the saved block; ``NIL_ID`` while it is not saved."""
        return parse_id(self._block_document_id) if self._block_document_id else NIL_ID

    def read_blocks(self, kinds: Sequence[str], name: str) -> list[tuple[str, Mapping[str, Any]]]:
        """The blocks of a name and of some types: of each its type and its fields, secrets included."""
        return self._read_blocks(kinds, name)

    @property
    @abstractmethod
    def location(self) -> str:
        """Where it leads, for people: a directory or an endpoint, without credentials."""

    @abstractmethod
    def open(self, path: str) -> RemotePath:
        """Open ``BUCKET/PREFIX-or-KEY``.

        Raises UsageError for a path without a bucket, AccessDeniedError for refused credentials, NotFoundError for a
        bucket (or a whole provider) that is not there.
        """

    @abstractmethod
    def reach(self) -> str:
        """Touch the provider with these credentials and say what was found, in a few words; raises as ``open`` does."""

    def verify(self) -> None:
        """Refuse what only looking around can tell of the fields, such as where an endpoint's name leads.

        Called before a connection is saved and before it is used. Raises UsageError.
        """

    def abilities(self) -> Mapping[str, ProbeFunction]:
        """What to try out beyond what every store is tried for."""
        return {}

    def check(self, path: str = "") -> list[Probe]:
        """Try out what this connection may do.

        Without a path only whether the provider answers; with ``BUCKET[/PREFIX]`` each ability of the store, on objects
        below a scratch prefix of its own, which is empty again afterwards. Where nothing may be written, what is at the
        path is read instead. Failures are reported, not raised.
        """
        try:
            found = [Probe("reach", ProbeOutcome.PASSED, self.reach())]
            if path:
                source = self.open(path)
                scratch = replace(source, key=f"{source.prefix}{SCRATCH_PREFIX}{uuid.uuid4().hex[:12]}")
        except CheckpointError as error:
            failed = Probe("reach", ProbeOutcome.FAILED, error.message, denied=isinstance(error, AccessDeniedError))
            return [failed, *(probes.not_tried(self.abilities()) if path else [])]
        return found + (probes.try_out(scratch, self.abilities(), source=source) if path else [])
