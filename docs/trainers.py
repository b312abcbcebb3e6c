"""Write the table of the page about trainers from the results of ``make frameworks``.

python docs/trainers.py FOLDER     take in the results that lie there, and write ``trainers.json`` and the page
python docs/trainers.py            write the page from ``trainers.json``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("trainers.md")
BEGIN, END = "<!-- from trainers.json: begin -->", "<!-- from trainers.json: end -->"


def render(page: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with the table of these results between its marks. ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no marks to write between: {BEGIN} and {END}")
    head = ("framework", "layout", "captured of written", "step", "metrics", "resumes")
    rows = [head, ("---",) * len(head), *(_row(result) for result in results.values())]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    captured = [f"{result[pace][0]} of {result[pace][1]}" for pace in ("paced", "fast")]
    lost = f" ({result['lost']} said to be lost)" if result["lost"] else ""
    return (
        f"{result['framework']} {result['version']}",
        result["layout"],
        f"{captured[0]}, fast {captured[1]}{lost}",
        "yes" if result["step"] else "-",
        ", ".join(f"`{name}`" for name in result["metrics"]) or "-",
        result["resumes"],
    )


def main(arguments: Sequence[str]) -> int:
    """Write the page."""
    figures = PAGE.with_suffix(".json")
    results = json.loads(figures.read_text()) if figures.exists() else {}
    for folder in arguments:
        results |= {path.stem: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
    results = dict(sorted(results.items(), key=lambda item: (item[1]["framework"], item[0])))
    figures.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(render(PAGE.read_text(), results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
