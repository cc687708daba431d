"""What the stages train on: the prepared examples, and the features of the articles in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genre_tf.config import RunConfig
from genre_tf.data.articles import ArticleTable
from genre_tf.data.counters import Counters
from genre_tf.data.decay import CounterState
from genre_tf.data.examples import ImpressionExample
from genre_tf.data.moment_pool import MomentPool
from genre_tf.data.records import read_articles, read_examples
from genre_tf.data.replay import read_older
from genre_tf.errors import InputError
from genre_tf.models.article_features import ArticleFeatures
from genre_tf.models.backbone import NewsBackbone
from genre_tf.models.checkpoint import CACHE_FOLDER, load_backbone
from genre_tf.models.interest_space import InterestSpace, interest_space
from genre_tf.models.news_encoder import NewsEncoder
from genre_tf.models.news_tower import NewsTower
from genre_tf.training.continual import counters_of_start
from genre_tf.training.progress import Report


@dataclass(frozen=True)
class StageData:
    """Examples and features of a run.

    Attributes:
        table: every article of the training log, and of older examples.
        train: examples to learn from; where the run goes on from another, some of that one's among them.
        validation: newest examples of the training log.
        features: of every article that an example names.
        config: settings of the run.
        run: its folder.
        older: what the earlier run held out, where the run goes on from one.
        unlearned: rows of the articles that only `older` showed to the earlier run.
        replayed: how many of `train`, its last ones, are examples of the earlier run.
        earlier: what was counted of each article before the training log, where the run goes on from another.
    """

    table: ArticleTable
    train: list[ImpressionExample]
    validation: list[ImpressionExample]
    features: ArticleFeatures
    config: RunConfig
    run: Path
    older: list[ImpressionExample] = field(default_factory=list)
    unlearned: frozenset[int] = frozenset()
    replayed: int = 0
    earlier: CounterState | None = None

    @property
    def of_earlier(self) -> "StageData":
        """The same, to be validated on what the earlier run held out, which the earlier counters know."""
        return replace(self, validation=self.older, earlier=None)

    @cached_property
    def pool(self) -> MomentPool:
        """What could be shown at each moment of the training log, validation included.

        Of the earlier run's log a part alone is here, from which no counters can be made.
        """
        known = [*self.train[: len(self.train) - self.replayed], *self.validation]
        return MomentPool(known, len(self.table), self.earlier, self.table.published)

    def learning_from(self, examples: list[ImpressionExample]) -> "StageData":
        """The same, with other examples to learn from."""
        return replace(self, train=examples)

    def backbone(self) -> NewsBackbone:
        """A backbone for one stage, with trainable layers of its own."""
        return load_backbone(self.run, self.config)

    @cached_property
    def interest(self) -> InterestSpace:
        """What the readers of the training log are loyal to, in the texts as they are before training."""
        backbone = self.backbone()
        texts = NewsEncoder(backbone, NewsTower(backbone)).text_vectors(self.features)
        histories = [example.history for example in self.train]
        weights = [example.history_weights for example in self.train]
        return interest_space(texts, histories, self.config.news.interest_dimension, weights)


def load_stage_data(run: Path, config: RunConfig, report: Report) -> StageData:
    """Read a run's prepared examples and compute (or find again) its articles' frozen states.

    Args:
        run: a run folder with `prepared` and `backbone` in it.
        config: settings of the run.
        report: takes a line of progress.

    Raises:
        InputError: nothing to validate on.
    """
    table = read_articles(run / "prepared")
    train, validation = (read_examples(run / "prepared", split) for split in ("train", "validation"))
    _require_clicks(validation, f"{run / 'prepared'}")
    older: list[ImpressionExample] = []
    unlearned: frozenset[int] = frozenset()
    replayed, earlier = 0, None
    if config.continual.from_run:
        kept = read_older(run)
        table, older, unlearned = kept.table, kept.validation, kept.unlearned
        _require_clicks(older, f"what {config.continual.from_run} held out")
        report(f"{len(train)} examples of the new log and {len(kept.train)} older ones to learn")
        train, replayed = train + kept.train, len(kept.train)
        counters = counters_of_start(config)
        earlier = None if counters is None else Counters.load(counters).state(table.news_ids)
    needed = named_articles(table, (*train, *validation, *older))
    backbone = load_backbone(run, config)
    report(backbone.trained_share())
    unknown = sorted({*table.categories, *table.subcategories} - {*backbone.categories.names})
    if unknown:  # of an earlier run: the backbone of a new one knows all
        report(f"{len(unknown)} categories are new and count as unknown: {', '.join(unknown[:5])}")
    report(f"frozen layers over {int(needed.sum())} articles, once")
    features = ArticleFeatures.of(table, backbone, run / CACHE_FOLDER, Tenths(report), needed)
    return StageData(table, train, validation, features, config, run, older, unlearned, replayed, earlier)


def _require_clicks(validation: Sequence[ImpressionExample], where: str) -> None:
    if not any(example.labels.any() and not example.labels.all() for example in validation):
        raise InputError(
            f"{where}: {len(validation)} validation impressions hold no click beside others: "
            "raise data.validation_share"
        )


def named_articles(table: ArticleTable, examples: Iterable[ImpressionExample]) -> npt.NDArray[np.bool_]:
    """Which articles of a table examples name, bool [N]."""
    named = np.zeros(len(table), bool)
    for example in examples:
        named[example.history] = named[example.candidates] = True
    return named


def row_count(examples: Sequence[ImpressionExample], negatives: int | None) -> int:
    """Rows of one epoch: impressions, or clicks where negatives are drawn for each."""
    if negatives is None:
        return len(examples)
    return sum(int(example.labels.sum()) for example in examples if not example.labels.all())


class Tenths:
    """Reports progress at every tenth.

    Args:
        report: takes a line.
    """

    def __init__(self, report: Report) -> None:
        self.report, self.said = report, 0

    def __call__(self, done: int, total: int) -> None:
        """Take how many articles are done."""
        tenth = 10 * done // max(1, total)
        if tenth > self.said:
            self.said = tenth
            self.report(f"  {done} of {total} articles")
