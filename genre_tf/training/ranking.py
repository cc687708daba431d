"""Training of the ranker: binary cross-entropy on clicks."""

import keras
import tensorflow as tf

from genre_tf.config import RunConfig
from genre_tf.models.ranker import Ranker
from genre_tf.training.click_batches import ClickBatches
from genre_tf.training.distribution import Distribution
from genre_tf.training.fit import StageTrainer, fit
from genre_tf.training.progress import FitResult, Goal, Report
from genre_tf.training.ranker_start import start_ranker
from genre_tf.training.replicas import sum_over_replicas
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles
from genre_tf.training.validation import Validation


class RankingTrainer(StageTrainer):
    """The mission's loss, -[y log p + (1 - y) log(1 - p)], mean over the shown articles."""

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Loss of a batch, float32 []; with live counters the mean of both logits' losses."""
        logits = self.model(batch, training=training)
        losses = [click_loss(each, batch["labels"], batch["mask"]) for each in logits.values()]
        return tf.add_n(losses) / len(losses)


def click_loss(logits: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Binary cross-entropy on clicks.

    Args:
        logits: float32 [B, C].
        labels: float32 [B, C], 1 for a click.
        mask: bool [B, C], real candidates.

    Returns:
        float32 [], the mean over real candidates; with several replicas the share of these in the mean over
        the real candidates of all.
    """
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    real = sum_over_replicas(tf.reduce_sum(tf.cast(mask, tf.float32)))
    return tf.reduce_sum(tf.where(mask, losses, 0.0)) / real


def train_ranking(
    data: StageData,
    config: RunConfig,
    files: StageFiles,
    report: Report,
    distribution: Distribution | None = None,
) -> FitResult:
    """Train the ranker and keep its best weights.

    Args:
        data: examples and article features.
        config: settings of the run.
        files: of the stage.
        report: takes a line of progress.
        distribution: where; None: on one device.
    """
    clicks = sum(float(example.labels.sum()) for example in data.train)
    shown = sum(len(example.labels) for example in data.train)
    settings = config.ranking.optimizer
    devices = distribution or Distribution.one()
    batches = ClickBatches(data, config, settings, config.ranking.negatives or None, devices)
    interest = None if files.start else data.interest  # an earlier run's are among its weights
    keras.utils.set_random_seed(config.seed)
    with devices.scope():
        ranker = Ranker(data.backbone(), config, click_rate=clicks / shown)
        trainer = RankingTrainer(ranker)
    if interest is not None:
        ranker.news_tower.adapt(interest)
        start_ranker(ranker, data, config)
    goal = Goal(
        validate=Validation(ranker, data, config).ranking,
        metric="auc_mean",
        greater_is_better=True,
        validate_older=Validation(ranker, data.of_earlier, config).ranking if files.start else None,
    )
    return fit(
        trainer,
        batches.from_step,
        batches.steps,
        settings,
        goal,
        files,
        report,
        jit_compile=devices.jit_compile,
    )
