"""Resident memory of this process."""

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/statm")


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
