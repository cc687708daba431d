"""Impressions as columns: examples in memory, or Arrow files of which only the rows of a batch are read.

A log of any size takes hardly any memory: 24 bytes of each impression, for its number, its time and the ends
of its lists. Lists are read by position: in mapped memory each random row would cost some six page faults,
which took more time than everything else, and the more the larger the log.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, overload
from weakref import finalize

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from genre_tf.contract import COUNTERS
from genre_tf.data.articles import damaged, write_arrow

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

_WEIGHTS = {"history_weights": "history", "label_weights": "labels"}  # what each column of weights belongs to
_OF_HISTORY = ("history", "history_weights")
_KINDS: dict[str, np.dtype[Any]] = {  # the columns of lists
    "history": np.dtype(np.int32),
    "history_weights": np.dtype(np.float32),
    "candidates": np.dtype(np.int32),
    "labels": np.dtype(np.uint8),
    "counters": np.dtype((np.float32, (len(COUNTERS),))),
    "label_weights": np.dtype(np.float32),
}
_SCANNED_TOGETHER = 8192  # impressions


@dataclass(eq=False, slots=True)
class ImpressionExample:
    """One impression, ready for a batch.

    Args:
        impression: row number of the impression in its split.
        user_id: the reader.
        time_hours: hours since 1970 on the log's own clock.
        history: int32 [h], rows of the newest known clicks, oldest first; empty for a new reader.
        candidates: int32 [c], rows; 0 if the table does not know the article.
        labels: float32 [c], 1 for a click; zeros for a log without labels.
        counters: float32 [c, 9], in the order of `COUNTERS`.
        history_weights: float32 [h], how much each click of the history counts, 1 if no signals are known;
            None: 1 everywhere, as in a log without signals.
        label_weights: float32 [c], the same for the clicked candidates, 1 for all others; None likewise.
    """

    impression: int
    user_id: str
    time_hours: float
    history: Rows
    candidates: Rows
    labels: Floats
    counters: Floats
    history_weights: Floats | None = None
    label_weights: Floats | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """Columns of n impressions in memory, with h clicks in all histories and c candidates.

    Columns that were not asked for are empty.
    """

    impression: Ints  # int64 [n], row numbers in the log
    seconds: Ints  # int64 [n], times since 1970 on the log's own clock
    user_id: Sequence[str]  # n readers
    history_ends: npt.NDArray[np.integer]  # int [n + 1], where histories begin, and where the last one ends
    history: Rows  # int32 [h], article rows, oldest click first
    candidate_ends: npt.NDArray[np.integer]  # int [n + 1], the same for the candidates
    candidates: Rows  # int32 [c], article rows
    labels: npt.NDArray[np.uint8]  # uint8 [c], 1 for a click
    counters: Floats  # float32 [c, 9], in the order of `COUNTERS`
    history_weights: Floats | None = None  # float32 [h], see `ImpressionExample`
    label_weights: Floats | None = None  # float32 [c]

    @classmethod
    def of(cls, examples: Sequence[ImpressionExample]) -> Self:
        """The columns of some examples."""

        def joined(name: str) -> npt.NDArray[Any] | None:
            found = [getattr(example, name) for example in examples]
            if name in _WEIGHTS:
                if all(each is None for each in found):
                    return None
                sizes = [len(getattr(example, _WEIGHTS[name])) for example in examples]
                found = [
                    np.ones(size) if each is None else each for each, size in zip(found, sizes, strict=True)
                ]
            if name == "labels":
                found = [each > 0 for each in found]
            return np.concatenate([np.zeros(0, _KINDS[name]), *found]).astype(_KINDS[name].base, copy=False)

        columns: dict[str, Any] = {name: joined(name) for name in _KINDS}
        return cls(
            impression=np.array([example.impression for example in examples], np.int64),
            seconds=np.array([round(example.time_hours * 3600) for example in examples], np.int64),
            user_id=[example.user_id for example in examples],
            history_ends=ends_of([len(example.history) for example in examples]),
            candidate_ends=ends_of([len(example.candidates) for example in examples]),
            **columns,
        )

    def __len__(self) -> int:
        return len(self.impression)

    def example(self, row: int) -> ImpressionExample:
        """One of the impressions."""
        read = slice(self.history_ends[row], self.history_ends[row + 1])
        shown = slice(self.candidate_ends[row], self.candidate_ends[row + 1])
        return ImpressionExample(
            impression=int(self.impression[row]),
            user_id=self.user_id[row],
            time_hours=int(self.seconds[row]) / 3600,
            history=self.history[read],
            candidates=self.candidates[shown],
            labels=self.labels[shown].astype(np.float32),
            counters=self.counters[shown],
            history_weights=None if self.history_weights is None else self.history_weights[read],
            label_weights=None if self.label_weights is None else self.label_weights[shown],
        )

    @property
    def row_of_candidate(self) -> Ints:
        """The row of each candidate among the n impressions: int64 [c]."""
        return np.repeat(np.arange(len(self)), np.diff(self.candidate_ends))

    @property
    def has_weights(self) -> bool:
        """Whether the log has signals."""
        return self.label_weights is not None or self.history_weights is not None

    def users(self, begin: int, end: int) -> Sequence[str]:
        """The readers of some neighbouring impressions."""
        return self.user_id[begin:end]

    def values(self, name: str, begin: int, end: int) -> npt.NDArray[Any]:
        """Neighbouring values of a column of lists; weights of a log without signals are 1."""
        values = getattr(self, name)
        return np.ones(end - begin, np.float32) if values is None else values[begin:end]

    def write_counters(self, begin: int, counters: Floats) -> None:
        """Replace counters, from the candidate `begin` on."""
        self.counters[begin : begin + len(counters)] = counters


class BlockFile:
    """A block in a file that `write_block` wrote.

    Args:
        path: the file.
        writable: whether `write_counters` may be called.

    Raises:
        InputError: it is missing or damaged.
    """

    def __init__(self, path: Path, writable: bool = False) -> None:
        try:
            self._file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
            finalize(self, os.close, self._file)
            with pa.memory_map(str(path)) as file:
                whole = file.read_buffer()
            batch = pa.ipc.open_file(whole).get_batch(0)
            users, history, shown = (batch.column(name) for name in ("user_id", "history", "candidates"))
            read, seen = history.values, shown.values
            columns = {"history": read.field("article"), "candidates": seen.field("article")}
            columns |= {"labels": seen.field("clicked"), "counters": seen.field("counters").values}
            self.has_weights = read.type.num_fields > 1
            if self.has_weights:
                columns |= {"history_weights": read.field("weight"), "label_weights": seen.field("weight")}
        except (OSError, KeyError, pa.ArrowException):
            raise damaged(path) from None
        buffers = {name: column.buffers()[1] for name, column in columns.items()}
        buffers |= {"user_ends": users.buffers()[1], "users": users.buffers()[2]}
        self._places = {
            name: each.address - whole.address for name, each in buffers.items() if each and each.size
        }
        self.impression: Ints = np.array(batch.column("impression"))
        self.seconds: Ints = np.array(batch.column("time_seconds"))
        self.history_ends, self.candidate_ends = np.array(history.offsets), np.array(shown.offsets)

    def __len__(self) -> int:
        return len(self.impression)

    def users(self, begin: int, end: int) -> Sequence[str]:
        """The readers of some neighbouring impressions."""
        ends = self._read("user_ends", np.dtype(np.int32), begin, end + 1)
        texts = self._read("users", np.dtype(np.uint8), int(ends[0]), int(ends[-1]))
        buffers = [None, pa.py_buffer(ends - ends[0]), pa.py_buffer(texts)]
        users: list[str] = pa.Array.from_buffers(pa.string(), end - begin, buffers).to_pylist()
        return users

    def values(self, name: str, begin: int, end: int) -> npt.NDArray[Any]:
        """Neighbouring values of a column of lists; weights of a log without signals are 1."""
        if name in _WEIGHTS and not self.has_weights:
            return np.ones(end - begin, np.float32)
        return self._read(name, _KINDS[name], begin, end)

    def write_counters(self, begin: int, counters: Floats) -> None:
        """Replace counters, from the candidate `begin` on."""
        place = self._places["counters"] + begin * _KINDS["counters"].itemsize
        os.pwrite(self._file, counters.astype(np.float32, copy=False).tobytes(), place)

    def _read(self, name: str, kind: np.dtype[Any], begin: int, end: int) -> npt.NDArray[Any]:
        size, place = (end - begin) * kind.itemsize, self._places.get(name, 0) + begin * kind.itemsize
        return np.frombuffer(os.pread(self._file, size, place), kind)


class ImpressionColumns(Sequence[ImpressionExample]):
    """A log, or a choice of its impressions, as a sequence of examples and as columns.

    `columns[3]` is an `ImpressionExample`; `columns[2:9]`, `columns[mask]` and `columns[numbers]` are columns
    that share the same memory or files; `columns + others` are both, one after the other.

    Args:
        parts: the columns, in files or in memory.
        places: int64 [n], the chosen impressions, counted over all parts; None: all, in their order.
    """

    def __init__(self, parts: Sequence[Block | BlockFile], places: Ints | None = None) -> None:
        self._parts = [part for part in parts if len(part)]
        self._starts = ends_of([len(part) for part in self._parts])
        self._places = places

    @classmethod
    def of(cls, examples: Sequence[ImpressionExample]) -> "ImpressionColumns":
        """Columns of examples; columns stay as they are."""
        if isinstance(examples, ImpressionColumns):
            return examples
        return cls([Block.of(examples)])

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._places is None else len(self._places)

    @overload
    def __getitem__(self, chosen: int) -> ImpressionExample: ...

    @overload
    def __getitem__(self, chosen: slice | npt.NDArray[Any] | Sequence[int]) -> "ImpressionColumns": ...

    def __getitem__(self, chosen: Any) -> Any:
        if isinstance(chosen, int | np.integer):
            return self.take([range(len(self))[int(chosen)]]).example(0)
        if isinstance(chosen, slice):
            chosen = np.arange(*chosen.indices(len(self)), dtype=np.int64)
        chosen = np.asarray(chosen)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return ImpressionColumns(self._parts, self._places_of(chosen))

    def __iter__(self) -> Iterator[ImpressionExample]:
        for block in self.blocks():
            yield from map(block.example, range(len(block)))

    def __add__(self, others: Sequence[ImpressionExample]) -> "ImpressionColumns":
        more = ImpressionColumns.of(others)
        every = np.arange(len(more))
        places = np.concatenate(
            [self._places_of(np.arange(len(self))), more._places_of(every) + self._starts[-1]]
        )
        return ImpressionColumns([*self._parts, *more._parts], places)

    def __repr__(self) -> str:
        return f"<ImpressionColumns: {len(self):,} impressions>"

    @property
    def has_weights(self) -> bool:
        """Whether any impression comes from a log with signals."""
        return any(part.has_weights for part in self._parts)

    @cached_property
    def seconds(self) -> Ints:
        """When each impression was shown, in seconds since 1970: int64 [n]."""
        return self._chosen([part.seconds for part in self._parts])

    @cached_property
    def shown(self) -> Ints:
        """How many candidates each impression has: int64 [n]."""
        return self._chosen([np.diff(part.candidate_ends) for part in self._parts])

    def _chosen(self, found: list[Any]) -> Ints:
        every = np.concatenate([np.zeros(0, np.int64), *found])
        return every if self._places is None else every[self._places]

    def blocks(self, *names: str, size: int = _SCANNED_TOGETHER) -> Iterator[Block]:
        """All impressions in memory, `size` at a time; see `take`."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))), *names)

    def articles(self, *names: str) -> Rows:
        """The articles that occur in list columns such as `history`: int32 [m] rows, ascending."""
        found = np.zeros(1, bool)
        for block in self.blocks(*names):
            for name in names:
                values = getattr(block, name)
                found = np.pad(found, (0, max(0, int(values.max(initial=0)) + 1 - len(found))))
                found[values] = True
        return np.flatnonzero(found).astype(np.int32)

    def clicks(self, among: Callable[[Block], npt.NDArray[np.bool_]]) -> tuple[Rows, Rows]:
        """The clicks among some candidates, which are chosen by a mask of all candidates of a block.

        Returns:
            Number of the impression, place of the candidate in it, int32 [k] each.
        """
        numbers, places, begin = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], 0
        for block in self.blocks("candidates", "labels"):
            at = np.flatnonzero(block.labels & among(block))
            row = block.row_of_candidate[at]
            numbers.append((begin + row).astype(np.int32))
            places.append((at - block.candidate_ends[row]).astype(np.int32))
            begin += len(block)
        return np.concatenate(numbers), np.concatenate(places)

    def named(self, articles: int) -> npt.NDArray[np.bool_]:
        """Which rows of a table of so many articles occur in histories and candidates: bool [articles]."""
        named = np.zeros(articles, bool)
        named[self.articles("history", "candidates")] = True
        return named

    def take(self, numbers: npt.ArrayLike, *names: str) -> Block:
        """Some impressions, copied into memory.

        Args:
            numbers: int [k], which of them, in any order, also repeatedly.
            names: the list columns and `user_id` that are needed besides numbers and times; none: all.

        Returns:
            The k impressions in this order.
        """
        runs = self._runs(np.asarray(numbers, np.int64))
        columns: dict[str, Any] = {}
        for name, kind in _KINDS.items():
            found = [np.zeros(0, kind)]
            wanted = not names or name in names
            for part, begin, end in runs if wanted else ():
                ends = part.history_ends if name in _OF_HISTORY else part.candidate_ends
                found.append(part.values(name, int(ends[begin]), int(ends[end])))
            if name not in _WEIGHTS or (wanted and self.has_weights):
                columns[name] = np.concatenate(found)
        users = [part.users(begin, end) for part, begin, end in runs if not names or "user_id" in names]
        for name in ("impression", "seconds"):
            columns[name] = _joined([getattr(part, name)[begin:end] for part, begin, end in runs])
        for name in ("history_ends", "candidate_ends"):
            of_runs = [(getattr(part, name), begin, end) for part, begin, end in runs]
            lengths = [every[begin + 1 : end + 1] - every[begin:end] for every, begin, end in of_runs]
            columns[name] = ends_of(_joined(lengths))
        return Block(user_id=[user for some in users for user in some], **columns)

    def fill_counters(self, numbers: Ints, counters: Floats) -> None:
        """Write the counters of some impressions, in memory or into writable files.

        Args:
            numbers: int64 [k], which impressions.
            counters: float32 [candidates of all, 9], in this order.
        """
        at = 0
        for part, begin, end in self._runs(numbers):
            first, last = int(part.candidate_ends[begin]), int(part.candidate_ends[end])
            part.write_counters(first, counters[at : at + last - first])
            at += last - first

    def _runs(self, numbers: Ints) -> list[tuple[Block | BlockFile, int, int]]:
        """Some impressions as runs of neighbours in one part: the part, its first and after its last row."""
        places = self._places_of(numbers)
        parts = np.searchsorted(self._starts, places, "right") - 1
        begins = np.flatnonzero((np.diff(places, prepend=-2) != 1) | (np.diff(parts, prepend=-1) != 0))
        rows = (places - self._starts[parts])[begins]
        after = rows + np.diff(begins, append=len(places))
        of_run = (self._parts[part] for part in parts[begins].tolist())
        return list(zip(of_run, rows.tolist(), after.tolist(), strict=True))

    def _places_of(self, numbers: Ints) -> Ints:
        return numbers if self._places is None else self._places[numbers]


class OfCandidates(Sequence[Floats]):
    """Values of all candidates of a log in one array, as a sequence of those of each impression.

    Args:
        values: float32 [candidates of all, ...].
        lengths: int64 [n], candidates of each impression.
    """

    def __init__(self, values: Floats, lengths: Ints) -> None:
        self._values, self._ends = values, ends_of(lengths)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: Any) -> Any:
        number = range(len(self))[number]
        return self._values[self._ends[number] : self._ends[number + 1]]


def ends_of(lengths: npt.ArrayLike) -> Ints:
    """Where lists of these lengths begin in one array, and where the last one ends: int64 [n + 1]."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64), dtype=np.int64)]).astype(np.int64)


def _joined(found: list[Any]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *found])


def write_block(path: Path, block: Block) -> None:
    """Write a block as an Arrow IPC file; equal blocks give equal bytes.

    Raises:
        OSError: the file cannot be written.
    """
    history = {"article": pa.array(block.history)}
    shown = {
        "article": pa.array(block.candidates),
        "clicked": pa.array(block.labels),
        "counters": pa.FixedSizeListArray.from_arrays(pa.array(block.counters.reshape(-1)), len(COUNTERS)),
    }
    if block.history_weights is not None:
        history["weight"] = pa.array(block.history_weights)
        shown["weight"] = pa.array(block.label_weights)

    def lists(ends: npt.NDArray[np.integer], fields: dict[str, pa.Array]) -> pa.Array:
        values = pa.StructArray.from_arrays(list(fields.values()), list(fields))
        return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), values)

    columns = {
        "impression": pa.array(block.impression),
        "user_id": pa.array(block.user_id, pa.string()),
        "time_seconds": pa.array(block.seconds),
        "history": lists(block.history_ends, history),
        "candidates": lists(block.candidate_ends, shown),
    }
    write_arrow(path, columns)


def read_columns(paths: Sequence[Path]) -> ImpressionColumns:
    """The impressions of files that `write_block` wrote, in this order.

    Raises:
        InputError: one is missing or damaged.
    """
    return ImpressionColumns([BlockFile(path) for path in paths])
