"""How large the product is: ``python -m benchmarks.size [CHECKOUT…]`` prints a row for each checkout."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PRODUCT = ("src/flexai", "blocks", "tasks", "flows")
"""The folders of the package; its links to the other three are not followed."""


def sources(checkout: Path) -> Iterator[Path]:
    """Every module of the product."""
    root = checkout.resolve()
    for folder in PRODUCT:
        yield from (path for path in (root / folder).rglob("*.py") if not any(map(Path.is_symlink, path.parents)))


def size(checkout: Path) -> tuple[int, int, int]:
    """How many modules, lines and classes a checkout's product has."""
    texts = [path.read_text(encoding="utf-8") for path in sources(checkout)]
    classes = sum(isinstance(node, ast.ClassDef) for text in texts for node in ast.walk(ast.parse(text)))
    return len(texts), sum(len(text.splitlines()) for text in texts), classes


def main(checkouts: list[str]) -> None:
    """Print the table."""
    print(f"{'modules':>8} {'lines':>8} {'classes':>8}")
    for checkout in checkouts or ["."]:
        print("".join(f"{count:8,} " for count in size(Path(checkout))) + checkout)


if __name__ == "__main__":
    main(sys.argv[1:])
