"""Groups that import their commands late, and commands that say how they are used."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from flexai.cli.commands import Command, LazyGroup
from flexai.cli.help import TOPICS
from flexai.cli.root import cli
from tests.cli.conftest import Run
from tests.cli.program import Program


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


@pytest.mark.parametrize(
    ("typed", "whole"),
    [
        (["push", "my model", "-f", "x"], "flexai checkpoint push 'my model' -f x"),
        (["ls"], "flexai checkpoint list"),
        (["rm", "llama"], "flexai checkpoint delete llama"),
        (["pull", "llama", "-d", "out"], "flexai checkpoint fetch llama -d out"),
        (["logs", "my-run"], "flexai training logs my-run"),
        (["run", "my-run", "--env", "TOKEN=secret", "--", "sh"], "flexai training run"),
        (["create", "share"], "flexai storage create share"),
        (["backup", "x"], "flexai catalog backup x"),
        (["checkpoint", "ls", "--json"], "flexai checkpoint list --json"),
    ],
    ids=str,
)
def test_a_command_of_another_group_is_told_as_it_has_to_be_typed(flexai: Run, typed: list[str], whole: str) -> None:
    done = flexai(*typed)
    assert (done.code, done.hint) == (2, whole)


def test_help_shows_a_command_a_group_and_a_topic(flexai: Run) -> None:
    assert flexai("help").out.startswith("Usage: flexai COMMAND")
    assert flexai("help", "training").out.startswith("Usage: flexai training ")
    for words in (["checkpoint", "push"], ["push"], ["checkpoint", "upload"]):
        assert flexai("help", *words).out.startswith("Usage: flexai checkpoint push NAME")
    assert "my-run/checkpoint-500" in flexai("help", "Names").out


def test_every_topic_fits_and_is_named_in_the_help(flexai: Run) -> None:
    for shown in (flexai("--help").out, flexai("help", "help").out):
        assert f"Topics: {', '.join(TOPICS)}" in shown
    for text in TOPICS.values():
        assert max(map(len, text.splitlines())) <= 80


def test_help_on_what_is_not_there_names_the_topics(flexai: Run) -> None:
    done = flexai("help", "nmaes")
    assert (done.code, done.error) == (3, "there is no help on 'nmaes'")
    assert done.hint.startswith("did you mean 'names'? The topics are names, ")


def test_a_command_that_is_like_none_gets_no_suggestion(flexai: Run) -> None:
    done = flexai("checkpoint", "zzz")
    assert (done.code, done.error) == (2, "no such command: flexai checkpoint zzz")
    assert done.hint == "flexai checkpoint --help shows the commands"


def test_a_usage_line_is_never_broken_inside_an_option(flexai: Run) -> None:
    done = flexai("checkpoint", "push", "--help")
    usage = done.out.partition("\n\n")[0]
    assert len(usage.splitlines()) > 1
    assert not any(line.endswith("-") for line in usage.splitlines())


def test_a_usage_error_shows_the_whole_form_in_one_line_with_what_was_typed(flexai: Run) -> None:
    done = flexai("checkpoint", "export", "some-checkpoint", "--storage-provider", "conn")
    assert (done.code, done.error) == (2, "missing option '--destination-path'")
    assert done.hint.startswith(
        "flexai checkpoint export some-checkpoint --storage-provider conn --destination-path BUCKET/PREFIX"
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


def test_verbose_tells_the_places_and_the_time(flexai: Run, program: Program) -> None:
    program.file("a.bin")
    for words in (("push", "llama", "a.bin"), ("list",)):
        done = flexai("checkpoint", *words, "-v")
        assert done.code == 0
        assert f"catalog sqlite:///{program.home}/catalog.db\nstore {program.home}/store\n" in done.err
        assert re.search(r"took \d+\.\d\d s, with ", done.err)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (["checkpoint", "push", "llama"], "use one of: flexai checkpoint push llama --file SOURCE[=DESTINATION] …;"),
        (["checkpoint", "push", "llama", "-f", "gone"], "flexai checkpoint push llama -f SOURCE[=DESTINATION]"),
        (
            ["checkpoint", "push", "llama", "--storage-provider", "share"],
            "flexai checkpoint push llama --storage-provider share --source-path BUCKET/PATH",
        ),
        (
            ["training", "run", "my-run", "--env", "GONE", "--", "true"],
            "export it, or flexai training run my-run --env",
        ),
        (["training", "run", "my run"], "flexai training run 'my run' [OPTIONS] -- COMMAND [ARGUMENT…]"),
    ],
    ids=str,
)
def test_a_hint_has_the_name_that_was_typed(flexai: Run, typed: list[str], hint: str) -> None:
    done = flexai(*typed)
    assert done.code == 2
    assert done.hint.startswith(hint)
