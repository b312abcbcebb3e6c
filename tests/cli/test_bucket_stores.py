"""The managed store in a bucket: every command that uses it, with each way to name it."""

from __future__ import annotations

import ast
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import flexai.cli
from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.gcs.session import GCSService
from flexai.checkpoints.storage.protocol import BytesBody, ObjectStorage
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from tests.cli.conftest import Run
from tests.cli.program import Done, Program
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.prefect import PrefectServer

pytestmark = pytest.mark.slow

LARGE = bytes(range(256)) * 30_000
"""Large enough for a blob of its own, in several parts."""


@pytest.fixture(params=["s3", "gs", "connection"])
def kind(request: pytest.FixtureRequest) -> str:
    """How the store is named: by a URL, or as a connection's bucket."""
    kind: str = request.param
    return kind


by_url = pytest.mark.parametrize("kind", ["s3", "gs"], indirect=True)


@pytest.fixture
def in_bucket(
    request: pytest.FixtureRequest, kind: str, program: Program, seaweedfs: S3Server, fake_gcs: GCSServer
) -> Program:
    """The program with its store in a bucket, by a URL or in a connection."""
    prefix = uuid.uuid4().hex
    keys = {"AWS_ACCESS_KEY_ID": seaweedfs.access_key_id, "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key}
    if kind == "s3":
        found = {**keys, "AWS_ENDPOINT_URL": seaweedfs.url, "FLEXAI_STORE": f"s3://{seaweedfs.bucket}/{prefix}"}
    elif kind == "gs":
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


@by_url
def test_checkpoints_are_kept_named_and_let_go_of_in_the_bucket(in_bucket: Program, flexai: Run) -> None:
    in_bucket.file("mistral/model.safetensors", LARGE)
    push = ["checkpoint", "push", "my-model", "-f", "mistral"]
    _do(flexai, *push)
    _do(flexai, *push, "--if-not-exists")
    _do(flexai, "checkpoint", "push", "nightly-1", "--from-checkpoint", "my-model")
    _do(flexai, "checkpoint", "protect", "my-model")
    refused = flexai("checkpoint", "delete", "my-model")
    assert (refused.code, refused.error) == (4, "checkpoint 'my-model' is protected")
    _do(flexai, "checkpoint", "unprotect", "my-model")
    _do(flexai, "checkpoint", "delete", "my-model")
    _do(flexai, "checkpoint", "undelete", "my-model")

    in_bucket.file("more.bin", b"more")
    _do(flexai, "checkpoint", "push", "nightly-2", "-f", "more.bin")
    prune = ["checkpoint", "prune", "--pushed", "nightly-*", "--keep-last", "1"]
    assert "would delete 1 of 2" in _do(flexai, *prune).err
    assert "deleted 1 of 2" in _do(flexai, *prune, "--apply").err
    _do(flexai, "checkpoint", "gc", "--grace-period", "0s")
    assert _names(flexai) == {"my-model", "nightly-2"}
    _do(flexai, "checkpoint", "fetch", "my-model", "-d", "out")
    assert (in_bucket.cwd / "out" / "model.safetensors").read_bytes() == LARGE


@by_url
def test_a_training_job_captures_into_the_bucket_and_goes_with_all_it_captured(in_bucket: Program, flexai: Run) -> None:
    in_bucket.file("base/weights.bin", LARGE)
    _do(flexai, "checkpoint", "push", "base", "-f", "base")
    train = "mkdir $FLEXAI_OUTPUT_CHECKPOINT_DIR/step-1 && cp -r $FLEXAI_INPUT_CHECKPOINT_DIR/. $_ && echo trained"
    in_bucket.environment["FLEXAI_QUIET_PERIOD"] = "0.05"
    assert _run(in_bucket, "training", "run", "my-run", "-C", "base", "--", "bash", "-c", train).out == "trained\n"
    (captured,) = _do(flexai, "training", "checkpoints", "my-run", "--json").json()
    _do(flexai, "checkpoint", "fetch", captured["id"], "-d", "out")
    assert (in_bucket.cwd / "out" / "weights.bin").read_bytes() == LARGE
    _do(flexai, "checkpoint", "push", "my-best", "--from-checkpoint", captured["id"])
    assert "trained" in _do(flexai, "training", "logs", "my-run").out

    _do(flexai, "training", "delete", "my-run")
    _do(flexai, "checkpoint", "gc", "--grace-period", "0s")
    assert flexai("checkpoint", "fetch", captured["id"], "-d", "gone").code == 3
    assert _names(flexai) == {"base", "my-best"}
    _do(flexai, "checkpoint", "fetch", "my-best", "-d", "kept")
    assert (in_bucket.cwd / "kept" / "weights.bin").read_bytes() == LARGE


def test_what_rots_in_the_bucket_is_repaired_from_an_export(
    in_bucket: Program, objects: ObjectStorage, prefect_server: PrefectServer
) -> None:
    in_bucket.file("mistral/model.safetensors", LARGE)
    _run(in_bucket, "checkpoint", "push", "my-model", "-f", "mistral", "--no-track")
    in_bucket.environment["PREFECT_API_URL"] = prefect_server.api_url
    name, path = f"share-{uuid.uuid4().hex[:12]}", "my-bucket/out"
    (in_bucket.cwd / "share").mkdir()
    _run(in_bucket, "storage", "create", name, "--provider", "local", "--root", "share")
    place = ["--storage-provider", name, "--destination-path", path]
    _run(in_bucket, "checkpoint", "export", "my-model", *place, "--no-track")
    assert (in_bucket.cwd / "share" / path / "model.safetensors").read_bytes() == LARGE

    prefix = in_bucket.environment["FLEXAI_STORE"].rpartition("/")[2]
    (blob,) = objects.list(f"{prefix}/blobs/")
    objects.put(blob.key, BytesBody(LARGE[::-1]))
    damaged = in_bucket.run("checkpoint", "verify")
    assert (damaged.code, damaged.out.startswith("my-model: model.safetensors: ")) == (6, True)
    repaired = _run(in_bucket, "checkpoint", "verify", "--repair")
    assert f"my-model: model.safetensors: repaired from {name}:{path}" in repaired.err
    _run(in_bucket, "checkpoint", "fetch", "my-model", "-d", "out", "--no-track")
    assert (in_bucket.cwd / "out" / "model.safetensors").read_bytes() == LARGE


def test_every_command_can_open_a_store_that_is_named_by_a_connection() -> None:
    """Wherever one opens a system it says how a connection is loaded."""
    opened = [
        call
        for file in Path(flexai.cli.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "System.open"
    ]
    assert len(opened) > 5
    assert all("connect" in {keyword.arg for keyword in call.keywords} for call in opened)


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


_STREAM = """
from flexai.checkpoints.names import NIL_ID
from flexai.checkpoints.service.export import export
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.requests import ExportRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.ambient import gcs_bucket
from flexai.checkpoints.storage.connection import RemotePath, split_bucket

class Google:
    connection_name, connection_id = "google", NIL_ID
    def open(self, path):
        bucket, key = split_bucket(path)
        return RemotePath(storage=gcs_bucket(bucket), key=key)

def written():
    with open("/proc/self/io") as file:
        return int(dict(line.split(": ") for line in file)["wchar"])

with System.open(connect=lambda _: Google()) as system:
    before = written()
    push(system, PushRequest("my-model", storage_provider="google", source_path="{source}"))
    export(system, ExportRequest("my-model", "google", "{source}-back"))
    print(written() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process writes is counted by Linux, in /proc")
def test_what_streams_from_one_service_to_another_and_back_is_written_to_no_disk(
    program: Program, seaweedfs: S3Server, fake_gcs: GCSServer
) -> None:
    """Counted are the bytes of all writes to files, whatever the files; what is sent to a socket is not written."""
    prefix = uuid.uuid4().hex
    program.environment |= {
        "AWS_ACCESS_KEY_ID": seaweedfs.access_key_id,
        "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key,
        "AWS_ENDPOINT_URL": seaweedfs.url,
        "STORAGE_EMULATOR_HOST": fake_gcs.url,
        "FLEXAI_STORE": f"s3://{seaweedfs.bucket}/{prefix}",
    }
    service = GCSService(endpoint_url=fake_gcs.url, anonymous=True)
    google = GCSStorage(service, fake_gcs.bucket)
    google.put(f"{prefix}/model.safetensors", BytesBody(LARGE * 4))
    google.put(f"{prefix}/config.json", BytesBody(LARGE[:100_000]))
    written = program.python(_STREAM.format(source=f"{fake_gcs.bucket}/{prefix}"))
    assert b"".join(map(bytes, google.get(f"{prefix}-back/model.safetensors"))) == LARGE * 4
    service.close()
    # The catalog is.
    assert 0 < int(written) < len(LARGE)


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


def _do(flexai: Run, *arguments: str) -> Done:
    done = flexai(*arguments)
    assert done.code == 0, done.err
    return done


def _names(flexai: Run) -> set[str]:
    return {row["name"] for row in _do(flexai, "checkpoint", "list", "--json").json()}


@pytest.fixture
def objects(kind: str, seaweedfs: S3Server, fake_gcs: GCSServer) -> Iterator[ObjectStorage]:
    """What lies in the bucket."""
    if kind == "gs":
        service = GCSService(endpoint_url=fake_gcs.url, anonymous=True)
        yield GCSStorage(service, fake_gcs.bucket)
        service.close()
    else:
        with _bucket(seaweedfs) as bucket:
            yield bucket


@contextmanager
def _bucket(server: S3Server) -> Iterator[S3Storage]:
    service = S3Service(
        endpoint_url=server.url, credentials=S3Credentials(server.access_key_id, server.secret_access_key)
    )
    try:
        yield S3Storage(service, server.bucket)
    finally:
        service.close()
