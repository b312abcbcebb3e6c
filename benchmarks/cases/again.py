"""Pushing what is there already: nothing changed, and one shard of eight changed."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from benchmarks.bench import GIB, KIB, MIB, Bench
from benchmarks.clients import AWSCLI, RCLONE, S5CMD, Ready
from benchmarks.measure import Cost, run
from benchmarks.own import Own
from benchmarks.race import Contestant
from benchmarks.results import Bar
from benchmarks.servers import BUCKET
from benchmarks.sources import compare, delete_below, digest_objects, digest_tree, write_file, write_shards

_PUSHED = "push/"
_SHARDS = 8


def push_again(bench: Bench) -> None:
    """A second push of 2 GiB of which nothing changed, by its first push; and how others find that out."""
    server = bench.sink
    names: list[str] = []
    with bench.memory_folder() as folder, bench.disk_folder() as disk:
        source = write_shards(folder / "source", _SHARDS, bench.size(2 * GIB // _SHARDS))
        expected = digest_tree(source)
        own = Own(disk / "home", server)

        def again() -> Cost:
            names.append(f"again-{len(names)}")
            return own.push(names[-1], source)

        def push_first() -> None:
            own.begin_anew()
            own.push("race", source)

        contestants = {
            "first push": Contestant(lambda: own.push("race", source), own.begin_anew),
            "flexai": Contestant(
                lambda: own.push("race", source, "--if-not-exists"),
                push_first,
                lambda: own.examine("race", expected, folder / "fetched"),
            ),
            "flexai, another name": Contestant(
                again, push_first, lambda: own.examine(names[-1], expected, folder / "fetched")
            ),
        }
        able, skipped = bench.ready((RCLONE, S5CMD, AWSCLI), server)
        for ready in able:
            contestants[f"{ready.client.name}, synced"] = _synced(ready, source, expected, folder / "work")
        result = bench.race(
            "push-again",
            f"push {bench.size(2 * GIB) / GIB:.3g} GiB again, nothing changed (sink)",
            contestants,
            server=server.meter,
            skipped=skipped,
        )
        own.begin_anew()
        delete_below(server.client(), BUCKET, _PUSHED)
    if {"first push", "flexai", "flexai, another name"} <= result.runs.keys():
        for name in ("flexai", "flexai, another name"):
            by_first = result.median(name, "wall") / result.median("first push", "wall")
            result.bars += [
                Bar(f"wall, {name}, by the first push", by_first, 0.15, "×"),
                Bar(f"sent, {name}", result.median(name, "sent") / KIB, 64, "KiB"),
                Bar(f"requests, {name}", result.median(name, "requests"), 10),
            ]


def push_changed(bench: Bench) -> None:
    """Eight shards of 256 MiB of which one has changed since the last push."""
    server = bench.sink
    numbers = itertools.count(1)
    with bench.memory_folder() as folder, bench.disk_folder() as disk:
        size = bench.size(256 * MIB)
        source = write_shards(folder / "source", _SHARDS, size)
        changing = sorted(source.iterdir())[3]
        own = Own(disk / "home", server)

        def change() -> None:
            write_file(changing, size, seed=next(numbers))

        def push_and_change() -> None:
            own.begin_anew()
            own.push("before", source)
            change()

        contestants = {
            "flexai": Contestant(
                lambda: own.push("race", source),
                push_and_change,
                lambda: own.examine("race", digest_tree(source), folder / "fetched"),
            )
        }
        able, skipped = bench.ready((RCLONE, S5CMD, AWSCLI), server)
        for ready in able:
            contestants[f"{ready.client.name}, synced"] = _synced(ready, source, None, folder / "work", change)
        result = bench.race(
            "push-changed",
            f"push with 1 of 8 shards of {size / MIB:.3g} MiB changed (sink)",
            contestants,
            server=server.meter,
            skipped=skipped,
        )
        own.begin_anew()
        delete_below(server.client(), BUCKET, _PUSHED)
    if "flexai" in result.runs:
        result.bars.append(Bar("sent, by the shard", result.median("flexai", "sent") / size, 1.01, "×"))


def _synced(
    ready: Ready, source: Path, expected: dict[str, str] | None, work: Path, change: object = None
) -> Contestant:
    """A client's own way of sending only what is new: `sync`, or `copy` where that is the same."""
    client = ready.server.client()

    def sync() -> Cost:
        command = ready.client.push(ready.home, ready.server, source, _PUSHED)
        if ready.client is S5CMD:
            command[command.index("cp")] = "sync"
        if ready.client is AWSCLI:
            command[command.index("cp")] = "sync"
            command.remove("--recursive")
        return run(command, ready.environment(work), cwd=work)

    def prepare() -> None:
        delete_below(client, BUCKET, _PUSHED)
        ready.prepare_push(work, source, _PUSHED)
        sync()
        if callable(change):
            change()

    def examine() -> None:
        found = digest_objects(client, BUCKET, _PUSHED)
        shutil.rmtree(work)
        compare(expected or digest_tree(source), found)

    return Contestant(sync, prepare, examine)
