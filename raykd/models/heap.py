"""How a process that trains or scores on CPUs keeps the memory it frees."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
"""Parameters of glibc's `mallopt`, from its `malloc.h`."""


def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of giving it back to the system.

    A step frees and asks for the same large tensors as the step before. By default glibc maps each
    of them anew and the kernel clears every page: a quarter of a student's CPU seconds
    (`benchmarks/overhead.py`). What was needed once stays with the process until it ends.

    Returns:
        Whether the C library knows how; only glibc does.

    Source: `mallopt(3)`, M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
