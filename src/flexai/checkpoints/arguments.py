"""Arguments of the functions that users call from Python, compared with the types that these take.

Python itself would go on with what is no text or no number until something deep inside fails, and takes ``"no"`` for
true.
"""

import functools
import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from numbers import Integral, Real
from os import PathLike
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin

from flexai.checkpoints.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")

_SEVERAL = (Iterable, Sequence)
_WORDS: dict[Any, str] = {
    NoneType: "None",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    datetime: "a datetime",
    timedelta: "a timedelta",
    PathLike: "a path",
    Callable: "a function",
    Mapping: "a dictionary",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function refuse arguments of types that it does not take; of several it gets a tuple.

    The function's annotations say what it takes: as types, and not as texts.
    """
    signature = inspect.signature(function)
    hint = f"help(flexai.{function.__name__}) tells what it takes"

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = bound(signature, args, kwargs, hint=hint)
        return function(*given.args, **given.kwargs)

    return call


def bound(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any], *, hint: str = ""
) -> inspect.BoundArguments:
    """The arguments of a call, each as ``taken`` gives it: the signature's annotations are types.

    Raises UsageError for one of another type, and TypeError as a call does.
    """
    given = signature.bind(*args, **kwargs)
    for name, value in given.arguments.items():
        given.arguments[name] = taken(name, value, signature.parameters[name].annotation, hint=hint)
    return given


def taken(name: str, value: Any, kind: Any, *, hint: str = "") -> Any:
    """An argument of one of the types that are taken; several values as a tuple of them.

    Raises UsageError where it is of another type.
    """
    kinds = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    for one in kinds:
        if get_origin(one) not in _SEVERAL:
            if _is(value, one):
                return value
        elif isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | PathLike):
            (of,) = get_args(one)
            return tuple(taken(f"each of {name}", element, of, hint=hint) for element in value)
    raise UsageError(f"{name} takes {' or '.join(map(_worded, kinds))}, not {reprlib.repr(value)}", hint=hint)


def _is(value: object, kind: Any) -> bool:
    base = get_origin(kind) or kind
    if base in {int, float}:
        return isinstance(value, Integral if base is int else Real) and not isinstance(value, bool)
    if get_origin(kind) in {Union, UnionType}:
        return any(_is(value, one) for one in get_args(kind))
    return isinstance(value, NoneType if base is None else base)


def _worded(kind: Any) -> str:
    base = NoneType if kind is None else get_origin(kind) or kind
    return "several" if base in _SEVERAL else _WORDS.get(base) or base.__name__
