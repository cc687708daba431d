"""Training of the ranker: its losses, the weight of each click, and a teacher."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.config import RankingConfig, RunConfig, read_config
from genre_tf.data.columns import Floats, ImpressionColumns, ImpressionExample, OfCandidates, Rows
from genre_tf.data.prepared import load_manifest
from genre_tf.errors import InputError
from genre_tf.evaluation.scoring import RankerScorer
from genre_tf.files import whole_file
from genre_tf.losses.clicks import (
    click_and_softmax_loss,
    click_loss,
    clicked_articles,
    contrastive_loss,
    softmax_loss,
    teacher_loss,
)
from genre_tf.models.checkpoint import (
    BACKBONE_FOLDER,
    CACHE_FOLDER,
    WEIGHTS_FILE,
    check_trained,
    load_ranker,
    ranker_of,
)
from genre_tf.models.ranker import Ranker
from genre_tf.training.click_training import Validation, click_training
from genre_tf.training.distribution import Distribution
from genre_tf.training.fitted_weights import calibrate, fit_pool_head, pool_head_seconds, start_ranker
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.progress import Report
from genre_tf.training.stage_data import StageData, Tenths
from genre_tf.training.stage_files import StageFiles, fingerprint, start_fingerprint

# No click weighs more than this many median clicks; otherwise a few rare ones would dominate the training.
_MOST = 10.0


class ClickWeights(Sequence[Floats]):
    """Weights of clicks: the inverse of their propensities, computed when an impression is asked for.

    For each example float32 [c, 2], for the logits without and with counters; 1 for candidates that were not
    clicked. The mean over clicks is one, which keeps the level of the click probabilities.

    The propensity of an article is its number of clicks in these impressions to the power of
    `popularity_debias`. The propensity of a position comes from `position_propensities`, whose last value
    holds for all further positions. Positions are those in the log; a log that shuffles its impressions, as
    MIND does, has no meaningful ones.

    Popularity only weights the logit without counters: reporting popularity is what the counters are for.
    (When it also weighted the logit with counters, at power 1, their AUC on held-out training impressions
    was 0.658 after 240 steps instead of 0.684.)

    Source: Saito et al., "Unbiased Recommender Learning from Missing-Not-At-Random Implicit Feedback", WSDM
    2020 (popularity; clipping); Joachims et al., "Unbiased Learning-to-Rank with Biased Feedback", WSDM 2017
    (positions).
    """

    def __init__(self, examples: Sequence[ImpressionExample], config: RankingConfig) -> None:
        self._examples = ImpressionColumns.of(examples)
        articles, places = [], []
        for block in self._examples.blocks("candidates", "labels"):
            at = np.flatnonzero(block.labels)
            articles.append(block.candidates[at])
            places.append((at - block.candidate_ends[block.row_of_candidate[at]]).astype(np.int32))
        clicked = np.concatenate(articles)
        clicks = np.bincount(clicked)
        self._of_article = np.where(clicks > 0, clicks, 1) ** -config.popularity_debias
        self._of_place = 1 / np.asarray(config.position_propensities or [1.0])
        weights = self._raw(clicked, np.concatenate(places))
        self._most = _MOST * np.median(weights, axis=0)
        self._mean = np.minimum(weights, self._most).mean(axis=0)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number: Any) -> Any:
        one = self._examples[number]
        at = np.flatnonzero(one.labels)
        weights = np.ones((len(one.labels), 2), np.float32)
        weights[at] = np.minimum(self._raw(one.candidates[at], at), self._most) / self._mean
        return weights

    def _raw(self, articles: Rows, places: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """Weights of some clicks, float64 [clicks, logits]."""
        of_place = self._of_place[np.minimum(places, len(self._of_place) - 1)]
        return np.stack([self._of_article[articles] * of_place, of_place], axis=1)


_ABSENT = "absent"


def teacher_identity(teacher: str) -> str:
    """Identify a teacher by its content, not its path: a hash of its weights, backbone and settings.

    "" for no teacher, "absent" for a folder without a trained ranker.
    """
    if not teacher:
        return ""
    run = Path(teacher)
    weights = run / "ranking" / WEIGHTS_FILE
    if not weights.is_file():
        return _ABSENT
    config = read_config(run / "config.toml")
    digest = hashlib.sha256()
    digest.update(fingerprint(dataclasses.asdict(config.news), config.data.max_history).encode())
    for file in (weights, *sorted(path for path in (run / BACKBONE_FOLDER).rglob("*") if path.is_file())):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def check_teacher(config: RunConfig, run: Path) -> None:
    """Check before any work that a teacher has a ranker that this one can learn from."""
    if not config.ranking.teacher:
        return
    teacher = Path(config.ranking.teacher)
    if teacher_identity(config.ranking.teacher) == _ABSENT:
        raise InputError(
            f"the teacher {teacher} has no trained ranker; give the folder of a run that trained one"
        )
    if teacher.resolve() == run.resolve():
        raise InputError(f"{run} cannot be its own teacher; give another --run or another --teacher")
    if config.ranking.counters and not read_config(teacher / "config.toml").ranking.counters:
        raise InputError(
            f"the teacher {teacher} was trained without counters; set ranking.counters = false or give "
            "another teacher"
        )
    check_trained(teacher, "ranking")


def teacher_logits(data: StageData, report: Report) -> OfCandidates:
    """Click logits of the teacher for the training log, cached in the run folder.

    For each training example float32 [c, 1 or 2]: without counters, then with counters if they are used.
    """
    config, logs = data.config.ranking, load_manifest(data.run / "prepared")["outputs"]
    replayed = start_fingerprint(data.run, data.config, "ranking")
    key = fingerprint(teacher_identity(config.teacher), logs, replayed, config.counters)
    file = data.run / CACHE_FOLDER / f"teacher-{key}.npy"
    if not file.is_file():
        teacher = Path(config.teacher)
        ranker = load_ranker(teacher)
        report(f"computing the click probabilities of the teacher {teacher} (only once)")
        # Under the name that training on this log uses: the teacher's cache then already holds the frozen
        # states.
        named = (data.train + data.validation).named(len(data.table))
        features = ranker.news.features(data.table, teacher / CACHE_FOLDER, Tenths(report), named)
        vectors = ranker.news.embed(features)
        of_each = (False, True)[: 1 + config.counters]
        scorers = [RankerScorer(ranker, vectors, with_counters) for with_counters in of_each]
        scores = np.stack([np.concatenate(scorer(data.train)) for scorer in scorers], axis=-1)
        with whole_file(file) as part, part.open("wb") as stream:
            np.save(stream, scores, allow_pickle=False)
    return OfCandidates(np.load(file, allow_pickle=False, mmap_mode="r"), data.train.shown)


CLICK_WEIGHT, TEACHER = "click_weight", "teacher"
"""Columns of a batch if the settings need them: float32 [B, C, 2], without and with counters."""

_LOSSES = {"click": click_loss, "softmax": softmax_loss, "click+softmax": click_and_softmax_loss}


class RankingTrainer(Learner):
    """The main loss, -[y log p + (1 - y) log(1 - p)], as a mean over the shown articles; or other losses."""

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


def ready_ranking(
    data: StageData, config: RunConfig, files: StageFiles, report: Report, devices: Distribution
) -> Training:
    """The training of a new ranker, or of the earlier run's."""
    stage = config.ranking
    columns: dict[str, Sequence[Floats]] = {}
    if stage.popularity_debias or stage.position_propensities:
        columns[CLICK_WEIGHT] = ClickWeights(data.train, stage)
    if stage.teacher:
        columns[TEACHER] = teacher_logits(data, report)
    clicks = sum(int(block.labels.sum()) for block in data.train.blocks("labels"))
    keras.utils.set_random_seed(config.seed)
    with devices.strategy.scope():
        ranker = ranker_of(data.news_encoder(), config, clicks / int(data.train.shown.sum()))
        trainer = RankingTrainer(ranker, stage)

    def start() -> None:
        ranker.news.adapt(data.interest)
        start_ranker(ranker, data, config)

    def finish() -> None:
        report("fitting the ranker's weights for the whole pool")
        if moves_probabilities(stage, data.train):
            calibrate(ranker, data)
        fit_pool_head(ranker, data, config, report, goes_on=files.start is not None)

    return click_training(
        trainer,
        data,
        config,
        stage.optimizer,
        files,
        devices,
        examples=data.train,
        columns=columns,
        metric="auc_mean",
        measure=Validation.ranking,
        judge=Validation.ranking_quality,
        negatives=stage.negatives or None,
        start=start,
        finish=finish,
        finish_seconds=lambda: pool_head_seconds(ranker, data, config),
    )
