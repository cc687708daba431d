"""AUC, MRR and nDCG of impressions, the ranks of a MIND submission, and recall@k of a whole pool.

Candidates with equal scores share their chances: every metric is its expected value over a random order of
the tied candidates. For AUC this is the usual half credit (scikit-learn's `roc_auc_score`). For MRR and nDCG
it prevents a log that happens to list the clicked candidate first from flattering a model that cannot
distinguish candidates. See McSherry and Najork, "Computing Information Retrieval Performance Measures
Efficiently in the Presence of Tied Scores", 2008.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

METRICS = ("auc", "mrr", "ndcg@5", "ndcg@10")

# Sorting blocks of this size fits the processor's cache and limits memory for all of MIND.
_BLOCK_IMPRESSIONS = 8192

# Score 256 readers at a time: 256 readers x 100,000 articles of float32 are 100 MB.
_BLOCK_READERS = 256


def ranking_metrics(
    scores: Sequence[npt.NDArray[np.floating]], clicked: Sequence[npt.NDArray[np.bool_]]
) -> dict[str, Floats]:
    """AUC, MRR, nDCG@5 and nDCG@10 of every impression, as MIND's evaluator defines them.

    MRR is MIND's: the mean reciprocal rank over *all* clicked articles of the impression. Scores and clicks
    are float and bool [candidates] per impression. Each metric is float64 [impressions], as fractions; NaN if
    an impression has no click or only clicks, because AUC is then undefined.

    Raises:
        ValueError: the shapes differ, or a score is not finite.
    """
    if len(scores) != len(clicked):
        raise ValueError(
            f"scores of {len(scores)} impressions but clicks of {len(clicked)}; the numbers must be equal"
        )
    blocks = [
        _block_metrics(
            scores[start : start + _BLOCK_IMPRESSIONS], clicked[start : start + _BLOCK_IMPRESSIONS], start
        )
        for start in range(0, len(scores), _BLOCK_IMPRESSIONS)
    ]
    empty = np.empty(0)
    return {name: np.concatenate([block[name] for block in blocks] or [empty]) for name in METRICS}


def mean_metrics(per_impression: Mapping[str, Floats], mask: Bools | None = None) -> dict[str, float | None]:
    """The mean of each metric over the impressions of a slice (bool [impressions]) for which it is defined.

    None if no impression of the slice can be measured.
    """
    means: dict[str, float | None] = {}
    for name, values in per_impression.items():
        chosen = values if mask is None else values[mask]
        chosen = chosen[~np.isnan(chosen)]
        means[name] = float(chosen.mean()) if len(chosen) else None
    return means


def rank_scores(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """The rank of each candidate, int64, 1 for the best, in the format of MIND's `prediction.txt`.

    Ties keep the order of the log, so that equal scores always give the same file.
    """
    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


def click_ranks(
    user_vectors: npt.NDArray[np.float32],
    pool_vectors: npt.NDArray[np.float32],
    clicked: Sequence[npt.NDArray[np.integer]],
    read: Sequence[npt.NDArray[np.integer]],
) -> list[npt.NDArray[np.int64]]:
    """The rank of every clicked article among all articles of the pool, by dot product; 1 is the best.

    Articles that the reader has already read are removed first, as the served `recommend` does (unless they
    were clicked again). Articles with an equal score count as better, so that a collapsed model finds
    nothing. Vectors are float32 [impressions, dimension] and [pool, dimension]; `clicked` and `read` hold
    positions in the pool.
    """
    ranks: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(user_vectors), _BLOCK_READERS):
        block = slice(start, start + _BLOCK_READERS)
        scores = user_vectors[block] @ pool_vectors.T  # [readers, pool]
        for row, wanted, known in zip(scores, clicked[block], read[block], strict=True):
            targets = row[wanted]
            row[known] = -np.inf
            row[wanted] = targets
            ranks.append((row[None, :] >= targets[:, None]).sum(axis=1))
    return ranks


def recall(ranks: Sequence[npt.NDArray[np.int64]], cutoffs: Sequence[int]) -> dict[str, float | None]:
    """The share of an impression's clicked articles among the first k, averaged, as "recall@k" for each k.

    Impressions without a click are left out; None if there are no others.
    """
    found = [row for row in ranks if len(row)]
    return {
        f"recall@{cutoff}": float(np.mean([(row <= cutoff).mean() for row in found])) if found else None
        for cutoff in cutoffs
    }


def _block_metrics(
    scores: Sequence[npt.NDArray[np.floating]], clicked: Sequence[npt.NDArray[np.bool_]], first: int
) -> dict[str, Floats]:
    lengths = np.array([len(row) for row in scores], np.int64)
    for at, (length, row) in enumerate(zip(lengths, clicked, strict=True)):
        if length != len(row):
            raise ValueError(f"impression {first + at}: {length} scores for {len(row)} candidates")
    flat = np.concatenate([np.asarray(row, np.float64) for row in scores])
    hits = np.concatenate([np.asarray(row, bool) for row in clicked])
    if not np.isfinite(flat).all():
        at = int(np.repeat(np.arange(len(scores)), lengths)[~np.isfinite(flat)][0])
        raise ValueError(f"impression {first + at} has a score that is not finite: {scores[at]}")
    impression = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-flat, impression))
    position = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # 0 is the best
    ordered, hits = flat[order], hits[order]
    opens = np.ones(len(ordered), bool)
    opens[1:] = (ordered[1:] != ordered[:-1]) | (impression[1:] != impression[:-1])
    starts = np.flatnonzero(opens)  # of runs of tied candidates
    sizes = np.diff(np.append(starts, len(ordered)))

    def total(values: npt.NDArray[Any]) -> Floats:
        """Sums over the candidates of each impression."""
        return np.bincount(impression, weights=values, minlength=len(lengths)).astype(np.float64)

    def summed(gain: npt.NDArray[np.floating]) -> Floats:
        """Sum over an impression's clicked candidates of the value of their position, a mean over ties."""
        if len(starts) < len(ordered):  # without ties, the common case, every value is its own mean
            gain = np.repeat(np.add.reduceat(gain, starts) / sizes, sizes)
        return total(gain * hits)

    clicks = total(hits)
    misses = lengths - clicks
    with np.errstate(divide="ignore", invalid="ignore"):
        # The clicked candidates' distances from the bottom, minus the pairs among themselves, count the
        # (clicked, not clicked) pairs in the right order: the Mann-Whitney form of AUC.
        from_bottom = summed(np.repeat(lengths, lengths) - 1.0 - position)
        metrics = {
            "auc": (from_bottom - clicks * (clicks - 1) / 2) / (clicks * misses),
            "mrr": summed(1.0 / (position + 1.0)) / clicks,
            "ndcg@5": summed(_discount(position, 5)) / _ideal_gain(clicks, 5),
            "ndcg@10": summed(_discount(position, 10)) / _ideal_gain(clicks, 10),
        }
    undefined = (clicks == 0) | (misses == 0)
    return {name: np.where(undefined, np.nan, values) for name, values in metrics.items()}


def _discount(position: npt.NDArray[np.int64], cutoff: int) -> Floats:
    return np.where(position < cutoff, 1.0 / np.log2(position + 2.0), 0.0)


def _ideal_gain(clicks: Floats, cutoff: int) -> Floats:
    """DCG of the best possible order: all clicked candidates first."""
    best = np.concatenate([[0.0], np.cumsum(_discount(np.arange(cutoff), cutoff))])
    return best[np.minimum(clicks, cutoff).astype(np.int64)]
