"""The ``flexai`` command; its groups are in :mod:`flexai.cli.root`."""

import atexit
import gc
import os
import signal
import sys

_GARBAGE_THRESHOLD = 100_000
"""Objects that are made before garbage is looked for."""


def main() -> None:
    """Run ``flexai`` as a program: a signal interrupts it once, a second one ends it at once."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Python's own handler would show a traceback of the imports that follow.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.getfilesystemencoding() == "ascii":
        # LC_ALL=C with PYTHONUTF8=0, say: names of files and arguments could not be told. This is fixed at the start.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    # Modules stay for good: looking among them for garbage, last of all at the end, took a third of a short command.
    gc.set_threshold(_GARBAGE_THRESHOLD)
    atexit.register(gc.freeze)
    # Not at the head: this is most of what a short command imports.
    from flexai.cli.root import run

    # What came with them is young otherwise, and each look goes through it: a tenth of a push of one small file.
    gc.freeze()
    run()
