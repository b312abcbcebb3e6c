"""The script of ten lines: push, list, fetch, without Prefect configured."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import program
from tests.cli.program import Program
from tests.cli.test_start import HEAVY

__all__ = ["program"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "python_api.py"

# What a script must not do: every connection, every process.
WATCHED = """
import atexit, runpy, sys, threading
events = []
kinds = ("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.system")
sys.addaudithook(lambda event, _: events.append(event) if event.startswith(kinds) else None)
sys.argv[1:] = ["model"]
runpy.run_path({example!r}, run_name="__main__")
print("EVENTS", *events, *(one.name for one in threading.enumerate()))
print("MODULES", *sys.modules)
"""


def test_it_has_ten_lines() -> None:
    lines = [line for line in EXAMPLE.read_text().partition('"""\n\n')[2].splitlines() if line]
    assert len(lines) <= 10


def test_it_pushes_lists_and_fetches_without_a_server_a_process_or_the_network(program: Program) -> None:
    program.file("model/weights.bin", bytes(1000))
    for _ in range(2):
        printed = program.python(WATCHED.format(example=str(EXAMPLE))).splitlines()
        assert printed[0] == "from-python: 1 files, 1000 bytes, available"
        assert printed[1] == f"fetched to {program.cwd / 'restored'}"
        assert printed[2] == "EVENTS MainThread"
        modules = set(printed[3].split())
    assert (program.cwd / "restored" / "weights.bin").read_bytes() == bytes(1000)
    # The first run in a new home makes the catalog's tables, with SQLAlchemy.
    assert HEAVY & modules == set()
