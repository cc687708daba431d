"""Training data of the stages: the prepared examples, and the features of their articles."""

import itertools
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from genre_tf.config import RunConfig
from genre_tf.data.approved_texts import TEXTS, ApprovedText, read_texts
from genre_tf.data.articles import ArticleTable
from genre_tf.data.batches import rows_to_learn
from genre_tf.data.columns import ImpressionColumns
from genre_tf.data.counters import Counters
from genre_tf.data.lines import FaultPolicy
from genre_tf.data.log_counters import CounterState
from genre_tf.data.moment_pool import MomentPool
from genre_tf.data.prepared import read_articles, read_examples
from genre_tf.data.preparing import read_older
from genre_tf.errors import InputError
from genre_tf.models.article_features import ArticleFeatures
from genre_tf.models.checkpoint import CACHE_FOLDER, load_news_encoder
from genre_tf.models.interest_space import InterestSpace, interest_space
from genre_tf.models.news_encoder import NewsEncoder
from genre_tf.training.progress import Report
from genre_tf.training.stage_files import counters_of_start

_BETWEEN_LINES_S = 2.0


@dataclass(frozen=True)
class StageData:
    """Examples and features of a run."""

    table: ArticleTable  # every article of the training log and of older examples
    train: ImpressionColumns  # includes some examples of the earlier run, if the run continues one
    validation: ImpressionColumns  # the newest examples of the training log
    features: ArticleFeatures  # of every article in an example
    config: RunConfig
    run: Path
    # If the run continues an earlier one: the examples that it held out, the articles that it saw in these
    # only, how many of `train` (at its end) are its examples, and each article's counters before the log.
    older: ImpressionColumns = field(default_factory=lambda: ImpressionColumns([]))
    unlearned: frozenset[int] = frozenset()
    replayed: int = 0
    earlier: CounterState | None = None
    approved: tuple[ApprovedText, ...] = ()  # by editors

    def __post_init__(self) -> None:
        """Take lists of examples as columns."""
        for name in ("train", "validation", "older"):
            object.__setattr__(self, name, ImpressionColumns.of(getattr(self, name)))

    @property
    def of_earlier(self) -> "StageData":
        """The same data, validated on the earlier run's held-out examples, with the earlier counters."""
        return replace(self, validation=self.older, earlier=None)

    @cached_property
    def pool(self) -> MomentPool:
        """The articles that could be shown at each moment of the training log, including validation.

        Only part of the earlier run's log is available, which is not enough for counters.
        """
        known = self.train[: len(self.train) - self.replayed] + self.validation
        return MomentPool(known, len(self.table), self.earlier, self.table.published)

    def news_encoder(self, reduced_dimension: int = 0) -> NewsEncoder:
        """A news encoder for one stage, with its own trainable layers."""
        return load_news_encoder(self.run, self.config, reduced_dimension=reduced_dimension)

    @cached_property
    def interest(self) -> InterestSpace:
        """Directions of readers' lasting interests in the log, computed from the texts before training."""
        texts = self.news_encoder().embed(self.features, part="text")
        # Each history once, and its weights if the log has signals: a reader's stays the same for a while.
        names = ("history", *(["history_weights"] if self.train.has_weights else []))
        found: set[tuple[bytes, ...]] = set()
        for block in self.train.blocks(*names):
            columns = [getattr(block, name) for name in names]
            for begin, end in itertools.pairwise(block.history_ends.tolist()):
                found.add(tuple(values[begin:end].tobytes() for values in columns))
        kept = sorted(found)
        histories = [np.frombuffer(one[0], np.int32) for one in kept]
        weights = [np.frombuffer(one[1], np.float32) for one in kept] if len(names) > 1 else None
        return interest_space(texts, histories, self.config.news.interest_dimension, weights)


def load_stage_data(run: Path, config: RunConfig, report: Report) -> StageData:
    """Load a run's prepared examples, and compute (or load) the frozen states of its articles."""
    table = read_articles(run / "prepared")
    train, validation = (read_examples(run / "prepared", split) for split in ("train", "validation"))
    _require_clicks(validation, f"{run / 'prepared'}")
    texts = run / "prepared" / TEXTS
    approved = tuple(read_texts(texts, table.known_ids, FaultPolicy())) if texts.is_file() else ()
    older = ImpressionColumns([])
    unlearned: frozenset[int] = frozenset()
    replayed, earlier = 0, None
    if config.continual.from_run:
        kept = read_older(run)
        table, older, unlearned = kept.table, kept.validation, kept.unlearned
        _require_clicks(older, f"what {config.continual.from_run} held out")
        report(f"{len(train)} examples of the new log and {len(kept.train)} older ones for training")
        train, replayed = train + kept.train, len(kept.train)
        counters = counters_of_start(config)
        earlier = None if counters is None else Counters.load(counters).state(table.news_ids)
    needed = (train + validation + older).named(len(table))
    news = load_news_encoder(run, config)
    report(news.trained_share())
    unknown = sorted({*table.categories, *table.subcategories} - {*news.categories.names})
    if unknown:  # in an earlier run; the backbone of a new run knows all categories
        report(f"{len(unknown)} categories are new and treated as unknown: {', '.join(unknown[:5])}")
    report(f"computing frozen layers for {int(needed.sum())} articles (only once)")
    features = news.features(table, run / CACHE_FOLDER, Tenths(report), needed)
    return StageData(
        table, train, validation, features, config, run, older, unlearned, replayed, earlier, approved
    )


def _require_clicks(validation: ImpressionColumns, where: str) -> None:
    if not row_count(validation, 1):
        raise InputError(
            f"{where}: none of {len(validation)} validation impressions has a click and another article; "
            "raise data.validation_share"
        )


def row_count(examples: ImpressionColumns, negatives: int | None) -> int:
    """Rows in one epoch: impressions, or clicks if negatives are drawn for each."""
    return len(examples) if negatives is None else len(rows_to_learn(examples)[0])


class Tenths:
    """Reports progress at every tenth, but not more often than every two seconds."""

    def __init__(self, report: Report, what: str = "articles") -> None:
        self.report, self.what, self.said, self.at = report, what, 0, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Receive the number that is done."""
        tenth, now = 10 * done // max(1, total), time.monotonic()
        if tenth > self.said and now - self.at >= _BETWEEN_LINES_S:
            self.said, self.at = tenth, now
            self.report(f"  {done} of {total} {self.what}")
