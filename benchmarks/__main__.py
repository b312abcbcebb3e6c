"""Race flexai against its peers: ``python -m benchmarks [CASE…]``."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.bench import Bench
from benchmarks.cases import CASES
from benchmarks.documentation import write
from benchmarks.measure import FailedError
from benchmarks.peers import PeerMissingError, default_cache
from benchmarks.results import Result
from benchmarks.table import print_result


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("cases", nargs=-1, metavar="[CASE]…")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Runs of each contestant.")
@click.option("--peers", default="", metavar="NAME,…", help="Race against these only; everybody by default.")
@click.option(
    "--scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.001),
    help="Multiply sizes and counts, for a trial.",
)
@click.option("--no-warm-up", is_flag=True, help="Count the first run as well.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=default_cache, help="Where peers and the sink are kept."
)
@click.option(
    "--json",
    "output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write everything measured; other cases that the file has already stay in it.",
)
@click.option("--remark", default="", help="What readers should know about this run; goes into JSON and documentation.")
@click.option(
    "--from-json",
    "earlier",
    type=click.Path(path_type=Path, exists=True),
    help="Show what was measured before, and race no more.",
)
@click.option("--write-docs", is_flag=True, help="Put tables and charts into docs/performance.md and NOTES.md.")
@click.option("--list", "listing", is_flag=True, help="Print the cases and end.")
def main(
    cases: tuple[str, ...],
    rounds: int,
    peers: str,
    scale: float,
    no_warm_up: bool,
    cache: Path,
    output: Path | None,
    remark: str,
    earlier: Path | None,
    write_docs: bool,
    listing: bool,
) -> None:
    """Race flexai against its peers; all cases by default.

    Peers are installed from wheels when they are first needed, each into an environment of its own.
    """
    if listing:
        for name, case in CASES.items():
            click.echo(f"{name:24}{(case.__doc__ or '').splitlines()[0]}")
        return
    # A name stands for the cases that begin with it as well: training for training-stall and the others.
    chosen = [case for case in CASES if not cases or any(case == name or case.startswith(f"{name}-") for name in cases)]
    unknown = [name for name in cases if not any(case == name or case.startswith(f"{name}-") for case in CASES)]
    if unknown:
        raise click.UsageError(f"no case {unknown[0]!r}; there are: {', '.join(CASES)}")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    if earlier:
        document = json.loads(earlier.read_text())
        for result in map(Result.from_document, document["results"]):
            print_result(result, console)
    else:
        wanted = frozenset(name.strip() for name in peers.split(",")) if peers else None
        document = {"results": []}
        known = json.loads(output.read_text())["results"] if output and output.exists() else []
        run = {"machine": machine(), "remark": remark}
        # Also where a time limit ends it so: gigabytes of files and the servers are to go with it.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        # Only this environment would compile modules anew in every process.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(cache / "bytecode")
        with Bench(rounds, cache, wanted, scale, not no_warm_up) as bench:
            for name in chosen:
                done = len(bench.results)
                try:
                    CASES[name](bench)
                except (PeerMissingError, FailedError) as error:
                    console.print(f"\n{name} is left out: {error}")
                finally:
                    for result in bench.results[done:]:
                        print_result(result, console)
                    # After every case, and where one is interrupted: hours of racing are not lost to the last one.
                    document["results"] = merge(known, [result.to_document() | run for result in bench.results])
                    if output:
                        output.write_text(json.dumps(document, indent=1) + "\n")
    if write_docs:
        write(document)


def merge(known: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was known before with what is new, each case once, as it was measured last."""
    return list({result["case"]: result for result in (*known, *new)}.values())


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) // 1024**2 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": memory[0] if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    main()
