"""How much memory each of many small files takes in the steps that hold all of them at once.

A transfer of 100,000 files may take 256 MiB, of which a quarter is there before the first.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.support.manifest_writer import write_manifest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import load_settings
from flexai.checkpoints.transfer.scan import scan_local
from tests.support.trees import write_tree

T = TypeVar("T")

COUNT = 3000


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Many small files, in folders of a hundred."""
    return str(write_tree(tmp_path / "run", {f"{one // 100:02}/{one:06}.bin": b"%d" % one for one in range(COUNT)}))


@pytest.fixture
def system(tmp_path: Path, folder: str) -> System:
    """A store that holds them."""
    found = System.open(load_settings(home=tmp_path / "home"))
    push(found, PushRequest("many", [folder]))
    return found


def measured(work: Callable[[], T]) -> tuple[T, float, float]:
    """What it returns, the bytes of each file that this takes, and those that it takes at the most."""
    gc.collect()
    tracemalloc.start()
    try:
        result = work()
        gc.collect()
        kept, peak = tracemalloc.get_traced_memory()
        return result, kept / COUNT, peak / COUNT
    finally:
        tracemalloc.stop()


def test_a_source_takes_700_bytes_at_most(folder: str) -> None:
    sources, kept, _ = measured(lambda: scan_local([folder]))
    assert len(sources) == COUNT
    assert kept < 700


def test_a_file_that_the_catalog_tells_of_takes_800_bytes_at_most(system: System) -> None:
    checkpoint = system.available("many")
    files, kept, peak = measured(lambda: system.blobs.files_of(checkpoint.id))
    assert len(files) == COUNT
    assert kept < 600
    assert peak < 800


def test_a_manifest_is_in_memory_once_while_it_is_written(system: System) -> None:
    checkpoint = system.available("many")
    files = system.blobs.files_of(checkpoint.id)
    _, _, peak = measured(lambda: write_manifest(system.store, checkpoint, files))
    size = system.store.storage.head(f"manifests/{checkpoint.id}.json").size / COUNT
    assert peak < 1.5 * size
