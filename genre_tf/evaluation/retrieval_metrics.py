"""Recall@k of the two towers: the share of clicked articles that they find in the whole pool."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Score 256 readers at a time: 256 readers x 100,000 articles of float32 are 100 MB.
_BLOCK_READERS = 256


def click_ranks(
    user_vectors: npt.NDArray[np.float32],
    pool_vectors: npt.NDArray[np.float32],
    clicked: Sequence[npt.NDArray[np.integer]],
    read: Sequence[npt.NDArray[np.integer]],
) -> list[npt.NDArray[np.int64]]:
    """The rank of every clicked article among all articles of the pool, by dot product.

    Articles that the reader has already read are removed first, as the served `recommend` does (unless they
    were clicked again). Articles with an equal score count as better, so that a collapsed model finds
    nothing.

    Args:
        user_vectors: float32 [impressions, dimension].
        pool_vectors: float32 [pool, dimension].
        clicked: per impression int [clicks], positions in the pool.
        read: per impression int [read], positions in the pool of the reader's history.

    Returns:
        Per impression int64 [clicks]; 1 is the best.
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
    """The share of an impression's clicked articles among the first k, averaged over impressions.

    Args:
        ranks: result of `click_ranks`; impressions without a click are left out.
        cutoffs: the values of k.

    Returns:
        "recall@k" for each cutoff, a fraction; None if no impression has a click.
    """
    found = [row for row in ranks if len(row)]
    return {
        f"recall@{cutoff}": float(np.mean([(row <= cutoff).mean() for row in found])) if found else None
        for cutoff in cutoffs
    }
