from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.storage.hub.repo_paths import HubPath, parse_hub_path

_COMMIT = "989aa7980e4cf806f80c7fef2b1adb7bc71aa306"


@pytest.mark.parametrize(
    ("text", "repo", "revision", "key"),
    [
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B", "main", ""),
        ("Qwen/Qwen2.5-7B/", "Qwen/Qwen2.5-7B", "main", ""),
        (" Qwen/Qwen2.5-7B ", "Qwen/Qwen2.5-7B", "main", ""),
        ("Qwen/Qwen2.5-7B@v1.0", "Qwen/Qwen2.5-7B", "v1.0", ""),
        ("Qwen/Qwen2.5-7B@v1.0/", "Qwen/Qwen2.5-7B", "v1.0", ""),
        (f"Qwen/Qwen2.5-7B@{_COMMIT}/onnx/int8/", "Qwen/Qwen2.5-7B", _COMMIT, "onnx/int8"),
        ("org/repo/model.safetensors", "org/repo", "main", "model.safetensors"),
        ("org/repo/checkpoint-100/optimizer.pt", "org/repo", "main", "checkpoint-100/optimizer.pt"),
        ("org/repo@refs/pr/3", "org/repo", "refs/pr/3", ""),
        ("org/repo@refs/pr/3/onnx", "org/repo", "refs/pr/3", "onnx"),
        ("org/repo@refs/convert/parquet/data", "org/repo", "refs/convert/parquet", "data"),
        ("org/repo@feature%2Fnew/onnx", "org/repo", "feature/new", "onnx"),
        ("org/repo@feature%2fnew", "org/repo", "feature/new", ""),
        ("org/repo/odd@name.bin", "org/repo", "main", "odd@name.bin"),
        ("org/repo@v1/odd@name.bin", "org/repo", "v1", "odd@name.bin"),
        ("org/repo/with space.txt", "org/repo", "main", "with space.txt"),
        ("org/repo/100%25.txt", "org/repo", "main", "100%25.txt"),
        ("gpt2", "gpt2", "main", ""),
        ("gpt2/", "gpt2", "main", ""),
        ("gpt2@main", "gpt2", "main", ""),
        ("gpt2@main/onnx", "gpt2", "main", "onnx"),
    ],
)
def test_a_path_names_a_repository_a_revision_and_what_is_below(text: str, repo: str, revision: str, key: str) -> None:
    assert parse_hub_path(text) == HubPath(repo, revision, key)


def test_two_parts_are_always_organisation_and_repository() -> None:
    assert parse_hub_path("gpt2/onnx").repo == "gpt2/onnx"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "@main",
        "/repo",
        "org//file",
        "org/repo@",
        "org/repo@/file",
        "org/repo//file",
        "org/repo/../other",
        "org/repo/./file",
        "org/repo@main/../file",
        "../repo",
        "org/..",
        "org/.hidden",
        "org/-dash",
        "org/dot.",
        "org/re po",
        "org/re--po",
        "org/re..po",
        "org/repo.git",
        "org/" + "x" * 97,
        "organisation/café",
        "https://huggingface.co/org/repo",
        "hf://org/repo",
        "org/repo?revision=main",
        "org/repo#readme",
        "org/repo@main~1",
        "org/repo@a..b",
        "org/repo@%2Fmain",
        "org/repo@main%2F",
        "org/repo@main%252Fx",
        "org/repo@%2e%2e",
        "org/repo@with space",
        "org/repo@.hidden",
        "org/repo@branch.lock",
        "org/repo@x\0",
        "org/repo/nul\0byte",
        "org/repo/line\nbreak",
    ],
)
def test_anything_else_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(UsageError, match="no path on the Hugging Face Hub") as raised:
        parse_hub_path(text)
    assert "ORG/REPO" in raised.value.hint


_NAMES = st.text(string.ascii_letters + string.digits, min_size=1, max_size=20)
_PARTS = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=10
).filter(lambda part: part not in {".", ".."} and part == part.strip() and "://" not in part)


@given(_NAMES, _NAMES, _NAMES, st.lists(_PARTS, max_size=4))
def test_a_path_that_is_written_down_is_read_as_it_was_meant(
    organisation: str, name: str, revision: str, parts: list[str]
) -> None:
    key = "/".join(parts)
    text = f"{organisation}/{name}@{revision}" + (f"/{key}" if key else "")
    assert parse_hub_path(text) == HubPath(f"{organisation}/{name}", revision, key)


@given(st.text(max_size=40))
def test_whatever_is_accepted_is_safe(text: str) -> None:
    try:
        repo, revision, key = parse_hub_path(text)
    except UsageError:
        return
    assert 0 <= repo.count("/") <= 1
    assert revision
    assert not {"", ".", ".."} & set(f"{repo}/{revision}".split("/"))
    assert not key or not {"", ".", ".."} & set(key.split("/"))
