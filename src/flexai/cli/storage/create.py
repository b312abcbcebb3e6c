"""``flexai storage create``."""

from __future__ import annotations

import click

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.names import parse_name
from flexai.checkpoints.storage.kinds import KINDS
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option
from flexai.cli.storage.connection_options import connection_options, flag_of, in_options, read_fields, usage_of
from flexai.cli.tracking import open_api, saved_connection


@command("create", usage="NAME --provider PROVIDER [OPTIONS]")
@click.argument("name", metavar="NAME")
@click.option("--provider", type=click.Choice(list(KINDS)), required=True, help="The kind of storage provider.")
@connection_options
@click.option(
    "--max-transfers",
    metavar="N",
    type=click.IntRange(1, 10_000),
    help="Task runs that move bytes through it at a time, over all machines; 16 by default.",
)
@click.option("--overwrite", is_flag=True, help="Replace the connection of that name.")
@json_option
def create(
    name: str,
    provider: str,
    overwrite: bool,
    max_transfers: int | None,
    as_json: bool,
    **parameters: str | bool | None,
) -> None:
    """Save a connection to a storage provider.

    Secrets are never given as a flag's value. A SOURCE is env:VARIABLE, file:PATH, or - for standard input;
    without one the secret is asked for, without echo. Without any credentials s3 and gcs use those that their
    SDKs find wherever the connection is used: environment, profile, role of the machine. With --json it is what
    storage inspect prints.

    \b
    flexai storage create aws-storage-conn-eu --provider s3 --region eu-west-1
    flexai storage create wasabi --provider s3 --endpoint-url https://s3.eu-central-1.wasabisys.com \\
      --access-key-id AKIAIOSFODNN7EXAMPLE --secret-from env:WASABI_SECRET
    flexai storage create r2-models --provider r2 --account-id 0123456789abcdef0123456789abcdef \\
      --access-key-id 76b1a5d3 --secret-from file:~/.secrets/r2
    flexai storage create lab --provider minio --endpoint-url https://minio:9000 --access-key-id lab
    flexai storage create gcs-models --provider gcs --project my-project --service-account-from file:key.json
    flexai storage create hf-storage --provider huggingface --token-from env:HF_TOKEN
    flexai storage create models-share --provider local --root /mnt/models
    """
    parse_name(name, what="connection name")
    fields = read_fields(name, provider, {key: value for key, value in parameters.items() if value})
    open_api("to save the connection")
    from pydantic import ValidationError

    from flexai import blocks

    try:
        block = blocks.PROVIDERS[provider](**fields)
    except ValidationError as error:
        # Not the error's own text: it quotes what was put in, which may be a secret.
        first = error.errors(include_input=False, include_url=False)[0]
        flag = flag_of(provider, str(first["loc"][0]) if first["loc"] else "")
        raise UsageError(
            f"{flag}: {in_options(provider, first['msg'].removeprefix('Value error, '))}", hint=usage_of(name, provider)
        ) from None
    blocks.save_connection(block, name, overwrite=overwrite, max_transfers=max_transfers)
    terminal.say(f"saved connection {name!r} ({provider}: {block.location})")
    terminal.hint(f"flexai storage check {name} {KINDS[provider].place} tries out what it may do")
    if as_json:
        terminal.write_document(saved_connection(name).document(), as_json=True)
