"""Training of the two towers: each click against the pool of its moment."""

from collections.abc import Callable

import keras
import tensorflow as tf
import tensorflow_recommenders as tfrs

from genre_tf.config import RunConfig
from genre_tf.data.moment_pool import draw_from_pool
from genre_tf.errors import InputError
from genre_tf.models.two_tower import TwoTower
from genre_tf.training.click_batches import ClickBatches
from genre_tf.training.distribution import Distribution
from genre_tf.training.fit import StageTrainer, Training
from genre_tf.training.progress import FitResult, Goal, Report
from genre_tf.training.replicas import sum_over_replicas
from genre_tf.training.retrieval_start import start_towers
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles
from genre_tf.training.validation import Validation

DRAWN = "draw_probability"
"""Column of a batch, float32 [B, C]: the probability that each candidate was drawn."""

_LOWEST = -1e9  # excludes a logit from a softmax and keeps its gradient finite


class RetrievalTrainer(StageTrainer):
    """Sampled softmax over the pool of the moment of each click.

    The candidates of a row are a click, some articles shown with it and some of the rest of the pool, each
    with its counters at that moment. The log of the probability that a candidate was drawn is subtracted from
    its logit (logQ): a candidate drawn with probability 1/50 stands for 50 articles of the pool.

    Args:
        model: the towers.

    Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019;
    Bengio and Senécal, "Adaptive Importance Sampling", 2008.
    """

    def __init__(self, model: TwoTower) -> None:
        super().__init__(model)
        self._correct = tfrs.layers.loss.SamplingProbablityCorrection()

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Mean loss of a batch, float32 []; with several replicas this replica's share.

        If the batch has weights from signals, each row is weighted by its click.
        """
        logits = self.model.pool_logits(batch, training=training)  # [rows, candidates]
        corrected = self._correct(logits, batch[DRAWN]) if DRAWN in batch else logits
        corrected = tf.where(batch["mask"], corrected, _LOWEST)
        # TensorFlow's own op fails on a replica without rows, which has no candidates either.
        clicked = tf.reduce_sum(batch["labels"] * corrected, axis=1)
        losses = tf.reduce_logsumexp(corrected, axis=1) - clicked  # [rows]
        weights = tf.ones_like(losses)
        if "label_weights" in batch:
            weights = tf.reduce_sum(batch["label_weights"] * batch["labels"], axis=1)
        return tf.reduce_sum(losses * weights) / sum_over_replicas(tf.reduce_sum(weights))


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
        files: files of the stage.
        report: takes a line of progress.
        distribution: where to train; None: on one device.
    """
    training, start = ready_retrieval(data, config, files, distribution)
    if not files.start:  # an earlier run's weights already contain it
        start()
    return training.fit(files, report)


def ready_retrieval(
    data: StageData, config: RunConfig, files: StageFiles, distribution: Distribution | None = None
) -> tuple[Training, Callable[[], None]]:
    """The training of new towers, and a function that gives them initial weights measured on the log."""
    stage, settings = config.retrieval, config.retrieval.optimizer
    devices = distribution or Distribution.one()
    examples, probabilities = draw_from_pool(
        data.train,
        data.pool,
        shown=stage.negatives,
        drawn=stage.pool_negatives,
        seed=config.seed,
        most=stage.most_clicks,
    )
    if not examples:
        raise InputError(
            f"{len(data.train)} impressions cannot be used for training: none has a click and another article"
        )
    drawn = data.learning_from(examples)
    batches = ClickBatches(drawn, config, settings, None, devices, {DRAWN: probabilities})
    keras.utils.set_random_seed(config.seed)
    with devices.scope():
        towers = TwoTower(data.backbone(), config)
        trainer = RetrievalTrainer(towers)

    def start() -> None:
        towers.news_tower.adapt(data.interest)
        start_towers(towers, data, examples, probabilities, config.seed)

    validation = Validation(towers, data, config)
    goal = Goal(
        validate=validation.retrieval,
        metric="pool_ndcg",
        greater_is_better=True,
        validate_older=Validation(towers, data.of_earlier, config).retrieval if files.start else None,
        judge=validation.retrieval_quality,
    )
    training = Training(
        trainer=trainer,
        batches_from=batches.from_step,
        steps=settings.steps_of(batches.in_epoch),
        config=settings.of_epoch(batches.in_epoch),
        goal=goal,
        jit_compile=devices.jit_compile,
    )
    return training, start
