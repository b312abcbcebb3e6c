from __future__ import annotations

import sys
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.names import printable
from flexai.cli import terminal


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.has_colours(_Terminal())
    assert not terminal.has_colours(StringIO())


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)
    assert not terminal.has_colours(_Terminal())


def test_an_empty_no_color_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "")
    assert terminal.has_colours(_Terminal())


def test_only_the_label_is_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = _Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    terminal.say("it broke", label="error", colour="red")
    assert stream.getvalue() == "\x1b[31m\x1b[1merror: \x1b[0mit broke\n"


@given(st.text())
def test_what_is_printable_holds_no_control_character(text: str) -> None:
    shown = printable(text)
    assert all(character.isprintable() or character in "\n\t" for character in shown)
    assert printable(text, keep="").isprintable()
    if text.isprintable():
        assert shown == text


def test_numbers_agree_with_their_nouns() -> None:
    assert terminal.count(1, "file") == "1 file"
    assert terminal.count(0, "file") == "0 files"
    assert terminal.count(2, "abandoned push", "abandoned pushes") == "2 abandoned pushes"


def test_of_many_lines_some_are_said_and_the_others_counted(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say_each([str(number) for number in range(terminal.MOST_LINES)])
    assert capsys.readouterr().err.splitlines() == [str(number) for number in range(terminal.MOST_LINES)]
    terminal.say_each(["x"] * (terminal.MOST_LINES + 3), terminal.warn, rest="which a file has")
    said = capsys.readouterr().err.splitlines()
    assert said == ["warning: x"] * terminal.MOST_LINES + ["warning: … and 3 more, which a file has"]
