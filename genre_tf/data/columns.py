"""Impressions as columns: Arrow files that are mapped into memory, or examples in the same form.

A log of any size takes hardly any memory: only the rows that are asked for are read, and the pages that the
system mapped for them are given back.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, overload
from weakref import WeakSet

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from genre_tf.data.articles import damaged
from genre_tf.data.decay import COUNTERS

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

WEIGHTS = {"history_weights": "history", "label_weights": "labels"}
"""Further columns of a log with signals, and the column that each one weights."""

_OF_CANDIDATES = ("candidates", "labels", "counters", "label_weights")
_LISTS = {name: name in _OF_CANDIDATES for name in ("history", "history_weights", *_OF_CANDIDATES)}
_SCANNED_TOGETHER = 8192  # impressions
_MAPPED_BYTES = 256 << 20  # of all files, after which their pages are given back
_RUN_BYTES = 320 << 10  # what reading one row may map: the system maps 64 KiB around each of some five values
_ROW_BYTES = 2 << 10  # about
_NEIGHBOURS = 64  # rows that are read together, from which on the system should read ahead


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
    """Columns of n impressions, with h clicks in all histories and c candidates.

    Columns that were not asked for are empty.

    Args:
        impression: int64 [n], row numbers in the log.
        seconds: int64 [n], times since 1970 on the log's own clock.
        user_id: strings [n].
        history_ends: int [n + 1], where each history begins in `history`, and where the last one ends.
        history: int32 [h], article rows, oldest click first.
        candidate_ends: int [n + 1], the same for the candidates.
        candidates: int32 [c], article rows.
        labels: uint8 [c], 1 for a click.
        counters: float32 [c, 9], in the order of `COUNTERS`.
        history_weights: float32 [h], see `ImpressionExample`; None in a log without signals.
        label_weights: float32 [c], likewise.
        mapping: the file that holds them; None: they are in memory.
    """

    impression: Ints
    seconds: Ints
    user_id: Any
    history_ends: npt.NDArray[np.integer]
    history: Rows
    candidate_ends: npt.NDArray[np.integer]
    candidates: Rows
    labels: npt.NDArray[np.uint8]
    counters: Floats
    history_weights: Floats | None = None
    label_weights: Floats | None = None
    mapping: "_Mapping | None" = field(default=None, repr=False)

    @classmethod
    def of(cls, examples: Sequence[ImpressionExample]) -> Self:
        """The columns of some examples."""

        def joined(name: str, kind: type, inner: tuple[int, ...] = ()) -> npt.NDArray[Any]:
            found = [getattr(example, name) for example in examples]
            return np.concatenate([np.zeros((0, *inner), kind), *found]).astype(kind, copy=False)

        def weights(name: str) -> Floats | None:
            found = [getattr(example, name) for example in examples]
            if all(each is None for each in found):
                return None
            of = [getattr(example, WEIGHTS[name]) for example in examples]
            ones = (np.ones(len(each), np.float32) for each in of)
            known = [given if given is not None else one for given, one in zip(found, ones, strict=True)]
            return np.concatenate(known).astype(np.float32, copy=False)

        return cls(
            impression=np.array([example.impression for example in examples], np.int64),
            seconds=np.array([round(example.time_hours * 3600) for example in examples], np.int64),
            user_id=[example.user_id for example in examples],
            history_ends=ends_of([len(example.history) for example in examples]),
            history=joined("history", np.int32),
            candidate_ends=ends_of([len(example.candidates) for example in examples]),
            candidates=joined("candidates", np.int32),
            labels=(joined("labels", np.float32) > 0).astype(np.uint8),
            counters=joined("counters", np.float32, (len(COUNTERS),)),
            history_weights=weights("history_weights"),
            label_weights=weights("label_weights"),
        )

    def __len__(self) -> int:
        return len(self.impression)

    def example(self, row: int) -> ImpressionExample:
        """One of the impressions."""
        read = slice(self.history_ends[row], self.history_ends[row + 1])
        shown = slice(self.candidate_ends[row], self.candidate_ends[row + 1])
        return ImpressionExample(
            impression=int(self.impression[row]),
            user_id=str(self.user_id[row]),
            time_hours=int(self.seconds[row]) / 3600,
            history=self.history[read],
            candidates=self.candidates[shown],
            labels=self.labels[shown].astype(np.float32),
            counters=self.counters[shown],
            history_weights=None if self.history_weights is None else self.history_weights[read],
            label_weights=None if self.label_weights is None else self.label_weights[shown],
        )

    def will_read(self, rows: int) -> None:
        """Prepare the file, if there is one, for reading neighbouring rows."""
        if self.mapping is not None:
            self.mapping.will_read(rows)

    @property
    def row_of_candidate(self) -> Ints:
        """The row of each candidate among the n impressions: int64 [c]."""
        return np.repeat(np.arange(len(self)), np.diff(self.candidate_ends))


class ImpressionColumns(Sequence[ImpressionExample]):
    """A log, or a choice of its impressions, as a sequence of examples and as columns.

    `columns[3]` is an `ImpressionExample`; `columns[2:9]`, `columns[mask]` and `columns[numbers]` are columns
    that share the same memory or files; `columns + others` are both, one after the other.

    Args:
        parts: the columns, in files or in memory.
        places: int64 [n], the chosen impressions, counted over all parts; None: all, in their order.
    """

    def __init__(self, parts: Sequence[Block], places: Ints | None = None) -> None:
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
            number = range(len(self))[int(chosen)]
            place = number if self._places is None else int(self._places[number])
            part = int(np.searchsorted(self._starts, place, "right")) - 1
            block = self._parts[part]
            block.will_read(1)
            return block.example(place - int(self._starts[part]))
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
        return any(part.label_weights is not None for part in self._parts)

    @cached_property
    def seconds(self) -> Ints:
        """When each impression was shown, in seconds since 1970: int64 [n]."""
        return self._chosen("seconds")

    @cached_property
    def shown(self) -> Ints:
        """How many candidates each impression has: int64 [n]."""
        return self._chosen("candidate_ends")

    def _chosen(self, name: str) -> Ints:
        found = [getattr(part, name) for part in self._parts]
        if name.endswith("ends"):
            found = [np.diff(each) for each in found]
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

    def take(self, numbers: npt.ArrayLike, *names: str) -> Block:
        """Some impressions, copied into memory.

        Args:
            numbers: int [k], which of them, in any order, also repeatedly.
            names: the list columns and `user_id` that are needed besides numbers and times; none: all.

        Returns:
            The k impressions in this order.
        """
        wanted = set(names or ("user_id", *_LISTS))
        if not self.has_weights:
            wanted -= WEIGHTS.keys()
        runs = self._runs(np.asarray(numbers, np.int64))
        found: dict[str, Any] = {
            name: _values(runs, name, name in wanted)
            for name in _LISTS
            if name in wanted or name not in WEIGHTS
        }
        users = [part.user_id[begin:end] for part, begin, end in runs] if "user_id" in wanted else []
        return Block(
            impression=_joined([part.impression[begin:end] for part, begin, end in runs]),
            seconds=_joined([part.seconds[begin:end] for part, begin, end in runs]),
            user_id=[user for some in users for user in _strings(some)],
            history_ends=_ends(runs, "history_ends"),
            candidate_ends=_ends(runs, "candidate_ends"),
            **found,
        )

    def fill_counters(self, numbers: Ints, counters: Floats) -> None:
        """Write the counters of some impressions, in memory or into files that were mapped to be written.

        Args:
            numbers: int64 [k], which impressions.
            counters: float32 [candidates of all, 9], in this order.
        """
        at = 0
        for part, begin, end in self._runs(numbers):
            values = part.counters[part.candidate_ends[begin] : part.candidate_ends[end]]
            values[:] = counters[at : at + len(values)]
            at += len(values)

    def _runs(self, numbers: Ints) -> list[tuple[Block, int, int]]:
        """Some impressions as runs of neighbours in one part: the part, its first and after its last row."""
        places = self._places_of(numbers)
        parts = np.searchsorted(self._starts, places, "right") - 1
        begins = np.flatnonzero((np.diff(places, prepend=-2) != 1) | (np.diff(parts, prepend=-1) != 0))
        rows = (places - self._starts[parts])[begins].tolist()
        lengths = np.diff(begins, append=len(places)).tolist()
        runs = []
        for part, row, length in zip(parts[begins].tolist(), rows, lengths, strict=True):
            self._parts[part].will_read(length)
            runs.append((self._parts[part], row, row + length))
        return runs

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


def _values(runs: list[tuple[Block, int, int]], name: str, wanted: bool) -> npt.NDArray[Any]:
    empty = np.zeros((0, len(COUNTERS)) if name == "counters" else 0, _KINDS[name])
    if not wanted:
        return empty
    found = [empty]
    for part, begin, end in runs:
        ends = part.candidate_ends if _LISTS[name] else part.history_ends
        values = getattr(part, name)
        if values is None:  # a log without signals, beside one that has them
            values = np.ones(int(ends[-1]), np.float32)
        found.append(values[ends[begin] : ends[end]])
    return np.concatenate(found)


def _ends(runs: list[tuple[Block, int, int]], name: str) -> Ints:
    return ends_of(_joined([np.diff(getattr(part, name)[begin : end + 1]) for part, begin, end in runs]))


def _joined(found: list[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *found])


def _strings(users: Any) -> list[str]:
    strings: list[str] = users.to_pylist() if isinstance(users, pa.Array) else users
    return strings


_KINDS: dict[str, Any] = {
    "history": np.int32,
    "history_weights": np.float32,
    "candidates": np.int32,
    "labels": np.uint8,
    "counters": np.float32,
    "label_weights": np.float32,
}


class _Mapping:
    """A file mapped into memory. What was read stays in the system's cache, but not in this process."""

    _read: ClassVar["WeakSet[_Mapping]"] = WeakSet()  # the files read since pages were last given back
    _read_bytes: ClassVar[int] = 0

    def __init__(self, path: Path, writable: bool = False) -> None:
        with path.open("r+b" if writable else "rb") as file:
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(file.fileno(), 0, access=access)
        self.buffer = pa.py_buffer(self._map)
        self._ahead = True

    def will_read(self, rows: int) -> None:
        """Give pages back when many were read, and read ahead only where neighbours are read.

        For a single row, the system would read some 100 KiB of the file around each of its values.
        """
        if _Mapping._read_bytes >= _MAPPED_BYTES:
            read, _Mapping._read, _Mapping._read_bytes = _Mapping._read, WeakSet(), 0
            for each in read:
                each._map.madvise(mmap.MADV_DONTNEED)
        _Mapping._read.add(self)
        _Mapping._read_bytes += _RUN_BYTES + rows * _ROW_BYTES
        if self._ahead is not (rows >= _NEIGHBOURS):
            self._ahead = not self._ahead
            self._map.madvise(mmap.MADV_NORMAL if self._ahead else mmap.MADV_RANDOM)

    def writable(self, values: pa.Buffer, shape: tuple[int, ...]) -> Floats:
        """A buffer of the file as an array that writes to the file."""
        offset = values.address - self.buffer.address
        return np.ndarray(shape, np.float32, self._map, offset)


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
    columns = {
        "impression": pa.array(block.impression),
        "user_id": pa.array(block.user_id, pa.string()),
        "time_seconds": pa.array(block.seconds),
        "history": _list(block.history_ends, history),
        "candidates": _list(block.candidate_ends, shown),
    }
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def read_columns(paths: Sequence[Path]) -> ImpressionColumns:
    """Map files that `write_block` wrote.

    Args:
        paths: the files, in the order of their impressions.

    Raises:
        InputError: one is missing or damaged.
    """
    return ImpressionColumns([map_block(path) for path in paths])


def map_block(path: Path, writable_counters: bool = False) -> Block:
    """Map a file that `write_block` wrote.

    Args:
        path: the file.
        writable_counters: whether what is written to `counters` goes to the file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        mapping = _Mapping(path, writable_counters)
        with pa.ipc.open_file(pa.BufferReader(mapping.buffer)) as reader:
            batch = reader.get_batch(0)
        history, shown = batch.column("history"), batch.column("candidates")
        read, seen = history.values, shown.values
        counters = seen.field("counters").values
    except (OSError, ValueError, KeyError, pa.ArrowException):
        raise damaged(path) from None
    shape = (len(counters) // len(COUNTERS), len(COUNTERS))
    if writable_counters:
        values = mapping.writable(counters.buffers()[1], shape)
    else:
        values = counters.to_numpy().reshape(shape)
    weighted = read.type.num_fields > 1
    return Block(
        impression=batch.column("impression").to_numpy(),
        seconds=batch.column("time_seconds").to_numpy(),
        user_id=batch.column("user_id"),
        history_ends=history.offsets.to_numpy(),
        history=read.field("article").to_numpy(),
        candidate_ends=shown.offsets.to_numpy(),
        candidates=seen.field("article").to_numpy(),
        labels=seen.field("clicked").to_numpy(),
        counters=values,
        history_weights=read.field("weight").to_numpy() if weighted else None,
        label_weights=seen.field("weight").to_numpy() if weighted else None,
        mapping=mapping,
    )


def _list(ends: npt.NDArray[np.integer], fields: dict[str, pa.Array]) -> pa.Array:
    values = pa.StructArray.from_arrays(list(fields.values()), list(fields))
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), values)
