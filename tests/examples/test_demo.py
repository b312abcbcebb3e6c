"""The demo, as `make demo` runs it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"


@pytest.fixture
def demo() -> ModuleType:
    """The demo as a module."""
    found = importlib.util.spec_from_file_location("demo", DEMO)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_demo_works_fits_on_a_page_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = os.environ | {
        "TMPDIR": str(tmp_path),
        "HOME": str(tmp_path),
        # A user's own settings, which the demo must neither use nor change.
        "FLEXAI_HOME": str(tmp_path / "mine"),
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "FLEXAI_STORE": "no-such-connection:bucket",
    }
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert str(DEMO.parent) not in done.stdout
    assert sum("<- best" in line for line in lines) == 1
    assert any(line.startswith("  Continuing training from global step ") for line in lines)
    assert lines[-1].startswith("All of it worked")
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_goes_wrong_says_so_and_leaves_nothing_behind(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "show", lambda home: demo.expect(False, "two and two are five"))
    assert demo.main() == 1
    assert "The demo failed: two and two are five" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_fails_ends_the_demo(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(demo.DemoFailedError, match="ended with exit code 3"):
        demo.run([sys.executable, "-c", "print('so far'); raise SystemExit(3)"], shown_as=["flexai", "something"])
    assert capsys.readouterr().out == "$ flexai something\n  so far\n"


def test_a_long_command_is_broken_as_a_shell_reads_it(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    demo.run([sys.executable, "-c", ""], shown_as=["flexai", *("argument-that-is-long",) * 5])
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(" \\") and len(first) <= 80
    assert second.startswith("    argument-that-is-long")
