"""Names and paths made from templates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import UsageError
from flexai.flows.templates import check_template, name_part, render

FIELDS = frozenset({"job", "step"})


def test_the_fields_of_a_template_are_found() -> None:
    assert check_template("{job}-{step:06d}-{{x}}", FIELDS) == {"job", "step"}
    assert check_template("plain", FIELDS) == frozenset()


@pytest.mark.parametrize(
    "template",
    [
        *(
            "{jobb}",
            "{}",
            "{0}",
            "{job.__class__}",
            "{job[0]}",
            "{job!r}",
            "{step:{job}}",
            "{job",
            "job}",
            "{job.name}",
        ),
        # Each would make a text of a gigabyte, or more.
        *(
            "{job:>1000000000}",
            "{job!r:>9}",
            "{step:01000000000d}",
            "{step:0999d}",
            "{job:.5}",
            "{step:,}",
            "{step:99}",
        ),
    ],
)
def test_anything_but_a_plain_field_is_refused(template: str) -> None:
    with pytest.raises(ValueError):
        check_template(template, FIELDS)


def test_a_refusal_says_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"may hold \{job\}, \{step\}, but not \{stpe\}"):
        check_template("{stpe}", FIELDS)


def test_a_template_is_filled_in() -> None:
    assert render("{job}-{step:06d}", {"job": "digits", "step": 42}) == "digits-000042"


def test_a_format_that_does_not_fit_is_an_error_in_words() -> None:
    with pytest.raises(UsageError, match="cannot be filled in"):
        render("{step:06d}", {"step": "final"})


@given(st.text())
def test_what_a_name_cannot_hold_becomes_a_dash(text: str) -> None:
    part = name_part(text)
    assert part == "" or all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in part)
    assert part == part.strip("-_")


@pytest.mark.parametrize(
    ("text", "part"), [("checkpoint-500", "checkpoint-500"), ("epoch=3 step=7.ckpt", "epoch-3-step-7-ckpt"), (".", "")]
)
def test_a_folders_name_stays_readable(text: str, part: str) -> None:
    assert name_part(text) == part
