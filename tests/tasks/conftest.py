"""A user's home folder, and files to push."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.settings import load_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of the settings in force; the working directory is beside it."""
    monkeypatch.setenv("FLEXAI_HOME", str(tmp_path / "home"))
    for name in ("FLEXAI_STORE", "FLEXAI_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return load_settings().home


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a small checkpoint."""
    folder = tmp_path / "output"
    (folder / "nested").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    (folder / "nested" / "weights.bin").write_bytes(bytes(range(256)) * 64)
    return folder


def as_json(document: Any) -> Any:
    """What is left of a result that goes through JSON."""
    return json.loads(json.dumps(document, allow_nan=False))
