"""The managed store in a bucket: every command that uses it, with each way to name it."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flexai.checkpoints.storage.s3 import S3Storage
from flexai.checkpoints.storage.s3_service import S3Credentials, S3Service
from tests.cli.program import Done, Program
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.prefect import PrefectServer

LARGE = bytes(range(256)) * 30_000
"""Large enough for a blob of its own, in several parts."""


@pytest.fixture(params=["s3", "gs", "connection"])
def in_bucket(request: pytest.FixtureRequest, program: Program, seaweedfs: S3Server, fake_gcs: GCSServer) -> Program:
    """The program with its store in a bucket, by a URL or in a connection."""
    prefix = uuid.uuid4().hex
    keys = {"AWS_ACCESS_KEY_ID": seaweedfs.access_key_id, "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key}
    if request.param == "s3":
        found = {**keys, "AWS_ENDPOINT_URL": seaweedfs.url, "FLEXAI_STORE": f"s3://{seaweedfs.bucket}/{prefix}"}
    elif request.param == "gs":
        found = {"STORAGE_EMULATOR_HOST": fake_gcs.url, "FLEXAI_STORE": f"gs://{fake_gcs.bucket}/{prefix}"}
    else:
        api: PrefectServer = request.getfixturevalue("prefect_server")
        found = {"PREFECT_API_URL": api.api_url}
        name = f"store-{uuid.uuid4().hex[:12]}"
        created = program.run(
            *["storage", "create", name, "--provider", "s3", "--endpoint-url", seaweedfs.url],
            *["--access-key-id", seaweedfs.access_key_id, "--secret-from", "-"],
            env=found,
            input=seaweedfs.secret_access_key,
        )
        assert created.code == 0, created.err
        found["FLEXAI_STORE"] = f"{name}:{seaweedfs.bucket}/{prefix}"
    program.environment |= {"FLEXAI_PART_SIZE": "5MiB", "FLEXAI_PACK_THRESHOLD": "64KiB", **found}
    return program


def test_a_checkpoint_lives_in_the_bucket_from_push_to_gc(in_bucket: Program) -> None:
    in_bucket.file("mistral/model.safetensors", LARGE)
    in_bucket.file("mistral/config.json", b"{}")
    in_bucket.file("mistral/deep/tokenizer.json", b"{ }")
    push = ["checkpoint", "push", "my-model", "-f", "mistral", "--no-track"]
    _run(in_bucket, *push)
    again = in_bucket.run(*push)
    assert (again.code, again.error) == (4, "checkpoint 'my-model' already exists with the same content")
    assert "my-model" in _run(in_bucket, "checkpoint", "list").out
    shown = _run(in_bucket, "checkpoint", "inspect", "my-model", "--json").json()
    assert [file["path"] for file in shown["status"]["files"]] == [
        "config.json",
        "deep/tokenizer.json",
        "model.safetensors",
    ]
    _run(in_bucket, "checkpoint", "verify")
    _run(in_bucket, "checkpoint", "fetch", "my-model", "-d", "one", "--no-track")
    assert (in_bucket.cwd / "one" / "model.safetensors").read_bytes() == LARGE

    # The catalog is lost; the bucket explains itself.
    shutil.rmtree(in_bucket.home)
    assert "my-model" in _run(in_bucket, "checkpoint", "recover").out
    _run(in_bucket, "checkpoint", "fetch", "my-model", "-d", "two", "--no-track")
    assert (in_bucket.cwd / "two" / "deep" / "tokenizer.json").read_bytes() == b"{ }"

    _run(in_bucket, "checkpoint", "delete", "my-model")
    freed = _run(in_bucket, "checkpoint", "gc", "--grace-period", "0s")
    assert "1 deleted checkpoint" in freed.out
    assert _run(in_bucket, "checkpoint", "gc", "--grace-period", "0s").out.startswith("freed 0 bytes in 0 blobs")


def test_nothing_of_the_content_lies_on_this_machine(program: Program, seaweedfs: S3Server) -> None:
    """A store in a bucket, an export to it: neither leaves a copy in the home folder."""
    prefix = uuid.uuid4().hex
    program.environment |= {
        "AWS_ACCESS_KEY_ID": seaweedfs.access_key_id,
        "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key,
        "AWS_ENDPOINT_URL": seaweedfs.url,
        "FLEXAI_STORE": f"s3://{seaweedfs.bucket}/{prefix}",
    }
    program.file("model.bin", LARGE)
    _run(program, "checkpoint", "push", "my-model", "-f", "model.bin", "--no-track")
    there = sum(file.stat().st_size for file in program.home.rglob("*") if file.is_file())
    assert there < len(LARGE) / 2
    with _bucket(seaweedfs) as bucket:
        assert sum(info.size for info in bucket.list(f"{prefix}/")) > len(LARGE)


def test_wrong_credentials_for_the_store_exit_with_5(program: Program, seaweedfs: S3Server) -> None:
    program.file("model.bin", LARGE)
    program.environment |= {
        "AWS_ACCESS_KEY_ID": seaweedfs.access_key_id,
        "AWS_SECRET_ACCESS_KEY": "canary-wrong",
        "AWS_ENDPOINT_URL": seaweedfs.url,
        "FLEXAI_STORE": f"s3://{seaweedfs.bucket}/{uuid.uuid4().hex}",
    }
    done = program.run("checkpoint", "push", "my-model", "-f", "model.bin", "--no-track")
    assert done.code == 5, done.err
    assert "refused the credentials" in done.error
    assert "canary" not in done.err


def test_a_bucket_that_is_not_there_exits_with_3(program: Program, seaweedfs: S3Server) -> None:
    program.file("model.bin", b"content")
    program.environment |= {
        "AWS_ACCESS_KEY_ID": seaweedfs.access_key_id,
        "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key,
        "AWS_ENDPOINT_URL": seaweedfs.url,
        "FLEXAI_STORE": f"s3://nobodys-{uuid.uuid4().hex[:12]}/prefix",
    }
    done = program.run("checkpoint", "push", "my-model", "-f", "model.bin", "--no-track")
    assert (done.code, done.error[:18]) == (3, "there is no bucket")


def _run(program: Program, *arguments: str) -> Done:
    done = program.run(*arguments)
    assert done.code == 0, done.err
    return done


@contextmanager
def _bucket(server: S3Server) -> Iterator[S3Storage]:
    service = S3Service(
        endpoint_url=server.url, credentials=S3Credentials(server.access_key_id, server.secret_access_key)
    )
    try:
        yield S3Storage(service, server.bucket)
    finally:
        service.close()
