"""Within one storage service, where no byte needs to come here, and from one service to another, where all do."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.bench import GIB, MIB, Bench
from benchmarks.clients import PROGRAMS
from benchmarks.measure import Cost, run
from benchmarks.own import Own, own_operation
from benchmarks.peers import PeerMissingError
from benchmarks.race import Contestant
from benchmarks.results import Bar
from benchmarks.servers import BUCKET, OTHER_BUCKET, REAL, S3Server, sink
from benchmarks.sources import compare, delete_below, digest_objects, digest_tree, empty, upload, write_shards

_KEPT = "source/"
_COPIED = "copied/"


def same_provider(bench: Bench) -> None:
    """A push from the service that the store is on, and an export to it, by one bare CopyObject of 2 GiB."""
    for name in ("sink", *REAL):
        server = bench.sink if name == "sink" else bench.real.s3(name)
        _same_provider(bench, server)


def _same_provider(bench: Bench, server: S3Server) -> None:
    client = server.client()
    numbers = itertools.count()
    with bench.memory_folder() as folder, bench.disk_folder() as disk:
        source = write_shards(folder / "source", 1, bench.size(2 * GIB))
        expected = digest_tree(source)
        file = next(source.iterdir()).name
        upload(client, source, BUCKET, _KEPT)
        own = Own(disk / "home", server, {"FLEXAI_BENCH_PROVIDER": server.url})

        def clean() -> None:
            delete_below(client, OTHER_BUCKET, _COPIED)

        def examine_copy() -> None:
            compare(expected, digest_objects(client, OTHER_BUCKET, _COPIED))

        def prepare_export() -> None:
            clean()
            own.begin_anew()
            own_operation(own, "push-from", "race", f"{BUCKET}/{_KEPT}")

        def examine_export() -> None:
            found = digest_objects(client, OTHER_BUCKET, _COPIED)
            found.pop("flexai-manifest.json", None)
            compare(expected, found)

        contestants = {
            "flexai push": Contestant(
                lambda: own_operation(own, "push-from", f"race-{next(numbers)}", f"{BUCKET}/{_KEPT}"),
                own.begin_anew,
            ),
            "flexai export": Contestant(
                lambda: own_operation(own, "export", "race", f"{OTHER_BUCKET}/{_COPIED.rstrip('/')}"),
                prepare_export,
                examine_export,
            ),
        }
        skipped = {}
        try:
            python = bench.environment("boto3").python
            command = [python, str(PROGRAMS / "copy_object.py"), BUCKET, _KEPT + file, OTHER_BUCKET, _COPIED + file]
            contestants["CopyObject"] = Contestant(lambda: run(command, server.environment), clean, examine_copy)
        except PeerMissingError as error:
            skipped["CopyObject"] = str(error)
        title = f"push from and export to the same service, {server.name} (span: in the program)"
        result = bench.race(
            f"same-provider-{server.name}",
            title,
            contestants,
            server=server.meter,
            skipped=skipped,
            reference="CopyObject",
        )
        own.begin_anew()
        for bucket, prefix in ((BUCKET, _KEPT), (OTHER_BUCKET, _COPIED)):
            delete_below(client, bucket, prefix)
    for name in ("flexai push", "flexai export"):
        if server.name == "sink" and name in result.runs:
            moved = result.median(name, "sent") + result.median(name, "received")
            result.bars.append(Bar(f"bytes through the client, {name}", moved / MIB, 1, "MiB"))
        elif {name, "CopyObject"} <= result.runs.keys():
            ratio = result.median(name, "span") / result.median("CopyObject", "span")
            result.bars.append(Bar(f"time, {name} by CopyObject", ratio, 1.1, "×"))
    if server.name == "sink":
        result.notes.append("in the sink a copy takes no time: only the bytes count here")


def between_providers(bench: Bench) -> None:
    """From one service into a store on another, by a plain upload and a plain download of the same 2 GiB."""
    with bench.memory_folder(12 * GIB) as folder, bench.disk_folder() as disk, sink(bench.cache) as other:
        server = bench.sink
        source = write_shards(folder / "source", 1, bench.size(2 * GIB))
        size = bench.size(2 * GIB)
        expected = digest_tree(source)
        upload(other.client(), source, BUCKET, _KEPT)
        own = Own(disk / "home", server, {"FLEXAI_BENCH_PROVIDER": other.url})
        fetched = folder / "fetched"

        def push_first() -> None:
            own.begin_anew()
            own_operation(own, "push", "race", str(source))
            empty(fetched)

        def examine_fetched() -> None:
            found = digest_tree(fetched)
            shutil.rmtree(fetched)
            compare(expected, found)

        def operation(*arguments: str) -> Callable[[], Cost]:
            return lambda: own_operation(own, *arguments)

        def examine() -> None:
            own.examine("race", expected, fetched)

        contestants = {
            "flexai": Contestant(operation("push-from", "race", f"{BUCKET}/{_KEPT}"), own.begin_anew, examine),
            "plain upload": Contestant(operation("push", "race", str(source)), own.begin_anew, examine),
            "plain download": Contestant(operation("fetch", "race", str(fetched)), push_first, examine_fetched),
        }
        skipped = {}
        if bench.wants("rclone"):
            try:
                contestants["rclone"] = _rclone(bench, other, server, expected, disk)
            except PeerMissingError as error:
                skipped["rclone"] = str(error)
        title = f"from one service to another, {size / GIB:.3g} GiB (two sinks, one counts; span: in the program)"
        result = bench.race("between-providers", title, contestants, server=server.meter, skipped=skipped)
        own.begin_anew()
    if {"flexai", "plain upload", "plain download"} <= result.runs.keys():
        slower = max(result.median(name, "span") for name in ("plain upload", "plain download"))
        result.bars.append(
            Bar(
                "throughput, by the slower of upload and download",
                slower / result.median("flexai", "span"),
                0.8,
                "×",
                at_least=True,
            )
        )
        result.notes.append(f"{size / MIB / result.median('flexai', 'span'):.0f} MiB/s through the program")


def _rclone(bench: Bench, source: S3Server, target: S3Server, expected: Mapping[str, str], folder: Path) -> Contestant:
    program = bench.environment("rclone").program("rclone")
    config = folder / "rclone.conf"
    config.write_text(
        "".join(
            f"[{name}]\ntype = s3\nprovider = Other\nendpoint = {server.url}\naccess_key_id = {server.access_key_id}\n"
            f"secret_access_key = {server.secret_access_key}\nchunk_size = 64M\nupload_concurrency = 8\n"
            "no_check_bucket = true\n"
            for name, server in (("one", source), ("two", target))
        )
    )
    client = target.client()

    def examine() -> None:
        compare(expected, digest_objects(client, BUCKET, _COPIED))
        delete_below(client, BUCKET, _COPIED)

    command = [program, "copy", f"--config={config}", f"one:{BUCKET}/{_KEPT}", f"two:{BUCKET}/{_COPIED}"]
    command += ["--multi-thread-streams=8", "--multi-thread-cutoff=64M", "--multi-thread-chunk-size=64M"]
    return Contestant(lambda: run(command, {}), lambda: delete_below(client, BUCKET, _COPIED), examine)
