from __future__ import annotations

import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flexai.cli.yaml import to_yaml

# What YAML can hold: everything but lone surrogates.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
LOOKALIKES = st.text(string.digits + "eE+-._:xXoOabcdefTZ~ ,[]{}#&*!|>'\"%@`?=<yYnN", max_size=12)
SCALARS = st.one_of(
    TEXTS, LOOKALIKES, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4))
)


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=5))
def test_what_is_written_reads_back_the_same(document: dict[str, object]) -> None:
    assert yaml.safe_load(to_yaml(document)) == document


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "yes", "No", "on", "OFF", "y", "N", "true", "null", "Null", "~", "1", "0x1F", "0o17", "1e5", "1_000",
        "12:30", "1.5", ".5", "-1", "+1", ".inf", ".nan", "2025-02-03", "2025-02-03T13:14:37.730471Z", "=", "<<", "-",
        "- a", "? a", "a: b", "a:", ":a", "a #b", "#a", "[a]", "{a}", "*a", "&a", "!a", "%a", "@a", "`a", "|", ">",
        "'a'", '"a"', "a\nb", "a\tb", "\x00", "\x1b[31m", "\x85", "\u2028", "\ufeff", "é", "名前", "\U0001f600", "---",
        "...", " a", "a ", "123e4567", "0b11", "1 2", "12e03", "0", "-0", "1.", "a" * 300, "a, b", "C:\\x", "../x",
        "./x", "~/x",
    ],
    ids=repr,
)  # fmt: skip
def test_a_text_that_looks_like_something_else_stays_a_text(text: str) -> None:
    assert yaml.safe_load(to_yaml({"name": text, "list": [text, {"deep": text}]})) == {
        "name": text,
        "list": [text, {"deep": text}],
    }


@pytest.mark.parametrize(
    "text",
    [
        "available", "343.79 MB", "725 bytes", "1 byte", "17 GB", "output/checkpoint_20250203_130043/ckpt.pt",
        "ckpt.pt",
        "431a0ecb-cd8f-4508-8ae3-0990833a4f16", "00000000-0000-0000-0000-000000000000", "test-nanogpt-run-1",
    ],
)  # fmt: skip
def test_what_the_reference_shows_without_quotes_has_none(text: str) -> None:
    assert to_yaml({"key": text}) == f"key: {text}\n"


@pytest.mark.parametrize("text", ["", "2025-02-03T13:14:37.730471Z"])
def test_what_the_reference_shows_in_quotes_has_them(text: str) -> None:
    assert to_yaml({"key": text}) == f'key: "{text}"\n'


def test_lists_are_not_indented_below_their_key() -> None:
    document = {"files": [{"path": "a", "size": "1 byte"}, {"path": "b"}], "empty": [], "none": None, "nested": [["x"]]}
    assert to_yaml(document) == (
        "files:\n- path: a\n  size: 1 byte\n- path: b\nempty: []\nnone: null\nnested:\n- - x\n"
    )


def test_an_empty_mapping_is_written_as_one() -> None:
    assert yaml.safe_load(to_yaml({"a": {}, "b": [{}]})) == {"a": {}, "b": [{}]}
