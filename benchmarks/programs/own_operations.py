"""flexai's operations inside a running program: what they cost without the interpreter's start and imports.

``own_operations.py VERB ARGUMENTS…``; the seconds that the operation took go to the file that FLEXAI_BENCH_INNER names.
The provider that is pushed from or exported to is the service at FLEXAI_BENCH_PROVIDER (a URL).
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from uuid import UUID, uuid5

from flexai.checkpoints.names import Id, parse_id
from flexai.checkpoints.service.export import export
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.requests import ExportRequest, FetchRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.connection import RemotePath, split_bucket
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Service


@dataclass(frozen=True)
class Provider:
    """A storage provider connection that no Prefect keeps; its credentials are those of the environment."""

    url: str
    connection_name: str = "bench"

    @property
    def connection_id(self) -> Id:
        """The same for the same service."""
        return parse_id(uuid5(UUID(int=0), self.url))

    def open(self, path: str) -> RemotePath:
        """Open ``BUCKET/PREFIX-or-KEY``."""
        bucket, key = split_bucket(path)
        service = S3Service(endpoint_url=self.url, region=os.environ["AWS_REGION"])
        return RemotePath(S3Storage(service, bucket), key)


def main(verb: str, *arguments: str) -> None:
    """Do it."""
    if verb in OPERATIONS:
        return OPERATIONS[verb](*arguments)
    with System.open(connect=lambda name: Provider(os.environ["FLEXAI_BENCH_PROVIDER"], name)) as system:
        assert system.store_id
        begun = time.perf_counter()
        if verb == "push":
            name, source = arguments
            push(system, PushRequest(name, (source,)))
        elif verb == "push-with-progress":
            from flexai.cli.progress_display import ShownProgress

            name, source = arguments
            progress = ShownProgress(terminal())
            push(system, PushRequest(name, (source,)), progress=progress)
            progress.end()
        elif verb == "push-from":
            name, path = arguments
            push(system, PushRequest(name, storage_provider="bench", source_path=path))
        elif verb == "export":
            name, path = arguments
            export(system, ExportRequest(name, "bench", path, overwrite=True))
        elif verb == "fetch":
            from flexai.checkpoints.service.fetch import fetch

            name, folder = arguments
            fetch(system, FetchRequest(name, folder))
        elif verb == "plan":
            from flexai.checkpoints.transfer.pack_plan import plan_upload
            from flexai.checkpoints.transfer.scan import scan_local

            sources = system.stat_cache.recall(scan_local(arguments))
            settings = system.settings
            plan_upload(sources, pack_threshold=settings.pack_threshold, pack_size=settings.pack_size)
        else:
            raise SystemExit(f"no operation {verb!r}")
        return done(begun)


def push_as_task(name: str, source: str) -> None:
    """Push as a task run."""
    from flexai.tasks import push_checkpoint

    begun = time.perf_counter()
    push_checkpoint(name, files=[source])
    done(begun)


def push_as_flow(name: str, source: str, shard_size: str) -> None:
    """Push as a flow run, in shards of so many bytes, by the task runner that the environment names."""
    from flexai.flows.forms import PushForm
    from flexai.flows.push import push as push_flow

    request = {"name": name, "source": {"files": [source]}, "shard_size": shard_size}
    begun = time.perf_counter()
    push_flow(PushForm.model_validate(request))
    done(begun)


def push_warm(name: str, source: str) -> None:
    """Push in a process that has pushed before."""
    with warmth() as first:
        _push_bare(f"{name}-first", first)
    begun = time.perf_counter()
    _push_bare(name, source)
    done(begun)


def push_warm_as_task(name: str, source: str) -> None:
    """Push as a task run in a process that has done so before, as a worker's has Prefect loaded."""
    from flexai.tasks import push_checkpoint

    with warmth() as first:
        push_checkpoint(f"{name}-first", files=[first])
    begun = time.perf_counter()
    push_checkpoint(name, files=[source])
    done(begun)


def push_warm_as_flow(name: str, source: str, heartbeat: str = "") -> None:
    """Push as a flow run in a process that has done so before; ``off`` leaves out Prefect's heartbeat."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flexai.flows.forms import PushForm
    from flexai.flows.push import push as push_flow

    def form(name: str, source: str) -> PushForm:
        return PushForm.model_validate({"name": name, "source": {"files": [source]}})

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if heartbeat == "off" else {}):
        with warmth() as first:
            push_flow(form(f"{name}-first", first))
        begun = time.perf_counter()
        push_flow(form(name, source))
        done(begun)


def run_empty_flow() -> None:
    """Run a flow that does nothing, in a process that has done so before."""
    from prefect import flow

    @flow
    def nothing() -> None:
        """Do nothing."""

    nothing()
    begun = time.perf_counter()
    nothing()
    done(begun)


def _push_bare(name: str, source: str) -> None:
    # A task opens the catalog and the store as well.
    with System.open() as system:
        push(system, PushRequest(name, (source,)))


@contextmanager
def warmth() -> Iterator[str]:
    """A small file that goes by parts as large ones do."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(os.urandom(1024**2))
        file.flush()
        yield file.name


OPERATIONS: dict[str, Callable[..., None]] = {
    "task": push_as_task,
    "flow": push_as_flow,
    "flow-warm": push_warm_as_flow,
    "flow-empty": run_empty_flow,
    "push-warm": push_warm,
    "task-warm": push_warm_as_task,
}
"""Those that open the catalog themselves."""


def terminal() -> TextIO:
    """A terminal without a person in front of it."""
    controlling, shown = os.openpty()

    def drain() -> None:
        while os.read(controlling, 65536):
            pass

    threading.Thread(target=drain, daemon=True).start()
    return os.fdopen(shown, "w")


def done(begun: float) -> None:
    """Say how long it took."""
    Path(os.environ["FLEXAI_BENCH_INNER"]).write_text(f"{time.perf_counter() - begun}")


if __name__ == "__main__":
    main(*sys.argv[1:])
