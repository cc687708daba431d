"""Simple rules that order the whole pool; `recommend` must beat them."""

import numpy as np
import numpy.typing as npt

from genre_tf.data.counters import COUNTERS

Integers = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]

BASELINES = ("clicks_1h", "clicks_6h", "clicks_24h", "clicks", "clicks_of_categories", "newest", "chance")
"""Clicks so far, with half of their weight lost every 1, 6 or 24 hours; clicks halved every 6 hours times 1 +
the number of same-category articles in the reader's history; the youngest first; a random order, which is the
lower bound for every metric."""


def baseline_scores(
    counters: npt.NDArray[np.float32],
    category_of: Integers,
    history: Integers,
    generator: np.random.Generator,
) -> dict[str, Floats]:
    """The value of each article of the pool for one reader, by every rule.

    Args:
        counters: float32 [pool, 9], counted before the moment, with the columns of `COUNTERS`.
        category_of: int [pool], the category of each article; negative: none.
        history: int [read], the category of each article that the reader had read; negative: none.
        generator: random numbers, for "chance".

    Returns:
        For each of `BASELINES` float64 [pool]; larger is better.
    """
    columns = dict(zip(COUNTERS, counters.T.astype(np.float64), strict=True))
    known = history[history >= 0]
    read = np.bincount(known, minlength=int(max(category_of, default=-1)) + 1)
    same = np.where(category_of >= 0, read[category_of], 0) if len(read) else 0
    # Articles that were neither shown nor published have no age; they come last, tied.
    dated = (columns["views"] > 0) | (columns["age_hours"] > 0)
    scores = {
        **columns,
        "clicks_of_categories": columns["clicks_6h"] * (1.0 + same),
        "newest": np.where(dated, -columns["age_hours"], -np.inf),
        "chance": generator.random(len(counters)),
    }
    return {name: scores[name] for name in BASELINES}


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
