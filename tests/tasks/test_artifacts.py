"""Artifacts: their keys and their text."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.types.names import raise_on_name_alphanumeric_dashes_only

from flexai.tasks import artifacts, push_checkpoint
from flexai.tasks.artifacts import artifact_key, code, create_markdown, describe_checkpoint


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{1,61}[A-Za-z0-9]", fullmatch=True))
def test_every_name_makes_a_key_that_prefect_takes(name: str) -> None:
    key = artifact_key("push", name)
    assert raise_on_name_alphanumeric_dashes_only(key) == key
    assert key.startswith("push-")


def test_names_that_differ_only_by_case_share_a_key_as_they_share_a_checkpoint() -> None:
    assert artifact_key("push", "Mistral_500") == artifact_key("push", "mistral-500")


@given(st.text(min_size=1))
def test_a_text_as_code_never_ends_its_cell_or_its_code(text: str) -> None:
    shown = code(text)
    fence = re.match("`+", shown)
    assert fence is not None and shown.endswith(fence[0])
    inside = shown[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inside)
    assert "\n" not in shown
    assert re.search(r"(?<!\\)\|", inside) is None


def test_a_pushed_checkpoint_is_described_with_its_files(home: Path, files: Path) -> None:
    document = push_checkpoint.fn("mistral-500", files=[str(files)])
    text = describe_checkpoint(document, moved=2048, skipped=1024)
    assert text.startswith("# Checkpoint `mistral-500`\n")
    assert f"| ID | `{document['metadata']['id']}` |" in text
    assert "| Size | 16.02 KB in 2 files |" in text
    assert "| Moved | 2 KB, 1 KB were there |" in text
    assert "| `nested/weights.bin` | 16 KB | `" in text


def test_a_long_list_of_files_is_cut_and_says_where_the_rest_is(
    home: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "SHOWN_FILES", 1)
    document = push_checkpoint.fn("mistral-500", files=[str(files)])
    text = describe_checkpoint(document, moved=0, skipped=0)
    assert "weights.bin" not in text
    assert f"… and 1 more: `flexai checkpoint inspect {document['metadata']['id']}`" in text
    assert "| Moved | nothing |" in text


def test_without_a_run_no_artifact_is_made() -> None:
    create_markdown("key", "text", description="", logger=logging.getLogger("test"))
