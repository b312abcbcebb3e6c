"""google-cloud-storage as a client: ``gcs_client.py WAY FILE BUCKET KEY``; the server is STORAGE_EMULATOR_HOST.

Ways up: ``up`` (upload_from_filename as it is), ``up-compose`` (the file's parts as objects by transfer_manager's
upload_many, composed: emulators do not know the XML API of upload_chunks_concurrently). Ways down: ``down``,
``down-threads`` and ``down-processes`` (transfer_manager's download_chunks_concurrently).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO, Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage import transfer_manager
from requests.adapters import HTTPAdapter

PART = 64 * 1024**2


class Slice:
    """A range of a file, as a file to be read."""

    def __init__(self, path: str, start: int, length: int) -> None:
        self.file: IO[bytes] = open(path, "rb")  # noqa: SIM115, PTH123 - it lives as long as its upload
        self.start, self.length = start, length
        self.file.seek(start)

    def read(self, size: int = -1) -> bytes:
        left = self.start + self.length - self.file.tell()
        return self.file.read(left if size < 0 else min(size, left))

    def tell(self) -> int:
        return self.file.tell() - self.start

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self.tell(), 2: self.length}[whence]
        return self.file.seek(self.start + base + offset) - self.start


def main(way: str, path: str, bucket_name: str, key: str) -> None:
    """Move the file."""
    client = storage.Client(
        project="bench",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]  # Google tells no types
        client_options={"api_endpoint": os.environ["STORAGE_EMULATOR_HOST"]},
    )
    client._http.mount("http://", HTTPAdapter(pool_maxsize=32))
    bucket = client.bucket(bucket_name)
    blob = bucket.blob(key)
    threads: dict[str, Any] = {"worker_type": transfer_manager.THREAD, "max_workers": 4}
    if way == "up":
        blob.upload_from_filename(path)
    elif way == "up-compose":
        size = Path(path).stat().st_size
        starts = range(0, size, PART)
        parts = [bucket.blob(f"{key}.part{number:05}") for number in range(len(starts))]
        slices = [Slice(path, start, min(PART, size - start)) for start in starts]
        transfer_manager.upload_many(list(zip(slices, parts, strict=True)), raise_exception=True, **threads)
        blob.compose(parts)
        bucket.delete_blobs(parts)
    elif way == "down":
        blob.download_to_filename(path)
    else:
        blob.reload()
        kind = {"worker_type": transfer_manager.PROCESS, "max_workers": 2} if way == "down-processes" else threads
        transfer_manager.download_chunks_concurrently(blob, path, chunk_size=PART, **kind)


if __name__ == "__main__":
    main(*sys.argv[1:])
