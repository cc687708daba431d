"""Simple rules that order the whole pool; `recommend` must beat them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from genre_tf.data.counters import COUNTERS

Counters = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]
Rule = Callable[[Counters, Integers, Integers, np.random.Generator], Floats]
"""counters [pool, 9], category of each article [pool], categories of the history [read], draws -> [pool]."""


def clicks(counters: Counters, category_of: Integers, history: Integers, rng: np.random.Generator) -> Floats:
    """All clicks so far."""
    return _column(counters, "clicks")


def clicks_1h(
    counters: Counters, category_of: Integers, history: Integers, rng: np.random.Generator
) -> Floats:
    """Clicks that lose half of their weight every hour: current popularity."""
    return _column(counters, "clicks_1h")


def clicks_6h(
    counters: Counters, category_of: Integers, history: Integers, rng: np.random.Generator
) -> Floats:
    """Clicks that lose half of their weight every 6 hours."""
    return _column(counters, "clicks_6h")


def clicks_24h(
    counters: Counters, category_of: Integers, history: Integers, rng: np.random.Generator
) -> Floats:
    """Clicks that lose half of their weight every 24 hours."""
    return _column(counters, "clicks_24h")


def clicks_of_categories(
    counters: Counters, category_of: Integers, history: Integers, rng: np.random.Generator
) -> Floats:
    """Clicks halved every 6 hours, times 1 + the number of same-category articles in the reader's history."""
    known = history[history >= 0]
    read = np.bincount(known, minlength=int(max(category_of, default=-1)) + 1)
    same = np.where(category_of >= 0, read[category_of], 0) if len(read) else 0
    return _column(counters, "clicks_6h") * (1.0 + same)


def newest(counters: Counters, category_of: Integers, history: Integers, rng: np.random.Generator) -> Floats:
    """Youngest first; articles that were neither shown nor published have no age and come last, tied."""
    age_hours = _column(counters, "age_hours")
    known = (_column(counters, "views") > 0) | (age_hours > 0)
    return np.where(known, -age_hours, -np.inf)


def chance(counters: Counters, category_of: Integers, history: Integers, rng: np.random.Generator) -> Floats:
    """Random order: the lower bound for every metric."""
    return rng.random(len(counters))


BASELINES: Mapping[str, Rule] = MappingProxyType(
    {
        "clicks_1h": clicks_1h,
        "clicks_6h": clicks_6h,
        "clicks_24h": clicks_24h,
        "clicks": clicks,
        "clicks_of_categories": clicks_of_categories,
        "newest": newest,
        "chance": chance,
    }
)
"""Name of a rule -> a function that scores each article of the pool; larger is better.

Args of each:
    counters: float32 [pool, 9], counted before the moment, with the columns of `COUNTERS`.
    category_of: int [pool], the category of each article; negative: none.
    history: int [read], the category of each article that the reader had read; negative: none.
    rng: random numbers, for `chance`.
"""


def ranks_of(scores: npt.NDArray[np.floating], clicked: Integers, read: Integers) -> Floats:
    """The rank of every clicked article in the order of the scores.

    Articles that the reader has already read are removed first, as the served `recommend` does (unless they
    were clicked again). Tied articles share the mean of their ranks, which is what a random order among them
    gives on average; so a rule that knows nothing is no better than chance.

    Args:
        scores: float [pool]; larger is better.
        clicked: int [clicks], positions in the pool.
        read: int [read], positions in the pool of the reader's history.

    Returns:
        float64 [clicks], from 1 for the best, as `pool_metrics.rank_metrics` takes them.

    Raises:
        ValueError: a score is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN and have no order")
    kept = np.ones(len(scores), bool)
    kept[read] = False
    kept[clicked] = True
    rivals, targets = scores[kept][None, :], scores[clicked][:, None]
    better, equal = (rivals > targets).sum(axis=1), (rivals == targets).sum(axis=1)
    return np.asarray(better + (equal + 1) / 2, np.float64)  # an article is tied with itself


def _column(counters: Counters, name: str) -> Floats:
    return counters[:, COUNTERS.index(name)].astype(np.float64)
