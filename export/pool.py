"""The articles of a version: reading them and encoding them."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from genre_tf.contract import COUNTERS
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.counters import Counters
from genre_tf.data.faults import FaultPolicy
from genre_tf.data.lines import find_file
from genre_tf.data.manifest import COUNTERS_FILE
from genre_tf.data.mind import BEHAVIORS, NEWS, inner_splits, iterate_behaviors, read_news, split_names
from genre_tf.data.records import read_articles
from genre_tf.errors import InputError
from genre_tf.export.index_changes import with_published_ages
from genre_tf.funnel.index import Catalogue
from genre_tf.funnel.served_models import encode_table


class Pool(NamedTuple):
    """Articles and their counters.

    Attributes:
        table: the articles; row 0 is the padding article.
        counters: float32 [len(table), 9], the columns of `COUNTERS`; row 0 is zeros.
        as_of: time when the counters were taken, on the clock of the logs; None if no log was read.
    """

    table: ArticleTable
    counters: npt.NDArray[np.float32]
    as_of: datetime | None


def read_pool(
    run: Path,
    data: Sequence[Path],
    max_bad_rows: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Pool:
    """Read articles and their current counters.

    Args:
        run: run folder; its prepared articles and counters are used if `data` has none.
        data: MIND-format data sets: every article of every split, with the counts of labelled logs.
        max_bad_rows: number of faulty rows that may be skipped in each file.
        report: called with a line for each log that is left out.

    Raises:
        InputError: a folder does not contain such data, or there is no article at all.
    """
    prepared = run / "prepared"
    counters = Counters.load(prepared / COUNTERS_FILE)
    if not data:
        table = read_articles(prepared)
    else:
        counted = Counters()
        splits = [split for folder in data for split in _read_data(folder, counted, max_bad_rows, report)]
        table = ArticleTable.of(*(articles.values() for articles in splits))
        counters = counters if counted.newest is None else counted
    if len(table) == 1:
        raise InputError(f"no article in {', '.join(map(str, data)) or prepared}: nothing to recommend")
    # Just after the newest counted event.
    as_of = counters.newest and counters.newest + timedelta(seconds=1)
    return Pool(table, _features(counters, table, as_of), as_of)


def build_catalogue(
    models: Any,
    table: ArticleTable,
    counters: npt.NDArray[np.float32],
    on_progress: Callable[[int, int], None] | None = None,
) -> Catalogue:
    """Encode every article with both stages.

    Args:
        models: a `ServedModels`, new or read back.
        table: the articles.
        counters: float32 [len(table), 9].
        on_progress: called with (articles done, all articles).
    """
    vectors = encode_table(models, table, on_progress)
    titles = [" ".join(title.split()) for title in table.titles]
    texts = [_text(*parts) for parts in zip(titles, table.abstracts, strict=True)]
    return Catalogue(table.news_ids, titles, texts, *vectors, counters, table.categories, table.withdrawn)


def _text(title: str, abstract: str) -> str:
    """Title and abstract as one line, separated by a full stop."""
    stop = "" if not title or title[-1] in ".!?。！？" else "."
    return f"{title}{stop} {' '.join(abstract.split())}".strip()


def _read_data(
    data: Path, counters: Counters, max_bad_rows: int, report: Callable[[str], None]
) -> list[dict[str, Article]]:
    """Articles of every split; their logs are counted into `counters` row by row, as they may be large."""
    if not data.is_dir():
        raise InputError(f"{data} is not a folder; give a data set folder in MIND's format")
    read = []
    for name in split_names(data):
        news, behaviors = (find_file(data / name, file) for file in (NEWS, BEHAVIORS))
        if news is None:
            continue
        articles = read_news(news, FaultPolicy(max_bad_rows))
        read.append(articles)
        if behaviors is not None and not _count(behaviors, articles, counters, FaultPolicy(max_bad_rows)):
            report(
                f"{behaviors} has no labels: the articles of its split are indexed, but its views are not "
                "counted"
            )
    if not read:
        advice = inner_splits(data) or "give a data set folder in MIND's format"
        raise InputError(f"{data} has no split with a {NEWS}; {advice}")
    return read


def _count(log: Path, articles: Iterable[str], counters: Counters, policy: FaultPolicy) -> bool:
    """Count a log; False if it has no labels: without clicks its views would make all click rates too low."""
    known = {news_id: news_id for news_id in articles}
    for impression in iterate_behaviors(log, known, policy):
        if impression.clicked is None:  # a log has labels everywhere or nowhere
            return False
        counters.observe(impression)
    return True


def _features(counters: Counters, table: ArticleTable, as_of: datetime | None) -> npt.NDArray[np.float32]:
    if as_of is None:
        return np.zeros((len(table), len(COUNTERS)), np.float32)
    counters.publish(table.articles)
    features = with_published_ages(counters.features(table.news_ids, as_of), table.published, as_of)
    features[0] = 0
    return features
