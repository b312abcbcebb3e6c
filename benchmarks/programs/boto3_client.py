"""boto3 as a client: ``boto3_client.py (push|fetch) (plain|tuned) FOLDER BUCKET PREFIX``.

The endpoint is in the environment.

Plain: ``upload_file`` and ``download_file`` as they are, eight files at a time. Tuned: large parts, large blocks, no
signature over the bodies, and single requests for small files.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

SMALL = 8 * 1024**2


def client(tuned: bool) -> Any:
    """A client of one kind."""
    style = {"addressing_style": "path"}
    if tuned:
        return boto3.client(
            "s3", config=Config(s3={**style, "payload_signing_enabled": False}, max_pool_connections=32)
        )
    return boto3.client("s3", config=Config(s3=style))


def main(verb: str, kind: str, root: str, bucket: str, prefix: str) -> None:
    """Move a folder."""
    tuned = kind == "tuned"
    s3 = client(tuned)
    config = TransferConfig()
    if tuned:
        config = TransferConfig(
            max_concurrency=8, multipart_chunksize=64 * 1024**2, multipart_threshold=64 * 1024**2, io_chunksize=1024**2
        )
    folder = Path(root)

    def push(path: Path) -> None:
        key = prefix + path.relative_to(folder).as_posix()
        if tuned and path.stat().st_size < SMALL:
            s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
        else:
            s3.upload_file(str(path), bucket, key, Config=config)

    def fetch(entry: tuple[str, int]) -> None:
        key, size = entry
        path = folder / key[len(prefix) :]
        path.parent.mkdir(parents=True, exist_ok=True)
        if tuned and size < SMALL:
            path.write_bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        else:
            s3.download_file(bucket, key, str(path), Config=config)

    if verb == "push":
        work: list[Any] = [path for path in folder.rglob("*") if path.is_file()]
        sizes = [path.stat().st_size for path in work]
    else:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        work = [(entry["Key"], entry["Size"]) for page in pages for entry in page.get("Contents", [])]
        sizes = [size for _, size in work]
    # A tuned client moves large files one after the other, since each has eight parts under way already.
    threads = 8 if not tuned else 4 if max(sizes, default=0) < SMALL else 1
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(push if verb == "push" else fetch, work))


if __name__ == "__main__":
    main(*sys.argv[1:])
