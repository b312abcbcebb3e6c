"""What people type all day, on the catalog of a large team."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

from benchmarks.bench import Bench
from benchmarks.catalogs import FILES, Filled, fill, put_blobs, put_manifests
from benchmarks.measure import Cost, flexai, run
from benchmarks.own import Own
from benchmarks.peers import PeerMissingError
from benchmarks.race import Contestant
from benchmarks.results import Bar
from benchmarks.sources import empty, write_small
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.names import parse_job_reference
from flexai.checkpoints.service.inspect import inspect_checkpoint
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import default_database_url, load_settings

_HELP, _COMMAND, _QUERY = 0.15, 0.4, 0.02
"""Seconds."""
_UPKEEP = {"prune plans": 3.0, "prune applies": 20.0, "gc": 60.0, "inspect": 1.5, "recover": 600.0}
"""Seconds."""
_PRUNE = ("prune", "--keep-last", "3", "--include-failed")


def commands(bench: Bench) -> None:
    """Help, list and inspect with 100,000 checkpoints and 1,000,000 files: whole processes, and what they ask."""
    count = bench.count(100_000)
    of = f"{count:,} checkpoints, {count * FILES:,} files"
    with bench.disk_folder() as folder:
        own = Own(folder / "home")
        empty(own.home)
        filled = fill(default_database_url(own.home), count)
        lines = {
            "--help": ["--help"],
            "checkpoint list": ["checkpoint", "list"],
            "checkpoint inspect": ["checkpoint", "inspect", filled.name],
            "training checkpoints": ["training", "checkpoints", filled.job],
        }

        def typing(line: list[str]) -> Contestant:
            return Contestant(lambda: run([flexai(), *line], own.environment))

        contestants = {name: typing(line) for name, line in lines.items()}
        result = bench.race("commands", f"commands, SQLite: {of}", contestants)
        result.notes.append(f"{filled.pushed:,} of the checkpoints are listed: the others were captured, or deleted")
    for name in result.runs:
        limit = _HELP if name == "--help" else _COMMAND
        result.bars.append(Bar(f"wall, {name}", result.median(name), limit, " s"))
    _queries(bench, count, of)


def upkeep(bench: Bench) -> None:
    """Prune and gc with 20,000 checkpoints, inspect of 100,000 files, recover of 100,000 checkpoints: whole processes.

    All on the local store. What takes minutes needs no warm-up.
    """
    count, files, lost_count = bench.count(20_000), bench.count(100_000), bench.count(100_000)
    with bench.disk_folder() as folder:
        made, pruned, own, many, lost = (Own(folder / name) for name in ("made", "pruned", "home", "many", "lost"))
        with _filled(made, count):
            pass
        many.push("many", write_small(folder / "source", files, 8))
        _copy(made, pruned)
        pruned.checkpoint(*_PRUNE, "--apply")
        with _filled(lost, lost_count) as system:
            put_blobs(system)
            manifests = put_manifests(system)

        def with_blobs() -> None:
            _copy(pruned, own)
            with System.open(load_settings(home=own.home)) as system:
                put_blobs(system)

        def without_catalog() -> None:
            for path in lost.home.glob("catalog.db*"):
                path.unlink()

        contestants = {
            "prune plans": Contestant(lambda: made.checkpoint(*_PRUNE)),
            "prune applies": Contestant(lambda: own.checkpoint(*_PRUNE, "--apply"), lambda: _copy(made, own)),
            "gc": Contestant(lambda: own.checkpoint("gc", "--grace-period", "0"), with_blobs),
            "inspect": Contestant(lambda: many.checkpoint("inspect", "many")),
            "recover": Contestant(lambda: lost.checkpoint("recover"), without_catalog),
        }
        title = (
            f"upkeep, SQLite and a local store: {count:,} checkpoints; inspect: {files:,} files;"
            f" recover: {manifests:,} checkpoints"
        )
        result = bench.race("upkeep", title, contestants, warm_up=False)
    result.bars += [Bar(f"wall, {name}", result.median(name), _UPKEEP[name], " s") for name in result.runs]


@contextmanager
def _filled(own: Own, count: int) -> Iterator[System]:
    """A home with a catalog of so many checkpoints, and a store that has no blobs yet."""
    with System.open(load_settings(home=own.home)) as system:
        fill(system.database_url, count, store_id=system.own_store_id)
        yield system


def _copy(source: Own, target: Own) -> None:
    shutil.rmtree(target.home, ignore_errors=True)
    shutil.copytree(source.home, target.home)


def _queries(bench: Bench, count: int, of: str) -> None:
    """The same questions to PostgreSQL, on a connection that is open."""
    from tests.servers.postgresql import find_programs, running

    programs = find_programs()
    if programs is None:
        raise PeerMissingError("PostgreSQL's programs are not here: apt-get install postgresql")
    # As PostgreSQL is without settings of one's own.
    with running(programs, {}) as server:
        url = f"postgresql://{server.user}@/{server.create_database()}?host={quote(str(server.folder))}"
        filled = fill(url, count)
        with Catalog.look(url) as catalog:
            asking = {name: _asking(question, catalog, filled) for name, question in _QUESTIONS.items()}
            result = bench.race("commands-postgresql", f"queries, PostgreSQL: {of}", asking)
    for name in result.runs:
        result.bars.append(Bar(f"wall, {name}", result.median(name), _QUERY, " s"))


_QUESTIONS: dict[str, Callable[[Catalog, Filled], object]] = {
    "list": lambda catalog, filled: catalog.checkpoints.list_pushed(),
    "inspect": lambda catalog, filled: inspect_checkpoint(catalog, filled.name),
    "training checkpoints": lambda catalog, filled: catalog.checkpoints.list_captured(
        catalog.jobs.get(parse_job_reference(filled.job)).id
    ),
}


def _asking(question: Callable[[Catalog, Filled], object], catalog: Catalog, filled: Filled) -> Contestant:
    def ask() -> Cost:
        wall, cpu = time.perf_counter(), time.process_time()
        question(catalog, filled)
        return Cost(time.perf_counter() - wall, time.process_time() - cpu, peak=0)

    return Contestant(ask)
