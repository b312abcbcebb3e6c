"""The parsers of foreign data on inputs that are nearly right; `make fuzz` tries more of them."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutator import Mutator
from tests.fuzz.parsers import PARSERS
from tests.fuzz.parsers.table import Parser

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_parser_raises_nothing_but_what_it_promises(name: str, data: st.DataObject) -> None:
    parser = PARSERS[name]
    seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
    mutator = Mutator(random.Random(seed), parser.seeds(), parser.tokens)
    inputs = [mutator.make() for _ in range(5)]
    inputs += [parser.mend(one) for one in inputs if parser.mend is not bytes]
    inputs.append(data.draw(st.binary(max_size=200), label="bytes"))
    for one in inputs:
        with contextlib.suppress(*parser.allowed):
            parser.read(one)


@pytest.mark.parametrize("name", PARSERS)
def test_every_parser_reads_a_real_input_to_its_end(name: str) -> None:
    """Else only its refusals would be tried."""
    parser = PARSERS[name]
    found: dict[int, list[object]] = {}
    for seed in parser.seeds():
        for way, read in enumerate(parser.readings(seed)):
            with contextlib.suppress(*parser.allowed):
                result = read()
                found.setdefault(way, []).extend(result if isinstance(result, (list, tuple)) else [result])
    assert [way for way, results in found.items() if not any(_is_read(one) for one in results)] == []


def _is_read(result: object) -> bool:
    return bool(result) and not isinstance(result, Exception)


def test_inputs_meet_every_way_of_their_parser_and_each_the_same_one_again() -> None:
    parser = Parser(lambda data: [lambda: "listed", lambda: "looked at", lambda: "read"], list)
    inputs = [b"%d" % number for number in range(100)]
    ways = [parser.read(one) for one in inputs]
    assert set(ways) == {"listed", "looked at", "read"}
    assert [parser.read(one) for one in inputs] == ways


def test_the_same_numbers_make_the_same_inputs() -> None:
    parser = PARSERS["store-manifest"]
    seeds = parser.seeds()
    ours, others = (Mutator(random.Random(7), seeds, parser.tokens) for _ in range(2))
    assert [ours.make() for _ in range(200)] == [others.make() for _ in range(200)]
