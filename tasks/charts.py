"""A training job's losses by step, as an SVG picture for a page of Prefect's UI.

Plain text, without a library for plots: two lines, their axes, and a mark on the best. The picture has a background of
its own, and both follow the reader's light or dark theme together.
"""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from flexai.checkpoints.choosing import EVAL_LOSS, TRAIN_LOSS, Metric, best, metric_of_all

WIDTH, HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 24, 58, 52
_TICKS = 6
_MAX_POINTS = 400
"""Points of one line; of more, every n-th is drawn."""
_MAX_NAME = 30
"""Letters of a metric's name that there is room for."""
_MAX_DOTS = 60
"""Points up to which each has a dot."""

_STYLE = """
text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#4b5563}
.title{font-size:15px;font-weight:600;fill:#111827}
.ground{fill:#ffffff;stroke:#d1d5db}
.grid{stroke:#e5e7eb}.axis{stroke:#9ca3af}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.train{stroke:#2563eb}.eval{stroke:#d97706}
.train-dot{fill:#2563eb}.eval-dot{fill:#d97706}
.best{fill:none;stroke:#059669;stroke-width:2.5}.best-text{fill:#047857;font-weight:600}
@media(prefers-color-scheme:dark){
text{fill:#cbd5e1}.title{fill:#f8fafc}
.ground{fill:#1f2430;stroke:#3b4252}
.grid{stroke:#323948}.axis{stroke:#7b8496}
.train{stroke:#60a5fa}.eval{stroke:#fbbf24}
.train-dot{fill:#60a5fa}.eval-dot{fill:#fbbf24}
.best{stroke:#34d399}.best-text{fill:#6ee7b7}
}
"""


@dataclass(frozen=True, slots=True)
class Point:
    """What a checkpoint measured."""

    step: int
    train_loss: float | None = None
    eval_loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    best_by: str = ""

    @property
    def has_loss(self) -> bool:
        """Whether there is anything to draw."""
        return _is_number(self.train_loss) or _is_number(self.eval_loss)


def best_of(points: Sequence[Point]) -> Point | None:
    """The best of points, which come in the order of their capture."""
    return best(points, metric_of_all(points), lambda point: point)


def loss_chart(points: Sequence[Point], *, title: str) -> str:
    """The SVG of the losses by step, with a mark on the best of the points, which come in the order of their capture.

    Of equal steps the last counts. Raises ValueError without a loss.
    """
    measured = {point.step: point for point in points if point.has_loss}
    drawn = [point for _, point in sorted(measured.items())]
    series = [
        (name, label, [(point.step, value) for point in drawn if _is_number(value := getattr(point, f"{name}_loss"))])
        for name, label in (("train", "train loss"), ("eval", "eval loss"))
    ]
    series = [one for one in series if one[2]]
    if not series:
        raise ValueError("there is no loss to draw")
    steps = [step for *_, line in series for step, _ in line]
    losses = [loss for *_, line in series for _, loss in line]
    across = _Scale.over(steps, _LEFT, WIDTH - _RIGHT)
    down = _Scale.over(losses, HEIGHT - _BOTTOM, _TOP, padded=True)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' role="img"><title>{_text(title)}</title><style>{_STYLE}</style>',
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>',
        f'<text class="title" x="{_LEFT}" y="28">{_text(title)}</text>',
        *_axes(across, down),
    ]
    for number, (name, label, line) in enumerate(series):
        parts += _line(name, label, line, across, down, number)
    if (chosen := best_of(points)) is not None:
        parts += _best(metric_of_all(points), chosen, across, down)
    return "".join(parts) + "</svg>"


def data_uri(svg: str) -> str:
    """An SVG as the address of an image, which needs no place to lie at."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where a value lies in the picture."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, padded: bool = False) -> _Scale:
        low, high = float(min(values)), float(max(values))
        # In halves, for the difference of two large numbers may be too large for a number.
        room = (high / 2 - low / 2) * 0.1 if padded else 0.0
        if low == high:
            room = abs(low) * 0.1 or 1.0
        most = sys.float_info.max
        return cls(max(low - room, -most), min(high + room, most), start, end)

    def __call__(self, value: float) -> float:
        share = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round numbers within, about six of them."""
        rough = (self.high / 2 - self.low / 2) / _TICKS * 2
        if not rough or not math.isfinite(rough):
            return [self.low, self.high]
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((factor * power for factor in (1, 2, 5, 10) if factor * power >= rough), 10 * power)
        if not step or not math.isfinite(step):
            return [self.low, self.high]
        first = math.ceil(self.low / step)
        values = [(first + number) * step for number in range(_TICKS * 2)]
        return [value for value in values if self.low <= value <= self.high]


def _axes(across: _Scale, down: _Scale) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value in down.ticks():
        y = down(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{_number(value)}</text>')
    for value in across.ticks():
        # A step is a whole number; a job of two steps has no tick between them.
        if value == math.floor(value):
            x = across(value)
            parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 5}"/>')
            parts.append(f'<text x="{x}" y="{bottom + 20}" text-anchor="middle">{_number(value)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 12}" text-anchor="middle">step</text>')
    return parts


def _line(
    name: str, label: str, line: Sequence[tuple[int, float]], across: _Scale, down: _Scale, number: int
) -> list[str]:
    every = -(-len(line) // _MAX_POINTS)
    shown = [*line[:-1:every], line[-1]]
    places = [(across(step), down(loss)) for step, loss in shown]
    path = " ".join(f"{x},{y}" for x, y in places)
    x = _LEFT + number * 110
    parts = [
        f'<polyline class="line {name}" points="{path}"/>',
        f'<line class="line {name}" x1="{x}" x2="{x + 22}" y1="44" y2="44"/><text x="{x + 28}" y="48">{label}</text>',
    ]
    if len(places) <= _MAX_DOTS:
        parts += [f'<circle class="{name}-dot" cx="{x}" cy="{y}" r="3"/>' for x, y in places]
    return parts


def _best(metric: Metric, chosen: Point, across: _Scale, down: _Scale) -> list[str]:
    value = metric.of(chosen)
    losses = (value if metric in {EVAL_LOSS, TRAIN_LOSS} else None, chosen.eval_loss, chosen.train_loss)
    loss = next((one for one in losses if one is not None and math.isfinite(one)), None)
    if loss is None or value is None:
        return []  # the picture shows losses alone
    name = "" if metric in {EVAL_LOSS, TRAIN_LOSS} else f"{_text(metric.name[:_MAX_NAME])} "
    said = f"best: {name}{_number(value)} at step {chosen.step}"
    return [
        f'<circle class="best" cx="{across(chosen.step)}" cy="{down(loss)}" r="7"/>',
        # Beside the names of the lines: next to its mark it would lie over one.
        f'<text class="best-text" x="{WIDTH - _RIGHT}" y="48" text-anchor="end">{said}</text>',
    ]


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float) -> str:
    return f"{value:.10g}" if value == int(value) and abs(value) < 1e9 else f"{value:.4g}"


def _text(text: str) -> str:
    """A text as XML has it; what XML cannot hold is left out."""
    return escape("".join(letter for letter in text if letter.isprintable()))
