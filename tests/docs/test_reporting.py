"""What the page about reporting shows runs as it stands there, and tells of all that there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from flexai.training import Run
from tests.cli.conftest import program
from tests.cli.program import Program

__all__ = ["program"]

PAGE = (Path(__file__).parents[2] / "docs" / "reporting.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_its_script_runs_and_goes_on_where_it_ended(program: Program) -> None:
    (script,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    for last in (3, 6):
        program.python(script)
        listed = program.run("training", "checkpoints", "my-run", "--json")
        assert [one["step"] for one in listed.json()] == list(range(1, last + 1))


def test_it_tells_of_every_argument_and_method() -> None:
    for one in inspect.signature(Run).parameters.values():
        assert re.search(rf"`(Run\(.*)?{one.name}", PAGE), one.name
    for name, member in vars(Run).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, classmethod)):
            assert re.search(rf"`(run|Run)\.{name}\(", PAGE), name
