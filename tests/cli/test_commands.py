"""Groups that import their commands late, and commands that say how they are used."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from flexai.cli import cli
from flexai.cli.commands import Command, LazyGroup
from tests.cli.conftest import Run


def _groups(group: LazyGroup, path: str) -> Iterator[tuple[str, LazyGroup]]:
    yield path, group
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        child = group.get_command(context, name)
        if isinstance(child, LazyGroup):
            yield from _groups(child, f"{path} {name}")


def _commands() -> Iterator[tuple[str, Command]]:
    for path, group in _groups(cli, "flexai"):
        context = click.Context(group, info_name=path)
        for name in group.list_commands(context):
            child = group.get_command(context, name)
            if not isinstance(child, LazyGroup):
                assert isinstance(child, Command), f"{path} {name}"
                yield f"{path} {name}", child


@pytest.mark.parametrize(("path", "group"), list(_groups(cli, "flexai")), ids=str)
def test_the_short_texts_of_a_group_are_those_of_its_commands(path: str, group: LazyGroup) -> None:
    context = click.Context(group, info_name=path)
    for name, (_, text) in group.lazy.items():
        child = group.get_command(context, name)
        assert child is not None
        assert child.name == name
        assert child.get_short_help_str(limit=200) == text


@pytest.mark.parametrize(("path", "command"), list(_commands()), ids=str)
def test_every_command_has_an_example_and_spells_out_its_arguments(path: str, command: Command) -> None:
    assert path in (command.help or "").partition("\b")[2]
    for param in command.params:
        if isinstance(param, click.Argument):
            assert all(word in command.usage for word in re.findall("[A-Z]+", param.metavar or ""))
        if param.required and isinstance(param, click.Option):
            assert param.opts[-1] in command.usage


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["checkpoint", "inspct"], "inspect"),
        (["checkpoint", "pull"], "fetch"),
        (["checkpoint", "download"], "fetch"),
        (["checkpoint", "ls"], "list"),
        (["checkpoint", "RM"], "delete"),
        (["chekpoint"], "checkpoint"),
        (["training", "start"], "run"),
    ],
    ids=str,
)
def test_a_wrong_command_gets_a_suggestion(flexai: Run, typed: list[str], meant: str) -> None:
    done = flexai(*typed)
    assert done.code == 2
    assert done.error == f"no such command: flexai {' '.join(typed)} (did you mean {meant!r}?)"


def test_a_command_that_is_like_none_gets_no_suggestion(flexai: Run) -> None:
    done = flexai("checkpoint", "zzz")
    assert (done.code, done.error) == (2, "no such command: flexai checkpoint zzz")
    assert done.hint == "flexai checkpoint --help shows the commands"


def test_a_usage_line_is_never_broken_inside_an_option(flexai: Run) -> None:
    done = flexai("checkpoint", "push", "--help")
    usage = done.out.partition("\n\n")[0]
    assert len(usage.splitlines()) > 1
    assert not any(line.endswith("-") for line in usage.splitlines())


def test_a_usage_error_shows_the_whole_form_in_one_line(flexai: Run) -> None:
    done = flexai("checkpoint", "export", "some-checkpoint", "--storage-provider", "conn")
    assert (done.code, done.error) == (2, "missing option '--destination-path'")
    assert done.hint.startswith(
        "flexai checkpoint export NAME|UUID --storage-provider CONNECTION --destination-path BUCKET/PREFIX"
    )


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_found_under_both_its_names(flexai: Run, flag: str) -> None:
    for path in ([], ["checkpoint"], ["training", "run"]):
        done = flexai(*path, flag)
        assert done.code == 0
        assert done.out.startswith("Usage: flexai")


def test_a_group_without_a_command_shows_its_help_and_fails(flexai: Run) -> None:
    done = flexai("checkpoint")
    assert (done.code, done.out) == (2, "")
    assert "Commands:" in done.err


def test_the_help_has_every_exit_code(flexai: Run) -> None:
    from flexai.checkpoints import errors

    done = flexai("--help")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    for code in {kind.exit_code for kind in kinds if issubclass(kind, errors.CheckpointError)}:
        assert f" {code}  " in done.out
