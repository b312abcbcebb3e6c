"""Pushing and fetching against the clients of S3: few large files, many small ones; the sink, and real servers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.bench import GIB, KIB, MIB, Bench
from benchmarks.clients import BOTO3_TUNED, CLIENTS, DATASET_CLIENTS, DVC_DATA, OBSTORE, RCLONE, S5CMD, Client, Ready
from benchmarks.measure import FailedError
from benchmarks.own import Own
from benchmarks.race import Contestant
from benchmarks.results import Bar, Result
from benchmarks.servers import BUCKET, REAL, S3Server
from benchmarks.sources import (
    compare,
    compare_contents,
    delete_below,
    digest_objects,
    digest_tree,
    empty,
    upload,
    write_shards,
    write_small,
)

_PEAK = 256 * MIB
_PUSHED = "push/"
_KEPT = "source/"


def push_large(bench: Bench) -> None:
    """One file of 2 GiB to S3."""
    _push_shards(bench, "push-large", 1, 2 * GIB)


def push_shards(bench: Bench) -> None:
    """Eight files of 256 MiB to S3."""
    _push_shards(bench, "push-shards", 8, 256 * MIB)


def fetch_large(bench: Bench) -> None:
    """One file of 2 GiB from S3, every part verified."""
    _fetch_shards(bench, "fetch-large", 1, 2 * GIB)


def fetch_shards(bench: Bench) -> None:
    """Eight files of 256 MiB from S3, every part verified."""
    _fetch_shards(bench, "fetch-shards", 8, 256 * MIB)


def _push_shards(bench: Bench, case: str, count: int, size: int) -> None:
    with bench.memory_folder() as folder:
        source = write_shards(folder / "source", count, bench.size(size))
        title = f"push {count} × {human(bench.size(size))} to S3 (sink)"
        result = push(bench, case, title, source, bench.sink, CLIENTS, folder)
    _large_bars(result, 0.8)


def _fetch_shards(bench: Bench, case: str, count: int, size: int) -> None:
    with bench.memory_folder() as folder:
        source = write_shards(folder / "source", count, bench.size(size))
        title = f"fetch {count} × {human(bench.size(size))} from S3 (sink)"
        result = fetch(bench, case, title, source, bench.sink, CLIENTS, folder)
    _large_bars(result, 1.0)


def push_small(bench: Bench) -> None:
    """2,000 files of 64 KiB to S3."""
    with bench.memory_folder(GIB) as folder:
        source = write_small(folder / "source", bench.count(2000), 64 * KIB)
        title = f"push {bench.count(2000):,} × 64 KiB to S3 (sink)"
        result = push(bench, "push-small", title, source, bench.sink, DATASET_CLIENTS, folder)
    _small_bars(result)


def fetch_small(bench: Bench) -> None:
    """2,000 files of 64 KiB from S3."""
    with bench.memory_folder(GIB) as folder:
        source = write_small(folder / "source", bench.count(2000), 64 * KIB)
        title = f"fetch {bench.count(2000):,} × 64 KiB from S3 (sink)"
        result = fetch(bench, "fetch-small", title, source, bench.sink, DATASET_CLIENTS, folder)
    _small_bars(result)


def real_push_fetch(bench: Bench) -> None:
    """One file of 2 GiB to and from real servers, whose own work is most of the time."""
    clients = (S5CMD, RCLONE, BOTO3_TUNED, OBSTORE)
    for name in REAL:
        server = bench.real.s3(name)
        with bench.memory_folder() as folder:
            source = write_shards(folder / "source", 1, bench.size(2 * GIB))
            size = human(bench.size(2 * GIB))
            push(bench, f"push-large-{name}", f"push 1 × {size} to {name}", source, server, clients, folder)
            fetch(bench, f"fetch-large-{name}", f"fetch 1 × {size} from {name}", source, server, clients, folder)


def push(
    bench: Bench, case: str, title: str, source: Path, server: S3Server, clients: Sequence[Client], folder: Path
) -> Result:
    """Race pushes of a folder to a server."""
    expected = digest_tree(source)
    client = server.client()
    with bench.disk_folder() as disk:
        own = Own(disk / "home", server)
        contestants = {
            "flexai": Contestant(
                perform=lambda: own.push("race", source),
                prepare=own.begin_anew,
                examine=lambda: own.examine("race", expected, folder / "fetched"),
            )
        }
        able, skipped = bench.ready(clients, server)
        for ready in able:
            contestants[ready.client.name] = _pushing(ready, source, expected, folder / "work")
        result = bench.race(case, title, contestants, server=server.meter, skipped=skipped, chart=True)
        own.begin_anew()
        delete_below(client, BUCKET, _PUSHED)
    return result


def _pushing(ready: Ready, source: Path, expected: dict[str, str], work: Path) -> Contestant:
    client = ready.server.client()

    def prepare() -> None:
        delete_below(client, BUCKET, _PUSHED)
        ready.prepare_push(work, source, _PUSHED)

    def examine() -> None:
        found = digest_objects(client, BUCKET, _PUSHED)
        shutil.rmtree(work)
        if ready.client.renames:
            compare_contents(expected, found)
        else:
            compare(expected, found)
        delete_below(client, BUCKET, _PUSHED)

    return Contestant(lambda: ready.push(work, source, _PUSHED), prepare, examine)


def fetch(
    bench: Bench, case: str, title: str, source: Path, server: S3Server, clients: Sequence[Client], folder: Path
) -> Result:
    """Race fetches of a folder from a server; it is removed once it is there."""
    expected = digest_tree(source)
    fetched = folder / "work" / "fetched"
    client = server.client()

    def prepare() -> None:
        empty(fetched)

    def examine() -> None:
        found = digest_tree(fetched)
        shutil.rmtree(fetched)
        compare(expected, found)

    with bench.disk_folder() as disk:
        own = Own(disk / "home", server)
        own.begin_anew()
        own.push("race", source)
        delete_below(client, BUCKET, _KEPT)
        upload(client, source, BUCKET, _KEPT)
        contestants = {"flexai": Contestant(lambda: own.fetch("race", fetched), prepare, examine)}
        able, skipped = bench.ready(clients, server)
        for ready in able:
            if ready.client.renames:
                try:
                    contestants[ready.client.name] = _pulling(ready, source, expected, folder / "pulling")
                except FailedError as error:
                    skipped[ready.client.name] = str(error)
                continue
            contestants[ready.client.name] = Contestant(partial(ready.fetch, _KEPT, fetched), prepare, examine)
        shutil.rmtree(source)
        result = bench.race(case, title, contestants, server=server.meter, skipped=skipped, chart=True)
        own.begin_anew()
        for prefix in (_KEPT, _PUSHED):
            delete_below(client, BUCKET, prefix)
    return result


def _pulling(ready: Ready, source: Path, expected: dict[str, str], work: Path) -> Contestant:
    """A client that fetches what it has pushed itself: no other client names things as it does."""
    ready.prepare_push(work, source, _PUSHED)
    ready.push(work, source, _PUSHED)

    def prepare() -> None:
        if ready.client.forget:
            ready.client.forget(work)

    def examine() -> None:
        compare(expected, digest_tree(work / DVC_DATA))

    return Contestant(lambda: ready.fetch(_PUSHED, work / DVC_DATA), prepare, examine)


def _large_bars(result: Result, limit: float) -> None:
    peers = [name for name in result.runs if name != "flexai"]
    fastest = result.fastest(peers)
    if fastest is None or "flexai" not in result.runs:
        return
    result.bars.append(Bar(f"wall, by that of {fastest}", result.ratio(fastest), limit, "×"))
    if limit < 1:
        result.bars.append(Bar(f"client CPU, by that of {fastest}", result.ratio(fastest, "cpu"), 1.0, "×"))
    peak_bar(result)


def _small_bars(result: Result) -> None:
    for name in ("s5cmd", "rclone"):
        if name in result.runs and "flexai" in result.runs:
            result.bars.append(Bar(f"wall, by that of {name}", result.ratio(name), 1.0, "×"))
    peak_bar(result)


def peak_bar(result: Result) -> None:
    """How much memory there was, and may be."""
    peak = max(run.peak for run in result.runs["flexai"])
    result.bars.append(Bar("peak memory", peak / MIB, _PEAK / MIB, "MiB"))


def human(size: int) -> str:
    """A size as titles say it."""
    return f"{size / GIB:.3g} GiB" if size >= GIB else f"{size / MIB:.3g} MiB"
