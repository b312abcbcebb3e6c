"""Asking a store for many small things at a time, since each answer is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 16


def at_once(ask: Callable[[T], R], values: Iterable[T]) -> list[R]:
    """What ``ask`` answers for each value, in their order. Raises what the first of them raises."""
    several = list(values)
    if len(several) < 2:
        return [ask(value) for value in several]
    from concurrent.futures import ThreadPoolExecutor  # which no command that only looks needs

    with ThreadPoolExecutor(min(_THREADS, len(several))) as pool:
        return list(pool.map(ask, several))
