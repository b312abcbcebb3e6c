"""Processes of the ``flexai`` program that are there in milliseconds: forked from one that has imported everything.

Run as a program this is that one process. It reads an order a line; a child that it forks for it runs the program, and
may be told to kill itself just before its so-manieth call of the operating system that changes a file, or of a bucket.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flexai.checkpoints.names import parse_id
from tests.support.machine import PART

CHANGES = (
    "fdatasync",
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "open",
    "pwrite",
    "rename",
    "replace",
    "rmdir",
    "unlink",
)
"""Calls of the operating system before which a process can be killed."""


def main() -> None:
    """Fork a child for each order, and say how each one ended when asked."""
    _import_everything()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _work(order)
        print(answer, flush=True)


def _import_everything() -> None:
    """Run each command once, so that everything that one imports on its way is there.

    Some children become users who could not read the standard library.
    """
    importlib.import_module("alembic.command")
    importlib.import_module("psycopg")
    importlib.import_module("traceback")
    _import_clients()
    stdout, stderr = os.dup(1), os.dup(2)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nothing:
        for descriptor in (1, 2):
            os.dup2(nothing.fileno(), descriptor)
        source = Path(folder, "file")
        source.write_bytes(bytes(100_000))
        os.environ["FLEXAI_HOME"] = f"{folder}/home"
        os.environ["FLEXAI_PACK_THRESHOLD"] = "1000"
        for command in (
            f"checkpoint push one -f {source}",
            f"checkpoint push one -f {source}",
            f"checkpoint push two -f {source} -f {source}=small",
            "checkpoint list",
            "checkpoint inspect one",
            f"checkpoint fetch one -d {folder}/out",
            f"checkpoint fetch one -d {source}",
            f"export one bucket/place {folder}/buckets",
            f"push-from three bucket/place {folder}/buckets",
            f"mirror bucket/mirror {folder}/buckets",
            f"scrub {folder}/buckets",
            f"repair {folder}/buckets",
            "checkpoint verify",
            "checkpoint recover",
            "checkpoint delete one",
            "checkpoint delete nobody",
            "checkpoint gc --grace-period 0s",
        ):
            with contextlib.suppress(SystemExit):
                _run(command.split())
    sys.stdout.flush()
    for saved, descriptor in ((stdout, 1), (stderr, 2)):
        os.dup2(saved, descriptor)
        os.close(saved)


def _import_clients() -> None:
    """Ask services that are not there for something."""
    from flexai.checkpoints.errors import CheckpointError
    from flexai.checkpoints.storage.gcs.bucket import GCSStorage
    from flexai.checkpoints.storage.gcs.session import GCSService
    from flexai.checkpoints.storage.retry import RetryPolicy
    from flexai.checkpoints.storage.s3.bucket import S3Storage
    from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service

    importlib.import_module("flexai.checkpoints.storage.ambient")
    nowhere, once = "http://127.0.0.1:9", RetryPolicy(attempts=1)
    s3, gcs = (
        S3Service(endpoint_url=nowhere, credentials=S3Credentials("id", "key")),
        GCSService(endpoint_url=nowhere, anonymous=True),
    )
    for storage in (S3Storage(s3, "bucket", policy=once), GCSStorage(gcs, "bucket", policy=once)):
        with contextlib.suppress(CheckpointError):
            storage.head("key")
    s3.close()
    gcs.close()


def _work(order: dict[str, Any]) -> None:
    """Run the program, or an export, as the order says, and end this process."""
    code = 70
    try:
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(order["environment"])
        _count_bytes(order["log"])
        _read_parts_apart()
        if order["file_limit"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], order["file_limit"]))
        if order["user"] is not None and os.geteuid() == 0:
            os.setgroups([])
            os.setgid(order["user"])
            os.setuid(order["user"])
        calls = _kill_at(order["kill_at"], order["log"])
        try:
            _run(order["arguments"])
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        _note(order["log"], "calls", next(calls), "")
    except BaseException:  # noqa: BLE001 - a child must never go on as if it were its parent
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(arguments: list[str]) -> None:
    if (operation := _OPERATIONS.get(arguments[0])) is None:
        sys.argv = ["flexai", *arguments]
        from flexai.cli import main as program

        program()
        return
    from flexai.checkpoints.service.system import System

    *words, place = arguments[1:]
    with System.open(connect=lambda _: _Provider(place)) as system:
        operation(system, *words)


def _export(system: Any, name: str, path: str) -> None:
    from flexai.checkpoints.service.export import export
    from flexai.checkpoints.service.requests import ExportRequest

    export(system, ExportRequest(name, "lab", path))


def _push_from(system: Any, name: str, path: str) -> None:
    from flexai.checkpoints.service.push import push
    from flexai.checkpoints.service.push_requests import PushRequest

    push(system, PushRequest(name, storage_provider="lab", source_path=path))


def _repair(system: Any) -> None:
    from flexai.checkpoints.service.store_requests import VerifyRequest
    from flexai.checkpoints.service.verify import verify

    verify(system, VerifyRequest(repair=True)).raise_if_damaged()


def _mirror(system: Any, path: str) -> None:
    from flexai.checkpoints.service.mirror import mirror
    from flexai.checkpoints.service.store_requests import MirrorRequest

    mirror(system, MirrorRequest("lab", path)).raise_if_failed()


def _scrub(system: Any) -> None:
    from flexai.checkpoints.service.scrub import scrub
    from flexai.checkpoints.service.store_requests import ScrubRequest

    scrub(system, ScrubRequest(_SCRUBBED, repair=False)).raise_if_damaged()


_OPERATIONS: dict[str, Callable[..., None]] = {
    "export": _export,
    "mirror": _mirror,
    "push-from": _push_from,
    "repair": _repair,
    "scrub": _scrub,
}
"""What needs a provider's connection: called with the words before the last one, which says where the provider is."""
_SCRUBBED = 2_000_000
"""Bytes that a scrub reads."""


class _Provider:
    """A provider without a Prefect block: ``s3`` or ``gs``, as the environment has it, or a folder of buckets."""

    connection_name = "lab"
    connection_id = parse_id(uuid.UUID(int=1))

    def __init__(self, place: str) -> None:
        self._place = place

    def open(self, path: str) -> Any:
        from flexai.checkpoints.storage import ambient
        from flexai.checkpoints.storage.connection import RemotePath, split_bucket
        from flexai.checkpoints.storage.local import LocalStorage

        bucket, key = split_bucket(path)
        if self._place == "s3":
            return RemotePath(storage=ambient.s3_bucket(bucket), key=key)
        if self._place == "gs":
            return RemotePath(storage=ambient.gcs_bucket(bucket), key=key)
        return RemotePath(storage=LocalStorage(Path(self._place) / bucket), key=key)


def _note(log: str, kind: str, size: int, what: str) -> None:
    """Write a line that no other process's line can mix with."""
    descriptor = _real_open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(descriptor, f"{kind}\t{size}\t{what}\n".encode())
    os.close(descriptor)


_real_open = os.open


def _count_bytes(log: str) -> None:
    """Note what goes into a store and comes out of it, before it does."""
    from flexai.checkpoints.storage.gcs.bucket import GCSStorage
    from flexai.checkpoints.storage.local import LocalStorage
    from flexai.checkpoints.storage.s3.bucket import S3Storage

    for kind in (LocalStorage, S3Storage, GCSStorage):
        _count_bytes_of(kind, log)
    for kind in (S3Storage, GCSStorage):
        _count_put(kind, log)


def _read_parts_apart() -> None:
    """Have files read in blocks of a part's size: parts that follow each other come by one request.

    A block of the usual size would hold many of the small parts that are used here, so that a kill would lose them.
    """
    from flexai.checkpoints.storage import files

    files.BLOCK_SIZE = PART  # type: ignore[attr-defined]


def _count_bytes_of(kind: Any, log: str) -> None:
    put_part, get = kind.put_part, kind.get

    def noting_put_part(self: Any, key: str, upload_id: str, **options: Any) -> Any:
        _note(log, "sent", options["body"].size, f"{self.location}/{key}")
        return put_part(self, key, upload_id, **options)

    def noting_get(self: Any, key: str, **options: Any) -> Any:
        # One request may ask for several parts, and those that have come do not move again.
        for block in get(self, key, **options):
            _note(log, "read", len(block), f"{self.location}/{key}")
            yield block

    kind.put_part, kind.get = noting_put_part, noting_get


def _count_put(kind: Any, log: str) -> None:
    """Where a put is a request of its own: in a folder it is an upload of one part."""
    put = kind.put

    def noting_put(self: Any, key: str, body: Any, **options: Any) -> Any:
        _note(log, "sent", body.size, f"{self.location}/{key}")
        return put(self, key, body, **options)

    kind.put = noting_put


def _kill_at(number: int | None, log: str) -> Iterator[int]:
    """Count calls that change files, and requests; kill this process before one of them.

    A request counts twice, because a process can also die between a request's effect and its answer.
    """
    from flexai.checkpoints.storage.gcs.bucket import GCSStorage
    from flexai.checkpoints.storage.s3.bucket import S3Storage

    calls = itertools.count(1)
    lock = threading.Lock()

    def count() -> None:
        with lock:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)

    def counted(real: Callable[..., Any], *, twice: bool = False) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count()
            answer = real(*arguments, **options)
            if twice:
                count()
            return answer

        return call

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    for kind, name in ((S3Storage, "_call"), (GCSStorage, "_request")):
        setattr(kind, name, counted(getattr(kind, name), twice=True))
    return calls


if __name__ == "__main__":
    main()
