"""The articles of a version: reading and encoding them, and what a refresh changes in them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.contract import COUNTERS
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.counters import Counters, epoch_seconds
from genre_tf.data.lines import FaultPolicy, find_file
from genre_tf.data.log_counters import HOUR_SECONDS, UNKNOWN_TIME, merged
from genre_tf.data.mind import BEHAVIORS, NEWS, inner_splits, iterate_behaviors, read_news, split_names
from genre_tf.data.prepared import COUNTERS_FILE, read_articles
from genre_tf.errors import InputError
from genre_tf.funnel.index import Catalogue
from genre_tf.funnel.served_models import encode_table
from genre_tf.generation.unsafe_language import default_unsafe_language

FLAGGED = "flagged_titles"
"""Name, in contract.json, of the ids of articles whose titles may be unsafe."""

_TITLES_AT_ONCE = 1_000

_AGE_HOURS = COUNTERS.index("age_hours")
_JUST_NOW_HOURS = 1e-3  # the age of a new article; above 0, because 0 means an unknown age

Vectors = npt.NDArray[np.float32]


class Pool(NamedTuple):
    """Articles and their counters."""

    table: ArticleTable  # row 0 is the padding article
    counters: Vectors  # [len(table), 9], the columns of `COUNTERS`; row 0 is zeros
    as_of: datetime | None  # when they were taken, on the clock of the logs; None if no log was read

    @classmethod
    def of(cls, table: ArticleTable, counters: Counters) -> "Pool":
        """A pool just after the newest counted event."""
        if counters.newest is None:
            return cls(table, np.zeros((len(table), len(COUNTERS)), np.float32), None)
        as_of = counters.newest + timedelta(seconds=1)
        counters.publish(table.articles)
        features = with_published_ages(counters.features(table.news_ids, as_of), table.published, as_of)
        features[0] = 0
        return cls(table, features, as_of)


def read_pool(
    run: Path,
    data: Sequence[Path],
    max_bad_rows: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Pool:
    """Read articles and their current counters, from every split of data sets in MIND's format.

    Only logs with labels are counted; `report` gets a line for each other. Without data, or without such
    logs, the run's prepared articles, or its counters, are used.
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
    return Pool.of(table, counters)


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
        if behaviors is None:
            continue
        known = {news_id: news_id for news_id in articles}
        for impression in iterate_behaviors(behaviors, known, FaultPolicy(max_bad_rows)):
            if impression.clicked is None:
                # A log has labels everywhere or nowhere; without clicks all click rates would be too low.
                report(
                    f"{behaviors} has no labels: the articles of its split are indexed, but its views are "
                    "not counted"
                )
                break
            counters.observe(impression)
    if not read:
        advice = inner_splits(data) or "give a data set folder in MIND's format"
        raise InputError(f"{data} has no split with a {NEWS}; {advice}")
    return read


def with_published_ages(counters: Vectors, published: npt.NDArray[np.int64], as_of: datetime) -> Vectors:
    """Counters [M, 9] with ages since publication [M], in seconds, if it is known; negative before it."""
    known = published != UNKNOWN_TIME
    hours = (epoch_seconds(as_of) - np.where(known, published, 0)) / HOUR_SECONDS
    hours = np.where(hours == 0, _JUST_NOW_HOURS, hours)
    # Views before the publication time show that the article was already out.
    never_shown = counters[:, COUNTERS.index("views")] == 0
    age = counters[:, _AGE_HOURS]
    counters = counters.copy()
    counters[:, _AGE_HOURS] = np.where(known & (never_shown | (hours > age)), hours, age)
    return counters


def build_catalogue(models: Any, table: ArticleTable, counters: Vectors) -> Catalogue:
    """Encode every article with both stages of a `ServedModels`."""
    titles = [" ".join(title.split()) for title in table.titles]
    vectors = encode_table(models, table)
    return Catalogue(
        table.news_ids, titles, table.texts, *vectors, counters, table.categories, table.withdrawn
    )


def flagged_articles(catalogue: Catalogue, shown: npt.NDArray[np.bool_]) -> list[str]:
    """Ids of the articles among `shown`, bool [N], whose titles the default classifier calls unsafe."""
    rows = np.flatnonzero(shown)
    flagged: list[str] = []
    for start in range(0, len(rows), _TITLES_AT_ONCE):
        part = rows[start : start + _TITLES_AT_ONCE]
        unsafe = default_unsafe_language().is_unsafe(tf.constant([catalogue.titles[row] for row in part]))
        flagged += [catalogue.news_ids[row] for row in part[unsafe.numpy()]]
    return flagged


def with_articles(catalogue: Catalogue, new: Sequence[Article], vectors: Sequence[Vectors]) -> Catalogue:
    """Add articles with vectors, float32 [M, D] and [M, R]; known ids replace their old rows.

    Old rows keep their numbers; new articles have no clicks, views or age yet.
    """
    row_of = {news_id: row for row, news_id in enumerate(catalogue.news_ids)}
    rows = np.array([row_of.setdefault(one.news_id, len(row_of)) for one in new], np.int64)
    size = len(row_of)
    more = [""] * (size - len(catalogue.titles))
    titles, texts, categories = (
        [*column, *more] for column in (catalogue.titles, catalogue.texts, catalogue.categories)
    )
    for row, one, text in zip(rows, new, ArticleTable(new).texts[1:], strict=True):
        titles[row], texts[row], categories[row] = " ".join(one.title.split()), text, one.category
    arrays = (catalogue.retrieval_vectors, catalogue.ranking_vectors, catalogue.counters)
    in_retrieval, in_ranking, counters = (_with_zeros(old, size) for old in arrays)
    in_retrieval[rows], in_ranking[rows] = vectors
    gone = np.zeros(size, bool)
    gone[: len(catalogue.news_ids)] = catalogue.withdrawn
    # A withdrawn article stays withdrawn if it gets another title.
    gone[rows] |= np.array([one.withdrawn for one in new], bool)
    return Catalogue(list(row_of), titles, texts, in_retrieval, in_ranking, counters, categories, gone)


def with_counts(
    catalogue: Catalogue, as_of: datetime | None, log: Counters | None, new: Sequence[Article]
) -> tuple[Catalogue, datetime | None]:
    """Add the counts of a later log to the counters of a catalogue, and give new articles an age.

    Their age counts since publication, else from the log, else from now. Without any log no article has one.
    `as_of` is when the counters of the catalogue were taken; None: no log was counted so far. The result is
    as of just after the log's end.
    """
    counters = catalogue.counters
    if log is not None and log.newest is not None:
        now = log.newest + timedelta(seconds=1)
        older = 0.0 if as_of is None else (now - as_of) / timedelta(hours=1)
        before, counters = counters, merged(counters, older, log.features(catalogue.news_ids, now))
        just_out = (before[:, _AGE_HOURS] < 0) & (counters[:, _AGE_HOURS] == 0)
        counters[just_out, _AGE_HOURS] = _JUST_NOW_HOURS
        counters[0], as_of = 0, now
    if as_of is not None and new:
        row_of = {news_id: row for row, news_id in enumerate(catalogue.news_ids)}
        rows = np.array([row_of[one.news_id] for one in new], np.int64)
        known = with_published_ages(counters[rows], ArticleTable(new).published[1:], as_of)
        known[known[:, _AGE_HOURS] == 0, _AGE_HOURS] = _JUST_NOW_HOURS
        counters = counters.copy()
        counters[rows] = known
    return replace(catalogue, counters=counters), as_of


def without(catalogue: Catalogue, news_ids: Collection[str]) -> Catalogue:
    """A catalogue in which some articles are never shown again; unknown ids are ignored."""
    gone = np.asarray([news_id in news_ids for news_id in catalogue.news_ids])
    return replace(catalogue, withdrawn=np.asarray(catalogue.withdrawn) | gone)


def _with_zeros(array: Vectors, size: int) -> Vectors:
    """A copy with more rows, filled with zeros, in the same memory order (by rows or by columns)."""
    by_columns = array.strides[0] < array.strides[1]
    grown = np.empty((size, array.shape[1]), np.float32, order="F" if by_columns else "C")
    grown[: len(array)], grown[len(array) :] = array, 0
    return grown
