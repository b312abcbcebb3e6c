"""In a notebook, that is in a real kernel: the bar, the stop button, and going on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import flexai
from tests.cli.conftest import program
from tests.cli.program import Program

__all__ = ["program"]

pytestmark = pytest.mark.frameworks

# Runs cells one after the other and prints the messages of each. A cell that begins with "# stop" is interrupted when
# its bar is there.
KERNEL = """
import json
import sys
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel()
try:
    for cell in json.loads(sys.argv[1]):
        client.execute(cell)
        messages = []
        while True:
            message = client.get_iopub_msg(timeout=120)
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind in ("display_data", "update_display_data", "execute_result", "error", "stream"):
                messages.append([kind, content.get("data") or content.get("ename") or content.get("text")])
                if kind == "display_data" and cell.startswith("# stop"):
                    manager.interrupt_kernel()
        print(json.dumps(messages))
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


def cells(program: Program, frameworks: Path, *code: str) -> list[list[list[Any]]]:
    """What each cell shows: kinds of messages, and what is in them."""
    done = subprocess.run(
        [frameworks / "bin" / "python", "-c", KERNEL, json.dumps(code)],
        cwd=program.cwd,
        env=program.environment
        | {
            "FLEXAI_BANDWIDTH_LIMIT": "2MB",
            "FLEXAI_PART_SIZE": "1MiB",
            "PYTHONPATH": str(Path(flexai.__file__).parents[1]),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_cell_shows_one_bar_can_be_stopped_and_goes_on(program: Program, frameworks: Path) -> None:
    program.file("large.bin", os.urandom(8_000_000))
    pushing, stopped, again, quiet, loaded = cells(
        program,
        frameworks,
        "import flexai; _ = flexai.push('model', files='large.bin')",
        # So slow that it cannot be over before it is stopped.
        "# stop\nimport os; os.environ['FLEXAI_BANDWIDTH_LIMIT'] = '500KB'; flexai.fetch('model', 'restored')",
        "os.environ['FLEXAI_BANDWIDTH_LIMIT'] = '8MB'; flexai.fetch('model', 'restored').fetched_files",
        "flexai.fetch('model', 'quiet', progress=lambda stage: None).fetched_files",
        "import sys; 'prefect' in sys.modules, 'rich' in sys.modules",
    )
    kinds = [kind for kind, _ in pushing]
    assert kinds == ["display_data"] + ["update_display_data"] * (len(kinds) - 1)
    shown = pushing[-1][1]
    assert shown["text/html"].startswith('<progress value="1.000" max="1"')
    assert shown["text/plain"].startswith("push model: 7.6 MiB of 7.6 MiB (100%), 1 of 1 file")
    assert stopped[-1] == ["error", "KeyboardInterrupt"]
    assert [message[1]["text/plain"] for message in (again[-1], quiet[-1])] == ["1", "1"]
    assert [kind for kind, _ in quiet] == ["execute_result"]
    assert loaded == [["execute_result", {"text/plain": "(False, False)"}]]
