"""What each stage of a training will take, found out before any of them begins."""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genre_tf.config import RunConfig, optimizer_of
from genre_tf.data.text_examples import TextExample
from genre_tf.training.distribution import Distribution
from genre_tf.training.fitted_weights import pool_head_seconds
from genre_tf.training.generation import ToVectors, ready_generation
from genre_tf.training.loop import Training
from genre_tf.training.progress import Estimate, Report, duration
from genre_tf.training.ranking import ready_ranking
from genre_tf.training.retrieval import ready_retrieval
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles

_FEW_STEPS = 20  # over before they could be timed


def foretell(
    stages: Sequence[StageFiles],
    data: StageData,
    config: RunConfig,
    report: Report,
    distribution: Distribution | None = None,
) -> list[Estimate]:
    """Time a few steps of each stage on new weights that are then dropped, and report what each will take.

    Args:
        stages: the stages that will be trained, one after another.
        data: their data.
        config: settings of the run.
        report: takes a line of progress.
        distribution: where to train; None: on one device.

    Returns:
        An estimate for each stage. None are made for a single stage, which reports its own soon enough; for a
        few steps of each; for a training that is resumed; and where compiling the steps twice is expensive.
    """
    steps = [optimizer_of(getattr(config, files.stage)).steps for files in stages]
    few = all(0 < count <= _FEW_STEPS for count in steps)
    slow = distribution is not None and distribution.slow_to_start
    if len(stages) < 2 or few or slow or stages[0].resumable:
        return []
    report("timing a few steps of each stage, to see what the training will take")
    estimates = []
    for files in stages:
        estimates.append(_estimate(files, data, config, distribution))
        report(f"  {files.stage:10}  {estimates[-1]}")
    whole = duration(sum(each.seconds for each in estimates))
    report(f"about {whole} in all, less where a stage stops improving")
    return estimates


def _estimate(
    files: StageFiles, data: StageData, config: RunConfig, distribution: Distribution | None
) -> Estimate:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        training = _ready(dataclasses.replace(files, run=Path(scratch)), data, config, distribution)
        estimate = training.rehearse(began)
    if files.stage != "ranking":
        return estimate
    after = pool_head_seconds(training.trainer.model, data, config)
    return dataclasses.replace(estimate, other_seconds=estimate.other_seconds + after)


def _ready(
    files: StageFiles, data: StageData, config: RunConfig, distribution: Distribution | None
) -> Training:
    if files.stage == "retrieval":
        return ready_retrieval(data, config, files, distribution)[0]
    if files.stage == "ranking":  # without a teacher, who would score the whole log only for this
        config = dataclasses.replace(config, ranking=dataclasses.replace(config.ranking, teacher=""))
        return ready_ranking(data, config, files, _silent, distribution)[0]
    readers = _no_readers(data, config)
    return ready_generation(data, config, files, _silent, distribution, readers=lambda: readers)


def _silent(_: str) -> None:
    pass


def _no_readers(data: StageData, config: RunConfig) -> tuple[ToVectors, int]:
    """Zeros in place of the vectors of towers that may not be trained yet."""
    dimension = data.news_encoder(config.retrieval.dimension).dimension

    def zeros(texts: Sequence[TextExample]) -> np.ndarray:
        return np.broadcast_to(np.zeros((1, dimension), np.float32), (len(texts), dimension))

    return zeros, dimension
