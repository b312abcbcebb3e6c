"""What races gave: runs, their medians and spread, and whether a bar was met."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Run:
    """One run of one contestant, whose result was right."""

    wall: float
    """Seconds of the whole process, start-up included."""
    cpu: float
    """Seconds of the client's user and system time."""
    peak: int
    """Bytes."""
    server_cpu: float | None = None
    """Seconds."""
    span: float | None = None
    """Seconds from the first request to the end of the last answer: without start-up and without what comes after."""
    sent: int | None = None
    """Bytes from the client to the server, headers included."""
    received: int | None = None
    """Bytes from the server to the client, headers included."""
    requests: int | None = None


@dataclass(frozen=True)
class Spread:
    """The middle and the ends of some figures."""

    median: float
    low: float
    """The first quartile, or the least of fewer than five."""
    high: float
    """The third quartile, or the greatest of fewer than five."""

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        """Look at one figure or more."""
        ordered = sorted(figures)
        if len(ordered) < 5:
            return cls(statistics.median(ordered), ordered[0], ordered[-1])
        low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Bar:
    """What must be reached, and what was."""

    text: str
    value: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Result:
    """One race."""

    case: str
    title: str
    runs: dict[str, list[Run]]
    reference: str = "flexai"
    """Whom the ratios compare with the others: its figure by theirs."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Contestants that did not take part, and why."""
    wrong: dict[str, list[str]] = field(default_factory=dict)
    """Runs that do not count, and why."""
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chart: bool = False
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    """The rows of a table of its own, where a case measures what no run of a process is: numbers by their columns."""

    def spread(self, contestant: str, figure: str) -> Spread | None:
        """A figure of a contestant's runs; None where it was not measured."""
        figures = [getattr(run, figure) for run in self.runs.get(contestant, [])]
        known = [float(value) for value in figures if value is not None]
        return Spread.of(known) if known else None

    def median(self, contestant: str, figure: str = "wall") -> float:
        """The median of a figure; NaN where there is none."""
        spread = self.spread(contestant, figure)
        return spread.median if spread else float("nan")

    def ratio(self, contestant: str, figure: str = "wall") -> float:
        """The reference's median by the contestant's; NaN where one is missing."""
        other = self.median(contestant, figure)
        return self.median(self.reference, figure) / other if other else float("nan")

    def fastest(self, among: Sequence[str]) -> str | None:
        """Whose median wall time is least."""
        ran = [name for name in among if self.runs.get(name)]
        return min(ran, key=self.median, default=None)

    def to_document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        document = asdict(self)
        document["bars"] = [asdict(bar) | {"met": bar.met} for bar in self.bars]
        document["medians"] = {
            name: {figure: self.median(name, figure) for figure in Run.__annotations__ if self.spread(name, figure)}
            for name in self.runs
        }
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Result:
        """Read what ``to_document`` wrote."""
        values = {key: value for key, value in document.items() if key not in {"medians", "machine", "remark"}}
        values["runs"] = {name: [Run(**run) for run in runs] for name, runs in document["runs"].items()}
        values["bars"] = [Bar(**{k: v for k, v in bar.items() if k != "met"}) for bar in document["bars"]]
        return cls(**values)
