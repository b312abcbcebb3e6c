"""The servers that races run against: the sink in memory, and real ones, those of the tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.sink import Sink, build

BUCKET = "flexai-bench"
OTHER_BUCKET = "flexai-bench-two"
REGION = "us-east-1"
REAL = ("juicefs", "seaweedfs")
"""Real servers that speak S3."""


@dataclass(frozen=True)
class Load:
    """What a server had to do for one run; None for what it does not count."""

    cpu: float | None
    received: int | None = None
    sent: int | None = None
    requests: int | None = None
    span: float | None = None


class Server(Protocol):
    """A running server."""

    @property
    def name(self) -> str:
        """What it is."""

    @property
    def url(self) -> str:
        """Where it is."""

    def reset(self) -> None:
        """Begin counting."""

    def load(self) -> Load:
        """What has been counted."""


@dataclass(frozen=True)
class S3Server:
    """What clients of S3 need to know."""

    name: str
    url: str
    access_key_id: str
    secret_access_key: str
    meter: Server
    width: int = 8
    """How many connections peers use for a file: 32 where a network is what is waited for."""
    authority: Path | None = None
    """The certificate of the authority to trust, where it speaks TLS."""

    @property
    def part_mib(self) -> int:
        """MiB of a part: enough of them for each connection of a file of a gigabyte to have some."""
        return 512 // self.width

    @property
    def environment(self) -> dict[str, str]:
        """The SDKs' variables for it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "FLEXAI_BENCH_WIDTH": str(self.width),
            **({"AWS_CA_BUNDLE": str(self.authority), "SSL_CERT_FILE": str(self.authority)} if self.authority else {}),
        }

    def client(self) -> Any:
        """A plain boto3 client, for preparing and examining."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            verify=str(self.authority) if self.authority else None,
            config=Config(
                s3={"addressing_style": "path", "payload_signing_enabled": False},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                max_pool_connections=32,
            ),
        )


@dataclass(frozen=True)
class SinkMeter:
    """Asks the sink, which counts everything itself."""

    sink: Sink
    name: str = "sink"

    @property
    def url(self) -> str:
        return self.sink.url

    def reset(self) -> None:
        """Begin counting; its network is there while it counts, and what prepares and examines need not wait for it."""
        self.sink.network(True)
        self.sink.reset()

    def load(self) -> Load:
        """What has been counted."""
        stats = self.sink.stats()
        self.sink.network(False)
        return Load(
            cpu=stats["cpu_seconds"],
            received=stats["bytes_in"],
            sent=stats["bytes_out"],
            requests=sum(stats["requests"].values()),
            span=stats["span_seconds"],
        )


@dataclass
class ProcessMeter:
    """Counts the CPU time of a server that counts nothing itself."""

    name: str
    url: str
    process: int
    began: float = 0.0

    def reset(self) -> None:
        """Begin counting."""
        self.began = _cpu_seconds(self.process)

    def load(self) -> Load:
        """The CPU time since then."""
        return Load(cpu=_cpu_seconds(self.process) - self.began)


def _cpu_seconds(process: int) -> float:
    values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def sink(cache: Path, *network: str, tls: bool = False, width: int = 8) -> Iterator[S3Server]:
    """Run the sink, with options for its network; PeerMissingError where it cannot be compiled."""
    with tempfile.TemporaryDirectory(prefix="flexai-bench-") as folder:
        authority = None
        if tls:
            from tests.servers.certificates import Authority

            known = Authority(Path(folder))
            authority, certificate = known.bundle, str(known.certify("127.0.0.1"))
            network = (*network, "--tls", certificate, certificate)
        with Sink.start(build(cache, tls=tls), *network, authority=authority) as running:
            running.network(False)
            yield S3Server("sink", running.url, "bench", "benchsecret", SinkMeter(running), width, authority)


@contextmanager
def real_servers() -> Iterator[RealServers]:
    """Start what is asked for; all of it stops at the end."""
    from tests.servers.lease import Lease

    lease = Lease.begin()
    try:
        yield RealServers(lease)
    finally:
        lease.end()


class RealServers:
    """Servers that are started when they are asked for."""

    def __init__(self, lease: Any) -> None:
        """Start them under a lease of the tests' servers."""
        self._lease = lease

    def s3(self, name: str) -> S3Server:
        """A real server that speaks S3, with the races' two buckets."""
        from tests.servers.keeper import ACCESS_KEY_ID, SECRET_ACCESS_KEY

        meter = self.meter(name)
        server = S3Server(name, meter.url, ACCESS_KEY_ID, SECRET_ACCESS_KEY, meter)
        client = server.client()
        there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        for bucket in {BUCKET, OTHER_BUCKET} - there:
            client.create_bucket(Bucket=bucket)
        return server

    def gcs(self) -> ProcessMeter:
        """fake-gcs-server, with the races' bucket."""
        import requests

        meter = self.meter("fake_gcs")
        answer = requests.post(f"{meter.url}/storage/v1/b?project=bench", json={"name": BUCKET}, timeout=30)
        if answer.status_code not in {200, 409}:
            raise RuntimeError(f"fake-gcs-server makes no bucket: {answer.text[:200]}")
        return meter

    def prefect(self) -> ProcessMeter:
        """A Prefect server."""
        return self.meter("prefect")

    def meter(self, name: str) -> ProcessMeter:
        """A server by the name that the tests' keeper knows."""
        url = self._lease.server(name).url
        return ProcessMeter(name, url, _listener(int(url.rpartition(":")[2])))


def _listener(port: int) -> int:
    """The process that was told to listen on a port: its arguments name it."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(argument.endswith((b":%d" % port, b"=%d" % port)) for argument in arguments):
            return int(entry.name)
    raise RuntimeError(f"no process listens on port {port}")
