"""Run the cases that are named, or all of them."""

from __future__ import annotations

import sys

from benchmarks import local_store, memory, startup

CASES = {"startup": startup.main, "memory": memory.main, "local-store": local_store.main}


def main(names: list[str]) -> int:
    """Run cases by name; 2 for a name that is none."""
    unknown = [name for name in names if name not in CASES]
    if unknown:
        print(f"no case {unknown[0]!r}; there are: {', '.join(CASES)}", file=sys.stderr)
        return 2
    for name in names or CASES:
        CASES[name]()
    return 0


sys.exit(main(sys.argv[1:]))
