"""obstore as a client: ``obstore_client.py (push|fetch) FOLDER BUCKET PREFIX``; the endpoint is in the environment.

Parts of 16 MiB, eight at a time; small files by sixteen threads; no signature over the bodies.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore  # type: ignore[import-not-found, unused-ignore]
from obstore.store import S3Store  # type: ignore[import-not-found, unused-ignore]

PART = 16 * 1024**2


def main(verb: str, root: str, bucket: str, prefix: str) -> None:
    """Move a folder."""
    store = S3Store(
        bucket,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        region=os.environ["AWS_REGION"],
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        virtual_hosted_style_request=False,
        unsigned_payload=True,
        client_options={"allow_http": True},
    )
    folder = Path(root)

    def push(path: Path) -> None:
        obstore.put(store, prefix + path.relative_to(folder).as_posix(), path, chunk_size=PART, max_concurrency=8)

    def fetch(part: tuple[str, int, int]) -> None:
        key, start, end = part
        data = obstore.get_range(store, key, start=start, end=end)
        file = os.open(folder / key[len(prefix) :], os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(file, data, start)
        finally:
            os.close(file)

    if verb == "push":
        paths = [path for path in folder.rglob("*") if path.is_file()]
        large = any(path.stat().st_size > PART for path in paths)
        with ThreadPoolExecutor(1 if large else 16) as pool:
            list(pool.map(push, paths))
        return
    parts = []
    for page in obstore.list(store, prefix):
        for entry in page:
            (folder / entry["path"][len(prefix) :]).parent.mkdir(parents=True, exist_ok=True)
            ends = [*range(PART, entry["size"], PART), entry["size"]]
            parts += [(entry["path"], start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    with ThreadPoolExecutor(8 if any(end > PART for _, _, end in parts) else 16) as pool:
        list(pool.map(fetch, parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
