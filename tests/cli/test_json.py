from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.cli.json import to_json

_VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_FLAT: st.SearchStrategy[dict[str, Any]] = st.dictionaries(st.text(), _VALUES | st.just([]) | st.just({}), max_size=4)
_DOCUMENTS = st.recursive(
    _VALUES | _FLAT | st.lists(_FLAT, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=2).map(tuple) | st.dictionaries(st.text(), inner)
    ),
    max_leaves=12,
)


@given(_DOCUMENTS)
def test_a_document_is_written_as_by_the_standard_library(document: Any) -> None:
    assert to_json(document) == json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


@pytest.mark.parametrize(
    "document",
    [
        [{"a": "},\n    {"}, {"a": {}}, {"b": []}],
        {"files": [{"a": {}}, {"b": "\u2028\x85é"}], "none": []},
        [{}, {"a": 1}],
        [[{"a": 1}, {"b": [1]}], ()],
        [{1: [[]]}, {True: [[]]}, {None: [[]], 2.5: [[]]}],
    ],
)
def test_what_looks_like_the_layout_is_none(document: Any) -> None:
    assert to_json(document) == json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


@pytest.mark.parametrize("document", [float("nan"), [{"a": float("inf")}], {"a": [1, float("nan")]}])
def test_a_number_that_json_has_not_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(document)
