"""Connections as they are saved: documents of Prefect's blocks, made into connections, from wherever they were read."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from pydantic import ValidationError

from flexai.checkpoints.documents import Document
from flexai.checkpoints.errors import ConflictError, InvalidNameError, NotFoundError, SettingsError
from flexai.checkpoints.models import to_text
from flexai.checkpoints.names import Id, did_you_mean, parse_id, parse_name
from flexai.checkpoints.storage.kinds import KINDS
from flexai.connections.provider import KEPT_BY_US, ProviderConnection

C = TypeVar("C", bound=ProviderConnection)
_BOOKKEEPING = {*KEPT_BY_US, "block_type_slug"}
"""Fields of a connection that are shown elsewhere, or not at all."""


class BlockDocument(Protocol):
    """What is saved of a block."""

    @property
    def id(self) -> UUID:
        """Its id."""

    @property
    def name(self) -> str | None:
        """The block's name."""

    @property
    def data(self) -> Mapping[str, Any]:
        """The fields, secrets included."""

    @property
    def created(self) -> datetime | None:
        """When it was saved first."""

    @property
    def updated(self) -> datetime | None:
        """When it was saved last."""


class BlockDocuments(Protocol):
    """Where blocks are saved."""

    def named(self, kind: str, name: str) -> BlockDocument | None:
        """The block of a type and a name."""

    def of_type(self, kind: str) -> Sequence[BlockDocument]:
        """Every block of a type that has a name."""


@dataclass(frozen=True, slots=True)
class SavedConnection:
    """A connection as it is saved; one that cannot be used any more has no block but a problem."""

    name: str
    id: Id
    provider: str
    created_at: datetime | None
    updated_at: datetime | None
    block: ProviderConnection | None
    problem: str = ""

    def document(self) -> Document:
        """The connection as JSON; of a secret field, only whether it is set."""
        spec: Document = {"provider": self.provider}
        if self.block is not None:
            spec["location"] = self.block.location
            fields = self.block.model_dump(mode="json", exclude=_BOOKKEEPING)
            # What a saved block remembers of its document is among its fields as well.
            spec |= {name: value for name, value in fields.items() if not name.startswith("_")}
        return {
            "kind": "StorageProviderConnection",
            "metadata": {"name": self.name, "id": self.id},
            "spec": spec,
            "status": {
                "problem": self.problem,
                "capabilities": dict(self.block.capabilities) if self.block is not None else {},
                "createdAt": to_text(self.created_at) if self.created_at else "",
                "updatedAt": to_text(self.updated_at) if self.updated_at else "",
            },
        }


def parse_connection_name(text: str) -> str:
    """Return the text as a connection's name.

    It is the name of a Prefect block document as well, so it obeys the naming rules and Prefect's narrower one:
    lower-case letters, digits and dashes (``prefect.types.names.BlockDocumentName``). Raises InvalidNameError.
    """
    name = parse_name(text, what="connection name")
    if name != name.lower() or "_" in name:
        raise InvalidNameError(
            f"connection name {text!r} breaks Prefect's rule for blocks",
            hint=f"use lower-case letters, digits and '-', for instance {name.lower().replace('_', '-')}",
        )
    return name


def load_connection(
    name: str, documents: BlockDocuments, read_blocks: Callable[..., list[tuple[str, Mapping[str, Any]]]]
) -> ProviderConnection:
    """Load a connection of whatever kind from where blocks are saved; ``read_blocks`` is for blocks that it names.

    Raises what ``flexai.blocks.load_connection`` raises.
    """
    name = parse_connection_name(name)
    found = [(word, document) for word in KINDS if (document := documents.named(KINDS[word].block, name)) is not None]
    if not found:
        raise not_there(
            name, [one.name for kind in KINDS.values() for one in documents.of_type(kind.block) if one.name]
        )
    word, document = the_one(name, found)
    connection = usable(name, _class_of(word), document)
    connection._read_blocks = read_blocks
    return connection


def list_connections(documents: BlockDocuments) -> list[SavedConnection]:
    """Every connection from where blocks are saved; see ``flexai.blocks.list_connections``."""
    return in_order(
        saved(_class_of(word), document) for word, kind in KINDS.items() for document in documents.of_type(kind.block)
    )


def _class_of(word: str) -> type[ProviderConnection]:
    module, _, name = KINDS[word].connection.partition(":")
    found: type[ProviderConnection] = getattr(importlib.import_module(module), name)
    return found


K = TypeVar("K")
D = TypeVar("D", bound=BlockDocument)


def not_there(name: str, known: Iterable[str] = ()) -> NotFoundError:
    """The error for a connection that is not there; ``known`` are those that are."""
    listed = "flexai storage list shows what there is, flexai storage create makes one"
    hint = f"{did_you_mean(name, known)} {listed}".lstrip()
    return NotFoundError(f"there is no storage provider connection {name!r}", hint=hint)


def the_one(name: str, found: Sequence[tuple[str, D]]) -> tuple[str, D]:
    """The only document of a name, and its kind. Raises NotFoundError and ConflictError."""
    if not found:
        raise not_there(name)
    if len(found) > 1:
        kinds = " and ".join(repr(word) for word, _ in found)
        raise ConflictError(
            f"connection {name!r} is there more than once, as {kinds}", hint="delete all but one in Prefect's UI"
        )
    return found[0]


def usable(name: str, kind: type[C], document: BlockDocument) -> C:
    """The connection that is saved. Raises SettingsError where it cannot be used."""
    connection, problem = read(kind, document)
    if connection is None:
        raise SettingsError(
            f"connection {name!r} cannot be used: {problem}",
            hint=f"correct it in Prefect's UI, or: flexai storage delete {name}",
        )
    return connection


def saved(kind: type[ProviderConnection], document: BlockDocument) -> SavedConnection:
    """The connection, with its problem where it cannot be used."""
    connection, problem = read(kind, document)
    return SavedConnection(
        name=document.name or "",
        id=parse_id(document.id),
        provider=kind.provider,
        created_at=document.created,
        updated_at=document.updated,
        block=connection,
        problem=problem,
    )


def in_order(connections: Iterable[SavedConnection]) -> list[SavedConnection]:
    """In order of names."""
    return sorted(connections, key=lambda connection: (connection.name, connection.provider))


def read(kind: type[C], document: BlockDocument) -> tuple[C | None, str]:
    """The connection that is saved, or None and what is wrong with it."""
    try:
        # Prefect's own loading also emits an event, and without a configured API starts a server to send it to.
        connection = kind.model_validate(document.data)
    except ValidationError as error:
        # Not the error's own text: it quotes what was put in, which may be a secret.
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        # In the form's word, which is what a person has seen.
        known = kind.model_fields.get(field)
        field = known.title or field if known is not None else field
        problem = first["msg"].removeprefix("Value error, ")
        return None, f"{field}: {problem[:1].lower()}{problem[1:]}" if field else problem
    connection._block_document_id, connection._block_document_name = document.id, document.name
    return connection, ""
