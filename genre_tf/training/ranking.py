"""Training of the ranker: binary cross-entropy on clicks."""

import numpy as np
import tensorflow as tf

from genre_tf.config import RunConfig
from genre_tf.data.batches import impression_batches
from genre_tf.models.ranker import Ranker
from genre_tf.training.fit import StageTrainer, fit
from genre_tf.training.progress import FitResult, Goal, Report
from genre_tf.training.ranker_start import start_ranker
from genre_tf.training.stage_data import StageData, row_count
from genre_tf.training.stage_files import StageFiles
from genre_tf.training.validation import Validation


class RankingTrainer(StageTrainer):
    """The mission's loss, -[y log p + (1 - y) log(1 - p)], mean over the shown articles."""

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Mean loss of a batch, float32 []; with live counters the mean of both logits' losses."""
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
        float32 [], the mean over real candidates.
    """
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(tf.boolean_mask(losses, mask))


def train_ranking(data: StageData, config: RunConfig, files: StageFiles, report: Report) -> FitResult:
    """Train the ranker and keep its best weights.

    Args:
        data: examples and article features.
        config: settings of the run.
        files: of the stage.
        report: takes a line of progress.
    """
    clicks = sum(float(example.labels.sum()) for example in data.train)
    shown = sum(len(example.labels) for example in data.train)
    ranker = Ranker(data.backbone(), config, click_rate=clicks / shown)
    ranker.news_tower.adapt(data.interest)
    settings = config.ranking.optimizer
    negatives = config.ranking.negatives or None

    def batches_from(step: int) -> tf.data.Dataset:
        batches = impression_batches(
            data.train,
            batch_size=settings.batch_size,
            max_history=config.data.max_history,
            negatives=negatives,
            seed=config.seed,
            shuffle=True,
            repeat=True,
            start=step,
        )
        return data.features.pipeline(batches)

    start_ranker(ranker, data, config)
    rows = row_count(data.train, negatives)
    steps = settings.steps or settings.epochs * int(np.ceil(rows / settings.batch_size))
    validation = Validation(ranker, data, config)
    goal = Goal(validate=validation.ranking, metric="auc_mean", greater_is_better=True)
    return fit(RankingTrainer(ranker), batches_from, steps, settings, goal, files, report)
