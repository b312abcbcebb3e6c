from __future__ import annotations

import difflib
import string
import uuid
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import InvalidNameError
from flexai.checkpoints.names import (
    RESERVED_NAMES,
    ROOT_TITLE,
    Reference,
    begins_id,
    did_you_mean,
    is_uuid,
    name_key,
    parse_id,
    parse_name,
    parse_reference,
    some,
    title_of,
)

_ENDS = string.ascii_letters + string.digits
_INNER = _ENDS + "-_"
_NEAR_NAMES = st.one_of(
    st.text(max_size=70),
    st.text(alphabet=_INNER, max_size=70),
    st.text(alphabet=_INNER + " ./éſK٣\n", max_size=8),
    st.sampled_from(["latest", "BEST", "Latest", "lateſt", "best1", "abc\n", "a_b", "---", "a--", "١٢٣", "éab", "abé"]),
    st.uuids().map(str),
    st.uuids().map(lambda value: str(value).upper()),
    st.uuids().map(lambda value: value.hex),
)
good_names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{1,61}[A-Za-z0-9]\Z").filter(
    lambda text: not _has_uuid_shape(text) and text.lower() not in {"latest", "best"}
)


def _has_uuid_shape(text: str) -> bool:
    groups = text.split("-")
    return [len(group) for group in groups] == [8, 4, 4, 4, 12] and set("".join(groups)) <= set(string.hexdigits)


def _is_name(text: str) -> bool:
    """The rule of the naming convention and the two of ours, said without a regular expression."""
    return (
        3 <= len(text) <= 63
        and set(text) <= set(_INNER)
        and text[0] in _ENDS
        and text[-1] in _ENDS
        and not _has_uuid_shape(text)
        and text.lower() not in {"latest", "best"}
    )


@given(_NEAR_NAMES)
def test_a_text_is_a_name_exactly_when_it_obeys_the_rules(text: str) -> None:
    if _is_name(text):
        assert parse_name(text) == text
    else:
        with pytest.raises(InvalidNameError):
            parse_name(text)


@given(good_names)
def test_a_name_is_kept_as_it_was_written(text: str) -> None:
    assert parse_name(text) == text
    assert parse_reference(text) == Reference(text=text, id=None)


@pytest.mark.parametrize("text", ["abc", "a1-", "-ab", "_ab", "ab_", "ab", "a", "", "a" * 63, "a" * 64, "a b", "a.b"])
def test_the_edges_of_the_rule(text: str) -> None:
    accepted = text in {"abc", "a" * 63}
    if accepted:
        parse_name(text)
    else:
        with pytest.raises(InvalidNameError) as caught:
            parse_name(text)
        assert "3 to 63" in caught.value.hint


@pytest.mark.parametrize("text", ["abc\n", "\nabc", "abc\0", "äbc", "abç", "a\u0301bc", "１２３", "abc", "a\u200bbc"])
def test_only_ascii_letters_and_digits_make_a_name(text: str) -> None:
    if text.isascii() and text.isalnum():
        parse_name(text)
    else:
        with pytest.raises(InvalidNameError):
            parse_name(text)


@given(st.uuids(), st.booleans())
def test_a_name_of_uuid_shape_is_refused_and_read_as_an_id(value: uuid.UUID, capital: bool) -> None:
    text = str(value).upper() if capital else str(value)
    with pytest.raises(InvalidNameError, match="form of a UUID"):
        parse_name(text)
    assert is_uuid(text)
    assert parse_reference(text) == Reference(text=text, id=parse_id(value))


@pytest.mark.parametrize("shape", ["{%s}", "urn:uuid:%s", "%s\n", " %s", "%s-"])
def test_another_way_to_write_a_uuid_is_neither_a_name_nor_an_id(shape: str) -> None:
    text = shape % uuid.UUID(int=1)
    assert not is_uuid(text)
    with pytest.raises(InvalidNameError):
        parse_reference(text)


def test_a_uuid_without_dashes_is_a_plain_name() -> None:
    text = uuid.UUID(int=7).hex
    assert parse_reference(text) == Reference(text=text, id=None)


@pytest.mark.parametrize("word", sorted(RESERVED_NAMES))
def test_a_reserved_name_is_refused_however_it_is_written(word: str) -> None:
    for text in (word, word.upper(), word.title()):
        with pytest.raises(InvalidNameError, match="is reserved"):
            parse_name(text)
        with pytest.raises(InvalidNameError, match="is reserved"):
            parse_reference(text)
    parse_name(f"{word}-1")


def test_the_reserved_names_are_those_that_select_checkpoints() -> None:
    assert {"latest", "best"} == RESERVED_NAMES


@given(good_names)
def test_names_are_compared_without_regard_to_case(text: str) -> None:
    assert name_key(text) == name_key(text.upper()) == name_key(text.lower()) == name_key(text.swapcase())
    assert name_key(name_key(text)) == name_key(text)
    assert len(name_key(text)) == len(text)


@given(good_names, good_names)
def test_names_that_differ_by_more_than_case_have_different_keys(first: str, second: str) -> None:
    assert (name_key(first) == name_key(second)) == (first.lower() == second.lower())


def test_an_error_calls_the_name_what_the_caller_calls_it() -> None:
    with pytest.raises(InvalidNameError, match=r"^connection 'a b' breaks the naming rules$"):
        parse_name("a b", what="connection")


def test_a_reference_shows_what_was_typed() -> None:
    text = str(uuid.UUID(int=5)).upper()
    assert str(parse_reference(text)) == text


_PARTS = st.one_of(
    st.text(min_size=1, max_size=20),
    st.sampled_from(
        ["checkpoint-500", "epoch=0-step=100.ckpt", ".", "..", "", "a b", "é", "x" * 255, "x" * 256, "...", "latest"]
    ),
)
_PATHS = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)


def _is_path(text: str) -> bool:
    parts = text.split("/")
    return text.isprintable() and all(part not in ("", ".", "..") and len(part.encode()) < 256 for part in parts)


@given(st.one_of(_NEAR_NAMES, good_names), _PATHS)
def test_a_job_and_a_path_mean_a_captured_checkpoint_exactly_when_both_can_be(job: str, path: str) -> None:
    text = f"{job}/{path}"
    if "/" in job:
        return
    if (_is_name(job) or _has_uuid_shape(job)) and (_is_path(path) or path == ROOT_TITLE):
        found = parse_reference(text)
        assert found == Reference(text, None, job.lower() if is_uuid(job) else job, "" if path == ROOT_TITLE else path)
    else:
        with pytest.raises(InvalidNameError):
            parse_reference(text)


@given(good_names, st.one_of(st.just(""), _PATHS.filter(_is_path)))
def test_what_a_captured_checkpoint_is_called_means_it(job: str, name: str) -> None:
    found = parse_reference(title_of("captured", name, job))
    assert (found.job, found.path, found.id) == (job, name, None)


def test_no_name_and_no_uuid_means_a_captured_checkpoint() -> None:
    for text in ("abc", str(uuid.UUID(int=7))):
        assert parse_reference(text).job == ""


def test_an_error_of_a_path_says_where_the_names_are() -> None:
    with pytest.raises(InvalidNameError, match="what follows '/' is no path") as caught:
        parse_reference("my-run/../x")
    assert caught.value.hint == "flexai training checkpoints my-run lists their names"


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("v1.0", "v1-0"),
        ("mistral 7b", "mistral-7b"),
        ("_model_", "model"),
        ("a/b", "a-b"),
        ("llama-é-base", "llama-base"),
        ("x" * 64, "x" * 63),
    ],
)
def test_a_name_that_breaks_the_rules_is_refused_with_the_name_that_would_do(text: str, near: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        parse_name(text)
    assert caught.value.hint.startswith(f"{near!r} would do: ")
    assert parse_name(near) == near


@given(st.text(max_size=80))
def test_what_would_do_is_always_a_name(text: str) -> None:
    if not _is_name(text):
        with pytest.raises(InvalidNameError) as caught:
            parse_name(text)
        if " would do" in caught.value.hint:
            parse_name(caught.value.hint.partition("'")[2].partition("'")[0])


@given(st.uuids(), st.integers(1, 36))
def test_eight_digits_of_a_uuid_and_more_are_read_as_its_beginning(value: uuid.UUID, length: int) -> None:
    text = str(value)[:length]
    assert begins_id(text) == begins_id(text.upper()) == (8 <= length < 36)
    if 8 <= length < 36:
        assert parse_reference(text) == Reference(text=text, id=None)
        assert parse_reference(f"{text}/c").job == text


@pytest.mark.parametrize("text", ["90c8f21", "90c8f21g", "90c8f215-e131-4f9c-936c-12fe1fe9a6f1-", "90c8f215e131"])
def test_another_text_begins_no_uuid(text: str) -> None:
    assert not begins_id(text)


def test_a_text_that_is_like_a_name_asks_for_that_name() -> None:
    assert did_you_mean("LAMA", ["llama", "mistral"]) == "did you mean 'llama'?"
    assert did_you_mean("zzz", ["llama", "mistral"]) == ""


@pytest.mark.parametrize(
    "slip", ["rn-007777-final", "run-007777-fianl", "run-007777-fnal", "unr-007777-final", "run-007777-final-"]
)
def test_of_many_names_few_are_compared_with_a_text(monkeypatch: pytest.MonkeyPatch, slip: str) -> None:
    compared: list[int] = []
    real = difflib.get_close_matches

    def counting(word: str, names: Collection[str], n: int) -> list[str]:
        compared.append(len(names))
        return real(word, list(names), n)

    monkeypatch.setattr(difflib, "get_close_matches", counting)
    assert (
        did_you_mean(slip, [f"run-{number:06}-final" for number in range(20_000)]) == "did you mean 'run-007777-final'?"
    )
    assert compared[0] <= 1000


@pytest.mark.parametrize(
    ("texts", "most", "between", "sentence"),
    [
        ([], 3, ", ", ""),
        (["a"], 1, ", ", "a"),
        (["a", "b", "c"], 3, ", ", "a, b, c"),
        (["a", "b", "c"], 2, ", ", "a, b and 1 more"),
        (["a", "b", "c"], 1, "; ", "a; and 2 more"),
    ],
)
def test_of_many_the_first_are_told_and_how_many_more_there_are(
    texts: list[str], most: int, between: str, sentence: str
) -> None:
    assert some(texts, most, between=between) == sentence
