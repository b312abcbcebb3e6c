"""The folder of operations, which says what is one."""

from __future__ import annotations

import re
from pathlib import Path

from flexai.checkpoints import service


def test_every_module_beside_support_is_explained_as_an_operation_or_its_surroundings() -> None:
    explained = re.findall(r"^    ([a-z_]+)  +\S", service.__doc__ or "", re.MULTILINE)
    assert service.__file__ is not None
    there = {path.stem for path in Path(service.__file__).parent.glob("*.py")} - {"__init__"}
    assert sorted(explained) == sorted(there)
