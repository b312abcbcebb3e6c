from __future__ import annotations

import ntpath
import posixpath
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import UnsafePathError
from flexai.checkpoints.paths import (
    MAX_PART_BYTES,
    MAX_PATH_BYTES,
    CheckpointPath,
    check_path_set,
    join_path,
    parse_path,
    twin_key,
)
from tests.hostile.paths import CLASHING_SETS, GOOD_PATHS, HOSTILE_PATHS, TWINS

_STEPS = ("/", "//", ".", "..", "\\", ":", "~", "%", "%2e", "%252E", "C:", "\\\\?\\", " ", "\0", "\n", "*", "|", "-")
_WORDS = ("a", "B", "con", "NUL", "com¹", "$", "model.safetensors", "checkpoint-5", ".metadata", "x" * 199)
_LETTERS = ("é", "e\u0301", "名", "ﬁ", "½", "\u2024", "\uff0f", "\u2215", "\u200b", "\u3164", "\uf029", "\ud800")
# Texts made of what paths are made of and of what attacks are made of, so that many come near the rules' edges.
_NEAR_PATHS = st.lists(st.sampled_from(_STEPS + _WORDS + _LETTERS), max_size=8).map("".join)
_TEXTS = st.one_of(_NEAR_PATHS, st.text(max_size=30), st.sampled_from(GOOD_PATHS))


def _accepted(text: str) -> bool:
    try:
        parse_path(text)
    except UnsafePathError:
        return False
    return True


good_paths = _TEXTS.filter(_accepted)


@pytest.mark.parametrize(("text", "reason"), HOSTILE_PATHS, ids=ascii)
def test_a_hostile_path_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UnsafePathError) as caught:
        parse_path(text)
    shown = caught.value.message
    assert repr(text) in shown
    assert shown.isprintable(), reason
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", GOOD_PATHS, ids=ascii)
def test_a_path_of_a_real_checkpoint_is_accepted_as_it_is(text: str) -> None:
    assert parse_path(text) == text


@given(_TEXTS)
def test_an_accepted_path_stays_below_its_root_on_every_system(text: str) -> None:
    if not _accepted(text):
        return
    assert posixpath.normpath(posixpath.join("/base", text)) == f"/base/{text}"
    windows = ntpath.normpath(ntpath.join("D:\\root", text))
    assert windows == "D:\\root\\" + text.replace("/", "\\")
    assert ntpath.commonpath(["D:\\root", windows]) == "D:\\root"
    assert not posixpath.isabs(text)
    assert not ntpath.isabs(text)
    assert ntpath.splitdrive(text) == ("", text)
    if sys.version_info >= (3, 13):
        assert not ntpath.isreserved(text)


@given(_TEXTS)
def test_an_accepted_path_reads_the_same_again_and_in_every_composed_form(text: str) -> None:
    if not _accepted(text):
        return
    assert parse_path(parse_path(text)) == text
    assert unicodedata.normalize("NFC", text) == text
    assert text.encode().decode() == text
    compatible = unicodedata.normalize("NFKC", text)
    assert compatible.count("/") == text.count("/")
    assert ".." not in compatible.split("/")


@given(_TEXTS)
def test_an_accepted_path_fits_every_store_and_file_system(text: str) -> None:
    if not _accepted(text):
        return
    assert 0 < len(text.encode()) <= MAX_PATH_BYTES
    for part in text.split("/"):
        assert 0 < len(part.encode()) <= MAX_PART_BYTES
        assert part not in {".", ".."}


@given(st.text(max_size=20))
def test_only_an_unsafe_path_error_is_ever_raised(text: str) -> None:
    _accepted(text)


@given(good_paths, good_paths)
def test_accepted_paths_join_to_an_accepted_path_or_to_one_too_long(first: str, second: str) -> None:
    joined = f"{first}/{second}"
    if len(joined.encode()) <= MAX_PATH_BYTES:
        assert join_path(first, "", second) == joined
    else:
        with pytest.raises(UnsafePathError, match="is longer than"):
            join_path(first, second)


def test_nothing_joined_is_no_path() -> None:
    with pytest.raises(UnsafePathError, match="is empty"):
        join_path("", "")


@pytest.mark.parametrize(("first", "second"), TWINS, ids=ascii)
def test_twins_are_found_wherever_they_stand(first: str, second: str) -> None:
    assert first != second
    assert twin_key(first) == twin_key(second)
    for one, other in ((first, second), (second, first)):
        with pytest.raises(UnsafePathError, match="the same"):
            check_path_set([parse_path(one), parse_path("between"), parse_path(other)])
        with pytest.raises(UnsafePathError, match="the same"):
            check_path_set([parse_path(f"{one}/x"), parse_path(f"{other}/y")])


@pytest.mark.parametrize("paths", CLASHING_SETS, ids=ascii)
def test_paths_that_cannot_lie_beside_each_other_are_found_in_any_order(paths: tuple[str, ...]) -> None:
    for order in (paths, paths[::-1]):
        with pytest.raises(UnsafePathError) as caught:
            check_path_set(map(parse_path, order))
        assert repr(paths[0].split("/", maxsplit=1)[0])[1:-1] in caught.value.message


def test_paths_of_a_real_checkpoint_lie_beside_each_other() -> None:
    short = [path for path in GOOD_PATHS if len(path.encode()) < 500]
    check_path_set(parse_path(f"{number}/{path}") for number, path in enumerate(short))
    check_path_set(parse_path(path) for path in short if path.startswith(("checkpoint-5/", "global_step5/", ".")))


def test_a_path_given_twice_is_said_to_be_so() -> None:
    with pytest.raises(UnsafePathError, match="is given twice"):
        check_path_set([parse_path("a/b"), parse_path("c"), parse_path("a/b")])


@given(st.lists(good_paths, max_size=6))
def test_a_set_is_accepted_exactly_when_a_file_system_that_folds_names_could_hold_it(texts: list[str]) -> None:
    def holds() -> bool:
        root: dict[str, object] = {}
        for text in texts:
            folder = root
            *folders, name = text.split("/")
            spelled = ""
            for part in folders:
                spelled = f"{spelled}/{part}"
                known = folder.setdefault(twin_key(part), (spelled, {}))
                if not isinstance(known, tuple) or known[0] != spelled:
                    return False
                folder = known[1]
            if twin_key(name) in folder:
                return False
            folder[twin_key(name)] = "file"
        return True

    try:
        check_path_set(map(parse_path, texts))
    except UnsafePathError:
        assert not holds()
    else:
        assert holds()


@given(_TEXTS)
def test_a_twin_key_is_its_own_key(text: str) -> None:
    assert twin_key(twin_key(text)) == twin_key(text)


def test_a_character_and_its_other_cases_and_forms_are_twins() -> None:
    different = set()
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        others = {
            *(character.upper(), character.lower(), character.title(), character.casefold()),
            *(unicodedata.normalize(form, character) for form in ("NFC", "NFD", "NFKC", "NFKD")),
        } - {character}
        if any(twin_key(other) != twin_key(character) for other in others):
            different.add(character)
    # Unicode folds the dotless i to itself, and so do the file systems that ignore case.
    assert different == {"ı"}


def test_a_long_list_of_deep_paths_is_checked_in_one_pass() -> None:
    depth = "/".join(f"level-{number}" for number in range(20))
    check_path_set(CheckpointPath(f"{depth}/{number}") for number in range(2_000))
