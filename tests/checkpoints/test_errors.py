from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
import re
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexai
from flexai.checkpoints import errors
from flexai.checkpoints.errors import AlreadyExistsError, CheckpointError, NameTakenError, RequestError
from tests.checkpoints.samples import checkpoint

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, CheckpointError) and value.__module__ == errors.__name__
]
MADE_OF_A_MESSAGE = [kind for kind in CLASSES if kind is CheckpointError or "__init__" not in vars(kind)]
_ENTRY = re.compile(r"(?P<indent>[│ ]*)(?:[├└]── )?(?P<name>\w+Error)\s+(?P<code>\d+)  (?P<meaning>\S.*)")


def _drawn_tree() -> dict[str, tuple[str | None, int, str]]:
    """The tree of the docstring: a class's parent, its exit code and its meaning."""
    assert errors.__doc__ is not None
    drawing = textwrap.dedent(errors.__doc__.split("::", 1)[1].split("\n\nEach class", 1)[0]).strip("\n")
    tree: dict[str, tuple[str | None, int, str]] = {}
    ancestors: list[str] = []
    for line in drawing.splitlines():
        entry = _ENTRY.fullmatch(line)
        assert entry, f"not a line of the tree: {line!r}"
        depth = line.index(entry["name"]) // 4
        ancestors[depth:] = [entry["name"]]
        tree[entry["name"]] = (ancestors[depth - 1] if depth else None, int(entry["code"]), entry["meaning"])
    return tree


def test_the_drawn_tree_is_the_tree() -> None:
    real = {
        kind.__name__: (None if kind is CheckpointError else kind.__mro__[1].__name__, kind.exit_code)
        for kind in CLASSES
    }
    assert {name: (parent, code) for name, (parent, code, _) in _drawn_tree().items()} == real


def test_every_class_descends_from_one() -> None:
    raised = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert set(raised) == set(CLASSES)


def test_the_drawing_is_aligned_and_in_the_order_of_the_classes() -> None:
    assert errors.__doc__ is not None
    lines = [line for line in errors.__doc__.splitlines() if _ENTRY.fullmatch(line.strip())]
    ends = {match.end("code") for line in lines if (match := _ENTRY.search(line))}
    assert len(ends) == 1
    assert list(_drawn_tree()) == [kind.__name__ for kind in CLASSES]


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    assert {kind.exit_code for kind in CLASSES} == {1, 2, 3, 4, 5, 6, 130}


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_says_what_it_means(kind: type[CheckpointError]) -> None:
    text = inspect.cleandoc(kind.__dict__["__doc__"])
    assert text.endswith(".")
    assert kind.__name__.endswith("Error")


@pytest.mark.parametrize("kind", MADE_OF_A_MESSAGE)
def test_an_error_has_its_class_s_hint_unless_it_is_given_another(kind: type[CheckpointError]) -> None:
    assert kind("it failed").hint == kind.default_hint
    assert kind("it failed", hint="look here").hint == "look here"
    assert kind("it failed", hint="").hint == ""
    assert str(kind("it failed", hint="look here")) == "it failed"


def test_a_hint_names_only_flags_and_commands_and_ends_without_a_full_stop() -> None:
    for kind in CLASSES:
        assert not kind.default_hint.endswith(".")


@given(st.sampled_from(MADE_OF_A_MESSAGE), st.text(), st.none() | st.text())
def test_an_error_survives_the_way_to_another_process(
    kind: type[CheckpointError], message: str, hint: str | None
) -> None:
    error = kind(message, hint=hint)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - its own pickle
        assert type(copy) is kind
        assert (copy.message, copy.hint, str(copy), copy.exit_code) == (message, error.hint, message, kind.exit_code)


def test_a_taken_name_carries_its_checkpoint_to_another_process() -> None:
    error = NameTakenError(checkpoint(name="llama"))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own pickle
    assert isinstance(copy, NameTakenError)
    assert isinstance(copy, AlreadyExistsError)
    assert (copy.existing, copy.message, copy.hint) == (error.existing, error.message, error.hint)
    assert copy.exit_code == 4


def test_every_error_of_the_tree_stands_in_the_one_file() -> None:
    for module in pkgutil.walk_packages(flexai.__path__, "flexai."):
        # What goes with a framework needs that framework.
        is_left_out = module.name.startswith("flexai.integrations.") or "migrations" in module.name
        if not module.name.endswith("__main__") and not is_left_out:
            importlib.import_module(module.name)
    pending: list[type[CheckpointError]] = [CheckpointError]
    elsewhere = []
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        if kind.__module__.startswith("flexai.") and kind.__module__ != CheckpointError.__module__:
            elsewhere.append(kind)
    assert elsewhere == []


def test_a_hint_of_options_that_make_no_sense_together_names_them_as_its_caller_does() -> None:
    error = RequestError("{} needs {}", "source_path", "storage_provider", hint="give {files}, or {source_path}")
    assert error.hint == "give files, or source_path"
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own pickle
    for one in (error, copy):
        flags = one.worded(lambda field: f"--{field.replace('_', '-')}")
        assert flags.message == "--source-path needs --storage-provider"
        assert flags.hint == "give --files, or --source-path"
        assert one.worded(str, hint="another").hint == "another"
