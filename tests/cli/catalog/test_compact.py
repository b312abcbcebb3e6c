from __future__ import annotations

from tests.cli.conftest import Run
from tests.cli.program import Program


def test_the_catalog_s_size_is_told_before_and_after(flexai: Run, program: Program) -> None:
    program.file("model.bin", b"x")
    assert flexai("checkpoint", "push", "llama", "--file", "model.bin").code == 0
    done = flexai("catalog", "compact", "--json")
    assert done.code == 0
    found = done.json()
    assert 0 < found["sizeBytes"] <= found["sizeBytesBefore"]
    shown = flexai("catalog", "compact")
    assert shown.out.startswith("the catalog takes ")
    assert flexai("checkpoint", "list").code == 0
