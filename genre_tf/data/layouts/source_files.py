"""Files of a source folder by pattern, and their rows except those that the map leaves out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from genre_tf.data.faults import MAX_LISTED_NAMES, Fault, FaultPolicy, listed
from genre_tf.data.layouts.cells import is_missing, text, whole
from genre_tf.data.layouts.column_map import Reading, SkipRule
from genre_tf.data.layouts.tables import Row, read_table
from genre_tf.errors import InputError


@dataclass
class Source:
    """The folder that is read, and what happens to its rows.

    Args:
        folder: where the files are.
        reading: format of the files.
        policy: decides what happens to a faulty row.
        left_out: rows that skip rules left out so far.
        dropped: clicks (or events) on unknown articles that were left out so far.
        seen: wanted columns that rows have had so far; splits share it, as they share the map.
        clicks_without_view: clicks of a log of events that are only history.
        unmatched: events that were left out, as no view or click of their article comes before them.
    """

    folder: Path
    reading: Reading
    policy: FaultPolicy
    left_out: int = 0
    dropped: int = 0
    clicks_without_view: int = 0
    unmatched: int = 0
    seen: set[str] = field(default_factory=set)
    _unseen: set[str] = field(default_factory=set, init=False)  # wanted columns that no row has had so far
    _keys: dict[str, None] = field(default_factory=dict, init=False)  # some columns that rows have had

    def rows(
        self, patterns: Sequence[str], columns: Sequence[str], skip: Sequence[SkipRule] = ()
    ) -> Iterator[tuple[Path, int, Row]]:
        """Rows of all files that the patterns name, in the order of their names.

        Args:
            patterns: inside the folder, such as `articles.parquet` or `2017*`.
            columns: wanted columns; empty names are ignored. Each must be in at least one row, here or in a
                split that was read before.
            skip: which rows are left out.

        Yields:
            The file, the row's 1-based number and its cells.

        Raises:
            InputError: a pattern that names no file, an unusable file, or the policy stops.
        """
        # Where the column of a rule for empty cells is misspelt, it would leave out every row.
        needed = (*columns, *(rule.column for rule in skip if not rule.value))
        wanted = [*dict.fromkeys(filter(None, needed))]
        asked = [*dict.fromkeys(rule.column for rule in skip)]
        self._unseen, self._keys = set(wanted), {}
        path = self.folder
        for path in self.files(patterns):
            for number, row in read_table(path, self.reading, wanted, self.policy, asked):
                if self._unseen:
                    self._unseen -= row.keys()
                    self._keys |= dict.fromkeys(list(row)[: MAX_LISTED_NAMES - len(self._keys)])
                if any(_matches(rule, row) for rule in skip):
                    self.left_out += 1
                else:
                    yield path, number, row
        self.seen |= set(wanted) - self._unseen
        if self._keys and self._unseen - self.seen:
            advice = "correct them in the map or leave them out (a row where they are null counts)"
            self.policy.reject([Fault(str(path), 0, "file", f"{self._unseen_keys()}; {advice}")])

    def files(self, patterns: Sequence[str]) -> list[Path]:
        """The files that patterns name, each once, sorted.

        Raises:
            InputError: a pattern names none, or leads out of the folder.
        """
        found: dict[Path, None] = {}
        for pattern in patterns:
            if not pattern or PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts:
                raise InputError(
                    f"{pattern!r} is not a path inside {self.folder}; give a path relative to it"
                )
            matches = sorted(path for path in self.folder.glob(pattern) if path.is_file())
            if not matches:
                inner = [path for path in self.folder.iterdir() if path.is_dir() and any(path.glob(pattern))]
                advice = f"; {min(inner)} does: give that folder" if inner else ""
                raise InputError(f"{self.folder} holds no file {pattern}, which the map names{advice}")
            found |= dict.fromkeys(path for path in matches if not path.name.startswith("."))
        return list(found)

    def reject(self, path: Path, number: int, faults: Sequence[tuple[str, str]]) -> None:
        """Give a row's faults, columns and messages, to the policy; names keys that may be misspelt.

        Raises:
            InputError: the policy stops.
        """
        hint = f"; {self._unseen_keys()}" if self._unseen else ""
        self.policy.reject([Fault(str(path), number, column, message + hint) for column, message in faults])

    def _unseen_keys(self) -> str:
        return f"no row up to here has {listed(sorted(self._unseen))}; keys found: {listed(self._keys)}"


def _matches(rule: SkipRule, row: Row) -> bool:
    value: Any = row.get(rule.column)
    if rule.value:
        return not isinstance(value, list | dict) and whole(text(value)) == whole(rule.value)
    return is_missing(value)
