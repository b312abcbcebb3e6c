from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from flexai.checkpoints.progress import CountingProgress, StageProgress, clock
from tests.support.progress import GIB, HALFWAY


def test_reports_from_many_threads_are_all_counted() -> None:
    progress = CountingProgress()
    start = threading.Barrier(8)

    def report() -> None:
        start.wait()
        for _ in range(5000):
            progress.advance(moved=3, skipped=2, files=1)

    with ThreadPoolExecutor(8) as executor:
        for future in [executor.submit(report) for _ in range(8)]:
            future.result()
    assert (progress.moved, progress.skipped, progress.files) == (120_000, 80_000, 40_000)


def test_a_line_says_how_far_it_is() -> None:
    assert str(HALFWAY) == (
        "push mistral-500: 2.5 GiB of 5 GiB (50%), 3 of 10 files, 512 MiB already there, 120 MiB/s, 0:21 left"
    )


def test_the_last_line_says_what_was_done() -> None:
    done = replace(HALFWAY, moved=4 * GIB, skipped=GIB, files=10)
    assert done.last_line() == "push mistral-500: 5 GiB, 10 files, 1 GiB already there, 204.8 MiB/s in 0:20"


def test_the_last_line_of_what_was_broken_off_says_how_far_it_came() -> None:
    assert HALFWAY.last_line() == (
        "push mistral-500: 2.5 GiB of 5 GiB, 3 of 10 files, 512 MiB already there, 102.4 MiB/s in 0:20"
    )


@pytest.mark.parametrize(
    ("stage", "fraction"),
    [
        (StageProgress("push", 1000, 2, moved=250, skipped=250, files=1), 0.5),
        (StageProgress("push", 0, 4, files=1), 0.25),
        (StageProgress("push", 0, 0), 1.0),
        (StageProgress("push", 1000, 2, moved=2000), 1.0),
        (StageProgress("push", 1000, 2, moved=-5), 0.0),
    ],
)
def test_progress_counts_bytes_or_files_where_there_are_none(stage: StageProgress, fraction: float) -> None:
    assert stage.fraction == fraction


@pytest.mark.parametrize(
    ("stage", "seconds"),
    [
        (StageProgress("push", 1000, 1, moved=100, rate=10), 90),
        (StageProgress("push", 1000, 1, moved=100, skipped=500, rate=10), 40),
        (StageProgress("push", 1000, 1, moved=1000, rate=10), None),
        (StageProgress("push", 1000, 1, skipped=500), None),
        (StageProgress("push", 1000, 1, moved=100, rate=0.5), None),
    ],
)
def test_how_long_it_takes_is_told_by_what_has_moved(stage: StageProgress, seconds: float | None) -> None:
    assert stage.seconds_left == seconds
    assert ("left" in str(stage)) == (seconds is not None)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (42.4, "0:42"), (725, "12:05"), (4050, "1:07:30"), (360_000, "100:00:00")]
)
def test_a_clock_shows_minutes_and_where_needed_hours(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_no_byte_is_lost_where_many_threads_report_and_all_is_passed_on() -> None:
    inner = CountingProgress()
    progress = CountingProgress(inner)
    progress.begin("push x", total_bytes=80_000, total_files=8)

    def work() -> None:
        for _ in range(10_000):
            progress.advance(moved=1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.end()
    assert progress.moved == inner.moved == 80_000
