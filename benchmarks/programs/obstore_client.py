"""obstore as a client: ``obstore_client.py (push|fetch) FOLDER BUCKET PREFIX``; the endpoint is in the environment.

Parts of 16 MiB, eight at a time (``FLEXAI_BENCH_WIDTH``); small files by at least sixteen threads; no signature over
the bodies, and certificates are not looked at.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
from obstore.store import S3Store

PART = 16 * 1024**2
WIDTH = int(os.environ.get("FLEXAI_BENCH_WIDTH", "8"))
FILES = max(16, WIDTH)


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
        client_options={"allow_http": True, "allow_invalid_certificates": True},
    )
    folder = Path(root)

    def push(path: Path) -> None:
        obstore.put(store, prefix + path.relative_to(folder).as_posix(), path, chunk_size=PART, max_concurrency=WIDTH)

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
        with ThreadPoolExecutor(max(1, WIDTH // 8) if large else FILES) as pool:
            list(pool.map(push, paths))
        return
    parts = []
    for page in obstore.list(store, prefix):
        for entry in page:
            (folder / entry["path"][len(prefix) :]).parent.mkdir(parents=True, exist_ok=True)
            ends = [*range(PART, entry["size"], PART), entry["size"]]
            parts += [(entry["path"], start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    with ThreadPoolExecutor(WIDTH if any(end > PART for _, _, end in parts) else FILES) as pool:
        list(pool.map(fetch, parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
