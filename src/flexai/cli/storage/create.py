"""``flexai storage create``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.names import parse_name
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_directory, complete_file
from flexai.cli.storage.providers import PROVIDERS, check_flags, form_of
from flexai.cli.storage.secrets import ASK, read_secret
from flexai.cli.tracking import open_api

F = TypeVar("F", bound=Callable[..., Any])


def _secret_option(flag: str, help_text: str) -> Callable[[F], F]:
    # Without a value it asks, as it does where it is needed and left out.
    return click.option(flag, metavar="[SOURCE]", is_flag=False, flag_value=ASK, default="", help=help_text)


@command("create", usage="NAME --provider PROVIDER [OPTIONS]")
@click.argument("name", metavar="NAME")
@click.option("--provider", type=click.Choice(list(PROVIDERS)), required=True, help="The kind of storage provider.")
@click.option("--region", metavar="REGION", default="", help="s3, minio: the region of the buckets.")
@click.option(
    "--endpoint-url",
    metavar="URL",
    default="",
    help="minio: where the server is. s3, gcs, huggingface: another address than the provider's own.",
)
@click.option(
    "--addressing-style",
    type=click.Choice(["auto", "path", "virtual"]),
    help="s3, minio: whether the bucket is part of the path or of the host's name; auto is the path, at AWS the name.",
)
@click.option("--account-id", metavar="ID", default="", help="r2: the Cloudflare account.")
@click.option("--jurisdiction", type=click.Choice(["eu", "fedramp"]), help="r2: what the buckets are bound to.")
@click.option("--access-key-id", metavar="ID", default="", help="s3, r2, minio: the public half of the access key.")
@_secret_option("--secret-from", "s3, r2, minio: where the secret half is.")
@click.option("--profile", metavar="NAME", default="", help="s3: a profile of ~/.aws/config, instead of a key.")
@click.option("--project", metavar="PROJECT", default="", help="gcs: the project of the buckets.")
@_secret_option("--service-account-from", "gcs: where the service account's key is, a JSON document.")
@_secret_option("--token-from", "huggingface: where the access token is.")
@click.option(
    "--repo-type",
    type=click.Choice(["model", "dataset", "space"]),
    help="huggingface: what its paths name; models by default.",
)
@click.option("--anonymous", is_flag=True, help="s3, gcs: ask without credentials.")
@click.option(
    "--credentials-block",
    metavar="[TYPE/]NAME",
    default="",
    help="A Prefect block that holds the credentials: AWS Credentials, MinIO Credentials, GCP Credentials, or for"
    " huggingface a Secret.",
)
@click.option(
    "--ca-bundle",
    metavar="FILE",
    default="",
    shell_complete=complete_file,
    help="s3, r2, minio, gcs: the certificate authorities to trust, for a server with a certificate of its own.",
)
@click.option(
    "--root",
    metavar="DIRECTORY",
    default="",
    shell_complete=complete_directory,
    help="local: the directory whose folders are the buckets, such as a mounted network share.",
)
@click.option(
    "--max-transfers",
    metavar="N",
    type=click.IntRange(1, 10_000),
    help="Task runs that move bytes through it at a time, over all machines; 16 by default.",
)
@click.option("--overwrite", is_flag=True, help="Replace the connection of that name.")
def create(
    name: str, provider: str, overwrite: bool, max_transfers: int | None, **parameters: str | bool | None
) -> None:
    """Save a connection to a storage provider.

    Secrets are never given as a flag's value. A SOURCE is env:VARIABLE, file:PATH, or - for standard input;
    without one the secret is asked for, without echo. Without any credentials s3 and gcs use those that their
    SDKs find wherever the connection is used: environment, profile, role of the machine.

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
    fields = _fields(name, provider, {key: value for key, value in parameters.items() if value})
    open_api("to save the connection")
    from pydantic import ValidationError

    from flexai import blocks

    try:
        block = blocks.PROVIDERS[provider](**fields)
    except ValidationError as error:
        # Not the error's own text: it quotes what was put in, which may be a secret.
        first = error.errors(include_input=False, include_url=False)[0]
        flag = PROVIDERS[provider].flag(str(first["loc"][0]) if first["loc"] else "")
        raise UsageError(
            f"{flag}: {first['msg'].removeprefix('Value error, ')}", hint=form_of(name, provider)
        ) from None
    blocks.save_connection(block, name, overwrite=overwrite, max_transfers=max_transfers)
    terminal.say(f"saved connection {name!r} ({provider}: {block.location})")
    terminal.hint(f"flexai storage check {name} {_example(provider)} tries out what it may do")


def _fields(name: str, provider: str, given: Mapping[str, str | bool]) -> dict[str, Any]:
    """The connection's fields; raises UsageError for flags that do not fit, before any secret is read."""
    flags = PROVIDERS[provider]
    check_flags(name, provider, given)
    fields: dict[str, Any] = {key: value for key, value in given.items() if key in flags.flags}
    for path in {"root", "ca_bundle"} & fields.keys():
        # The connection is used in other working directories, too.
        fields[path] = str(Path(str(fields[path])).expanduser().absolute())
    for key, secret in flags.secrets.items():
        if secret.parameter in given or (secret.beside and secret.beside in given):
            source = str(given.get(secret.parameter, ASK))
            fields[key] = read_secret(secret.flag, source, secret.what, one_word=secret.one_word)
    return fields


def _example(provider: str) -> str:
    return "ORG/REPO" if provider == "huggingface" else "BUCKET"
