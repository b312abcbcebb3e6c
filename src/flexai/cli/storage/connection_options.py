"""The options of ``flexai storage create``: those of every kind of connection, and which of them fit together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.local_paths import from_root
from flexai.checkpoints.storage.kinds import KINDS, ConnectionOption, SecretOption
from flexai.cli.completion import complete_directory, complete_file
from flexai.cli.storage.secrets import ASK, read_secret

F = TypeVar("F", bound=Callable[..., Any])

_COMPLETION = {"": None, "file": complete_file, "directory": complete_directory}


def connection_options(function: F) -> F:
    """Give a command the options of all kinds of connections; each says which kinds take it."""
    first: dict[str, ConnectionOption] = {}
    takers: dict[str, dict[str, list[str]]] = {}
    for word, kind in KINDS.items():
        for option in kind.options.values():
            first.setdefault(option.flag, option)
            takers.setdefault(option.flag, {}).setdefault(option.help, []).append(word)
    for flag in reversed(first):
        text = " ".join(f"{', '.join(words)}: {what}" for what, words in takers[flag].items())
        function = _click_option(first[flag], text)(function)
    return function


def _click_option(option: ConnectionOption, text: str) -> Callable[[F], F]:
    if isinstance(option, SecretOption):
        # Without a value it asks, as it does where it is needed and left out.
        return click.option(option.flag, metavar="[SOURCE]", is_flag=False, flag_value=ASK, default="", help=text)
    if option.choices:
        return click.option(option.flag, type=click.Choice(option.choices), help=text)
    if not option.metavar:
        return click.option(option.flag, is_flag=True, help=text)
    completion = _COMPLETION[option.path]
    return click.option(option.flag, metavar=option.metavar, default="", shell_complete=completion, help=text)


def usage_of(name: str, provider: str) -> str:
    """The right form of the command for a kind of connection."""
    return f"flexai storage create {name} --provider {provider} {KINDS[provider].usage}"


def flag_of(provider: str, field: str) -> str:
    """The option that sets a connection's field; the field's name where none does."""
    option = KINDS[provider].options.get(field)
    return option.flag if option else field or "connection"


def in_options(provider: str, text: str) -> str:
    """A sentence of a connection with options in the place of its fields."""
    return re.sub(r"\b[a-z]+(_[a-z]+)+\b", lambda field: flag_of(provider, field[0]), text)


def read_fields(name: str, provider: str, given: Mapping[str, str | bool]) -> dict[str, Any]:
    """The connection's fields, of the command's parameters that were given a value.

    Raises UsageError for options that the kind does not take, or that it needs and are not there, before any secret is
    read; and what ``read_secret`` raises.
    """
    _check(name, provider, given)
    fields: dict[str, Any] = {}
    for field, option in KINDS[provider].options.items():
        if isinstance(option, SecretOption):
            if option.parameter in given or _has(provider, option.beside, given):
                source = str(given.get(option.parameter, ASK))
                fields[field] = read_secret(option.flag, source, option.what, one_word=option.one_word)
        elif option.parameter in given:
            value = given[option.parameter]
            # The connection is used in other working directories, too.
            fields[field] = str(from_root(str(value))) if option.path else value
    return fields


def _check(name: str, provider: str, given: Mapping[str, object]) -> None:
    kind, usage = KINDS[provider], usage_of(name, provider)
    known = {option.parameter for option in kind.options.values()}
    for parameter in given:
        if parameter not in known:
            flag = f"--{parameter.replace('_', '-')}"
            raise UsageError(f"{flag} and --provider {provider} cannot be used together", hint=usage)
    for option in kind.options.values():
        if option.is_required and option.parameter not in given:
            raise UsageError(f"--provider {provider} needs {option.flag}", hint=usage)
    for option in kind.options.values():
        beside = option.beside if isinstance(option, SecretOption) else ""
        if beside and option.parameter in given and not _has(provider, beside, given):
            raise UsageError(f"{option.flag} needs {flag_of(provider, beside)}", hint=usage)
    if kind.one_of and not any(_has(provider, field, given) for field in kind.one_of):
        wanted = " or ".join(flag_of(provider, field) for field in kind.one_of)
        raise UsageError(f"--provider {provider} needs {wanted}", hint=usage)


def _has(provider: str, field: str, given: Mapping[str, object]) -> bool:
    return field != "" and KINDS[provider].options[field].parameter in given
