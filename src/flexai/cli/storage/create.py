"""``flexai storage create``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.names import parse_name
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_directory
from flexai.cli.tracking import open_api


@dataclass(frozen=True, slots=True)
class ProviderFlags:
    """Which flags a kind of provider takes, by the connection's field that each one sets."""

    required: Mapping[str, str]
    optional: Mapping[str, str]
    form: str
    """How its flags are used."""


PROVIDERS: Mapping[str, ProviderFlags] = {
    "local": ProviderFlags(required={"root": "--root"}, optional={}, form="--provider local --root DIRECTORY"),
}


@command("create", usage="NAME --provider PROVIDER [OPTIONS]")
@click.argument("name", metavar="NAME")
@click.option("--provider", type=click.Choice(list(PROVIDERS)), required=True, help="The kind of storage provider.")
@click.option(
    "--root",
    metavar="DIRECTORY",
    default="",
    shell_complete=complete_directory,
    help="local: the directory whose folders are the buckets, such as a mounted network share.",
)
@click.option("--overwrite", is_flag=True, help="Replace the connection of that name.")
def create(name: str, provider: str, overwrite: bool, **flags: str) -> None:
    """Save a connection to a storage provider.

    \b
    flexai storage create models-share --provider local --root /mnt/models
    """
    parse_name(name, what="connection name")
    fields = _fields_of(name, provider, flags)
    if "root" in fields:
        fields["root"] = str(Path(fields["root"]).expanduser().absolute())
    open_api("to save the connection")
    from pydantic import ValidationError

    from flexai import blocks

    try:
        block = blocks.PROVIDERS[provider](**fields)
    except ValidationError as error:
        # Not the error's own text: it quotes what was put in, which may be a secret.
        first = error.errors(include_input=False, include_url=False)[0]
        raise UsageError(
            f"{_flag(provider, first['loc'])}: {first['msg'].removeprefix('Value error, ')}", hint=_form(name, provider)
        ) from None
    blocks.save_connection(block, name, overwrite=overwrite)
    terminal.say(f"saved connection {name!r} ({provider}: {block.location})")
    terminal.hint(f"flexai storage check {name} BUCKET tries out what it may do")


def _fields_of(name: str, provider: str, flags: Mapping[str, str]) -> dict[str, Any]:
    """The connection's fields that the flags set; UsageError for flags of another provider, or missing ones."""
    known = PROVIDERS[provider]
    given = {field: value for field, value in flags.items() if value}
    for field in given:
        if field not in known.required and field not in known.optional:
            flag = f"--{field.replace('_', '-')}"
            raise UsageError(f"{flag} and --provider {provider} cannot be used together", hint=_form(name, provider))
    for field, flag in known.required.items():
        if field not in given:
            raise UsageError(f"--provider {provider} needs {flag}", hint=_form(name, provider))
    return given


def _form(name: str, provider: str) -> str:
    return f"flexai storage create {name} {PROVIDERS[provider].form}"


def _flag(provider: str, location: tuple[int | str, ...]) -> str:
    field = str(location[0]) if location else ""
    known = PROVIDERS[provider]
    return {**known.required, **known.optional}.get(field, field or "connection")
