"""Lists from the whole pool: clicks found, diversity, novelty, freshness, coverage; and simple rules to beat.

Positions number the articles of the pool from 0; `-1` in a list marks a place without an article.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.counters import COUNTERS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]
Positions = npt.NDArray[np.int64]

CUTOFFS = (10, 50, 100, 300)
SHOWN = 10
"""The places of a list that a reader sees; nDCG and the qualities of lists are computed from them."""

FRESH_HOURS = 24.0

BASELINES = ("clicks_1h", "clicks_6h", "clicks_24h", "clicks", "clicks_of_categories", "newest", "chance")
"""Clicks so far, with half of their weight lost every 1, 6 or 24 hours; clicks halved every 6 hours times 1 +
the number of same-category articles in the reader's history; the youngest first; a random order, which is the
lower bound for every metric."""

# Process title vectors of this many lists at a time: 1024 lists x 10 x 768 float32 are 31 MB.
_BLOCK_LISTS = 1024


def list_metrics(lists: Positions, clicked: Sequence[Integers]) -> dict[str, Floats]:
    """`rank_metrics` of finite lists; an article that is in no place was not found.

    Args:
        lists: int64 [impressions, places], positions in the pool, best first; -1 for no article. A cutoff
            beyond the last place uses the places there are.
        clicked: per impression int [clicks], distinct positions in the pool; negative: outside the pool.
    """
    if lists.ndim != 2 or len(lists) != len(clicked):
        raise ValueError(f"lists of shape {lists.shape} do not match clicks of {len(clicked)} impressions")
    places = np.append(np.arange(1.0, lists.shape[1] + 1), np.inf)  # the last one: not found
    ranks = []
    for row, wanted in zip(lists, clicked, strict=True):
        same = (row == np.asarray(wanted)[:, None]) & (row >= 0)  # [clicks, places]
        ranks.append(places[np.c_[same, np.ones(len(wanted), bool)].argmax(axis=1)])
    return rank_metrics(ranks)


def rank_metrics(ranks: Sequence[npt.NDArray[np.floating | np.integer]]) -> dict[str, Floats]:
    """Recall, nDCG and MRR when the whole pool is ordered.

    nDCG has binary gains and divides by the ideal order of as many clicks (Järvelin and Kekäläinen, 2002).
    MRR is MIND's: the mean reciprocal rank over *all* clicked articles, not only the first.

    Args:
        ranks: per impression int or float [clicks], from 1 for the best; tied articles may have a fractional
            mean rank; infinity: not found.

    Returns:
        "recall@k" for each of `CUTOFFS`, "ndcg@10" and "mrr": float64 [impressions], as fractions; NaN for an
        impression without a click.
    """
    count = len(ranks)
    flat = np.concatenate([np.empty(0), *(np.asarray(row, np.float64) for row in ranks)])
    clicks = np.array([len(row) for row in ranks], np.int64)
    impression = np.repeat(np.arange(count), clicks)

    def summed(gain: npt.NDArray[Any]) -> Floats:
        """Sum the values of the clicked articles over each impression; NaN without a click."""
        total = np.bincount(impression, weights=gain, minlength=count).astype(np.float64)
        return np.where(clicks > 0, total, np.nan)

    shares = 1.0 / np.maximum(1, clicks)
    ideal = np.concatenate([[1.0], np.cumsum(1.0 / np.log2(np.arange(SHOWN) + 2.0))])
    gain = np.where(flat <= SHOWN, 1.0 / np.log2(flat + 1.0), 0.0)
    return {
        **{f"recall@{cutoff}": summed(flat <= cutoff) * shares for cutoff in CUTOFFS},
        f"ndcg@{SHOWN}": summed(gain) / ideal[np.minimum(clicks, SHOWN)],
        "mrr": summed(1.0 / flat) * shares,
    }


def list_qualities(
    lists: Positions,
    *,
    vectors: npt.NDArray[np.floating],
    category_of: Integers,
    views: npt.NDArray[np.floating],
    all_views: npt.NDArray[np.floating],
    pool_articles: Integers,
    age_hours: npt.NDArray[np.floating],
) -> dict[str, Floats]:
    """Qualities of the first ten of each list, independent of clicks.

    Args:
        lists: int64 [impressions, places], positions in the pool; -1 for no article.
        vectors: float [pool, dimension], title vectors; a zero vector is similar to nothing.
        category_of: int [pool], the category of each article.
        views: float [impressions, places or 10], views of the article in each place before the moment.
        all_views: float [impressions], views of all articles of the pool before the moment.
        pool_articles: int [impressions], articles in the pool at the moment.
        age_hours: float [impressions, places or 10], ages at the moment; NaN: unknown, which is not fresh.

    Returns:
        Float64 [impressions] for each; NaN for lists that are too short:
        "diversity", the mean of 1 - cosine over the pairs of titles, from 0 (all the same) to 2 (Smyth and
        McClave, "Similarity vs. Diversity", 2001; Ziegler et al., "Improving Recommendation Lists Through
        Topic Diversification", 2005); "category_diversity", the share of pairs whose categories differ;
        "novelty", mean self-information in bits, -log2 of how often an article was shown before the moment:
        (its views + 1) / (views of all + articles of the pool) (Zhou et al., "Solving the Apparent
        Diversity-Accuracy Dilemma of Recommender Systems", 2010); "fresh", the share younger than a day.
    """
    first = lists[:, :SHOWN]
    there = first >= 0
    count = there.sum(axis=1)
    categories = category_of[np.maximum(first, 0)]
    pairs = there[:, :, None] & there[:, None, :]  # [impressions, 10, 10], each pair twice, and the diagonal
    different = (categories[:, :, None] != categories[:, None, :]) & pairs
    shown = np.where(there, np.asarray(views, np.float64)[:, :SHOWN], 0.0)
    bits = np.log2(np.asarray(all_views, np.float64) + pool_articles)[:, None] - np.log2(shown + 1.0)
    young = (np.asarray(age_hours)[:, :SHOWN] < FRESH_HOURS) & there
    blocks = [first[start : start + _BLOCK_LISTS] for start in range(0, len(first), _BLOCK_LISTS)]
    return {
        "diversity": np.concatenate([np.empty(0), *(_mean_distance(block, vectors) for block in blocks)]),
        "category_diversity": _divided(different.sum(axis=(1, 2)), count * (count - 1)),
        "novelty": _divided((bits * there).sum(axis=1), count),
        "fresh": _divided(young.sum(axis=1), count),
    }


def coverage(lists: Positions, pool_articles: int) -> float | None:
    """Catalogue coverage, 0 to 1: the share of the pool's articles among the first ten of at least one list.

    Ge, Delgado-Battenfeld and Jannach, "Beyond Accuracy: Evaluating Recommender Systems by Coverage and
    Serendipity", 2010. None for an empty pool.
    """
    shown = np.unique(lists[:, :SHOWN])
    return int((shown >= 0).sum()) / pool_articles if pool_articles else None


def _mean_distance(shown: Positions, vectors: npt.NDArray[np.floating]) -> Floats:
    there = shown >= 0
    chosen = np.asarray(vectors[np.maximum(shown, 0)], np.float64) * there[:, :, None]
    lengths = np.linalg.norm(chosen, axis=2, keepdims=True)
    unit = chosen / np.where(lengths > 0, lengths, 1.0)  # [lists, 10, dimension]
    # The square of the sum holds each pair's cosine twice, plus each vector's own square.
    cosines = (unit.sum(axis=1) ** 2).sum(axis=1) - (unit**2).sum(axis=(1, 2))
    count = there.sum(axis=1)
    return 1.0 - _divided(cosines, count * (count - 1))


def _divided(total: npt.NDArray[Any], count: npt.NDArray[Any]) -> Floats:
    """Quotients; NaN where the divisor is zero."""
    return np.where(count > 0, total / np.maximum(1, count), np.nan)


def baseline_scores(
    counters: npt.NDArray[np.float32],
    category_of: Integers,
    history: Integers,
    generator: np.random.Generator,
) -> dict[str, Floats]:
    """The value of each article of the pool for one reader, by each of `BASELINES`: float64 [pool].

    Args:
        counters: float32 [pool, 9], counted before the moment, with the columns of `COUNTERS`.
        category_of: int [pool], the category of each article; negative: none.
        history: int [read], the category of each article that the reader had read; negative: none.
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
    """The rank of every clicked article by scores, float [pool]: float64 [clicks], from 1 for the best.

    Articles that the reader has already `read` are removed first, as the served `recommend` does (unless they
    were clicked again). Tied articles share the mean of their ranks, which is what a random order among them
    gives on average; so a rule that knows nothing is no better than chance.
    """
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN and have no order")
    kept = np.ones(len(scores), bool)
    kept[read] = False
    kept[clicked] = True
    rivals, targets = scores[kept][None, :], scores[clicked][:, None]
    better, equal = (rivals > targets).sum(axis=1), (rivals == targets).sum(axis=1)
    return np.asarray(better + (equal + 1) / 2, np.float64)  # an article is tied with itself
