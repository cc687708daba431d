"""`genre bench train`: training the ranker, against a cross-encoder in PyTorch and conventional batches."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.benchmarks.bench_data import bench_data
from genre_tf.benchmarks.conventional import unshared
from genre_tf.benchmarks.cross_encoder import PAIRS, CrossEncoder
from genre_tf.benchmarks.measuring import BenchOptions, Rate, Row, compare
from genre_tf.config import RunConfig
from genre_tf.data.batches import impression_batches
from genre_tf.data.prepared import read_articles
from genre_tf.data.preparing import prepare
from genre_tf.models.checkpoint import BACKBONE_FOLDER, ranker_of, save_backbone
from genre_tf.models.news_encoder import Categories
from genre_tf.models.ranker import Ranker
from genre_tf.training.fitted_weights import start_ranker
from genre_tf.training.optimizers import make_optimizer
from genre_tf.training.ranking import RankingTrainer
from genre_tf.training.stage_data import StageData, load_stage_data

UNIT = "impressions per second"
CASES = {"frozen": "none", "last 2": "last 2"}
# Steps of one measurement: at least a second of work for each side.
_STEPS = {"frozen": 20, "last 2": 1}
_PEER_STEPS = 2
_CONVENTIONAL_IMPRESSIONS = 4  # more take many gigabytes and are not faster


def bench(options: BenchOptions) -> list[Row]:
    """Compare with both peers: with a frozen encoder, and training its last two layers.

    Raises:
        InputError: a peer is not installed, the backbone does not exist, or the data are unusable.
    """
    rows = []
    with bench_data(options) as data, TemporaryDirectory(prefix="genre-bench-run-") as folder:
        run = Path(folder)
        config = _prepared(options, data, run)
        conventional = _conventional(run, config, options)
        for case, trainable in CASES.items():
            news = dataclasses.replace(config.news, trainable=trainable)
            ours = _Ours(case, dataclasses.replace(config, news=news), run, options)
            peer = _cross_encoder(ours.data, int("".join(filter(str.isdigit, case)) or 0), options)
            peers = {"torch": peer, "conventional": conventional}
            rows += compare(case, UNIT, ours.rate, peers, options)
    return rows


def _prepared(options: BenchOptions, data: Path, run: Path) -> RunConfig:
    """Prepare a run folder as `genre train` does, with default settings."""
    config = RunConfig()
    config = dataclasses.replace(
        config, news=dataclasses.replace(config.news, backbone=options.news_backbone)
    )
    prepare(
        data,
        run / "prepared",
        max_history=config.data.max_history,
        validation_share=config.data.validation_share,
        max_bad_rows=config.data.max_bad_rows,
    )
    table = read_articles(run / "prepared")
    save_backbone(config.news.backbone, Categories.of(table.categories, table.subcategories), run)
    return config


class _Ours:
    """The package's training; the run of the frozen layers is spread over the default number of epochs.

    Validation is not counted on any side.

    Args:
        case: name of the case, for progress lines.
        config: settings of the run.
        run: run folder.
        options: options of the bench.
    """

    def __init__(self, case: str, config: RunConfig, run: Path, options: BenchOptions) -> None:
        started = time.perf_counter()
        self.data = load_stage_data(run, config, options.say)
        self.batch_size = min(config.ranking.optimizer.batch_size, len(self.data.train))
        ranker = ranker_of(self.data.news_encoder(), config)
        ranker.news.adapt(self.data.interest)
        start_ranker(ranker, self.data, config)
        once = time.perf_counter() - started
        impressions = config.ranking.optimizer.epochs * len(self.data.train)
        self.once_per_impression = once / impressions
        options.say(f"{case}: {once:.1f} s before the first step, shared by {impressions} impressions")
        batches = self.data.features.pipeline(_batches(self.data, config, self.batch_size))
        self.step = _stepper(ranker, batches, config)
        self.steps = 1 if options.quick else _STEPS[case]

    def rate(self) -> float:
        """Impressions per second, including a share of the time before the first step."""
        seconds = _seconds(self.step, self.steps) / (self.steps * self.batch_size)
        return 1.0 / (seconds + self.once_per_impression)


def _conventional(run: Path, config: RunConfig, options: BenchOptions) -> Rate:
    """Rate of training that encodes every article again for every impression and trains all layers."""
    config = dataclasses.replace(config, news=dataclasses.replace(config.news, trainable="all"))
    data = load_stage_data(run, config, lambda line: None)
    batches = _batches(data, config, _CONVENTIONAL_IMPRESSIONS)
    batches = unshared(batches, data.features, config.news.max_title_tokens)
    step = _stepper(ranker_of(data.news_encoder(), config), batches, config)
    return lambda: _CONVENTIONAL_IMPRESSIONS / _seconds(step, 1)


def _cross_encoder(data: StageData, trained_layers: int, options: BenchOptions) -> Rate:
    config = data.config.news
    shown = [len(example.candidates) for example in data.train]
    peer = CrossEncoder(data.run / BACKBONE_FOLDER, config.dropout, trained_layers)
    # 200 impressions have more pairs than all measured steps use.
    step = peer.trainer(data.train[:200], data.table.titles)
    steps = 1 if options.quick else _PEER_STEPS
    return lambda: steps * PAIRS / float(np.mean(shown)) / _seconds(step, steps)


def _batches(data: StageData, config: RunConfig, batch_size: int) -> tf.data.Dataset:
    return impression_batches(
        data.train,
        batch_size=batch_size,
        max_history=config.data.max_history,
        negatives=config.ranking.negatives or None,
        seed=config.seed,
        shuffle=True,
        repeat=True,
        drop_remainder=True,  # so that all steps have equally many impressions
    )


def _stepper(ranker: Ranker, batches: tf.data.Dataset, config: RunConfig) -> Callable[[], float]:
    """A function that does one step as training does it, and returns the loss."""
    trainer = RankingTrainer(ranker)
    trainer.prepare(
        make_optimizer(config.ranking.optimizer, 1000, ranker.trainable_weights), jit_compile=False
    )
    iterator: Iterator[Any] = iter(batches)

    def step() -> float:
        return trainer.run(iterator, 1)[0][0]

    return step


def _seconds(step: Callable[[], float], steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - started
