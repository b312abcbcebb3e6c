"""The memory that hostile manifests, headers and configurations take; `make hostile` tells the seconds as well."""

from __future__ import annotations

import pytest

from tests.hostile.__main__ import MOST_MIB, measure
from tests.hostile.doors import attacks

# The door for JSON itself is tested with its floods in tests/checkpoints/test_foreign_json.py.
_NAMES = [name for name, _ in attacks() if not name.startswith("JSON")]


@pytest.mark.slow
@pytest.mark.parametrize("name", _NAMES)
def test_a_hostile_document_takes_little_memory(name: str) -> None:
    peak, seconds, said, is_well = measure("documents", name, most_seconds=600)
    print(f"{name}: {peak} MiB, {seconds:.1f} s, {said}")
    assert is_well, (peak, MOST_MIB, said)
