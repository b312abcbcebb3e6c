"""The ``flexai`` command; its groups are in :mod:`flexai.cli.root`."""

import atexit
import gc

_GARBAGE_THRESHOLD = 100_000
"""Objects that are made before garbage is looked for."""


def main() -> None:
    """Run ``flexai`` as a program: a signal interrupts it once, a second one ends it at once."""
    # Modules stay for good: looking among them for garbage, last of all at the end, took a third of a short command.
    gc.set_threshold(_GARBAGE_THRESHOLD)
    atexit.register(gc.freeze)
    # Not at the head: this is most of what a short command imports.
    from flexai.cli.root import run

    run()
