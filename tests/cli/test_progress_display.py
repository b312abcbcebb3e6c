from __future__ import annotations

import json
import re
import sys
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.progress import StageProgress
from flexai.cli.progress_display import (
    Notes,
    ProgressForm,
    ShownProgress,
    event_of,
    figures_of,
    shown_progress,
    wanted_form,
)
from flexai.cli.terminal import verbosity
from tests.cli.program import Program, on_a_terminal
from tests.support.progress import GIB, HALFWAY


@given(
    st.integers(-(10**6), 10**18),
    st.integers(0, 10**18),
    st.integers(0, 10**6),
    st.integers(0, 10**18),
    st.integers(0, 10**6),
    st.floats(0, 1e10),
    st.integers(10, 200),
)
def test_the_figures_fit_beside_the_bar_whatever_they_are(
    moved: int, skipped: int, files: int, total_bytes: int, total_files: int, rate: float, width: int
) -> None:
    stage = StageProgress("push", total_bytes, total_files, moved, skipped, files, 1.0, rate)
    assert 0.0 <= stage.fraction <= 1.0
    assert len(figures_of(stage, width)) <= width
    assert figures_of(stage, width).endswith("%") or width >= 12


def test_at_80_columns_bytes_rate_time_and_files_are_all_there() -> None:
    assert figures_of(HALFWAY, 80 - 10 - 12) == " 50%  2.5/5 GiB  120 MiB/s  0:21  3/10 files  512 MiB kept"


def test_without_a_terminal_there_is_a_line_now_and_then_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ShownProgress(line_interval=0.01)
    progress.begin("push", total_bytes=100, total_files=2)
    progress.advance(moved=40, files=1)
    shown = ""
    while shown.count("\n") < 3:
        time.sleep(0.005)
        shown += capsys.readouterr().err
    progress.advance(moved=40, skipped=20, files=1)
    progress.end()
    lines = (shown + capsys.readouterr().err).splitlines()
    assert lines[0].startswith("push: 40 bytes of 100 bytes (40%), 1 of 2 files")
    assert lines[-1].startswith("push: 100 bytes, 2 files, 20 bytes already there")


def test_a_short_stage_is_not_worth_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress() as progress:
        progress.begin("push", total_bytes=100, total_files=1)
        progress.advance(moved=100, files=1)
        progress.end()
    assert capsys.readouterr().err == ""


def test_a_stage_that_an_error_leaves_open_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), shown_progress() as progress:
        progress.begin("push", total_bytes=100, total_files=1)
        raise ZeroDivisionError
    assert threading.active_count() == before


def test_a_stage_that_begins_ends_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with shown_progress() as progress:
        progress.begin("digest", total_bytes=100, total_files=1)
        progress.advance(moved=50)
        progress.begin("push", total_bytes=200, total_files=1)
        assert progress.stage().moved == 0
    assert threading.active_count() == before


def test_a_flood_of_remarks_is_cut_off_unless_more_is_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = ShownProgress()
    for number in range(100):
        progress.note(f"remark {number}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "more of these are left out: --verbose shows them"
    monkeypatch.setattr(verbosity, "verbose", True)
    progress.note("one more")
    assert capsys.readouterr().err.splitlines()[-1] == "one more"


def test_beside_a_training_command_only_remarks_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Notes()
    progress.begin("capture", total_bytes=100, total_files=1)
    progress.advance(moved=100)
    progress.note("checkpoint-5 was removed before it was whole")
    progress.end()
    assert capsys.readouterr().err == "checkpoint-5 was removed before it was whole\n"


_SHOW = """
import time
from flexai.cli import progress_display as showing
showing.BRIEF = 0.3
with showing.shown_progress() as progress:
    progress.begin("push a-checkpoint-with-a-name-that-is-rather-long-for-a-terminal", total_bytes=10**9, total_files=9)
    progress.advance(moved=3 * 10**8, skipped=10**8, files=3)
    time.sleep(0.6)
    progress.note("a [bold]remark[/bold]")
    time.sleep(0.4)
    progress.advance(moved=6 * 10**8, files=6)
"""


def _on_a_terminal(program: Program, code: str, **environment: str) -> str:
    """What Python code shows on a terminal of 80 columns."""
    status, shown = on_a_terminal([sys.executable, "-c", code], env=program.environment | environment, cwd=program.cwd)
    assert status == 0
    return shown


def test_a_terminal_gets_a_bar_that_fits_into_its_80_columns(program: Program) -> None:
    shown = _on_a_terminal(program, _SHOW)
    drawn = [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)) if line.strip()]
    bars = [line for line in drawn if "━" in line]
    assert bars
    assert all(len(line) <= 80 for line in bars)
    assert any("40%" in line and "381/954 MiB" in line and "3/9 files  95 MiB kept" in line for line in bars)
    assert "a [bold]remark[/bold]" in drawn
    assert drawn[-1].startswith("push a-checkpoint-with-a-name-that-is-rather-long-for-a-terminal: 953.7 MiB, 9 files")


def test_what_takes_no_time_worth_a_bar_does_not_load_what_draws_it(program: Program) -> None:
    code = _SHOW.replace("BRIEF = 0.3", "BRIEF = 60.0") + "import sys\nprint('rich' in sys.modules)\n"
    assert _on_a_terminal(program, code).splitlines() == ["a [bold]remark[/bold]", "False"]


def test_no_color_leaves_the_bar_without_colours(program: Program) -> None:
    shown = _on_a_terminal(program, _SHOW, NO_COLOR="1")
    assert "━" in shown
    assert not re.search(r"\x1b\[[0-9;]*[1-9][0-9]?m", shown)


def test_a_dumb_terminal_gets_no_bar(program: Program) -> None:
    shown = _on_a_terminal(program, _SHOW, TERM="dumb")
    assert "━" not in shown
    assert "\x1b" not in shown
    assert "a [bold]remark[/bold]" in shown


def _events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_program_gets_events_from_the_beginning_to_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ShownProgress(form=ProgressForm.JSON, event_interval=0.01)
    progress.begin("push 'naïve\n'", total_bytes=100, total_files=2)
    progress.advance(moved=40, files=1)
    shown = ""
    while '"movedBytes": 40' not in shown:
        time.sleep(0.005)
        shown += capsys.readouterr().err
    progress.note("a remark")
    progress.advance(moved=40, skipped=20, files=1)
    progress.end()
    events = _events(shown + capsys.readouterr().err)
    assert events[0]["event"] == "begin"
    assert {"event": "note", "message": "a remark"} in events
    assert {event["event"] for event in events} == {"begin", "progress", "note", "end"}
    last = events[-1]
    assert (last["event"], last["verb"], last["complete"]) == ("end", "push 'naïve\n'", True)
    assert (last["movedBytes"], last["skippedBytes"], last["totalBytes"]) == (80, 20, 100)
    assert (last["files"], last["totalFiles"], last["secondsLeft"]) == (2, 2, 0.0)


def test_even_a_short_stage_has_its_first_and_last_event(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), shown_progress(ProgressForm.JSON) as progress:
        progress.begin("push", total_bytes=100, total_files=1)
        raise ZeroDivisionError
    events = _events(capsys.readouterr().err)
    assert [event["event"] for event in events] == ["begin", "end"]
    assert (events[-1]["complete"], events[-1]["secondsLeft"]) == (False, None)


def test_an_event_has_bytes_files_rate_and_time_left() -> None:
    assert event_of(HALFWAY, "progress") == {
        "event": "progress",
        "verb": "push mistral-500",
        "movedBytes": 2 * GIB,
        "skippedBytes": GIB // 2,
        "totalBytes": 5 * GIB,
        "files": 3,
        "totalFiles": 10,
        "bytesPerSecond": 120 * 1024**2,
        "seconds": 20.0,
        "secondsLeft": 21.3,
    }


def test_who_wants_no_progress_reads_only_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ShownProgress(form=ProgressForm.NONE, line_interval=0.001)
    progress.begin("push", total_bytes=100, total_files=1)
    time.sleep(0.02)
    progress.note("a remark")
    progress.end()
    assert capsys.readouterr().err == "a remark\n"


def test_by_default_a_person_gets_a_bar_a_log_lines_and_a_program_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbosity, "for_program", True)
    assert [wanted_form(can_draw) for can_draw in (True, False)] == [ProgressForm.BAR, ProgressForm.JSON]
    monkeypatch.setattr(verbosity, "for_program", False)
    assert [wanted_form(can_draw) for can_draw in (True, False)] == [ProgressForm.BAR, ProgressForm.LINES]
    monkeypatch.setattr(verbosity, "progress", "none")
    assert wanted_form(True) is ProgressForm.NONE
