"""Resident memory of this process, and how its allocator treats what a step has freed."""

import ctypes
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/statm")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = -1  # for the trim threshold, says mallopt(3)


def peak_memory_gb() -> float:
    """The most that was resident so far, in 1e9 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9  # bytes there, kibibytes elsewhere


def memory() -> dict[str, float]:
    """For TensorBoard: `memory_gb`, resident now, in 1e9 bytes; nothing where the system does not tell."""
    try:
        pages = int(_STATUS.read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return {}
    return {"memory_gb": pages * resource.getpagesize() / 1e9}


def keep_freed_memory() -> bool:
    """Let this process keep what a training step frees, since the next step asks for as much.

    glibc gives large blocks back to the system at once and gets them anew, page by page, at the next step: a
    third of the time of a small GPT-2's step on two cores. Resident memory then stays at its peak.

    Returns:
        Whether the allocator has such settings; without them nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
