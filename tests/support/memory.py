"""What keeps a test process small, which runs thousands of tests."""

from __future__ import annotations

import ctypes
import gc

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # M_MMAP_THRESHOLD and M_ARENA_MAX of <malloc.h>


def have_memory_given_back() -> None:
    """Have what is freed go back to the system, by way of glibc's allocator; nothing with another one.

    glibc keeps blocks of up to 32 MiB for the next ones as soon as one of such a size was freed, and does so in an
    arena for each of many threads. A block of a megabyte here and one there hold hundreds of free megabytes between
    them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 256 * 1024)
        mallopt(_ARENA_MAX, 2)


def give_memory_back() -> None:
    """Give back to the system what glibc's allocator keeps of what was freed; nothing with another one."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def have_garbage_collected_soon() -> None:
    """Have garbage in circles found soon; called when all tests have been imported.

    Python looks for old garbage only when a quarter as much as there is has been added. With the modules of all tests
    and of Prefect that hardly ever happens, and clients and servers of tests pile up with the megabytes that they hold.
    Modules stay to the end anyway: without them there is little to look at.
    """
    gc.collect()
    gc.freeze()
