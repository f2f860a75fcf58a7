"""The C library's heap, told to keep what the network frees.

Every operator allocates its result. glibc asks the system for large blocks and gives them back as
soon as they are freed, so that the network meets fresh pages all the time: for b2 at 512x512, a
hundred thousand faults a frame and a tenth to a fifth of its time on a CPU.
"""

from __future__ import annotations

import ctypes

# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets the process keep freed memory for its next allocations; it grows to its peak and stays.

    Returns:
        False where the C library has no such settings.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # One arena: those of further threads are made of pieces too small for large blocks.
    options = ((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, _LARGEST), (_ARENA_MAX, 1))
    return all(bool(set_option(option, value)) for option, value in options)
