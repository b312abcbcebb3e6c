"""What the benchmark makes of its runs: medians, ratios, bars, tables, charts, and the page of the documentation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks.__main__ import merge
from benchmarks.cases.growth import growth_of
from benchmarks.documentation import BEGIN, END, chart, growth_chart, write
from benchmarks.results import Bar, Result, Run, Spread
from benchmarks.table import print_result, to_markdown
from rich.console import Console

MACHINE = {
    "cpu": "a processor",
    "cores": 2,
    "memory_gib": 8,
    "system": "Linux 6",
    "python": "3.11",
    "load": 0.5,
    "at": "2026-01-01T00:00:00+00:00",
}


def a_run(wall: float, *, requests: int | None = None) -> Run:
    return Run(wall=wall, cpu=wall / 2, peak=64 * 1024**2, requests=requests)


@pytest.fixture
def result() -> Result:
    return Result(
        case="push-large",
        title="push <much>",
        runs={"slow & old": [a_run(4), a_run(6), a_run(5)], "flexai": [a_run(1, requests=3), a_run(2, requests=3)]},
        skipped={"absent": "it cannot be installed"},
        wrong={"hasty": ["1 files are missing"]},
        bars=[Bar("wall", 0.3, 0.8, "×"), Bar("requests", 30, 10), Bar("throughput", 0.9, 0.8, at_least=True)],
        chart=True,
    )


def test_the_ends_of_few_figures_are_the_least_and_the_greatest() -> None:
    assert Spread.of([3, 1, 2]) == Spread(2, 1, 3)


def test_the_ends_of_five_figures_are_quartiles_so_that_one_bad_run_tells_nothing() -> None:
    assert Spread.of([1, 2, 3, 4, 1000]) == Spread(3, 2, 4)


def test_a_ratio_is_the_references_median_by_the_others(result: Result) -> None:
    assert result.ratio("slow & old") == 0.3
    assert result.fastest(["slow & old", "absent"]) == "slow & old"


def test_a_bar_is_met_from_its_own_side(result: Result) -> None:
    assert [bar.met for bar in result.bars] == [True, False, True]


def test_a_result_survives_json(result: Result) -> None:
    assert Result.from_document(json.loads(json.dumps(result.to_document()))) == result


def test_a_case_that_is_measured_again_replaces_only_itself() -> None:
    known = [{"case": "one", "title": "old"}, {"case": "two", "title": "old"}]
    assert merge(known, [{"case": "two", "title": "new"}]) == [
        {"case": "one", "title": "old"},
        {"case": "two", "title": "new"},
    ]


def test_the_table_names_the_fastest_first_and_says_what_was_missed(result: Result) -> None:
    console = Console(width=160, record=True)
    print_result(result, console)
    shown = console.export_text()
    assert shown.index("flexai") < shown.index("slow & old")
    assert "MISSED: requests: 30 (≤ 10)" in shown
    assert "skipped: absent: it cannot be installed" in shown
    assert "does not count: 1 of hasty" in shown


def test_columns_without_a_figure_are_left_out(result: Result) -> None:
    head = to_markdown(result).splitlines()[2]
    assert "requests" in head
    assert "server CPU" not in head


def test_a_chart_is_an_svg_with_a_longer_bar_for_a_greater_ratio(result: Result) -> None:
    slower = replace(result, title="fetch", runs={"other": [a_run(1)], "flexai": [a_run(1.5)]})
    drawing = ElementTree.fromstring(chart([result, slower]))
    bars = drawing.findall("{http://www.w3.org/2000/svg}rect")[1:]
    first, second = (float(bar.get("width", "")) for bar in bars)
    assert first < second
    assert {"push <much>", "fetch", "0.30", "1.50"} <= {text.text for text in drawing.iter()}


def test_a_chart_of_growth_has_a_line_for_each_series() -> None:
    rows = {f"push of {count:,} files": {"s": count / 1000} for count in (1_000, 10_000, 100_000)}
    rows |= {"list of 10 checkpoints": {"s": 0.1}, "list of 1,000 checkpoints": {"s": 0.1}}
    drawing = ElementTree.fromstring(growth_chart(Result("growth", "growth", {}, figures=rows)))
    files, checkpoints = (
        [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
        for line in drawing.findall("{http://www.w3.org/2000/svg}polyline")
    )
    (first, left), (_, _), (last, right) = files
    assert first < last
    assert right < left, "more seconds stand higher"
    assert checkpoints[0][1] == checkpoints[1][1]
    assert {"push of files", "list of checkpoints", "100 s", "1,000"} <= {text.text for text in drawing.iter()}


@pytest.mark.parametrize(
    ("walls", "growth"),
    [({1: 1, 10: 10, 100: 100}, 1.0), ({1: 1, 10: 10, 100: 200}, 2.0), ({1: 1, 10: 1, 100: 2}, 0.2)],
)
def test_growth_is_the_steepest_step_by_what_is_linear(walls: dict[int, float], growth: float) -> None:
    assert growth_of(walls) == pytest.approx(growth)


def marked(folder: Path, before: str = "", after: str = "") -> tuple[Path, Path]:
    """A page for races and one for other figures, with the marks to write between."""
    pages = folder / "performance.md", folder / "NOTES.md"
    for page in pages:
        page.write_text(f"{before}{BEGIN}\nold figures\n{END}{after}")
    return pages


def test_the_page_keeps_what_stands_around_the_figures(result: Result, tmp_path: Path) -> None:
    page, notes = marked(tmp_path, "# Before\n\n", "\n\nAfter.\n")
    run = {"machine": MACHINE, "remark": "Rough."}
    document = {"results": [result.to_document() | run]}
    write(document, page, notes)
    write(document, page, notes)
    text = page.read_text()
    assert text.startswith("# Before")
    assert text.endswith("After.\n")
    assert "old figures" not in text
    assert text.count("| push <much> | 1.50 | 0.75 | 64 | slow & old | 5.00 | 2.50 | 0.30 | 2 | 1 |") == 1
    assert "2 cores" in text
    assert "Rough." in text
    assert (tmp_path / "images" / "performance.svg").is_file()
    assert json.loads(page.with_suffix(".json").read_text()) == document


def test_each_row_names_the_run_that_it_is_of(result: Result, tmp_path: Path) -> None:
    page, notes = marked(tmp_path)
    runs = [{"machine": MACHINE | {"cpu": cpu}, "remark": ""} for cpu in ("Abacus", "Abacus", "Difference Engine")]
    write({"results": [result.to_document() | run for run in runs]}, page, notes)
    text = page.read_text()
    assert text.count("Abacus") == text.count("Difference Engine") == 1
    assert [line.split("|")[-2].strip() for line in text.splitlines() if "push <much>" in line] == ["1", "1", "2"]


def test_the_charts_of_earlier_pages_go_and_other_images_stay(result: Result, tmp_path: Path) -> None:
    page, notes = marked(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    for name in ("performance-gone.svg", "screen.png"):
        (images / name).touch()
    write({"results": [result.to_document() | {"machine": MACHINE, "remark": ""}]}, page, notes)
    assert {path.name for path in images.iterdir()} == {"performance.svg", "screen.png"}


def test_a_reference_other_than_flexai_is_named(result: Result) -> None:
    assert "ratio:" not in to_markdown(result)
    result.reference = "slow & old"
    assert "ratio: the median of slow & old by that of the others" in to_markdown(result)


@pytest.mark.parametrize("which", [0, 1])
def test_a_page_without_marks_is_left_alone(which: int, tmp_path: Path) -> None:
    pages = marked(tmp_path)
    pages[which].write_text("# A person's page\n")
    before = [page.read_text() for page in pages]
    with pytest.raises(ValueError, match="no marks"):
        write({"results": []}, *pages)
    assert [page.read_text() for page in pages] == before
    assert {path.name for path in tmp_path.iterdir()} == {"performance.md", "NOTES.md"}


def test_figures_that_are_no_race_stand_in_the_notes_alone(result: Result, tmp_path: Path) -> None:
    page, notes = marked(tmp_path)
    growth = Result("growth", "how it grows", {}, figures={"push of 10 files": {"s": 1}, "push of 100 files": {"s": 9}})
    run = {"machine": MACHINE, "remark": "Rough."}
    write({"results": [one.to_document() | run for one in (result, growth)]}, page, notes)
    assert "how it grows" not in page.read_text()
    assert "push <much>" not in notes.read_text()
    assert "Rough." in notes.read_text()
    assert "(images/performance-growth.svg)" in notes.read_text()
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"performance.svg", "performance-growth.svg"}


def test_a_case_with_figures_of_its_own_has_a_table_of_its_own() -> None:
    figures = {"1 KiB, flexai": {"calls": 300, "p99 ms": 1.2345}, "1 KiB, upload": {"p99 ms": 1234.5, "lost": 0}}
    result = Result("training-stall", "what a save costs", {}, reference="1 KiB, flexai", figures=figures)
    lines = to_markdown(Result.from_document(json.loads(json.dumps(result.to_document())))).splitlines()
    assert lines[2:6] == [
        "| | calls | p99 ms | lost |",
        "| --- | ---: | ---: | ---: |",
        "| **1 KiB, flexai** | **300** | **1.23** |  |",
        "| 1 KiB, upload |  | 1,234 | 0 |",
    ]
