"""The chart of a job's losses, as an XML parser sees it."""

from __future__ import annotations

import base64
import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.tasks.charts import HEIGHT, WIDTH, Point, best_of, data_uri, loss_chart

SVG = "{http://www.w3.org/2000/svg}"
LOSSES = st.none() | st.floats(allow_nan=True, allow_infinity=True)
POINTS = st.builds(Point, st.integers(-(2**63), 2**63 - 1), LOSSES, LOSSES)


def parsed(points: list[Point], title: str = "Losses") -> ElementTree.Element:
    return ElementTree.fromstring(loss_chart(points, title=title))


def texts(chart: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in chart.iter(f"{SVG}text")]


def test_both_losses_are_drawn_and_the_best_is_marked() -> None:
    points = [Point(250, 2.0, 2.1), Point(500, 1.5, 1.4), Point(750, 1.0, 1.6)]
    chart = parsed(points)
    lines = {line.get("class"): line.get("points", "").split() for line in chart.iter(f"{SVG}polyline")}
    assert {name: len(places) for name, places in lines.items()} == {"line train": 3, "line eval": 3}
    assert {"train loss", "eval loss", "step", "best: 1.4 at step 500"} <= set(texts(chart))
    (mark,) = [circle for circle in chart.iter(f"{SVG}circle") if circle.get("class") == "best"]
    assert f"{mark.get('cx')},{mark.get('cy')}" == lines["line eval"][1]


@pytest.mark.parametrize("points", [[Point(1, 2.0), Point(9, 1.0)], [Point(1, 1.0), Point(9, 2.0)]])
def test_what_is_best_is_said_above_the_lines(points: list[Point]) -> None:
    chart = parsed(points)
    (said,) = [text for text in chart.iter(f"{SVG}text") if text.get("class") == "best-text"]
    tops = [
        float(place.split(",")[1]) for line in chart.iter(f"{SVG}polyline") for place in line.get("points", "").split()
    ]
    assert float(said.get("y", "nan")) < min(tops)


def test_a_loss_that_was_never_measured_has_no_line() -> None:
    chart = parsed([Point(1, 2.0), Point(2, 1.0)])
    assert [line.get("class") for line in chart.iter(f"{SVG}polyline")] == ["line train"]
    assert "eval loss" not in texts(chart)


def test_ticks_are_round_numbers_and_steps_are_whole() -> None:
    shown = texts(parsed([Point(1, 0.5), Point(2, 2.0)]))
    assert {"1", "2"} <= set(shown)
    assert "1.5" in shown and "step" in shown
    assert [text for text in shown if text == "1.2"] == []


def test_the_same_step_again_counts_as_it_is_now() -> None:
    chart = parsed([Point(1, 2.0), Point(2, 1.0), Point(2, 0.5)])
    assert "best: 0.5 at step 2" in texts(chart)


def test_without_a_loss_there_is_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="no loss"):
        loss_chart([Point(1), Point(2, math.nan)], title="Losses")


def test_what_a_title_holds_stays_text() -> None:
    chart = parsed([Point(1, 1.0)], title="</text><script>x</script>&\x00\x1b\ud800")
    assert "</text><script>x</script>&" in texts(chart)
    assert list(chart.iter(f"{SVG}script")) == []


@given(st.lists(POINTS, min_size=1, max_size=30), st.text(max_size=20))
def test_any_losses_make_a_picture_whose_lines_lie_within_it(points: list[Point], title: str) -> None:
    if best_of(points) is None:
        with pytest.raises(ValueError, match="no loss"):
            loss_chart(points, title=title)
        return
    chart = parsed(points, title)
    for line in chart.iter(f"{SVG}polyline"):
        for place in line.get("points", "").split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
    assert not any("nan" in text or "inf" in text for text in texts(chart)[1:])


def test_a_long_training_makes_a_short_picture() -> None:
    svg = loss_chart([Point(step, 1 / step, 2 / step) for step in range(1, 20_001)], title="Losses")
    assert len(svg) < 30_000


def test_the_best_has_the_lowest_eval_loss_and_of_equals_the_earliest_step() -> None:
    points = [Point(1, 0.1, 2.0), Point(2, 0.2, 1.0), Point(3, 0.3, 1.0), Point(4, 0.0)]
    assert best_of(points) == points[1]
    assert best_of([Point(1, 0.2), Point(2, 0.1)]) == Point(2, 0.1)


def test_the_picture_is_its_own_address() -> None:
    uri = data_uri("<svg/>")
    head, _, body = uri.partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(body) == b"<svg/>"
