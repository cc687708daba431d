"""What retrieval and ranking share: the batches that they are trained on, and how they are judged."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import tensorflow as tf

from genre_tf.config import OptimizerConfig, RunConfig
from genre_tf.data.batch_layout import BatchLayout, FixedShape
from genre_tf.data.batches import Columns, impression_batches
from genre_tf.training.distribution import Distribution
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.progress import Goal
from genre_tf.training.quality import Quality
from genre_tf.training.stage_data import StageData, row_count
from genre_tf.training.validation import Validation

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


def click_training(
    trainer: Learner,
    batches: ClickBatches,
    data: StageData,
    metric: str,
    measure: Callable[[Validation], dict[str, float]],
    judge: Callable[[Validation], Sequence[Quality]],
    continues: bool,
) -> Training:
    """The training of a model on clicks.

    Args:
        trainer: the model and its loss.
        batches: what it learns from.
        data: the log with its validation part.
        metric: the metric that decides which weights are best; the greater, the better.
        measure: computes it, and others.
        judge: compares the best weights with baselines.
        continues: whether it continues from an earlier run; then what that run held out is measured too.
    """
    validation = Validation(trainer.model, data, batches.config)
    older = Validation(trainer.model, data.of_earlier, batches.config) if continues else None
    goal = Goal(
        validate=partial(measure, validation),
        metric=metric,
        greater_is_better=True,
        validate_older=None if older is None else partial(measure, older),
        judge=partial(judge, validation),
    )
    return Training(
        trainer=trainer,
        batches_from=batches.from_step,
        steps=batches.optimizer.steps_of(batches.in_epoch),
        config=batches.optimizer.of_epoch(batches.in_epoch),
        goal=goal,
        jit_compile=batches.distribution.jit_compile,
    )
