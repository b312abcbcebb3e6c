"""What ``import flexai`` gives, and what it costs."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import flexai
from flexai import api, errors
from flexai.checkpoints import errors as tree
from tests.cli.program import Program
from tests.cli.test_start import HEAVY

FUNCTIONS = [name for name in api.__all__ if inspect.isfunction(getattr(api, name))]

WORK = """
import flexai
flexai.push({name!r}, files="a.bin")
flexai.list_checkpoints()
flexai.inspect({name!r})
flexai.fetch({name!r}, "restored")
flexai.delete({name!r})
flexai.undelete({name!r})
"""


def test_importing_it_loads_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import flexai; print(*sorted(set(sys.modules) - before))"
    # Without the site module, which imports what is installed editable.
    source = Path(flexai.__file__).parents[1]
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(source)}, capture_output=True, text=True, check=True
    ).stdout.split()
    ours = {"flexai", "flexai.checkpoints"}
    assert ours <= set(loaded)
    assert [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names | {"flexai"}] == []
    assert {name for name in loaded if name.startswith("flexai")} == ours
    assert len(loaded) <= 40


def test_an_operation_imports_neither_prefect_nor_what_else_is_heavy(program: Program) -> None:
    program.file("a.bin")
    program.python(WORK.format(name="first"))
    printed = program.python("import sys\n" + WORK.format(name="second") + "print(*sys.modules)")
    assert HEAVY & set(printed.split()) == set()


def test_an_operation_opens_no_socket_and_starts_no_process(program: Program) -> None:
    program.file("a.bin")
    watch = (
        "import sys, threading\n"
        "events = []\n"
        "watched = ('socket.', 'subprocess.', 'os.fork', 'os.exec', 'os.posix_spawn', 'os.system')\n"
        "sys.addaudithook(lambda event, _: events.append(event) if event.startswith(watched) else None)\n"
    )
    printed = program.python(
        watch + WORK.format(name="first") + "print(events, [one.name for one in threading.enumerate()])"
    )
    assert printed == "[] ['MainThread']\n"


def test_every_name_that_it_gives_is_there() -> None:
    assert set(flexai.__all__) <= set(dir(flexai))
    assert {"errors", *FUNCTIONS} <= set(flexai.__all__)
    for name in flexai.__all__:
        assert getattr(flexai, name) is not None
    with pytest.raises(AttributeError, match="module 'flexai' has no attribute 'pusch'"):
        flexai.pusch  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "first", ["import flexai", "import flexai.checkpoints.errors", "from flexai.api import checkpoints", ""]
)
def test_checkpoints_is_a_function_and_a_package_whatever_was_imported_first(first: str, program: Program) -> None:
    code = (
        f"{first}\n"
        "import flexai\n"
        "try:\n"
        "    flexai.checkpoints('my-run')\n"
        "except flexai.errors.NotFoundError as error:\n"
        "    print(error)\n"
        "import flexai.checkpoints.errors\n"
        "print(flexai.checkpoints.errors.NotFoundError is flexai.errors.NotFoundError, callable(flexai.checkpoints))"
    )
    assert program.python(code).splitlines() == ["there is no training job 'my-run'", "True True"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_shows_the_real_signature_and_documentation(name: str) -> None:
    function = getattr(api, name)
    shown = pydoc.plain(pydoc.render_doc(function))
    parameters = inspect.signature(function).parameters.values()
    assert all(one.kind not in {one.VAR_POSITIONAL, one.VAR_KEYWORD} for one in parameters)
    for one in parameters:
        assert f"{one.name}: " in shown
    assert f"{name}(" in shown.splitlines()[2]
    assert "'str'" not in shown, "types are not in quotation marks"
    for part in ("Returns:", "Raises:", "Example:", *(["Args:"] if parameters else [])):
        assert f"    {part}" in shown
    documented = (inspect.getdoc(function) or "").partition("Returns:")[0]
    assert [one.name for one in parameters if f"\n    {one.name}: " not in documented] == []
    if name != "checkpoints":  # which is the package of that name as well
        assert getattr(flexai, name) is function


def test_there_is_one_tree_of_errors() -> None:
    defined = {
        name: value
        for name, value in vars(tree).items()
        if isinstance(value, type) and value.__module__ == tree.__name__
    }
    assert {name: getattr(errors, name) for name in errors.__all__} == defined


def test_type_checkers_are_told_that_it_is_typed() -> None:
    assert (Path(flexai.__file__).parent / "py.typed").is_file()
    assert typing.get_type_hints(api.push)["return"] is flexai.CheckpointDetails
