"""Faults of input rows, and the policy that stops at them or skips and counts them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from genre_tf.errors import InputError

MAX_LISTED_FAULTS = 10_000
"""Maximum number of listed faults, so that a broken file of millions of rows does not fill the memory."""

MAX_SHOWN_CHARACTERS = 80
"""Received values are quoted up to this length, so that a message stays one or two lines."""

MAX_LISTED_NAMES = 40
"""Maximum number of names of columns or keys in a message: the widest of the known logs has 23."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with one row (or, at line 0, with a whole file)."""

    file: str  # path as the user gave it
    line: int  # 1-based line number; 0 concerns the whole file, which no `--max-bad-rows` can skip
    field: str  # column of the row, such as `time`; `line` or `file` if no column can be named
    message: str  # the received value, what is wrong with it and what to do

    @property
    def whole_file(self) -> bool:
        """Whether the file as a whole is unusable, rather than one row of it."""
        return self.line == 0

    def __str__(self) -> str:
        place = self.file if self.whole_file else f"{self.file}:{self.line}"
        return f"{place}: {self.field}: {self.message}"


def shown(value: str) -> str:
    """Quotes a received value for a message: escaped, so free of control characters, and cut when long."""
    if len(value) <= MAX_SHOWN_CHARACTERS:
        return repr(value)
    return f"{value[:MAX_SHOWN_CHARACTERS]!r}… ({len(value)} characters)"


def listed(names: Iterable[str]) -> str:
    """Names of columns or keys for a message: escaped, cut when long, and at most `MAX_LISTED_NAMES`."""
    found = list(names)
    more = len(found) - MAX_LISTED_NAMES
    parts = [repr(name[:MAX_SHOWN_CHARACTERS])[1:-1] for name in found[:MAX_LISTED_NAMES]]
    return ", ".join(parts) + (f" and {more:,} more" if more > 0 else "")


@dataclass
class FaultPolicy:
    """Decides what a fault does: stop at once, or skip the row, count it and list it."""

    max_bad_rows: int | None = 0  # rows that may be skipped; 0 stops at the first, None never (`genre check`)
    faults: list[Fault] = field(default_factory=list)
    bad_rows: int = 0
    unlisted: int = 0
    unusable_files: int = 0
    advice: str = "`genre check` lists every fault"  # how to see them, for the message that stops

    @classmethod
    def allowing(cls, max_bad_rows: int) -> Self:
        """A policy for `--max-bad-rows`; a negative number is an `InputError`."""
        if max_bad_rows < 0:
            raise InputError(f"--max-bad-rows must be at least 0; got {max_bad_rows}")
        return cls(max_bad_rows)

    def reject(self, faults: list[Fault]) -> None:
        """Counts one bad row (or file) with all of its faults.

        Args:
            faults: every fault of the row; at least one.

        Raises:
            InputError: more rows are bad than may be skipped, or a whole file is unusable.
        """
        room = MAX_LISTED_FAULTS - len(self.faults)
        self.faults.extend(faults[:room])
        self.unlisted += max(0, len(faults) - room)
        if faults[0].whole_file:
            self.unusable_files += 1
            if self.max_bad_rows is not None:
                raise InputError(str(faults[0]))
            return
        self.bad_rows += 1
        if self.max_bad_rows is None or self.bad_rows <= self.max_bad_rows:
            return
        if self.max_bad_rows == 0:
            raise InputError(f"{faults[0]} ({self.advice}; --max-bad-rows N skips up to N rows)")
        raise InputError(
            f"more than {self.max_bad_rows} bad rows; the last: {faults[0]} "
            f"({self.advice}; raise --max-bad-rows or repair the files)"
        )
