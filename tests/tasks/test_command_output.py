"""What a training command prints, as log lines."""

from __future__ import annotations

import logging

import pytest

from flexai.tasks.command_output import BURST_LINES, LINE_LENGTH, LoggedOutput
from flexai.tasks.options import RunLogger
from tests.hostile.texts import ALL, assert_harmless

LOGGER = logging.getLogger("test-output")


def printed(*pieces: bytes, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    with LoggedOutput(LOGGER) as output:
        for piece in pieces:
            output("stdout", piece)
    return caplog.messages


def test_each_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert printed(b"step 1\nstep 2\n", caplog=caplog) == ["step 1", "step 2"]


def test_a_line_that_comes_in_pieces_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    assert printed(b"st", b"ep 1", b"\nstep", b" 2", caplog=caplog) == ["step 1", "step 2"]


def test_the_two_streams_do_not_mix(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    with LoggedOutput(LOGGER) as output:
        output("stdout", b"out")
        output("stderr", b"err\n")
        output("stdout", b"put\n")
    assert caplog.messages == ["err", "output"]


def test_empty_lines_colours_and_line_ends_of_all_kinds_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert printed(b"\n\r\n\x1b[31mred\x1b[0m\r50 %\r100 %\r\n", caplog=caplog) == ["red", "50 %", "100 %"]


def test_no_line_commands_the_terminal_that_shows_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    with LoggedOutput(RunLogger(LOGGER)) as output:
        output("stdout", ALL.encode() + b"\n")
    for line in caplog.messages:
        assert_harmless(line)


def test_bytes_that_are_no_text_are_replaced(caplog: pytest.LogCaptureFixture) -> None:
    assert printed(b"\xff\xfeok\n", caplog=caplog) == ["��ok"]


def test_a_percent_sign_is_no_format(caplog: pytest.LogCaptureFixture) -> None:
    assert printed(b"100 %s %d\n", caplog=caplog) == ["100 %s %d"]


def test_a_very_long_line_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = printed(b"x" * (LINE_LENGTH + 1) + b"\n", caplog=caplog)
    assert line == "x" * LINE_LENGTH + "…"


def test_a_line_that_never_ends_takes_no_memory() -> None:
    with LoggedOutput(LOGGER) as output:
        for _ in range(100):
            output("stdout", b"x" * 65536)
        assert sum(map(len, output._rest.values())) <= LINE_LENGTH * 4


def test_a_flood_is_thinned_out_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """A Prefect API stores each line in its database."""
    lines = printed(b"".join(b"line %d\n" % number for number in range(5000)), caplog=caplog)
    assert lines[:BURST_LINES] == [f"line {number}" for number in range(BURST_LINES)]
    assert len(lines) < BURST_LINES + 500
    assert lines[-1].endswith("lines of output are left out here)")
    left_out = sum(int(line[1:].split()[0]) for line in lines if line.startswith("("))
    assert left_out + sum(line.startswith("line ") for line in lines) == 5000
