"""Which keys every store refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import UnsafePathError
from flexai.checkpoints.storage.keys import MAX_KEY_BYTES, check_key


@given(st.text())
def test_a_key_that_passes_stays_below_its_root_and_can_be_sent(key: str) -> None:
    try:
        assert check_key(key, "here") == key
    except UnsafePathError:
        return
    assert not {"", ".", ".."} & set(key.split("/"))
    assert 0 < len(key.encode("utf-8")) <= MAX_KEY_BYTES
    assert all(character.isprintable() or ord(character) >= 0x80 for character in key)


@given(st.lists(st.text("abcXYZ019 +%-_=&;@é日🎉", min_size=1, max_size=20), min_size=1, max_size=10))
def test_ordinary_keys_pass(parts: list[str]) -> None:
    check_key("/".join(parts), "here")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("a/../b", "could leave here"),
        ("a//b", "could leave here"),
        ("", "could leave here"),
        ("a\nb", "cannot be sent"),
        ("\udc80", "cannot be sent"),
        ("é" * 513, "longer than 1024 bytes"),
        ("a/.b.flexai-partial/c", "unfinished upload"),
    ],
)
def test_a_refusal_says_why(key: str, words: str) -> None:
    with pytest.raises(UnsafePathError, match=words):
        check_key(key, "here")
