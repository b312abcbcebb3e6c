"""Connections of every provider, from the command line, to real servers and a real Prefect server."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from tests.cli.program import Done, Program
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.hub import Hub, HubFile, serve_hub
from tests.servers.prefect import PrefectServer
from tests.servers.proxy import faulty
from tests.servers.tokens import TokenServer, serve_tokens, service_account_key
from tests.support.trees import read_tree

pytestmark = pytest.mark.slow

FILES = {"config.json": b'{"model_type": "mistral"}', "ckpt_15600.pt": bytes(range(256)) * 100}


@dataclass
class Place:
    """A provider that is there: how to create a connection to it, and where checkpoints can go."""

    flags: list[str]
    bucket: str
    environment: Mapping[str, str] = field(default_factory=dict)
    input: str = ""
    wrong: Mapping[str, str] = field(default_factory=dict)
    """The environment with a wrong secret."""
    secret: str = ""


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    """Google's token endpoint."""
    with serve_tokens() as server:
        yield server


@pytest.fixture(params=["s3", "minio", "gcs", "gcs-anonymous"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each provider that can be written to."""
    if request.param in {"s3", "minio"}:
        server: S3Server = request.getfixturevalue("seaweedfs" if request.param == "s3" else "juicefs")
        flags = ["--provider", request.param, "--endpoint-url", server.url, "--access-key-id", server.access_key_id]
        return Place(
            flags=[*flags, "--secret-from", "env:LAB_SECRET"],
            bucket=server.bucket,
            environment={"LAB_SECRET": server.secret_access_key},
            wrong={"LAB_SECRET": "canary-wrong-secret"},
            secret=server.secret_access_key,
        )
    gcs: GCSServer = request.getfixturevalue("fake_gcs")
    flags = ["--provider", "gcs", "--endpoint-url", gcs.url]
    if request.param == "gcs-anonymous":
        return Place(flags=[*flags, "--anonymous"], bucket=gcs.bucket)
    tokens: TokenServer = request.getfixturevalue("tokens")
    key = json.dumps(service_account_key(tokens.token_uri), indent=2)
    return Place([*flags, "--service-account-from", "-"], gcs.bucket, input=key, secret="PRIVATE KEY")


@pytest.fixture
def name() -> str:
    """A name that no other test's connection has."""
    return f"conn-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def saved(program: Program, prefect_server: PrefectServer) -> Program:
    """The program on a machine with a Prefect API, and without credentials of any cloud."""
    program.environment |= {
        "PREFECT_API_URL": prefect_server.api_url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_GCE_CHECK": "true",
        "GOOGLE_AUTH_TRUST_BOUNDARY_ENABLED": "false",
    }
    for variable in [one for one in program.environment if one.startswith(("AWS_ACCESS", "AWS_SECRET", "GOOGLE_APP"))]:
        del program.environment[variable]
    return program


def create(program: Program, name: str, place: Place, **environment: str) -> Done:
    return program.run(
        "storage", "create", name, *place.flags, env={**place.environment, **environment}, input=place.input
    )


def cells(done: Done) -> dict[str, str]:
    """The table of a check: outcomes by probe."""
    rows = [[cell.strip() for cell in line.split("|")] for line in done.out.splitlines() if "|" in line]
    return {row[0]: row[1] for row in rows[1:]}


def test_a_connection_is_created_shown_checked_and_deleted(saved: Program, place: Place, name: str) -> None:
    created = create(saved, name, place)
    assert created.code == 0, created.err
    assert created.err.startswith(f"saved connection '{name}' ({place.flags[1]}: ")

    (row,) = [line for line in saved.run("storage", "list").out.splitlines() if name in line]
    assert row.split("|")[1].strip() == place.flags[1]
    inspected = saved.run("storage", "inspect", name, "--json")
    assert inspected.json()["spec"]["provider"] == place.flags[1]
    assert not place.secret or place.secret not in inspected.out

    where = f"{place.bucket}/{uuid.uuid4().hex}"
    checked = saved.run("storage", "check", name, where)
    assert checked.code == 0, checked.out + checked.err
    assert cells(checked)["put"] == cells(checked)["copy"] == cells(checked)["multipart"] == "passed"
    assert saved.run("storage", "inspect", name, "--json").json()["status"]["capabilities"]["put"] == "passed"
    assert saved.run("storage", "delete", name).code == 0


@pytest.mark.parametrize("place", ["s3", "gcs"], indirect=True)
def test_what_is_exported_to_a_connection_can_be_pushed_from_it(saved: Program, place: Place, name: str) -> None:
    assert create(saved, name, place).code == 0
    where = f"{place.bucket}/{uuid.uuid4().hex}"
    for path, content in FILES.items():
        saved.file(f"mistral/{path}", content)
    assert saved.run("checkpoint", "push", "my-model", "-f", "mistral", "--no-track").code == 0
    flags = ["--storage-provider", name, "--no-track"]
    exported = saved.run("checkpoint", "export", "my-model", "--destination-path", where, *flags)
    assert exported.code == 0, exported.err
    pushed = saved.run("checkpoint", "push", "my-copy", "--source-path", where, "--json", *flags)
    assert pushed.code == 0, pushed.err
    assert {file["path"] for file in pushed.json()["status"]["files"]} == set(FILES)
    assert pushed.json()["spec"] | {"storageProvider": name, "sourcePath": where} == pushed.json()["spec"]
    one = saved.run("checkpoint", "push", "my-file", "--source-path", f"{where}/ckpt_15600.pt", *flags)
    assert one.code == 0, one.err
    fetched = saved.run("checkpoint", "fetch", "my-file", "-d", "fetched")
    assert fetched.code == 0, fetched.err
    assert (saved.cwd / "fetched" / "ckpt_15600.pt").read_bytes() == FILES["ckpt_15600.pt"]


def test_a_connection_that_may_only_read_is_said_to_be_enough_to_push_from_it(
    saved: Program, seaweedfs: S3Server, name: str
) -> None:
    prefix = uuid.uuid4().hex
    seaweedfs.client().put_object(Bucket=seaweedfs.bucket, Key=f"{prefix}/model.bin", Body=b"weights")
    where = f"{seaweedfs.bucket}/{prefix}"
    denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    with faulty(seaweedfs.url) as proxy:
        proxy.add("answer", strikes=lambda r: r.method not in {"GET", "HEAD"}, times=999, status=403, body=denied)
        flags = ["--provider", "s3", "--endpoint-url", proxy.url, "--access-key-id", seaweedfs.access_key_id]
        secret = {"LAB_SECRET": seaweedfs.secret_access_key}
        assert saved.run("storage", "create", name, *flags, "--secret-from", "env:LAB_SECRET", env=secret).code == 0
        checked = saved.run("storage", "check", name, where)
        assert (checked.code, checked.error) == (
            5,
            f"connection '{name}' failed 4 probes: put, multipart, abort, delete",
        )
        assert checked.hint == "it is enough to push from it; an export to it needs the rest"
        pushed = saved.run("checkpoint", "push", name, "--storage-provider", name, "--source-path", where, "--no-track")
        assert pushed.code == 0, pushed.err


@pytest.mark.parametrize("place", ["s3", "minio"], indirect=True)
def test_wrong_credentials_exit_with_5(saved: Program, place: Place, name: str) -> None:
    assert create(saved, name, place, **place.wrong).code == 0
    for arguments in (
        ["storage", "check", name, place.bucket],
        [
            "checkpoint",
            "push",
            "my-copy",
            "--storage-provider",
            name,
            "--source-path",
            f"{place.bucket}/x",
            "--no-track",
        ],
        ["checkpoint", "push", "my-copy", "--storage-provider", name, "--source-path", f"{place.bucket}/x"],
    ):
        done = saved.run(*arguments)
        assert done.code == 5, done.err
        assert done.error
        assert "canary" not in done.out + done.err


def test_a_token_that_google_refuses_exits_with_5(
    saved: Program, fake_gcs: GCSServer, tokens: TokenServer, name: str, tmp_path: Path
) -> None:
    tokens.refuses = True
    (tmp_path / "key.json").write_text(json.dumps(service_account_key(tokens.token_uri)))
    flags = ["--provider", "gcs", "--endpoint-url", fake_gcs.url, "--service-account-from", f"file:{tmp_path}/key.json"]
    assert saved.run("storage", "create", name, *flags).code == 0
    done = saved.run("storage", "check", name)
    assert (done.code, cells(done)) == (5, {"reach": "failed"})


def test_credentials_that_are_left_out_are_looked_for_where_the_connection_is_used(
    saved: Program, seaweedfs: S3Server, name: str
) -> None:
    assert saved.run("storage", "create", name, "--provider", "s3", "--endpoint-url", seaweedfs.url).code == 0
    assert saved.run("storage", "check", name).code == 5
    keys = {"AWS_ACCESS_KEY_ID": seaweedfs.access_key_id, "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key}
    assert saved.run("storage", "check", name, seaweedfs.bucket, env=keys).code == 0


def test_an_r2_connection_is_saved_for_the_accounts_endpoint(saved: Program, name: str) -> None:
    account = uuid.uuid4().hex
    flags = ["--provider", "r2", "--account-id", account, "--access-key-id", "a", "--secret-from", "-"]
    assert saved.run("storage", "create", name, *flags, input="canary\n").code == 0
    shown = saved.run("storage", "inspect", name)
    assert f"https://{account}.r2.cloudflarestorage.com" in shown.out
    assert "canary" not in shown.out


def test_a_repository_of_the_hub_is_checked_and_pushed(saved: Program, name: str) -> None:
    with serve_hub() as hub:
        _fill(hub)
        flags = ["--provider", "huggingface", "--endpoint-url", hub.endpoint, "--token-from", "env:HF_TOKEN"]
        created = saved.run("storage", "create", name, *flags, env={"HF_TOKEN": "hf_Canary"})
        assert created.code == 0, created.err
        checked = saved.run("storage", "check", name, "Qwen/Qwen2.5-72B")
        assert checked.code == 0, checked.err
        assert (cells(checked)["list"], cells(checked)["put"]) == ("passed", "absent")
        pushed = saved.run(
            "checkpoint",
            "push",
            "qwen25-72b",
            "--storage-provider",
            name,
            "--source-path",
            "Qwen/Qwen2.5-72B",
            "--json",
        )
        assert pushed.code == 0, pushed.err
        assert {file["path"] for file in pushed.json()["status"]["files"]} == {"config.json", "model.safetensors"}
        refused = saved.run(
            "checkpoint", "export", "qwen25-72b", "--storage-provider", name, "--destination-path", "Qwen/Qwen2.5-72B/x"
        )
        assert (refused.code, refused.error) == (2, "a Hugging Face repository is read-only here")
        assert saved.run("storage", "create", name, *flags, "--overwrite", env={"HF_TOKEN": "hf_Wrong"}).code == 0
        wrong = saved.run("storage", "check", name)
        assert wrong.code == 5
        assert "hf_" not in created.err + checked.out + pushed.err + wrong.out + wrong.err


def _fill(hub: Hub) -> None:
    hub.readers = {"hf_Canary": set()}
    hub.add("Qwen/Qwen2.5-72B", {"config.json": b"{}", "model.safetensors": HubFile(b"w" * 100_000, is_large=True)})


EXPORT = (
    "flexai checkpoint export 90c8f215-e131-4f9c-936c-12fe1fe9a6f1 --storage-provider aws-storage-conn-eu"
    " --destination-path my-bucket/checkpoints/mistral-train/"
)
PUSH = (
    "flexai checkpoint push mistral-500-checkpoint-s3 --storage-provider aws-storage-conn-eu"
    " --source-path my-bucket/checkpoints/mistral-train/"
)
PUSH_FILE = (
    "flexai checkpoint push mistral-15600 --storage-provider aws-storage-conn-eu"
    " --source-path my-bucket/checkpoints/mistral-train/ckpt_15600.pt"
)
"""The reference's lines; the last is put together of its flags' examples."""


def test_the_references_examples_work_as_written(saved: Program, seaweedfs: S3Server, fake_gcs: GCSServer) -> None:
    """Each example of the reference that names a storage provider, against two providers, one after the other."""
    _give_id(saved, _train(saved, "mistral"), EXPORT.split()[3])
    s3 = ["--provider", "s3", "--endpoint-url", seaweedfs.url, "--access-key-id", seaweedfs.access_key_id]
    gcs = ["--provider", "gcs", "--endpoint-url", fake_gcs.url, "--anonymous"]
    for server, flags in ((seaweedfs, [*s3, "--secret-from", "env:LAB_SECRET"]), (fake_gcs, gcs)):
        created = saved.run(
            "storage", "create", "aws-storage-conn-eu", *flags, env={"LAB_SECRET": seaweedfs.secret_access_key}
        )
        assert created.code == 0, created.err
        _fill_my_bucket(server)
        _run(saved, PUSH)
        _check_pushed(saved, f"{type(server).__name__}-files")
        pushed = _run(saved, f"{PUSH_FILE} --json").json()
        assert [file["path"] for file in pushed["status"]["files"]] == ["ckpt_15600.pt"]

        _empty_my_bucket(server)
        for name in ("mistral-500-checkpoint-s3", "mistral-15600"):
            _run(saved, f"flexai checkpoint delete {name}")
        _run(saved, EXPORT)
        _run(saved, PUSH)
        _check_pushed(saved, f"{type(server).__name__}-export")
        _run(saved, "flexai checkpoint delete mistral-500-checkpoint-s3")
        _run(saved, "flexai storage delete aws-storage-conn-eu")


def _check_pushed(program: Program, folder: str) -> None:
    """What the second line pushed is what is in the bucket, and says where it is from."""
    shown = program.run("checkpoint", "inspect", "mistral-500-checkpoint-s3", "--json").json()
    assert shown["status"]["status"] == "available"
    assert shown["spec"]["storageProvider"] == "aws-storage-conn-eu"
    assert shown["spec"]["sourcePath"] == "my-bucket/checkpoints/mistral-train/"
    connections = program.run("storage", "list", "--json").json()
    (connection,) = [one for one in connections if one["metadata"]["name"] == "aws-storage-conn-eu"]
    assert shown["status"]["storageProviderID"] == connection["metadata"]["id"]
    fetched = program.run("checkpoint", "fetch", "mistral-500-checkpoint-s3", "-d", folder, "--no-track")
    assert fetched.code == 0, fetched.err
    assert read_tree(program.cwd / folder) == FILES


def _empty_my_bucket(server: S3Server | GCSServer) -> None:
    """Take out what is in the reference's bucket."""
    if isinstance(server, S3Server):
        client = server.client()
        for item in client.list_objects_v2(Bucket="my-bucket").get("Contents", ()):
            client.delete_object(Bucket="my-bucket", Key=item["Key"])
        return
    place = f"{server.url}/storage/v1/b/my-bucket/o"
    for item in requests.get(place, timeout=30).json().get("items", ()):
        requests.delete(f"{place}/{quote(item['name'], safe='')}", timeout=30).raise_for_status()


def _fill_my_bucket(server: S3Server | GCSServer) -> None:
    """Make the reference's bucket, and bring files there as a user without this program would."""
    if isinstance(server, S3Server):
        server.client().create_bucket(Bucket="my-bucket")
    else:
        made = requests.post(f"{server.url}/storage/v1/b?project=lab", json={"name": "my-bucket"}, timeout=30)
        assert made.status_code == 200, made.text
    for path, content in FILES.items():
        key = f"checkpoints/mistral-train/{path}"
        if isinstance(server, S3Server):
            server.client().put_object(Bucket="my-bucket", Key=key, Body=content)
        else:
            place = f"{server.url}/upload/storage/v1/b/my-bucket/o"
            parameters = {"uploadType": "media", "name": key}
            requests.post(place, params=parameters, data=content, timeout=30).raise_for_status()


def _give_id(program: Program, checkpoint_id: str, wanted: str) -> None:
    """Let a checkpoint have the UUID that the reference prints: in its manifest, of which the catalog is made anew."""
    manifests = program.home / "store" / "manifests"
    document = (manifests / f"{checkpoint_id}.json").read_text()
    (manifests / f"{wanted}.json").write_text(document.replace(checkpoint_id, wanted))
    (manifests / f"{checkpoint_id}.json").unlink()
    for file in program.home.glob("catalog.db*"):
        file.unlink()
    _run(program, "flexai checkpoint recover")


def _run(program: Program, line: str) -> Done:
    done = program.run(*line.split()[1:])
    assert done.code == 0, done.err
    return done


def _train(program: Program, job: str) -> str:
    """Train; returns the UUID of the checkpoint that the job wrote."""
    folder = program.cwd / "written"
    for path, content in FILES.items():
        program.file(f"written/{path}", content)
    script = f'target="$FLEXAI_OUTPUT_CHECKPOINT_DIR/step-15600"; mkdir -p "$target" && cp {folder}/* "$target"'
    done = program.run("training", "run", job, "--no-track", "--", "sh", "-c", script)
    assert done.code == 0, done.err
    (row,) = program.run("training", "checkpoints", job, "--json").json()
    (found,) = re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", json.dumps(row.get("id", row)))
    return str(found)
