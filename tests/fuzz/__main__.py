"""Try millions of inputs on the parsers of foreign data.

    make fuzz ARGS="manifest safetensors --runs 1000000"

Each parser has a process of its own. A row says how many inputs it read, how many ended in an exception of another kind
than its own, its peak of memory and its longest input. What failed is kept below `build/fuzz`; `--replay FILE` tries it
again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from tests.fuzz.mutator import MAX_SIZE, Mutator

if TYPE_CHECKING:
    from tests.fuzz.parsers.table import Parser

KEPT = Path("build") / "fuzz"
LONGEST = 30
"""Seconds that an input may take."""
_KEPT_OF_A_KIND = 3
_ANSWER = 3
"""The descriptor by which a parser's process tells its row: its standard output is the parsers'."""


class TooLongError(Exception):
    """An input took longer than it may."""


class Trial:
    """What came of one parser's inputs."""

    def __init__(self, name: str, parser: Parser) -> None:
        self.name = name
        self.parser = parser
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

    def row(self) -> str:
        """What is told of it, as JSON."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        counts = {"parser": self.name, "inputs": self.inputs, "failures": self.failures}
        return json.dumps(counts | {"peak": peak, "longest": self.longest, "kinds": self._kinds})


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


def try_atheris(trial: Trial, runs: int, seconds: float, seed: int) -> NoReturn:
    """Inputs of libFuzzer, guided by which lines of ours they reach."""
    import atheris

    corpus = KEPT / "corpus" / trial.name
    corpus.mkdir(parents=True, exist_ok=True)
    # A parser imports what it needs with its first input.
    with atheris.instrument_imports(include=["flexai"]):
        for number, data in enumerate(trial.parser.seeds()):
            (corpus / f"seed-{number}").write_bytes(data)
            trial.read(data)
    end = time.monotonic() + seconds

    def read(data: bytes) -> None:
        trial.read(trial.parser.mend(data))
        if trial.inputs >= runs or time.monotonic() > end:
            # libFuzzer would end the process without a word.
            os.write(_ANSWER, trial.row().encode())
            os._exit(0)

    options = [f"-seed={seed + 1}", f"-max_len={MAX_SIZE}", "-rss_limit_mb=0", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], read)
    atheris.Fuzz()
    raise AssertionError("it does not return")


def load(engine: str) -> Mapping[str, Parser]:
    """The table of parsers, with the code of ours that it imports made to tell which of its lines are reached."""
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["flexai"]):
            from tests.fuzz.parsers import PARSERS
    else:
        from tests.fuzz.parsers import PARSERS
    return PARSERS


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="make fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parsers", nargs="*", metavar="PARSER", help="their names or parts of them; all without any")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each parser; 100000 by default")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each parser, at most")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other inputs")
    parser.add_argument("--engine", choices=("ours", "atheris"), default="ours", help="atheris: pip install atheris")
    parser.add_argument("--replay", type=Path, nargs="*", help="try kept inputs again")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    parsers = load(options.engine if options.alone else "ours")
    if options.replay is not None:
        for file in options.replay:
            print(f"{file}: {parsers[file.name.rpartition('-')[0]].read(file.read_bytes())!r}")
        return 0
    if options.alone:
        (name,) = options.parsers
        trial = Trial(name, parsers[name])
        if options.engine == "atheris":
            try_atheris(trial, options.runs, options.seconds, options.seed)
        try_ours(trial, options.runs, options.seconds, options.seed)
        os.write(_ANSWER, trial.row().encode())
        return 0
    return _tell(
        [name for name in parsers if not options.parsers or any(part in name for part in options.parsers)], options
    )


def _ask(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Have a process try a parser; returns its row."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--alone", "--runs", str(options.runs)]
    command += ["--seconds", str(options.seconds), "--seed", str(options.seed), "--engine", options.engine]
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as answer:
        # As descriptor 3, which is _ANSWER.
        script = ["sh", "-c", f'exec "$@" 3>&{writing} >&2', "sh", *command]
        process = subprocess.Popen(script, pass_fds=[writing])
        os.close(writing)
        told = answer.read()
    code = process.wait()
    if told:
        row: dict[str, Any] = json.loads(told)
        return row
    ended = {f"exit code {code}": 1}
    return {"parser": name, "inputs": 0, "failures": 1, "peak": 0, "longest": 0.0, "kinds": ended}


def _tell(names: list[str], options: argparse.Namespace) -> int:
    columns = "{parser:16} {inputs:>9} {failures:>16} {peak:>9} {longest:>10} {seconds:>8}"
    head = {"inputs": "inputs", "failures": "of another kind", "peak": "peak MiB", "longest": "longest s"}
    print(columns.format(parser="parser", **head, seconds="seconds"), flush=True)
    failed = 0
    for name in names:
        began = time.monotonic()
        row = _ask(name, options)
        failed += row["failures"]
        kinds = row.pop("kinds")
        row["longest"] = f"{row['longest']:.3f}"
        print(columns.format(**row, seconds=f"{time.monotonic() - began:.0f}"), flush=True)
        for kind, count in kinds.items():
            print(f"    {count} x {kind}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
