"""Training of the two towers: softmax over the clicks of the batch and shown negatives."""

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from genre_tf.config import RunConfig
from genre_tf.data.examples import ImpressionExample
from genre_tf.models.two_tower import TwoTower
from genre_tf.training.click_batches import ClickBatches
from genre_tf.training.distribution import Distribution
from genre_tf.training.fit import StageTrainer, fit
from genre_tf.training.progress import FitResult, Goal, Report
from genre_tf.training.replicas import rows_of_replicas, sum_over_replicas
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles
from genre_tf.training.validation import Validation


class RetrievalTrainer(StageTrainer):
    """Sampled softmax with TensorFlow Recommenders' retrieval task.

    The candidates of a row are its own click, every other click of the batch and every drawn negative of it.
    The task removes those that are the row's own click again (accidental hits) and, given how often each
    article is drawn, subtracts the log of it from the logits (logQ), so that a popular article is punished
    less for being a negative often. With several replicas the batch is that of all of them: each scores its
    own readers against the candidates of all.

    Args:
        model: the towers.
        temperature: divides the scores.
        draw_probability: float32 [articles], expected share of the candidates; None: no logQ.

    Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys
    """

    def __init__(
        self, model: TwoTower, temperature: float, draw_probability: npt.NDArray[np.float32] | None
    ) -> None:
        super().__init__(model)
        # A sum, as its size must not be part of the learning rate, nor rest with one replica: divided below.
        loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum")
        task = tfrs.tasks.Retrieval(
            loss=loss, temperature=temperature, remove_accidental_hits=True, batch_metrics=None
        )
        # The task counts on AutoGraph (`len` of a tensor), which Keras 3's train step does not apply.
        self._task = tf.function(
            lambda readers, candidates, ids, probabilities, weights: task(
                readers,
                candidates,
                sample_weight=weights,
                candidate_ids=ids,
                candidate_sampling_probability=probabilities,
                compute_metrics=False,
            )
        )
        self._draw_probability = None if draw_probability is None else tf.constant(draw_probability)

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Mean loss of a batch, float32 []; of several replicas the share of this one.

        Where the batch has weights of signals, each row counts as much as its click.
        """
        readers, candidates = self.model(batch, training=training)  # [rows, D], [rows, 1 + negatives, D]
        # The click of row i must be candidate i: first all clicks, then all negatives, then other replicas'.
        width = candidates.shape[-1]
        candidates = tf.reshape(
            tf.transpose(candidates, [1, 0, 2]), [-1, width]
        )  # [(1 + negatives) x rows, D]
        rows = tf.gather(batch["articles"], batch["candidates"])
        rows = tf.reshape(tf.transpose(rows), [-1])  # [(1 + negatives) x rows]
        candidates, rows = rows_of_replicas(candidates), rows_of_replicas(rows)
        probabilities = None if self._draw_probability is None else tf.gather(self._draw_probability, rows)
        weights = batch["label_weights"][:, 0] if "label_weights" in batch else None
        counted = tf.cast(tf.shape(readers)[0], tf.float32) if weights is None else tf.reduce_sum(weights)
        return self._task(readers, candidates, rows, probabilities, weights) / sum_over_replicas(counted)


def draw_probability(
    examples: list[ImpressionExample], articles: int, negatives: int
) -> npt.NDArray[np.float32]:
    """How likely a candidate of a batch is to be each article: as a click, or as a drawn negative.

    Args:
        examples: the training impressions.
        articles: rows of the article table.
        negatives: drawn per click.

    Returns:
        float32 [articles]; sums to 1, and at least one half of one draw, since a zero has no logarithm.
    """
    drawn = np.zeros(articles)
    for example in examples:
        clicked = example.labels > 0
        if clicked.all() or not clicked.any():
            continue
        np.add.at(drawn, example.candidates[clicked], 1.0)
        share = negatives * clicked.sum() / (~clicked).sum()
        np.add.at(drawn, example.candidates[~clicked], share)
    total = max(drawn.sum(), 1.0)
    return (np.maximum(drawn, 0.5) / total).astype(np.float32)


def train_retrieval(
    data: StageData,
    config: RunConfig,
    files: StageFiles,
    report: Report,
    distribution: Distribution | None = None,
) -> FitResult:
    """Train the two towers and keep their best weights.

    Args:
        data: examples and article features.
        config: settings of the run.
        files: of the stage.
        report: takes a line of progress.
        distribution: where; None: on one device.
    """
    stage, settings = config.retrieval, config.retrieval.optimizer
    devices = distribution or Distribution.one()
    batches = ClickBatches(data, config, settings, stage.negatives, devices)
    probability = (
        draw_probability(data.train, len(data.table), stage.negatives)
        if stage.popularity_correction
        else None
    )
    interest = None if files.start else data.interest  # an earlier run's are among its weights
    keras.utils.set_random_seed(config.seed)
    with devices.scope():
        towers = TwoTower(data.backbone(), config)
        trainer = RetrievalTrainer(towers, stage.temperature, probability)
    if interest is not None:
        towers.news_tower.adapt(interest)
    goal = Goal(
        validate=Validation(towers, data, config).retrieval,
        metric="pool_auc",
        greater_is_better=True,
        validate_older=Validation(towers, data.of_earlier, config).retrieval if files.start else None,
    )
    return fit(
        trainer,
        batches.from_step,
        settings.steps_of(batches.in_epoch),
        settings.of_epoch(batches.in_epoch),
        goal,
        files,
        report,
        jit_compile=devices.jit_compile,
    )
