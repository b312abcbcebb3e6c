"""Where a connection's secret is not: what the program prints, keeps or is called with, and what Prefect records."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from tests.cli.program import Program
from tests.servers.fixtures import S3Server
from tests.servers.prefect import PrefectServer
from tests.servers.proxy import faulty

CANARY = "cAnArY0123456789secret"


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
