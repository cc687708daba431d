"""Scores of a whole log from a run's models: every article is embedded once, impressions run in batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import COUNTERS
from genre_tf.evaluation.scored_log import ScoredLog

if TYPE_CHECKING:
    from genre_tf.models.ranker import Ranker
    from genre_tf.models.two_tower import TwoTower

Vectors = npt.NDArray[np.float32]
Scores = list[npt.NDArray[np.float32]]
Scorer = Callable[[Sequence[ImpressionExample]], Scores]

# Impressions of similar length share a batch, so that padding is a few percent; 64 of MIND's longest
# (300 candidates x 50 clicks) still fit into a few hundred MB.
_BATCH_IMPRESSIONS = 64


class ModelScorer(Protocol):
    """A scorer that can accept articles that its log does not have."""

    def __call__(self, examples: Sequence[ImpressionExample]) -> Scores:
        """Per impression float32 [candidates]."""

    def with_articles(self, extra: ArticleTable) -> "ModelScorer":
        """The same model with further articles: those of `extra`, without its padding row, after its own."""


class TwoTowerScorer:
    """Scores candidates by the dot product of the reader's and the article's vector.

    Args:
        two_tower: the retrieval model.
        vectors: float32 [articles, dimension] from its news tower, one per row of the log's table.
    """

    def __init__(self, two_tower: "TwoTower", vectors: Vectors) -> None:
        self.two_tower = two_tower
        self.vectors = vectors
        articles = tf.constant(vectors)

        @tf.function(
            input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.bool)],
            autograph=False,
        )
        def user_vectors(history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            return two_tower.user_vector(tf.gather(articles, history), mask)  # [batch, dimension]

        @tf.function(
            input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.bool)],
            autograph=False,
        )
        def click_shares(history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            return two_tower.user_tower.click_shares(tf.gather(articles, history), mask)  # [batch, clicks]

        self._user_vectors, self._click_shares = user_vectors, click_shares

    def user_vectors(self, examples: Sequence[ImpressionExample]) -> Vectors:
        """The vector of each impression's reader, float32 [impressions, dimension]."""
        found = np.zeros((len(examples), self.vectors.shape[1]), np.float32)
        for batch in _batches([len(example.history) for example in examples]):
            history, mask = _padded([examples[at].history for at in batch])
            found[batch] = self._user_vectors(history, mask).numpy()
        return found

    def click_shares(self, histories: Sequence[npt.NDArray[np.int32]]) -> Scores:
        """Weight of each click in its reader's vector: float32 [clicks] for each history, with sum 1."""
        shares: Scores = [np.zeros(0, np.float32)] * len(histories)
        for batch in _batches([len(history) for history in histories]):
            history, mask = _padded([histories[at] for at in batch])
            for at, row in zip(batch, self._click_shares(history, mask).numpy(), strict=True):
                shares[at] = row[: len(histories[at])]
        return shares

    def __call__(self, examples: Sequence[ImpressionExample]) -> Scores:
        """Per impression float32 [candidates]."""
        readers = self.user_vectors(examples)
        return [
            self.vectors[example.candidates] @ reader
            for example, reader in zip(examples, readers, strict=True)
        ]

    def with_articles(self, extra: ArticleTable) -> "TwoTowerScorer":
        """See `ModelScorer`."""
        return TwoTowerScorer(self.two_tower, _more(self.vectors, self.two_tower, extra))


class RankerScorer:
    """Scores candidates by the ranker's click logits.

    Args:
        ranker: the click model.
        vectors: float32 [articles, dimension] from its news tower, one per row of the log's table.
        with_counters: whether it uses live counters.
    """

    def __init__(self, ranker: "Ranker", vectors: Vectors, with_counters: bool) -> None:
        self.ranker = ranker
        self.vectors = vectors
        self.with_counters = with_counters
        articles = tf.constant(vectors)

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, None], tf.int32),
                tf.TensorSpec([None, None], tf.bool),
                tf.TensorSpec([None, None], tf.int32),
                tf.TensorSpec([None, None], tf.bool),
                tf.TensorSpec([None, None, len(COUNTERS)], tf.float32),
            ],
            autograph=False,
        )
        def click_logits(*batch: Any) -> tf.Tensor:
            history, history_mask, candidates, candidate_mask, counters = batch
            return ranker.click_logits(
                tf.gather(articles, history),
                history_mask,
                tf.gather(articles, candidates),
                candidate_mask,
                counters if with_counters else None,
            )  # [batch, candidates]

        self._click_logits = click_logits

    def __call__(self, examples: Sequence[ImpressionExample]) -> Scores:
        """Per impression float32 [candidates]."""
        scores: Scores = [np.zeros(0, np.float32)] * len(examples)
        for batch in _batches([len(example.candidates) for example in examples]):
            chosen = [examples[at] for at in batch]
            history = _padded([example.history for example in chosen])
            candidates = _padded([example.candidates for example in chosen])
            counters = np.zeros((*candidates[0].shape, len(COUNTERS)), np.float32)  # [batch, candidates, 9]
            for row, example in zip(counters, chosen, strict=True):
                row[: len(example.counters)] = example.counters
            logits = self._click_logits(*history, *candidates, counters).numpy()
            for at, row, example in zip(batch, logits, chosen, strict=True):
                scores[at] = row[: len(example.candidates)]
        return scores

    def with_articles(self, extra: ArticleTable) -> "RankerScorer":
        """See `ModelScorer`."""
        return RankerScorer(self.ranker, _more(self.vectors, self.ranker, extra), self.with_counters)


def _more(vectors: Vectors, model: Any, extra: ArticleTable) -> Vectors:
    if len(extra) == 1:  # only the padding row
        return vectors
    return np.concatenate([vectors, model.news.embed(model.news.features(extra))[1:]])


def score_blocks(log: ScoredLog, scorer: Scorer) -> Iterator[Scores]:
    """Scores of a log in its order, one block of impressions at a time to limit memory.

    Args:
        log: the log to score.
        scorer: a model, or a baseline.

    Yields:
        For each impression of the block float32 [candidates].
    """
    for examples in log.blocks():
        yield scorer(examples)


def _batches(lengths: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
    order = np.argsort(np.asarray(lengths), kind="stable")
    for start in range(0, len(order), _BATCH_IMPRESSIONS):
        yield order[start : start + _BATCH_IMPRESSIONS]


def _padded(rows: Sequence[npt.NDArray[np.int32]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Rows of unequal length as one array padded with row 0, and a mask of the real entries."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(max(1, lengths.max())) < lengths[:, None]  # [batch, longest]
    padded = np.zeros(mask.shape, np.int32)
    padded[mask] = np.concatenate(rows)
    return padded, mask
