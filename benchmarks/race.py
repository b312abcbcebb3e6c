"""Running contestants by turns, so that a busy machine is busy for all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.measure import Cost, FailedError
from benchmarks.results import Run
from benchmarks.servers import Server


class WrongError(Exception):
    """What arrived is not what was sent; says how."""


def _nothing() -> None:
    """Neither preparation nor examination."""


@dataclass(frozen=True)
class Contestant:
    """A client that does what a case is about."""

    perform: Callable[[], Cost]
    prepare: Callable[[], None] = _nothing
    """Makes every run start from the same; not measured."""
    examine: Callable[[], None] = _nothing
    """Raises WrongError where the result is not right; not measured."""
    server: Server | None = None
    """Whom it asks, where that is not the server of the race."""


def race(
    contestants: Mapping[str, Contestant], *, rounds: int, server: Server | None = None, warm_up: bool = True
) -> tuple[dict[str, list[Run]], dict[str, list[str]]]:
    """Run all contestants ``rounds`` times after a warm-up, each round beginning with another one.

    Returns the runs that count, and why others do not. One that fails or is wrong in its warm-up leaves the race.
    """
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    wrong: dict[str, list[str]] = {}
    names = list(contestants)
    first = 0 if warm_up else 1
    for number in range(first, rounds + 1):
        shift = number % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            _say(f"{'warm-up' if number == 0 else f'round {number}/{rounds}'}  {name}")
            try:
                run = _run(contestants[name], contestants[name].server or server)
            except (FailedError, WrongError) as error:
                wrong.setdefault(name, []).append(str(error))
                _say("")
                print(f"  {name}: {error}", file=sys.stderr)
                if number == first:
                    names.remove(name)
                continue
            if number:
                runs[name].append(run)
    _say("")
    return {name: some for name, some in runs.items() if some}, wrong


def _run(contestant: Contestant, server: Server | None) -> Run:
    contestant.prepare()
    if server:
        server.reset()
    cost = contestant.perform()
    load = server.load() if server else None
    contestant.examine()
    if load is None:
        return Run(cost.wall, cost.cpu, cost.peak, span=cost.inner)
    span = cost.inner if cost.inner is not None else load.span
    return Run(cost.wall, cost.cpu, cost.peak, load.cpu, span, load.received, load.sent, load.requests)


def _say(what: str) -> None:
    """Show what is under way, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K  {what}" if what else "\r\033[K", end="", file=sys.stderr, flush=True)
