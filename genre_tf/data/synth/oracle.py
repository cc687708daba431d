"""Metrics of a ranking by the true click probabilities."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genre_tf.errors import InputError

BLOCK = 2_048  # impressions at once; [BLOCK, C, C] comparisons stay within tens of megabytes


def ranking_metrics(
    scores: NDArray[np.float64], labels: NDArray[np.bool_], mask: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """MIND's metrics of every impression. `genre_tf.metrics` has its own, which `data` must not import.

    Args:
        scores: float64 [B, C].
        labels: bool [B, C]; every row holds a click and a non-click.
        mask: bool [B, C], the real candidates.

    Returns:
        `auc`, `mrr` (mean reciprocal rank over all clicked articles), `ndcg@5`, `ndcg@10`, each
        float64 [B].
    """
    clicked, skipped = labels & mask, ~labels & mask
    above = (scores[:, :, None] > scores[:, None, :]) + 0.5 * (scores[:, :, None] == scores[:, None, :])
    pairs = clicked[:, :, None] & skipped[:, None, :]  # [B, C, C]
    order = np.argsort(np.where(mask, -scores, np.inf), axis=1, kind="stable")
    gain = np.take_along_axis(clicked, order, axis=1).astype(np.float64)  # [B, C], best first
    rank = np.arange(1, scores.shape[1] + 1)
    discount = 1.0 / np.log2(rank + 1)
    best = -np.sort(-gain, axis=1)
    metrics = {
        "auc": (above * pairs).sum(axis=(1, 2)) / pairs.sum(axis=(1, 2)),
        "mrr": (gain / rank).sum(axis=1) / gain.sum(axis=1),
    }
    for k in (5, 10):
        metrics[f"ndcg@{k}"] = (gain * discount)[:, :k].sum(axis=1) / (best * discount)[:, :k].sum(axis=1)
    return metrics


def oracle_metrics(folder: Path, split: str) -> dict[str, float]:
    """Rank a split of a newsroom by its truth.

    Args:
        folder: what `write_newsroom` wrote.
        split: `train` or `dev`.

    Returns:
        The means over the impressions of `auc`, `mrr`, `ndcg@5` and `ndcg@10`, as fractions; and
        `impressions`, their number.

    Raises:
        InputError: there is no such split, or it has no truth.
    """
    truth, behaviors = folder / split / "truth.tsv", folder / split / "behaviors.tsv"
    for path in (truth, behaviors):
        if not path.is_file():
            raise InputError(f"{path} is missing; the oracle needs a folder written by `genre synth`")
    totals: dict[str, float] = {}
    impressions = 0
    rows = _read_rows(truth, behaviors)
    while block := list(islice(rows, BLOCK)):
        width = max(len(labels) for _, labels in block)
        scores, clicks = np.zeros((len(block), width)), np.zeros((len(block), width), dtype=bool)
        mask = np.zeros((len(block), width), dtype=bool)
        for row, (probabilities, labels) in enumerate(block):
            scores[row, : len(labels)], clicks[row, : len(labels)] = probabilities, labels
            mask[row, : len(labels)] = True
        for name, values in ranking_metrics(scores, clicks, mask).items():
            totals[name] = totals.get(name, 0.0) + float(values.sum())
        impressions += len(block)
    return {name: total / impressions for name, total in totals.items()} | {"impressions": impressions}


def _read_rows(truth: Path, behaviors: Path) -> Iterator[tuple[list[float], list[bool]]]:
    with truth.open(encoding="utf-8") as truths, behaviors.open(encoding="utf-8") as logs:
        for number, (true_line, log_line) in enumerate(zip(truths, logs, strict=True), start=1):
            true_id, probabilities = true_line.rstrip("\n").split("\t")
            log_id, _, _, _, candidates, *_ = log_line.rstrip("\n").split("\t")
            values = [float(value) for value in probabilities.split(" ")]
            labels = [candidate.endswith("-1") for candidate in candidates.split(" ")]
            if true_id != log_id or len(values) != len(labels):
                raise InputError(
                    f"{truth}:{number}: impression {true_id} with {len(values)} values does not match "
                    f"impression {log_id} with {len(labels)} candidates; write the newsroom again"
                )
            yield values, labels
