"""A gigabyte through a network that breaks all the time, and a permission that is taken away in the middle."""

from __future__ import annotations

import json
import random
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from blake3 import blake3

from tests.cli.program import Program
from tests.servers.fixtures import S3Server
from tests.servers.prefect import PrefectServer
from tests.servers.storm import Kind, StormProxy, forecast

pytestmark = pytest.mark.slow

MIB = 1024**2
PART = 16 * MIB
SMALL_PART = 5 * MIB
"""The least that S3 takes for a part which is not the last."""
DENIED_PARTS = 24
THREADS = 8
# Manifests, listings, the answers to requests without content.
DOCUMENTS = MIB
SEED = 20_260_101


@pytest.fixture
def bucket(seaweedfs: S3Server) -> Iterator[str]:
    """A bucket of the test's own: with it goes what lies in it, a gigabyte."""
    name = f"storm-{uuid.uuid4().hex[:12]}"
    with closing(seaweedfs.client()) as client:
        client.create_bucket(Bucket=name)
        yield name
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=name, Key=item["Key"])
        client.delete_bucket(Bucket=name)


@pytest.fixture
def stormy(program: Program, bucket: str, seaweedfs: S3Server) -> Iterator[StormProxy]:
    """A proxy, calm at first, between the program and the bucket that its store is in."""
    with StormProxy(seaweedfs.url, lambda _: None) as proxy:
        program.environment |= {
            "AWS_ACCESS_KEY_ID": seaweedfs.access_key_id,
            "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key,
            "AWS_ENDPOINT_URL": proxy.url,
            "FLEXAI_STORE": f"s3://{bucket}",
            "FLEXAI_PART_SIZE": f"{PART}",
            "FLEXAI_CONCURRENCY": f"{THREADS}",
        }
        yield proxy


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where large files lie, until the end of the test only."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as path:
        yield Path(path)


def make_shards(folder: Path, *, shards: int, size: int) -> dict[str, str]:
    """Write files of which no two pieces are alike; returns their digests."""
    folder.mkdir()
    noise = bytearray(random.Random(SEED).randbytes(MIB))
    for number in range(shards):
        with (folder / f"model-{number + 1:05}-of-{shards:05}.safetensors").open("wb") as file:
            for piece in range(size // MIB):
                noise[:16] = number.to_bytes(8) + piece.to_bytes(8)
                file.write(noise)
    return digests(folder)


def digests(folder: Path) -> dict[str, str]:
    """The digest of every file of a folder, hidden ones included."""
    return {
        path.name: blake3(max_threads=2).update_mmap(path).hexdigest() for path in folder.iterdir() if path.is_file()
    }


def denying(first: int) -> Callable[[int], Kind | None]:
    """Every request from the first on is denied."""
    return lambda number: "deny" if number >= first else None


def test_a_gigabyte_of_shards_arrives_whole_through_storms_both_ways(
    program: Program, stormy: StormProxy, folder: Path
) -> None:
    shards, size = 8, 128 * MIB
    parts = shards * size // PART
    written = make_shards(folder / "llama", shards=shards, size=size)
    plan = forecast(SEED, each=4, calm=30)
    # What is only held needs not be sent again.
    again = sum(kind != "delay" for kind in plan.values())

    stormy.reset(plan.get)
    pushed = program.run("checkpoint", "push", "llama", "-f", str(folder / "llama"), "--no-track")
    assert pushed.code == 0, pushed.err
    assert stormy.struck == Counter(plan.values())
    assert len(stormy.requests) == parts + again
    assert shards * size <= stormy.received <= shards * size + again * PART + DOCUMENTS

    # Parts that come fast come several by one request, so that fewer may pass in peace.
    stormy.reset(forecast(SEED + 1, each=4, calm=4).get)
    fetched = program.run("checkpoint", "fetch", "llama", "-d", str(folder / "out"), "--no-track")
    assert fetched.code == 0, fetched.err
    assert stormy.struck == Counter(plan.values())
    assert again < len(stormy.requests) <= parts + again
    # An answer that is cut goes on where it stopped.
    assert shards * size <= stormy.delivered <= shards * size + DOCUMENTS
    assert digests(folder / "out") == written


def test_a_push_that_is_denied_in_the_middle_stops_at_once_and_goes_on_when_it_may(
    program: Program, stormy: StormProxy, folder: Path
) -> None:
    parts = DENIED_PARTS
    program.environment["FLEXAI_PART_SIZE"] = f"{SMALL_PART}"
    written = make_shards(folder / "llama", shards=4, size=parts * SMALL_PART // 4)
    push = ["checkpoint", "push", "llama", "-f", str(folder / "llama"), "--no-track"]
    stormy.reset(denying(first=10))
    denied = program.run(*push)
    assert (denied.code, "s3:PutObject is denied" in denied.error) == (5, True), denied.err
    assert stormy.later < THREADS
    arrived = stormy.passed
    assert 0 < arrived < 10
    assert program.run("checkpoint", "fetch", "llama", "-d", str(folder / "early"), "--no-track").code == 4
    assert not (folder / "early").exists()

    stormy.reset(lambda _: None)
    assert program.run("checkpoint", "verify").code == 0
    stormy.reset(lambda _: None)
    assert program.run(*push).code == 0
    assert len(stormy.requests) == parts - arrived
    assert stormy.received <= (parts - arrived) * SMALL_PART + DOCUMENTS
    assert program.run("checkpoint", "fetch", "llama", "-d", str(folder / "out"), "--no-track").code == 0
    assert digests(folder / "out") == written


def test_a_fetch_that_is_denied_in_the_middle_stops_at_once_and_goes_on_when_it_may(
    program: Program, stormy: StormProxy, folder: Path
) -> None:
    parts = DENIED_PARTS
    program.environment["FLEXAI_PART_SIZE"] = f"{SMALL_PART}"
    written = make_shards(folder / "llama", shards=4, size=parts * SMALL_PART // 4)
    assert program.run("checkpoint", "push", "llama", "-f", str(folder / "llama"), "--no-track").code == 0
    fetch = ["checkpoint", "fetch", "llama", "-d", str(folder / "out"), "--no-track"]
    stormy.reset(denying(first=16))
    denied = program.run(*fetch)
    assert (denied.code, "s3:GetObject is denied" in denied.error) == (5, True), denied.err
    assert stormy.later < THREADS
    arrived = stormy.passed
    assert 0 < arrived < 16
    # What has its name is whole.
    finished = {name: digest for name, digest in digests(folder / "out").items() if name in written}
    assert finished.items() <= written.items()

    stormy.reset(lambda _: None)
    assert program.run(*fetch).code == 0
    # What was in hand when it stopped may come again.
    assert len(stormy.requests) <= parts - arrived + THREADS
    assert stormy.delivered <= len(stormy.requests) * SMALL_PART + DOCUMENTS
    assert digests(folder / "out") == written


@pytest.fixture
def stormy_provider(
    program: Program, bucket: str, seaweedfs: S3Server, prefect_server: PrefectServer
) -> Iterator[StormProxy]:
    """A proxy, calm at first, behind a connection that has the bucket's name; the store is in the home folder."""
    with StormProxy(seaweedfs.url, lambda _: None) as proxy:
        program.environment |= {
            "PREFECT_API_URL": prefect_server.api_url,
            "FLEXAI_PART_SIZE": f"{SMALL_PART}",
            "FLEXAI_CONCURRENCY": f"{THREADS}",
        }
        created = program.run(
            *["storage", "create", bucket, "--provider", "minio", "--endpoint-url", proxy.url],
            *["--access-key-id", seaweedfs.access_key_id, "--secret-from", "-"],
            input=seaweedfs.secret_access_key,
        )
        assert created.code == 0, created.err
        yield proxy


def exported(server: S3Server, bucket: str) -> tuple[dict[str, str], bool]:
    """The digests of what lies in the folder ``out`` of a bucket, and whether it says that it is all there."""
    with closing(server.client()) as client:
        found = {
            item["Key"].removeprefix("out/"): client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            for item in client.list_objects_v2(Bucket=bucket)["Contents"]
        }
    manifest = json.loads(found.pop("flexai-manifest.json"))
    return {name: blake3(content).hexdigest() for name, content in found.items()}, manifest["complete"]


def test_an_export_arrives_whole_through_storms(
    program: Program, stormy_provider: StormProxy, bucket: str, seaweedfs: S3Server, folder: Path
) -> None:
    parts = DENIED_PARTS
    written = make_shards(folder / "llama", shards=4, size=parts * SMALL_PART // 4)
    assert program.run("checkpoint", "push", "llama", "-f", str(folder / "llama"), "--no-track").code == 0
    plan = forecast(SEED, each=2, calm=20)
    stormy_provider.reset(plan.get)
    done = program.run(*_export(bucket))
    assert done.code == 0, done.err
    assert stormy_provider.struck == Counter(plan.values())
    assert len(stormy_provider.requests) == parts + sum(kind != "delay" for kind in plan.values())
    assert exported(seaweedfs, bucket) == (written, True)


def test_an_export_that_is_denied_in_the_middle_stops_at_once_and_goes_on_when_it_may(
    program: Program, stormy_provider: StormProxy, bucket: str, seaweedfs: S3Server, folder: Path
) -> None:
    shards, parts = 4, DENIED_PARTS
    written = make_shards(folder / "llama", shards=shards, size=parts * SMALL_PART // shards)
    assert program.run("checkpoint", "push", "llama", "-f", str(folder / "llama"), "--no-track").code == 0
    stormy_provider.reset(denying(first=16))
    denied = program.run(*_export(bucket))
    assert (denied.code, "s3:PutObject is denied" in denied.error) == (5, True), denied.err
    # The uploads that were under way are given up.
    assert stormy_provider.later < THREADS + shards
    assert stormy_provider.passed < 16
    arrived, is_complete = exported(seaweedfs, bucket)
    assert arrived.items() <= written.items()
    assert not is_complete

    stormy_provider.reset(lambda _: None)
    assert program.run(*_export(bucket)).code == 0
    # What is there is read, to be compared, and not sent.
    sent = Counter(request.method for request in stormy_provider.requests)["PUT"]
    assert sent == (shards - len(arrived)) * parts // shards
    assert exported(seaweedfs, bucket) == (written, True)


def _export(bucket: str) -> list[str]:
    place = ["--storage-provider", bucket, "--destination-path", f"{bucket}/out"]
    return ["checkpoint", "export", "llama", *place, "--no-track"]
