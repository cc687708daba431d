"""Whether values still have the distribution that they had at first; vectors by a few numbers of each."""

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np

_LEAST_COMPARED = 200  # values in the window and in the reference before drift is told
_DIRECTIONS = 8
_MOST_WATCHED = 16  # each new version adds two; the one that was observed longest ago is forgotten


class Drift:
    """Compares the newest values with the first ones by the population stability index.

    Below 0.1 is usual, above 0.25 a shift. Source: Siddiqi, "Credit Risk Scorecards", 2006.
    """

    def __init__(self, values: int = 2_000, bins: int = 10) -> None:
        self._size, self._bins = values, bins
        self._reference: list[float] = []
        self._newest: deque[float] = deque(maxlen=values)

    def add(self, values: Sequence[float]) -> None:
        """Take in values."""
        room = self._size - len(self._reference)
        self._reference += values[:room]
        self._newest.extend(values[room:] if room > 0 else values)

    def index(self) -> float:
        """The index; 0 while there are too few values."""
        if min(len(self._reference), len(self._newest)) < _LEAST_COMPARED:
            return 0.0
        edges = np.unique(np.quantile(self._reference, np.linspace(0, 1, self._bins + 1)[1:-1]))
        before, now = (self._counts(edges, part) for part in (self._reference, list(self._newest)))
        used = before + now > 0
        before, now = before[used] + 0.5, now[used] + 0.5
        before, now = before / before.sum(), now / now.sum()
        return float(((now - before) * np.log(now / before)).sum())

    @staticmethod
    def _counts(edges: np.ndarray, values: Sequence[float]) -> np.ndarray:
        """How many values are in each bin; one that equals an edge has a bin of its own: many may be 0."""
        bins = np.searchsorted(edges, values) + np.searchsorted(edges, values, side="right")
        return np.bincount(bins, minlength=2 * len(edges) + 1)


class VectorDrift:
    """The same of vectors: the largest index of their norms and their projections on fixed directions."""

    def __init__(self) -> None:
        self._directions = np.zeros((0, _DIRECTIONS))
        self._drifts: list[Drift] = []

    def add(self, vectors: np.ndarray) -> None:
        """Take in vectors, [rows, dimensions]; those with other dimensions than the last ones begin anew."""
        if len(self._directions) != vectors.shape[1]:
            directions = np.random.default_rng(0).normal(size=(vectors.shape[1], _DIRECTIONS))
            self._directions = directions / np.linalg.norm(directions, axis=0)
            self._drifts = [Drift() for _ in range(1 + _DIRECTIONS)]
        vectors = vectors[np.isfinite(vectors).all(axis=1)]
        # Norms that are 1 except for rounding are equal: how they are rounded depends on the batch.
        norms = [float(f"{norm:.4g}") for norm in np.linalg.norm(vectors, axis=1)]
        projected = (vectors @ self._directions).T.tolist()  # [directions, rows]
        for drift, values in zip(self._drifts, (norms, *projected), strict=True):
            drift.add(values)

    def index(self) -> float:
        """The index; 0 while there are too few vectors."""
        return max((drift.index() for drift in self._drifts), default=0.0)


class Drifts:
    """All that is watched, by what it is; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[str, Drift | VectorDrift] = {}  # observed longest ago first

    def observe(self, what: str, values: Sequence[float] | np.ndarray) -> None:
        """Take in numbers, or vectors [rows, dimensions]; the same of the two for each `what`."""
        with self._lock:
            new = VectorDrift() if isinstance(values, np.ndarray) else Drift()
            watched = self._watched[what] = self._watched.pop(what, new)
            if len(self._watched) > _MOST_WATCHED:
                del self._watched[next(iter(self._watched))]
            watched.add(values)  # type: ignore[arg-type]

    def indexes(self) -> dict[str, float]:
        """What is watched, and how far it has moved."""
        with self._lock:
            watched = sorted(self._watched.items())
        found = {}
        for what, drift in watched:
            with self._lock:  # for a moment only: feeds wait for it
                found[what] = drift.index()
        return found
