"""Freed memory is kept for the next array, where the C library can be told so."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = 1 << 30


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to the most that it needed at once.

    glibc gives large arrays back to the kernel at once, and each page of the next one costs a
    fault: 40 for a clip of half a second, a fifth of the time of converting it. Elsewhere nothing
    happens.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return
    mallopt(_M_MMAP_THRESHOLD, _NEVER)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
