"""The batches that retrieval and ranking are trained on, on one device or shared among several."""

import math
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import tensorflow as tf

from genre_tf.config import OptimizerConfig, RunConfig
from genre_tf.data.batch_layout import BatchLayout, FixedShape
from genre_tf.data.batches import Columns, impression_batches
from genre_tf.training.distribution import Distribution
from genre_tf.training.stage_data import StageData, row_count

# Used where shapes are fixed and all candidates are kept: nine in ten impressions of MIND show fewer.
_MOST_CANDIDATES = 96


@dataclass(frozen=True)
class ClickBatches:
    """Endless training batches of impressions, with the features of their articles.

    Attributes:
        data: examples and article features.
        config: settings of the run.
        optimizer: optimizer settings of the stage.
        negatives: how many are drawn per click; None keeps every candidate.
        distribution: where the training runs.
        columns: further columns for the candidates of the training examples.
    """

    data: StageData
    config: RunConfig
    optimizer: OptimizerConfig
    negatives: int | None
    distribution: Distribution
    columns: Columns = field(default_factory=dict)

    @cached_property
    def in_epoch(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(row_count(self.data.train, self.negatives) / self.optimizer.batch_size)

    def from_step(self, step: int) -> Any:
        """Batches for `fit`, starting at a step and shared among the replicas; the same at each call.

        Raises:
            InputError: a batch cannot be given a fixed shape.
        """
        return self.distribution.distribute(partial(self._batches, step), self._fixed_shape())

    def _batches(self, step: int, layout: BatchLayout) -> tf.data.Dataset:
        batches = impression_batches(
            self.data.train,
            batch_size=self.optimizer.batch_size,
            max_history=self.config.data.max_history,
            negatives=self.negatives,
            seed=self.config.seed,
            shuffle=True,
            repeat=True,
            layout=layout,
            start=step * self.optimizer.accumulate,
            columns=self.columns,
        )
        return self.data.features.pipeline(
            batches, None if layout.fixed is None else self.config.news.max_title_tokens
        )

    def _fixed_shape(self) -> FixedShape | None:
        if not self.distribution.fixed_shapes:
            return None
        longest = int(self.data.train.shown.max())
        return FixedShape.of(
            max(1, self.optimizer.batch_size // self.distribution.replicas),
            self.config.data.max_history,
            min(longest, _MOST_CANDIDATES) if self.negatives is None else 1 + self.negatives,
            len(self.data.table),
            self.distribution.articles,
        )
