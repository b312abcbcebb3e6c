"""Arguments of other types than the functions take."""

from __future__ import annotations

import inspect
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

import flexai
from flexai import api, errors

FUNCTIONS = [function for name in api.__all__ if inspect.isfunction(function := getattr(api, name))]
PARAMETERS = [(function, name) for function in FUNCTIONS for name in inspect.signature(function).parameters]


@pytest.mark.parametrize(("function", "name"), PARAMETERS, ids=[f"{one.__name__}-{name}" for one, name in PARAMETERS])
@pytest.mark.parametrize("value", [object(), b"bytes", 1.5, [b"bytes"]], ids=["object", "bytes", "fraction", "several"])
def test_every_argument_of_another_type_is_refused_in_words(function: Any, name: str, value: object) -> None:
    given = {one.name: "" for one in inspect.signature(function).parameters.values() if one.default is one.empty}
    with pytest.raises(errors.UsageError) as raised:
        function(**{**given, name: value})
    assert f"{name} takes " in raised.value.message
    assert raised.value.hint == f"help(flexai.{function.__name__}) tells what it takes"


@pytest.mark.parametrize("since", ["2020-01-01", 1577836800, date(2020, 1, 1)])
def test_a_time_that_is_no_datetime_is_refused(since: Any) -> None:
    with pytest.raises(errors.UsageError, match="since takes a datetime or None, not "):
        flexai.list_checkpoints(since=since)


def test_what_is_true_of_another_type_switches_nothing_on() -> None:
    with pytest.raises(errors.UsageError, match="overwrite takes True or False, not 'no'"):
        flexai.fetch("base", overwrite="no")  # type: ignore[arg-type]


def test_numbers_of_numpy_paths_and_several_of_any_kind_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numpy = pytest.importorskip("numpy")
    monkeypatch.setenv("FLEXAI_HOME", str(tmp_path / "home"))
    (tmp_path / "a.bin").write_bytes(b"a")
    (tmp_path / "b.bin").write_bytes(b"b")
    flexai.push("base", (path for path in sorted(tmp_path.glob("*.bin"))), exclude={"b.*"})
    assert [file.path for file in flexai.inspect("base").files] == ["a.bin"]
    found = flexai.list_checkpoints(since=datetime(2020, 1, 1), limit=numpy.int64(1))
    assert [one.name for one in found] == ["base"]
