"""Google Cloud Storage, by its own library: one file of 512 MiB up and down, on fake-gcs-server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from urllib.parse import quote

import requests

from benchmarks.bench import MIB, Bench
from benchmarks.clients import PROGRAMS
from benchmarks.measure import Cost, run
from benchmarks.own import Own
from benchmarks.peers import PeerMissingError
from benchmarks.race import Contestant
from benchmarks.results import Bar, Result
from benchmarks.servers import BUCKET
from benchmarks.sources import compare, digest_tree, empty, write_shards

_UP = {"upload_from_filename": "up", "transfer_manager, composed": "up-compose"}
_DOWN = {
    "download_to_filename": "down",
    "transfer_manager threads": "down-threads",
    "transfer_manager processes": "down-processes",
}


def gcs(bench: Bench) -> None:
    """512 MiB to and from Google Cloud Storage, by every way of google-cloud-storage itself."""
    server = bench.real.gcs()
    with bench.memory_folder() as folder, bench.disk_folder() as disk:
        source = write_shards(folder / "source", 1, bench.size(512 * MIB))
        file = next(source.iterdir())
        expected = digest_tree(source)
        fetched = folder / "fetched"
        around = {"STORAGE_EMULATOR_HOST": server.url}
        own = Own(disk / "home", None, around | {"FLEXAI_STORE": f"gs://{BUCKET}/flexai"})

        def clean() -> None:
            own.begin_anew()
            _delete_all(server.url)

        def prepare() -> None:
            empty(fetched)

        def examine_fetched() -> None:
            found = digest_tree(fetched)
            shutil.rmtree(fetched)
            compare(expected, found)

        up = {
            "flexai": Contestant(lambda: own.push("race", file), clean, lambda: own.examine("race", expected, fetched))
        }
        down = {"flexai": Contestant(lambda: own.fetch("race", fetched), prepare, examine_fetched)}
        skipped = {}
        try:
            python = bench.environment("gcs").python

            def google(way: str, path: str) -> Callable[[], Cost]:
                command = [python, str(PROGRAMS / "gcs_client.py"), way, path, BUCKET, "google/file"]
                return lambda: run(command, around)

            def examine_pushed() -> None:
                empty(fetched)
                google("down", str(fetched / file.name))()
                examine_fetched()

            for name, way in _UP.items():
                up[name] = Contestant(google(way, str(file)), clean, examine_pushed)
            for name, way in _DOWN.items():
                down[name] = Contestant(google(way, str(fetched / file.name)), prepare, examine_fetched)
        except PeerMissingError as error:
            skipped["google-cloud-storage"] = str(error)
        size = f"{bench.size(512 * MIB) // MIB} MiB"
        title = f"push {size} to Google Cloud Storage (fake-gcs-server)"
        _bars(bench.race("gcs-push", title, up, server=server, skipped=skipped, chart=True))
        clean()
        own.push("race", file)
        if not skipped:
            run([python, str(PROGRAMS / "gcs_client.py"), "up", str(file), BUCKET, "google/file"], around)
        title = f"fetch {size} from Google Cloud Storage (fake-gcs-server)"
        _bars(bench.race("gcs-fetch", title, down, server=server, skipped=skipped, chart=True))
        clean()


def _delete_all(url: str) -> None:
    listing = f"{url}/storage/v1/b/{BUCKET}/o"
    for item in requests.get(listing, timeout=60).json().get("items", []):
        requests.delete(f"{listing}/{quote(item['name'], safe='')}", timeout=60)


def _bars(result: Result) -> None:
    fastest = result.fastest([name for name in result.runs if name != "flexai"])
    if fastest and "flexai" in result.runs:
        result.bars.append(Bar(f"wall, by that of {fastest}", result.ratio(fastest), 1.0, "×"))
        peak = max(run.peak for run in result.runs["flexai"])
        result.bars.append(Bar("peak memory", peak / MIB, 256, "MiB"))
