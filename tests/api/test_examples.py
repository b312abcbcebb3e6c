"""The examples of the docstrings run, and show what comes of them."""

from __future__ import annotations

import inspect

import pytest

from flexai import api
from tests.checkpoints.training.trainers import program as trainer
from tests.cli.program import Program

# In the order in which a reader would try them.
FUNCTIONS = [
    *(
        "push",
        "list_checkpoints",
        "inspect",
        "diff",
        "fetch",
        "export",
        "verify",
        "protect",
        "unprotect",
        "delete",
        "undelete",
    ),
    "checkpoints",
]

RUN = """
import doctest
import flexai
import pytest

from flexai import api

runner = doctest.DocTestRunner()
for name in {functions!r}:
    function = getattr(api, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={{"flexai": flexai}})
    assert test.examples, name
    runner.run(test)
print(runner.summarize())
"""

SAVE = "save(output() / 'checkpoint-5', trainer_files(5))"


@pytest.mark.slow
def test_every_function_s_example_does_what_it_shows(program: Program) -> None:
    assert set(FUNCTIONS) == {name for name in api.__all__ if inspect.isfunction(getattr(api, name))}
    program.file("out/weights.bin", bytes(1024))
    program.file("config.json", "{}")
    (program.cwd / "share").mkdir()
    assert program.run("storage", "create", "share", "--provider", "local", "--root", "share").code == 0
    trained = program.run("training", "run", "my-run", "--", *trainer(SAVE))
    assert trained.code == 0, trained.err
    printed = program.python(RUN.format(functions=FUNCTIONS))
    assert printed.splitlines()[-1].startswith("TestResults(failed=0, attempted="), printed
