"""Training of the ranker: binary cross-entropy on clicks, and other objectives."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from genre_tf.config import RankingConfig, RunConfig
from genre_tf.data.batches import Columns
from genre_tf.data.columns import Floats, ImpressionColumns, ImpressionExample
from genre_tf.losses.clicks import (
    click_and_softmax_loss,
    click_loss,
    clicked_articles,
    contrastive_loss,
    softmax_loss,
    teacher_loss,
)
from genre_tf.models.checkpoint import ranker_of
from genre_tf.models.ranker import Ranker
from genre_tf.training.calibration import calibrate
from genre_tf.training.click_batches import ClickBatches
from genre_tf.training.click_weights import ClickWeights
from genre_tf.training.distillation import teacher_logits
from genre_tf.training.distribution import Distribution
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.pool_ranking import fit_pool_head
from genre_tf.training.progress import FitResult, Goal, Report
from genre_tf.training.ranker_start import start_ranker
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles
from genre_tf.training.validation import Validation

CLICK_WEIGHT, TEACHER = "click_weight", "teacher"
"""Columns of a batch if the settings need them: float32 [B, C, 2], without and with counters."""

_LOSSES = {"click": click_loss, "softmax": softmax_loss, "click+softmax": click_and_softmax_loss}


class RankingTrainer(Learner):
    """The main loss, -[y log p + (1 - y) log(1 - p)], as a mean over the shown articles; or other losses.

    Args:
        model: the ranker.
        config: which losses to use, and their weights.
    """

    def __init__(self, model: Ranker, config: RankingConfig | None = None) -> None:
        super().__init__(model)
        self.config = config or RankingConfig()

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Loss of a batch, float32 []; with live counters, the mean over the losses of both logits."""
        vectors = self.model.article_vectors_of(batch, training)  # [articles, dimension]
        logits = self.model.logits_of(vectors, batch, training)
        losses = [self._of_logits(each, batch, place) for place, each in enumerate(logits.values())]
        loss = tf.add_n(losses) / len(losses)
        if self.config.contrastive:
            texts = vectors[:, : self.model.parts[0]]
            clicked, temperature = clicked_articles(batch), self.config.contrastive_temperature
            alike = contrastive_loss(texts, batch["articles"], clicked, temperature)
            loss += self.config.contrastive * alike
        return loss

    def _of_logits(self, logits: tf.Tensor, batch: dict[str, tf.Tensor], place: int) -> tf.Tensor:
        labels, mask = batch["labels"], batch["mask"]
        weights, wanted = (
            batch[name][..., place] if name in batch else None for name in (CLICK_WEIGHT, TEACHER)
        )
        if "label_weights" in batch:  # from signals
            weights = batch["label_weights"] * (1.0 if weights is None else weights)
        loss = _LOSSES[self.config.objective](logits, labels, mask, weights, self.config.label_smoothing)
        if wanted is None:
            return loss
        share = self.config.distillation_weight
        soft = teacher_loss(logits, wanted, mask, self.config.distillation_temperature)
        return (1.0 - share) * loss + share * soft


def moves_probabilities(config: RankingConfig, examples: Sequence[ImpressionExample]) -> bool:
    """Whether a training moves the mean click probability away from the click rate of its log.

    A softmax does not determine the level of probabilities; drawn negatives are fewer than the shown
    articles, which makes clicks seem more frequent; and clicks weighted by signals count as more or fewer
    clicks.
    """
    return config.objective != "click" or config.negatives > 0 or ImpressionColumns.of(examples).has_weights


def columns_of(data: StageData, config: RankingConfig, report: Report) -> Columns:
    """Additional columns of training candidates that the settings need: click weights, a teacher's logits."""
    columns: dict[str, Sequence[Floats]] = {}
    if config.popularity_debias or config.position_propensities:
        columns[CLICK_WEIGHT] = ClickWeights(data.train, config)
    if config.teacher:
        columns[TEACHER] = teacher_logits(data, report)
    return columns


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
        files: files of the stage.
        report: takes a line of progress.
        distribution: where to train; None: on one device.
    """
    training, start = ready_ranking(data, config, files, report, distribution)
    if not files.start:  # an earlier run's weights already contain it
        start()
    result = training.fit(files, report)
    ranker = training.trainer.model
    report("fitting the ranker's weights for the whole pool")
    if moves_probabilities(config.ranking, data.train):
        calibrate(ranker, data)
    fit_pool_head(ranker, data, config, report, goes_on=files.start is not None)
    files.save_best(ranker)
    return result


def ready_ranking(
    data: StageData,
    config: RunConfig,
    files: StageFiles,
    report: Report,
    distribution: Distribution | None = None,
) -> tuple[Training, Callable[[], None]]:
    """The training of a new ranker, and a function that gives it initial weights measured on the log."""
    clicks = sum(int(block.labels.sum()) for block in data.train.blocks("labels"))
    shown = int(data.train.shown.sum())
    stage, settings = config.ranking, config.ranking.optimizer
    devices = distribution or Distribution.one()
    columns = columns_of(data, stage, report)
    batches = ClickBatches(data, config, settings, stage.negatives or None, devices, columns)
    keras.utils.set_random_seed(config.seed)
    with devices.scope():
        ranker = ranker_of(data.news_encoder(), config, clicks / shown)
        trainer = RankingTrainer(ranker, stage)

    def start() -> None:
        ranker.news.adapt(data.interest)
        start_ranker(ranker, data, config)

    validation = Validation(ranker, data, config)
    goal = Goal(
        validate=validation.ranking,
        metric="auc_mean",
        greater_is_better=True,
        validate_older=Validation(ranker, data.of_earlier, config).ranking if files.start else None,
        judge=validation.ranking_quality,
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
