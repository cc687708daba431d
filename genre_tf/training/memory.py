"""Resident memory of this process, and how its allocator handles memory that a step has freed."""

import ctypes
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/statm")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from glibc's malloc.h
_NEVER = -1  # value of the trim threshold, see mallopt(3)


def peak_memory_gb() -> float:
    """Peak resident memory so far, in 1e9 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9  # bytes on macOS, KiB elsewhere


def memory() -> dict[str, float]:
    """For TensorBoard: `memory_gb`, resident now, in 1e9 bytes; empty if the system does not report it."""
    try:
        pages = int(_STATUS.read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return {}
    return {"memory_gb": pages * resource.getpagesize() / 1e9}


def keep_freed_memory() -> bool:
    """Let this process keep memory that a training step frees, because the next step needs as much.

    glibc returns large blocks to the system at once and gets them back, page by page, in the next step. For a
    small GPT-2 on two cores this is a third of the step time. Resident memory then stays at its peak.

    Returns:
        Whether the allocator has these settings; if not, nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
