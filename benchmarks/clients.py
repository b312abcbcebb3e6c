"""The clients of S3 that are raced: how each is told to push a folder, and to fetch it again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Cost, run
from benchmarks.peers import Environment, environment
from benchmarks.servers import BUCKET, S3Server
from benchmarks.sources import empty

PROGRAMS = Path(__file__).parent / "programs"
DVC_DATA = "data"
"""The folder that dvc keeps track of, in its working folder."""


@dataclass(frozen=True)
class Client:
    """A peer."""

    name: str
    installed_as: str
    push: Callable[[Environment, S3Server, Path, str], list[str]]
    """The command that puts a folder's files below a prefix."""
    fetch: Callable[[Environment, S3Server, str, Path], list[str]]
    """The command that gets them into a folder."""
    renames: bool = False
    """It names what it stores by its own rules."""
    prepare: Callable[[Environment, S3Server, Path, Path, str], None] | None = None
    """Makes what a push needs in its working folder."""
    forget: Callable[[Path], None] | None = None
    """Makes the working folder of a push one that is to fetch what was pushed."""


def _program(name: str, *arguments: str) -> Callable[[Environment], list[str]]:
    return lambda home: [home.python, str(PROGRAMS / name), *arguments]


def _s5cmd(home: Environment, server: S3Server, source: str, target: str) -> list[str]:
    # 256 workers by default: what many small files want. Parts as the others have them.
    command = [home.program("s5cmd"), "--endpoint-url", server.url, "cp", "--concurrency", str(server.width)]
    return [*command, "--part-size", str(server.part_mib), source, target]


def _rclone(home: Environment, server: S3Server, source: str, target: str) -> list[str]:
    return [
        home.program("rclone"),
        "copy",
        f"--config={os.devnull}",
        "--s3-provider=Other",
        "--s3-env-auth",
        f"--s3-endpoint={server.url}",
        f"--s3-region={server.environment['AWS_REGION']}",
        "--s3-no-check-bucket",
        f"--s3-chunk-size={server.part_mib}M",
        f"--s3-upload-concurrency={server.width}",
        f"--multi-thread-streams={server.width}",
        f"--multi-thread-cutoff={server.part_mib}M",
        f"--multi-thread-chunk-size={server.part_mib}M",
        "--transfers=16",
        "--checkers=16",
        source,
        target,
    ]


def _awscli(home: Environment, source: str, target: str) -> list[str]:
    return [home.program("aws"), "s3", "cp", "--recursive", "--only-show-errors", source, target]


def _prepare_dvc(home: Environment, server: S3Server, work: Path, source: Path, prefix: str) -> None:
    dvc = home.program("dvc")
    steps = [
        ["init", "--no-scm", "--quiet"],
        ["config", "core.analytics", "false"],
        ["remote", "add", "--default", "bench", f"s3://{BUCKET}/{prefix}"],
        ["remote", "modify", "bench", "endpointurl", server.url],
    ]
    for step in steps:
        run([dvc, *step], _dvc_environment(work), cwd=work)
    (work / "aws").touch()
    # Files of the workspace, as a user has them; linked, because their bytes must not be written anew for each run.
    shutil.copytree(source, work / DVC_DATA, copy_function=os.link)


def _forget_dvc(work: Path) -> None:
    for folder in (work / DVC_DATA, work / ".dvc" / "cache", work / ".dvc" / "tmp", work / "dvc"):
        shutil.rmtree(folder, ignore_errors=True)


def _dvc_environment(work: Path) -> dict[str, str]:
    return {
        "DVC_GLOBAL_CONFIG_DIR": str(work / "dvc"),
        "DVC_SYSTEM_CONFIG_DIR": str(work / "dvc"),
        # What it remembers of files and of remotes, from one run to the next otherwise.
        "DVC_SITE_CACHE_DIR": str(work / "dvc"),
        "DVC_NO_ANALYTICS": "1",
        # It wants the file to be one.
        "AWS_CONFIG_FILE": str(work / "aws"),
        "AWS_SHARED_CREDENTIALS_FILE": str(work / "aws"),
    }


def _boto3(kind: str) -> Client:
    return Client(
        f"boto3 {kind}",
        "boto3",
        lambda home, server, folder, prefix: (
            [*_program("boto3_client.py", "push", kind)(home), str(folder), BUCKET, prefix]
        ),
        lambda home, server, prefix, folder: (
            [*_program("boto3_client.py", "fetch", kind)(home), str(folder), BUCKET, prefix]
        ),
    )


S5CMD = Client(
    "s5cmd",
    "s5cmd",
    lambda home, server, folder, prefix: _s5cmd(home, server, f"{folder}/", f"s3://{BUCKET}/{prefix}"),
    lambda home, server, prefix, folder: _s5cmd(home, server, f"s3://{BUCKET}/{prefix}*", f"{folder}/"),
)
RCLONE = Client(
    "rclone",
    "rclone",
    lambda home, server, folder, prefix: _rclone(home, server, str(folder), f":s3:{BUCKET}/{prefix}"),
    lambda home, server, prefix, folder: _rclone(home, server, f":s3:{BUCKET}/{prefix}", str(folder)),
)
BOTO3_PLAIN = _boto3("plain")
BOTO3_TUNED = _boto3("tuned")
OBSTORE = Client(
    "obstore",
    "obstore",
    lambda home, server, folder, prefix: [*_program("obstore_client.py", "push")(home), str(folder), BUCKET, prefix],
    lambda home, server, prefix, folder: [*_program("obstore_client.py", "fetch")(home), str(folder), BUCKET, prefix],
)
AWSCLI = Client(
    "aws cli",
    "awscli",
    lambda home, server, folder, prefix: _awscli(home, str(folder), f"s3://{BUCKET}/{prefix}"),
    lambda home, server, prefix, folder: _awscli(home, f"s3://{BUCKET}/{prefix}", str(folder)),
)
MLFLOW = Client(
    "mlflow",
    "mlflow",
    lambda home, server, folder, prefix: [*_program("mlflow_client.py", "push")(home), str(folder), BUCKET, prefix],
    lambda home, server, prefix, folder: [*_program("mlflow_client.py", "fetch")(home), str(folder), BUCKET, prefix],
)
DVC = Client(
    "dvc",
    "dvc",
    # `dvc push` moves what `dvc add` has digested and put into its cache: a user needs both.
    lambda home, server, folder, prefix: [
        "sh",
        "-c",
        '"$1" add "$2" && "$1" push',
        "sh",
        home.program("dvc"),
        DVC_DATA,
    ],
    lambda home, server, prefix, folder: [home.program("dvc"), "pull", "--quiet"],
    renames=True,
    prepare=_prepare_dvc,
    forget=_forget_dvc,
)
CLIENTS = (S5CMD, RCLONE, BOTO3_PLAIN, BOTO3_TUNED, OBSTORE, AWSCLI)
DATASET_CLIENTS = (*CLIENTS, DVC, MLFLOW)


@dataclass(frozen=True)
class Ready:
    """A client that is installed, at a server."""

    client: Client
    home: Environment
    server: S3Server

    @classmethod
    def install(cls, client: Client, cache: Path, server: S3Server) -> Ready:
        """Install it if need be; PeerMissingError where it cannot be had."""
        return cls(client, environment(client.installed_as, cache), server)

    def prepare_push(self, work: Path, source: Path, prefix: str) -> None:
        """Make an empty working folder, with what the client needs in it."""
        empty(work)
        if self.client.prepare:
            self.client.prepare(self.home, self.server, work, source, prefix)

    def push(self, work: Path, folder: Path, prefix: str) -> Cost:
        """Push a folder."""
        return run(self.client.push(self.home, self.server, folder, prefix), self.environment(work), cwd=work)

    def fetch(self, prefix: str, folder: Path) -> Cost:
        """Fetch into a folder, in its parent folder."""
        command = self.client.fetch(self.home, self.server, prefix, folder)
        return run(command, self.environment(folder.parent), cwd=folder.parent)

    def environment(self, work: Path) -> Mapping[str, str]:
        return {
            **self.server.environment,
            **(_dvc_environment(work) if self.client is DVC else {}),
            "MLFLOW_S3_ENDPOINT_URL": self.server.url,
            "HOME": str(work),
        }
