"""Fetching what is there already: how each client finds out that nothing has to be moved, and what it believes."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from benchmarks.bench import GIB, KIB, Bench
from benchmarks.clients import RCLONE, S5CMD, Ready
from benchmarks.measure import Cost, FailedError, run
from benchmarks.own import Own
from benchmarks.peers import PeerMissingError
from benchmarks.race import Contestant
from benchmarks.results import Bar
from benchmarks.servers import BUCKET, Load
from benchmarks.sources import compare, delete_below, digest_tree, empty, upload, write_shards

if TYPE_CHECKING:
    from tests.servers.hub import Hub

_KEPT = "source/"
_SHARDS = 8
_REPOSITORY = "someuser/model"
_HF = "hf"
_NOTES = (
    "flexai reads the files and compares the BLAKE3 digest of every byte with what was pushed; a file that has been "
    "damaged meanwhile is not taken for the right one",
    "rclone and s5cmd read no content: they compare size and time of modification",
    "hf reads no content: it compares the commit and times of modification with those that it noted when it fetched",
    "hf asks a stand-in for the Hub, which counts requests but no bytes; the others ask the sink",
)


def fetch_again(bench: Bench) -> None:
    """A second fetch of 2 GiB to where all of it is already; and what others compare to know that."""
    server = bench.sink
    client = server.client()
    size = bench.size(2 * GIB // _SHARDS) * _SHARDS
    # The source, and what each of four has fetched.
    with bench.memory_folder(12 * GIB) as folder, bench.disk_folder() as disk, ExitStack() as stack:
        source = write_shards(folder / "source", _SHARDS, size // _SHARDS)
        expected = digest_tree(source)
        upload(client, source, BUCKET, _KEPT)
        own = Own(disk / "home", server)
        own.begin_anew()
        own.push("race", source)
        ways: dict[str, Callable[[Path], Cost]] = {"flexai": lambda fetched: own.fetch("race", fetched)}
        able, skipped = bench.ready((RCLONE, S5CMD), server)
        for ready in able:
            ways[f"{ready.client.name}, synced"] = _syncing(ready)
        meters: dict[str, HubMeter] = {}
        if bench.wants(_HF):
            try:
                program = bench.environment(_HF).program("hf")
                meters[_HF] = HubMeter(stack.enter_context(_hub(source)))
                ways[_HF] = _downloading(program, meters[_HF])
            except PeerMissingError as error:
                skipped[_HF] = str(error)
        contestants = {}
        for name, way in ways.items():
            fetched = empty(folder / "fetched" / name.partition(",")[0])
            try:
                way(fetched)
            except FailedError as error:
                skipped[name] = str(error)
                continue
            contestants[name] = _fetching(way, fetched, expected, meters.get(name))
        result = bench.race(
            "fetch-again",
            f"fetch {size / GIB:.3g} GiB again, all of it is there (sink)",
            contestants,
            server=server.meter,
            skipped=skipped,
        )
        own.begin_anew()
        delete_below(client, BUCKET, _KEPT)
    result.notes += _NOTES
    if "flexai" in result.runs:
        result.bars.append(Bar("got", result.median("flexai", "received") / KIB, 64, "KiB"))


def _fetching(
    way: Callable[[Path], Cost], fetched: Path, expected: Mapping[str, str], meter: HubMeter | None
) -> Contestant:
    def examine() -> None:
        # hf notes there what it has downloaded.
        found = {path: digest for path, digest in digest_tree(fetched).items() if not path.startswith(".cache/")}
        compare(expected, found)

    return Contestant(lambda: way(fetched), examine=examine, server=meter)


def _syncing(ready: Ready) -> Callable[[Path], Cost]:
    def sync(fetched: Path) -> Cost:
        command = ready.client.fetch(ready.home, ready.server, _KEPT, fetched)
        command[command.index("cp" if ready.client is S5CMD else "copy")] = "sync"
        return run(command, ready.environment(fetched.parent))

    return sync


def _downloading(program: str, meter: HubMeter) -> Callable[[Path], Cost]:
    def download(fetched: Path) -> Cost:
        around = {
            "HF_ENDPOINT": meter.url,
            "HF_HOME": str(fetched.parent / "hf-home"),
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            # Content from the host behind the Hub, as before Xet: the stand-in has no Xet.
            "HF_HUB_DISABLE_XET": "1",
        }
        return run([program, "download", _REPOSITORY, "--local-dir", str(fetched)], around)

    return download


@dataclass
class HubMeter:
    """Counts the requests to the stand-in for the Hub."""

    hub: Hub
    name: str = "hub"
    began: int = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return self.hub.endpoint

    def reset(self) -> None:
        """Begin counting."""
        self.began = len(self.hub.requests)

    def load(self) -> Load:
        """What it was asked since then; it runs in this process, so that its CPU time is not known."""
        return Load(cpu=None, requests=len(self.hub.requests) - self.began)


@contextmanager
def _hub(source: Path) -> Iterator[Hub]:
    """The tests' stand-in for the Hub, with a repository of these files."""
    from tests.servers.hub import HubFile, serve_hub

    with serve_hub() as hub, ExitStack() as stack:
        files = {}
        for path in sorted(source.iterdir()):
            file = stack.enter_context(path.open("rb"))
            # Mapped, so that they are not in memory once more.
            content = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            files[path.name] = HubFile(cast("bytes", content), is_large=True)
        hub.add(_REPOSITORY, files)
        yield hub
