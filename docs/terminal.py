"""Record the terminal of the README: its commands are run, and drawn as an SVG in which the lines appear in turn.

python docs/terminal.py            write docs/images/terminal.svg
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "terminal.svg"
WIDTH = 88
PAUSE = 1.2
"""Seconds that pass before a command in the picture."""
STYLE = """
.{unique}-matrix text {{ animation: appear 0.1s both }}
@keyframes appear {{ from {{ opacity: 0 }} }}
@media (prefers-reduced-motion: reduce) {{ .{unique}-matrix text {{ animation: none }} }}
"""


def commands() -> list[str]:
    """What the README types to resume after a kill, and a fetch of what was captured."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Resume after a kill")[2].partition("##")[0]
    typed = [line.removeprefix("$ ").removesuffix(" || true") for line in section.splitlines() if line.startswith("$ ")]
    return [*typed, "flexai checkpoint fetch long/checkpoint-100 --destination restored"]


def record() -> str:
    """The SVG of a real run, in a folder of its own."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    typed_at = []
    rows = 0
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("FLEXAI_", "PREFECT_"))
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment |= {"FLEXAI_HOME": f"{folder}/home", "PATH": path, "COLUMNS": str(WIDTH), "NO_COLOR": "1"}
        for command in commands():
            typed_at.append(rows)
            done = subprocess.run(
                command,
                shell=True,
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            lines = [f"[bold green]$[/] [bold]{command}[/]", *done.stdout.rstrip().splitlines()]
            for number, line in enumerate(lines):
                text = Text.from_markup(line) if number == 0 else Text(line)
                text.truncate(WIDTH, overflow="ellipsis")
                console.print(text, overflow="crop", no_wrap=True)
            rows += len(lines)
    return animated(console.export_svg(title="flexai", unique_id="terminal"), typed_at)


def animated(drawn: str, typed_at: list[int]) -> str:
    """A picture without a font from elsewhere, whose rows appear one after the other."""
    drawn = re.sub(r"\s*@font-face \{.*?\n    \}\n", "\n", drawn, flags=re.DOTALL)
    drawn = drawn.replace("Fira Code, monospace", "Menlo, Consolas, DejaVu Sans Mono, monospace")

    def delayed(match: re.Match[str]) -> str:
        row = int(match[2])
        seconds = PAUSE * sum(row >= begin for begin in typed_at[1:]) + 0.12 * row
        return f'{match[1]} style="animation-delay:{seconds:.2f}s"'

    drawn = re.sub(r'(<text class="[^"]*"[^>]* clip-path="url\(#terminal-line-(\d+)\)")', delayed, drawn)
    return drawn.replace("</style>", f"{STYLE.format(unique='terminal')}</style>", 1)


if __name__ == "__main__":
    PICTURE.write_text(record(), encoding="utf-8")
