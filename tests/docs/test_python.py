"""What the page about Python shows runs as it stands there, and tells of every option."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import flexai
from flexai import api
from flexai.checkpoints.progress import StageProgress
from tests.cli.conftest import program
from tests.cli.program import Program

__all__ = ["program"]

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
FUNCTIONS = [name for name in api.__all__ if inspect.isfunction(getattr(api, name))]


@pytest.mark.slow
def test_its_blocks_run_in_order(program: Program) -> None:
    program.file("output/checkpoint-500/weights.bin", bytes(100_000))
    program.file("config.json", "{}")
    # The connection that the page names: a bucket of it is a folder.
    program.file("share/my-bucket/llama/weights.bin", bytes(2000))
    made = program.run("storage", "create", "aws-eu", "--provider", "local", "--root", "share")
    assert made.code == 0, made.err
    printed = program.python("\n".join(BLOCKS))
    assert "my-model 100000" in printed
    assert "there is no checkpoint 'unknown' - flexai checkpoint list shows what there is" in printed
    assert "push with-progress: 100%, 100000 of 100000 bytes" in printed
    assert (program.cwd / "copies" / "from-here" / "extra" / "config.json").exists()
    assert (program.cwd / "share" / "my-bucket" / "models" / "my-model" / "flexai-manifest.json").exists()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_tells_of_every_function_and_option(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"| `flexai.{name}(" in text
    for one in inspect.signature(getattr(api, name)).parameters.values():
        if one.kind is inspect.Parameter.KEYWORD_ONLY and not one.name.startswith("from_"):
            (row,) = re.findall(rf"^\| `{one.name}` \|(.*)\|(.*)\|.*\|$", text, re.M)
            assert f"`{name}`" in row[0]
            assert row[1].strip() in {f"`{one.default!r}`", '`""`'}


def test_it_tells_of_every_result_and_of_what_progress_is_told() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in flexai.__all__:
        assert name == "OnProgress" or f"{name}" in text
    told = {name for name in dir(StageProgress) if not name.startswith("_")} - {"is_whole", "last_line"}
    assert [name for name in sorted(told) if f"`{name}`" not in text] == []
