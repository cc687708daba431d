"""The memory of a process while it works: a server must not grow with its traffic."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from genre_tf.errors import FailureError

_TRUSTED = 2.0  # standard errors of a 95 % confidence interval


@dataclass(frozen=True)
class MemorySlope:
    """A line fitted to samples of resident memory.

    Attributes:
        kb_a_second: growth in kB per second.
        error_kb: half width of its 95 % confidence interval in kB per second, for independent samples.
        first_mb: mean of the first half of the samples in MB.
        last_mb: mean of the second half in MB.
    """

    kb_a_second: float
    error_kb: float
    first_mb: float
    last_mb: float


class MemoryWatch:
    """Samples the resident memory of another process; a context manager.

    Args:
        pid: id of the process.
        every_s: seconds between samples.

    Raises:
        FailureError: on entering, if the memory of the process cannot be read.
    """

    def __init__(self, pid: int, every_s: float = 0.5) -> None:
        self._statm, self._every_s = Path(f"/proc/{pid}/statm"), every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.samples_mb: list[float] = []

    def slope(self) -> MemorySlope:
        """The line through the second half of the samples; the first half is warm-up.

        Raises:
            FailureError: there are fewer than five samples.
        """
        return memory_slope(self.samples_mb[len(self.samples_mb) // 2 :], self._every_s)

    def __enter__(self) -> "MemoryWatch":
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stopped.wait(self._every_s):
            try:
                self._read()
            except FailureError:  # the process has ended
                return

    def _read(self) -> None:
        try:
            pages = int(self._statm.read_text("ascii").split()[1])
        except (OSError, ValueError, IndexError) as error:
            raise FailureError(f"cannot read the memory of a process: {self._statm} ({error})") from None
        self.samples_mb.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def memory_slope(samples_mb: list[float], every_s: float) -> MemorySlope:
    """The least-squares line through samples that were taken every `every_s` seconds.

    Raises:
        FailureError: there are fewer than three samples.
    """
    if len(samples_mb) < 3:
        raise FailureError(f"at least 3 memory samples are needed; got {len(samples_mb)}: let it run longer")
    memory = np.array(samples_mb) * 1e3  # kB
    seconds = np.arange(len(memory)) * every_s
    centred = seconds - seconds.mean()
    slope = float(centred @ memory / (centred @ centred))
    rest = memory - memory.mean() - slope * centred
    error = float(np.sqrt((rest @ rest) / (len(memory) - 2) / (centred @ centred)))
    middle = len(memory) // 2
    means = (memory[:middle].mean() / 1e3, memory[middle:].mean() / 1e3)
    return MemorySlope(slope, _TRUSTED * error, *map(float, means))
