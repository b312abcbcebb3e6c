"""The registry of kinds of connections: what its entries have to agree on."""

from __future__ import annotations

import dataclasses

import pytest

from flexai.checkpoints.storage.kinds import KINDS, ConnectionKind, ConnectionOption, SecretOption

EACH = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def test_a_flag_is_of_one_form_whatever_kind_takes_it() -> None:
    forms: dict[str, ConnectionOption] = {}
    for kind in KINDS.values():
        for option in kind.options.values():
            form = dataclasses.replace(option, help="", is_required=False)
            assert forms.setdefault(option.flag, form) == form


@EACH
def test_an_entry_refers_to_fields_that_its_options_set(kind: ConnectionKind) -> None:
    beside = [option.beside for option in kind.options.values() if isinstance(option, SecretOption) and option.beside]
    assert {*beside, *kind.one_of} <= set(kind.options)


@EACH
def test_the_usage_names_flags_of_the_kind_and_all_that_it_needs(kind: ConnectionKind) -> None:
    named = {word.strip("[]") for word in kind.usage.split() if word.strip("[").startswith("--")}
    assert named <= {option.flag for option in kind.options.values()}
    assert {option.flag for option in kind.options.values() if option.is_required} <= named


@EACH
def test_every_option_says_in_a_sentence_what_it_is(kind: ConnectionKind) -> None:
    assert all(option.help.endswith(".") for option in kind.options.values())


def test_titles_are_told_apart() -> None:
    assert len({kind.title for kind in KINDS.values()}) == len(KINDS)
