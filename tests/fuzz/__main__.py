"""Try millions of inputs on the parsers of foreign data.

    make fuzz ARGS="manifest safetensors --runs 1000000"

Each parser has a process of its own. A row says how many inputs it read, how many ended in an exception of another kind
than its own, its peak of memory and its longest input. What failed is kept below `build/fuzz`; `--replay FILE` tries it
again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.fuzz.mutator import MAX_SIZE, Mutator
from tests.fuzz.parsers import PARSERS, Parser

KEPT = Path("build") / "fuzz"
LONGEST = 30
"""Seconds that an input may take."""
_KEPT_OF_A_KIND = 3


class TooLongError(Exception):
    """An input took longer than it may."""


class Trial:
    """What came of one parser's inputs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parser: Parser = PARSERS[name]
        self.inputs = 0
        self.failures = 0
        self.longest = 0.0
        self._kinds: dict[str, int] = {}
        signal.signal(signal.SIGALRM, _give_up)

    def read(self, data: bytes) -> None:
        """Have the parser read an input."""
        self.inputs += 1
        began = time.perf_counter()
        signal.alarm(LONGEST)
        try:
            self.parser.read(data)
        except self.parser.allowed:
            pass
        except Exception as error:  # noqa: BLE001 - what no parser should raise is what is looked for
            self._keep(data, error)
        finally:
            signal.alarm(0)
        self.longest = max(self.longest, time.perf_counter() - began)

    def _keep(self, data: bytes, error: Exception) -> None:
        self.failures += 1
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
        self._kinds[kind] = self._kinds.get(kind, 0) + 1
        if self._kinds[kind] <= _KEPT_OF_A_KIND:
            file = KEPT / f"{self.name}-{hashlib.sha256(data).hexdigest()[:12]}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            print(f"{self.name}: {kind}: {str(error)[:200]!r}, kept as {file}", file=sys.stderr)

    def row(self) -> dict[str, object]:
        """What is told of it."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return {
            "parser": self.name,
            "inputs": self.inputs,
            "failures": self.failures,
            "peak": peak,
            "longest": self.longest,
            "kinds": self._kinds,
        }


def _give_up(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TooLongError


def try_ours(trial: Trial, runs: int, seconds: float, seed: int) -> None:
    """Inputs of our own mutator, until there are enough or the time is up."""
    draw = random.Random(f"{seed} {trial.name}")
    mutator = Mutator(draw, trial.parser.seeds(), trial.parser.tokens)
    end = time.monotonic() + seconds
    while trial.inputs < runs and time.monotonic() < end:
        data = mutator.make()
        trial.read(trial.parser.mend(data) if draw.random() < 0.5 else data)


def try_atheris(trial: Trial, runs: int, seconds: float, seed: int) -> None:
    """Inputs of libFuzzer, guided by which lines of ours and of the parsers that we use they reach."""
    import atheris

    corpus = KEPT / "corpus" / trial.name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(trial.parser.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    atheris.instrument_all()

    def read(data: bytes) -> None:
        trial.read(trial.parser.mend(data))

    # It ends the process by itself, but lets what is to be done at its end be done.
    import atexit

    atexit.register(lambda: print(json.dumps(trial.row()), flush=True))
    options = [f"-runs={runs}", f"-seed={seed + 1}", f"-max_len={MAX_SIZE}", "-rss_limit_mb=0", "-verbosity=0"]
    if seconds < float("inf"):
        options.append(f"-max_total_time={int(seconds)}")
    atheris.Setup([sys.argv[0], *options, str(corpus)], read)
    atheris.Fuzz()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="make fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "parsers", nargs="*", metavar="PARSER", help=f"of {', '.join(PARSERS)}, or parts of their names"
    )
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each parser; 100000 by default")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each parser, at most")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other inputs")
    parser.add_argument("--engine", choices=("ours", "atheris"), default="ours", help="atheris: pip install atheris")
    parser.add_argument("--replay", type=Path, nargs="*", help="try kept inputs again")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replay is not None:
        for file in options.replay:
            name = file.name.rpartition("-")[0]
            print(f"{file}: {PARSERS[name].read(file.read_bytes())!r}")
        return 0
    names = [name for name in PARSERS if not options.parsers or any(part in name for part in options.parsers)]
    if options.alone:
        trial = Trial(names[0])
        engine = try_atheris if options.engine == "atheris" else try_ours
        with contextlib.redirect_stdout(sys.stderr):
            engine(trial, options.runs, options.seconds, options.seed)
        print(json.dumps(trial.row()))
        return 0
    return _tell(names, options)


def _tell(names: list[str], options: argparse.Namespace) -> int:
    columns = "{parser:16} {inputs:>9} {failures:>16} {peak:>9} {longest:>10} {seconds:>8}"
    head = {"inputs": "inputs", "failures": "of another kind", "peak": "peak MiB", "longest": "longest s"}
    print(columns.format(parser="parser", **head, seconds="seconds"), flush=True)
    failed = 0
    for name in names:
        began = time.monotonic()
        command = [sys.executable, "-m", "tests.fuzz", name, "--alone", "--runs", str(options.runs)]
        command += ["--seconds", str(options.seconds), "--seed", str(options.seed), "--engine", options.engine]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        try:
            row = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            ended = {f"exit code {done.returncode}": 1}
            row = {"parser": name, "inputs": 0, "failures": 1, "peak": 0, "longest": 0.0, "kinds": ended}
        failed += row["failures"]
        kinds = row.pop("kinds")
        row["longest"] = f"{row['longest']:.3f}"
        print(columns.format(**row, seconds=f"{time.monotonic() - began:.0f}"), flush=True)
        for kind, count in kinds.items():
            print(f"    {count} x {kind}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
