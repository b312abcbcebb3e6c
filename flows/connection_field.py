"""A storage provider connection as a flow's parameter: picked in Prefect's form, or written by its name.

Prefect makes a picker of saved blocks of each part of a form's schema that has a ``block_type_slug``, and puts
``{"$ref": {"block_document_id": …}}`` into the flow run's parameters. When the run starts, Prefect loads that block,
and the parameter becomes the connection's name here: what goes on to tasks, logs and artifacts is a name, and what
Prefect has stored is a reference.

A parameter of a block's own type would not do. A union of blocks loads the first kind that fits instead of the one
that was saved, one of the kinds' common base loses the fields of the kind, and either would put a block's fields into
the parameters of a run that is started from Python.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema

from flexai.blocks import PROVIDERS, StorageProvider
from flexai.checkpoints.errors import InvalidNameError
from flexai.checkpoints.storage.kinds import KINDS
from flexai.connections.saved import parse_connection_name

NAME_PATTERN = "^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$"
"""What a connection's name looks like; the rules are in ``parse_connection_name``."""


def _picker(provider: str) -> dict[str, Any]:
    """The tab of a form that offers the saved connections of a kind, and what it puts into the parameters."""
    return {
        "title": KINDS[provider].title,
        "type": "object",
        "block_type_slug": PROVIDERS[provider].get_block_type_slug(),
        # Not as one of `properties`: programs that resolve references in a schema would take that for one of theirs.
        "propertyNames": {"const": "$ref"},
        "additionalProperties": {
            "type": "object",
            "properties": {"block_document_id": {"type": "string", "format": "uuid"}},
            "required": ["block_document_id"],
        },
        "minProperties": 1,
    }


def connection_schema() -> dict[str, Any]:
    """The JSON schema of a connection as a parameter."""
    by_name = {"title": "By name", "type": "string", "pattern": NAME_PATTERN, "examples": ["aws-storage-conn-eu"]}
    return {"anyOf": [by_name, *map(_picker, KINDS)]}


def _name_of(value: object) -> str:
    if isinstance(value, StorageProvider):
        if not value.connection_name:
            raise ValueError("the connection is not saved: save it under a name first")
        return value.connection_name
    if not isinstance(value, str):
        # Not the value itself: it may be a block of another kind, with secrets.
        raise ValueError("a storage provider connection is needed, by its name or as a saved block")
    try:
        return parse_connection_name(value)
    except InvalidNameError as error:
        raise ValueError(f"{error.message}: {error.hint}") from error


Connection: TypeAlias = Annotated[str, BeforeValidator(_name_of), WithJsonSchema(connection_schema())]
"""A connection's name, in whichever way it was given."""
