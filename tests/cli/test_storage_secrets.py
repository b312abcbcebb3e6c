"""Where a connection's secret is not: what the program prints, keeps or is called with, and what Prefect records."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.gateway import any_key_gateway
from tests.servers.hub import serve_hub
from tests.servers.prefect import PrefectServer
from tests.servers.proxy import faulty
from tests.servers.tokens import serve_tokens, service_account_key

CANARY = "cAnArY0123456789secret"


@dataclass
class Provider:
    """A provider that takes the canary for what it wants."""

    flags: list[str]
    source: str
    """Where something lies that can be pushed."""
    destination: str
    """Where an export can go; empty where none can."""
    secrets: list[str]
    input: str
    """What is typed when the secret is asked for."""


@pytest.fixture(params=["s3", "gcs", "huggingface"])
def provider(request: pytest.FixtureRequest, seaweedfs: S3Server, fake_gcs: GCSServer) -> Iterator[Provider]:
    """One for each kind of credential; MinIO and R2 have those of S3."""
    bucket, prefix = seaweedfs.bucket, uuid.uuid4().hex
    kind = ["--provider", request.param]
    with ExitStack() as stack:
        if request.param == "s3":
            gateway = stack.enter_context(any_key_gateway(seaweedfs))
            seaweedfs.client().put_object(Bucket=bucket, Key=f"{prefix}/in/model.bin", Body=b"content")
            flags = [*kind, "--endpoint-url", gateway.url, "--access-key-id", "anybody", "--secret-from", "-"]
            yield Provider(flags, f"{bucket}/{prefix}/in", f"{bucket}/{prefix}/out", [CANARY], CANARY)
        elif request.param == "gcs":
            tokens = stack.enter_context(serve_tokens())
            key = service_account_key(tokens.token_uri, private_key_id=CANARY)
            secrets = [CANARY, *str(key["private_key"]).splitlines()[1:3]]
            flags = [*kind, "--endpoint-url", fake_gcs.url, "--service-account-from", "-"]
            place = f"{fake_gcs.bucket}/{prefix}"
            yield Provider(flags, f"{place}/out", f"{place}/out", [*secrets, "canary-token"], json.dumps(key))
        else:
            hub = stack.enter_context(serve_hub())
            hub.readers = {f"hf_{CANARY}": {"org/private"}}
            hub.add("org/private", {"model.bin": b"content"}, is_private=True)
            flags = [*kind, "--endpoint-url", hub.endpoint, "--token-from", "-"]
            yield Provider(flags, "org/private", "", [CANARY], f"hf_{CANARY}")


@pytest.mark.slow
def test_a_secret_that_works_is_neither_printed_nor_kept_nor_recorded(
    program: Program, prefect_server: PrefectServer, provider: Provider
) -> None:
    program.environment |= {
        "PREFECT_API_URL": prefect_server.api_url,
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "GOOGLE_AUTH_TRUST_BOUNDARY_ENABLED": "false",
    }
    name, mine = (f"{word}-{uuid.uuid4().hex[:12]}" for word in ("conn", "model"))
    program.file("model.bin", b"content")
    through = ["--storage-provider", name]
    commands = [
        ["storage", "create", name, *provider.flags],
        ["storage", "check", name, provider.source],
        ["storage", "inspect", name, "--json"],
        ["checkpoint", "push", f"{mine}-2", *through, "--source-path", provider.source],
    ]
    if provider.destination:
        export = ["checkpoint", "export", mine, *through, "--destination-path", provider.destination]
        commands[1:1] = [["checkpoint", "push", mine, "-f", "model.bin", "--no-track"], export]
    with watched_processes() as shown:
        for arguments in commands:
            done = program.run("--debug", *arguments, input=provider.input if "create" in arguments else "")
            assert done.code == 0, done.err
            assert [secret for secret in provider.secrets if secret in done.out + done.err] == []
            if "inspect" in arguments and name in arguments:
                assert "passed" in done.json()["status"]["capabilities"].values()
    kept = [file for file in program.home.rglob("*") if file.is_file()]
    assert any(name.encode() in file.read_bytes() for file in kept)
    for secret in provider.secrets:
        assert [file for file in kept if secret.encode() in file.read_bytes()] == []
        assert prefect_server.database_holds(secret) == []
        assert not any(secret in line for line in shown)
    # The search finds what is there.
    assert {"artifact", "events", "flow_run", "log"} & set(prefect_server.database_holds(mine))
    assert any(name in line for line in shown)


@contextmanager
def watched_processes() -> Iterator[set[str]]:
    """The command lines of all processes of the machine, as often as they can be looked at."""
    shown: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    shown.add(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue  # it has just ended

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield shown
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
def test_a_secret_is_neither_printed_nor_kept_nor_recorded(
    program: Program, prefect_server: PrefectServer, seaweedfs: S3Server, tmp_path: Path
) -> None:
    program.environment |= {"PREFECT_API_URL": prefect_server.api_url, "PREFECT_LOGGING_LEVEL": "DEBUG"}
    name = f"conn-{uuid.uuid4().hex[:12]}"
    (tmp_path / "secret").write_text(CANARY)
    flags = ["--endpoint-url", seaweedfs.url, "--access-key-id", seaweedfs.access_key_id]
    path = f"{seaweedfs.bucket}/{uuid.uuid4().hex}"
    program.file("model.bin", b"content")
    provider = ["--storage-provider", name]
    for code, arguments in (
        (0, ["storage", "create", name, "--provider", "s3", *flags, "--secret-from", f"file:{tmp_path}/secret"]),
        (0, ["storage", "list", "--json"]),
        (0, ["storage", "inspect", name]),
        (5, ["storage", "check", name, path]),
        (5, ["checkpoint", "push", "from-provider", *provider, "--source-path", path]),
        (5, ["checkpoint", "push", "from-provider", *provider, "--source-path", path, "--no-track"]),
        (0, ["checkpoint", "push", "my-model", "-f", "model.bin"]),
        (5, ["checkpoint", "export", "my-model", *provider, "--destination-path", path]),
    ):
        done = program.run("--debug", *arguments)
        assert CANARY not in done.out + done.err
        assert done.code == code, done.err
    for file in program.home.rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes(), file
    # Prefect keeps the block's own document encrypted.
    assert prefect_server.database_holds(CANARY) == []


def test_a_secret_is_no_part_of_what_ps_shows(
    program: Program, prefect_server: PrefectServer, seaweedfs: S3Server
) -> None:
    program.environment |= {"PREFECT_API_URL": prefect_server.api_url}
    name = f"conn-{uuid.uuid4().hex[:12]}"
    with faulty(seaweedfs.url) as proxy:
        flags = ["--endpoint-url", proxy.url, "--access-key-id", "a", "--secret-from", "env:LAB_SECRET"]
        created = program.run("storage", "create", name, "--provider", "s3", *flags, env={"LAB_SECRET": CANARY})
        assert created.code == 0, created.err
        proxy.add("stall", times=1000)
        arguments = ["--storage-provider", name, "--source-path", f"{seaweedfs.bucket}/x", "--no-track"]
        with program.start("checkpoint", "push", "my-model", *arguments, start_new_session=True) as running:
            while not proxy.requests and running.poll() is None:
                time.sleep(0.05)
            shown = _command_lines(running.pid)
            running.kill()
    assert any("push" in line for line in shown)
    assert not any(CANARY in line for line in shown)


def _command_lines(session: int) -> list[str]:
    """The command lines of the processes of a session."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (OSError, IndexError):
            continue  # it has just ended
    return found
