"""What the page about teams tells to do is what there is to be done."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
import pytest
import requests
from moto.server import ThreadedMotoServer

from flexai.checkpoints.catalog.grants import DATABASE_ROLES, grants_sql
from flexai.checkpoints.storage import managed
from flexai.cli.commands import LazyGroup
from flexai.cli.root import cli
from tests.cli.conftest import Run, flexai, program
from tests.cli.program import Program
from tests.docs.test_pages import ROOT

__all__ = ["flexai", "program"]

PAGE = (ROOT / "docs" / "team.md").read_text(encoding="utf-8")
POLICIES = dict(
    zip(
        ("reader", "writer", "admin"),
        map(json.loads, re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)),
        strict=True,
    )
)


@dataclass(frozen=True)
class Buckets:
    """A server that keeps to policies."""

    settings: dict[str, str]
    users: dict[str, dict[str, str]]
    """The credentials of each user, in an SDK's variables."""


@pytest.fixture
def buckets() -> Iterator[Buckets]:
    """moto, with the bucket of the page and a user for each policy; it judges every request from here on."""
    import boto3

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        anyone = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=url, **anyone).create_bucket(Bucket="my-bucket")
        iam = boto3.client("iam", endpoint_url=url, **anyone)
        users = {}
        for number, user in enumerate(POLICIES, start=1):
            iam.create_user(UserName=user)
            documents = [*list(POLICIES.values())[:number], *([_MOTO] if user == "admin" else [])]
            for place, document in enumerate(documents):
                iam.put_user_policy(UserName=user, PolicyName=f"p{place}", PolicyDocument=json.dumps(document))
            key = iam.create_access_key(UserName=user)["AccessKey"]
            users[user] = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        plain = {"Content-Type": "text/plain"}
        requests.post(f"{url}/moto-api/reset-auth", data="0", headers=plain, timeout=30).raise_for_status()
        settings = {"FLEXAI_STORE": "s3://my-bucket/flexai", "AWS_ENDPOINT_URL_S3": url, "AWS_REGION": "us-east-1"}
        yield Buckets(settings | {"FLEXAI_PART_SIZE": "5MiB"}, users)
        requests.post(f"{url}/moto-api/reset-auth", data="inf", headers=plain, timeout=30).raise_for_status()
    finally:
        server.stop()


_MOTO = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": "arn:aws:s3:::my-bucket"}],
}
"""What moto wants of a user who deletes several objects with one request; AWS judges each of them."""


def commands() -> list[str]:
    """The commands of flexai that the page names, in blocks and in lines."""
    named = re.findall(r"^\$ (flexai .*)$", PAGE, re.MULTILINE) + re.findall(r"`(flexai [^`]*)`", PAGE)
    return sorted({line.partition(" | ")[0] for line in named})


@pytest.mark.parametrize("line", commands())
def test_every_command_and_option_of_the_page_is_there(line: str) -> None:
    found: click.Command = cli
    context = click.Context(cli)
    words = shlex.split(line)[1:]
    while isinstance(found, LazyGroup):
        assert words, line
        command = found.get_command(context, words.pop(0))
        assert command is not None, line
        found = command
    known = {name for one in found.params for name in one.opts}
    assert {word for word in words if word.startswith("-")} <= known


def actions(policy: dict[str, Any], *, on: str) -> set[str]:
    """What a policy allows on an object of the store at ``s3://my-bucket/flexai``."""
    found: set[str] = set()
    for statement in policy["Statement"]:
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        named = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        wanted = f"arn:aws:s3:::my-bucket/flexai/{on}"
        if any(one.endswith("*") and wanted.startswith(one[:-1]) for one in resources):
            found |= set(named)
    return found


def test_the_policies_keep_readers_from_writing_and_writers_from_deleting_blobs() -> None:
    places = ("_BLOBS", "_MANIFESTS", "_RECORDS", "_LOGS", "_FILES", "_CATALOGS")
    for folder in (getattr(managed, name) for name in places):
        assert actions(POLICIES["reader"], on=folder) == {"s3:GetObject", "s3:ListMultipartUploadParts"}
        assert actions(POLICIES["writer"], on=folder) >= {"s3:PutObject", "s3:AbortMultipartUpload"}
        is_kept = folder in {"blobs/", "catalogs/"}
        assert ("s3:DeleteObject" in actions(POLICIES["writer"], on=folder)) is not is_kept
        assert "s3:DeleteObject" in actions(POLICIES["admin"], on=folder)


ALLOWED = [
    # What is done in a bucket, and who may.
    ("push", "writer admin", ("checkpoint", "push", "of-{user}", "-f", "a.bin", "-f", "large.bin")),
    ("fetch", "reader writer admin", ("checkpoint", "fetch", "llama", "-d", "of-{user}")),
    ("verify", "reader writer admin", ("checkpoint", "verify", "llama")),
    ("protect", "writer admin", ("checkpoint", "protect", "of-{user}")),
    ("unprotect", "writer admin", ("checkpoint", "unprotect", "of-{user}")),
    ("delete", "writer admin", ("checkpoint", "delete", "of-{user}")),
    ("gc", "admin", ("checkpoint", "gc", "--grace-period", "0")),
]


def test_a_bucket_lets_each_role_do_its_part_by_the_policies_of_the_page(
    flexai: Run, program: Program, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.file("a.bin", b"x" * 2048)
    program.file("large.bin", os.urandom(11 * 1024**2))
    for name, value in buckets.settings.items():
        monkeypatch.setenv(name, value)

    def run(user: str, arguments: tuple[str, ...]) -> int:
        for name, value in buckets.users[user].items():
            monkeypatch.setenv(name, value)
        return flexai(*(one.replace("{user}", user) for one in arguments)).code

    assert run("writer", ("checkpoint", "push", "llama", "-f", "a.bin")) == 0
    found = {what: " ".join(user for user in POLICIES if run(user, arguments) == 0) for what, _, arguments in ALLOWED}
    assert found == {what: users for what, users, _ in ALLOWED}


def test_the_page_names_the_roles_that_the_program_makes() -> None:
    assert all(f"| `{role}` |" in PAGE for role in DATABASE_ROLES)
    assert all(f"CREATE ROLE {role} " in grants_sql() for role in DATABASE_ROLES)


def test_a_store_that_is_copied_whole_is_the_same_at_its_new_place(
    flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.file("a.bin")
    assert flexai("checkpoint", "push", "llama", "-f", "a.bin").code == 0
    moved = program.home.parent / "moved"
    shutil.copytree(program.home / "store", moved)
    shutil.rmtree(program.home / "store")
    monkeypatch.setenv("FLEXAI_STORE", str(moved))
    assert flexai("checkpoint", "verify").code == 0
    assert flexai("checkpoint", "fetch", "llama", "-d", "fetched").code == 0
    assert flexai("checkpoint", "push", "mistral", "-f", "a.bin").code == 0
    assert not (program.home / "store").exists()
