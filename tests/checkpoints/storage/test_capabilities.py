"""The record of what a service can do."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.storage.capabilities import Capabilities


@given(
    st.builds(
        Capabilities,
        conditional_put=st.booleans(),
        conditional_get=st.booleans(),
        part_copy=st.booleans(),
        multi_delete=st.booleans(),
        checksums=st.frozensets(st.sampled_from(["crc32", "crc32c", "sha256", "md5"])),
        trailers=st.booleans(),
        metadata=st.booleans(),
    )
)
def test_a_record_comes_back_from_json_as_it_went_in(record: Capabilities) -> None:
    saved = {**asdict(record), "checksums": sorted(record.checksums)}
    assert Capabilities.from_json(json.loads(json.dumps(saved))) == record


@pytest.mark.parametrize("saved", [{}, {"part_copy": None}, {"part_copy": "no"}, {"of a later version": 5}])
def test_what_a_record_does_not_tell_keeps_its_default(saved: dict[str, Any]) -> None:
    assert Capabilities.from_json(saved) == Capabilities()
