"""The files that are raced with, and whether they arrived."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blake3 import blake3

from benchmarks.race import WrongError

_BLOCK = 1024**2


def write_file(path: Path, size: int, *, seed: int = 0) -> None:
    """Write bytes that do not compress and do not repeat, the same for a seed on every machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = blake3(f"{path.name} {seed}".encode())
    with path.open("wb") as file:
        for at in range(0, size, _BLOCK):
            file.write(stream.digest(length=min(_BLOCK, size - at), seek=at))


def write_shards(folder: Path, count: int, size: int) -> Path:
    """A checkpoint of ``count`` files of ``size`` bytes each."""
    if count == 1:
        write_file(folder / "weights.safetensors", size)
    for number in range(count if count > 1 else 0):
        write_file(folder / f"weights-{number + 1:05}-of-{count:05}.safetensors", size)
    return folder


def write_small(folder: Path, count: int, size: int) -> Path:
    """A dataset of many files, a hundred to a folder."""
    for number in range(count):
        write_file(folder / f"{number // 100:04}" / f"sample-{number:06}.bin", size)
    return folder


def digest_file(path: Path) -> str:
    """The BLAKE3 of a file."""
    digest = blake3()
    block = bytearray(_BLOCK)
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(block):
            digest.update(memoryview(block)[:read])
    return digest.hexdigest()


def digest_tree(folder: Path) -> dict[str, str]:
    """The digest of each file by its path below the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(2) as threads:
        digests = threads.map(digest_file, paths)
        return {path.relative_to(folder).as_posix(): digest for path, digest in zip(paths, digests, strict=True)}


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def compare(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """WrongError where paths or digests differ."""
    if expected == found:
        return
    missing, strange = expected.keys() - found.keys(), found.keys() - expected.keys()
    other = [path for path in expected.keys() & found.keys() if expected[path] != found[path]]
    raise WrongError(f"{len(missing)} files are missing, {len(strange)} are not expected, {len(other)} differ")


def digest_objects(client: Any, bucket: str, prefix: str) -> dict[str, str]:
    """The digest of each object by its key below the prefix."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def digest(key: str) -> str:
        found = blake3()
        block = bytearray(_BLOCK)
        with client.get_object(Bucket=bucket, Key=key)["Body"] as body:
            while read := body.readinto(block):
                found.update(memoryview(block)[:read])
        return found.hexdigest()

    with ThreadPoolExecutor(4) as threads:
        return {key[len(prefix) :]: found for key, found in zip(keys, threads.map(digest, keys), strict=True)}


def compare_contents(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """WrongError where a content is missing; for clients that name what they store as they like, and add to it."""
    missing = Counter(set(expected.values())) - Counter(set(found.values()))
    if missing:
        raise WrongError(f"the content of {missing.total()} files did not arrive")


def upload(client: Any, folder: Path, bucket: str, prefix: str) -> None:
    """Put files where clients are to fetch them."""
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(max_concurrency=4, multipart_chunksize=64 * 1024**2, preferred_transfer_client="classic")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = f"{prefix}{path.relative_to(folder).as_posix()}"
            client.upload_file(str(path), bucket, key, Config=config)


def delete_below(client: Any, bucket: str, prefix: str) -> None:
    """Delete every object below a prefix, one by one: not every server knows how to delete many."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            client.delete_object(Bucket=bucket, Key=entry["Key"])


def empty(folder: Path) -> Path:
    """Make a folder, or make it anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def roomy_folder(needed: int) -> Path | None:
    """Memory to keep files in where there is enough of it, so that the disk does not decide; None elsewhere."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return None
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    room = os.statvfs(shared)
    return shared if min(room.f_bavail * room.f_frsize, available) > needed else None
