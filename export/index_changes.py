"""Changes of a catalogue: more articles, newer counters, withdrawn articles."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from genre_tf.contract import COUNTERS
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.counters import Counters, epoch_seconds
from genre_tf.data.decay import UNKNOWN_TIME, merged
from genre_tf.funnel.index import Catalogue

_HOUR = timedelta(hours=1)
_AGE_HOURS = COUNTERS.index("age_hours")
_JUST_NOW_HOURS = 1e-3  # the age of a new article; above 0, because 0 means an unknown age

Vectors = npt.NDArray[np.float32]


def joined(
    catalogue: Catalogue,
    new: Sequence[Article],
    retrieval: Vectors,
    ranking: Vectors,
) -> Catalogue:
    """Add articles to a catalogue; articles with known ids replace their old rows.

    Args:
        catalogue: the known articles.
        new: M articles.
        retrieval: float32 [M, D], their vectors for the two-tower model.
        ranking: float32 [M, R], their vectors for the ranker.

    Returns:
        The catalogue; old rows keep their numbers, new articles have no clicks, views or age yet.
    """
    row_of = {news_id: row for row, news_id in enumerate(catalogue.news_ids)}
    rows = np.array([row_of.setdefault(one.news_id, len(row_of)) for one in new], np.int64)
    size = len(row_of)
    more = [""] * (size - len(catalogue.titles))
    titles, texts, categories = (
        [*column, *more] for column in (catalogue.titles, catalogue.texts, catalogue.categories)
    )
    for row, one in zip(rows, new, strict=True):
        titles[row] = texts[row] = " ".join(one.title.split())
        categories[row] = one.category
    in_retrieval, in_ranking = (
        _grown(old, size) for old in (catalogue.retrieval_vectors, catalogue.ranking_vectors)
    )
    in_retrieval[rows], in_ranking[rows] = retrieval, ranking
    counters = _grown(catalogue.counters, size)
    gone = np.zeros(size, bool)
    gone[: len(catalogue.news_ids)] = catalogue.withdrawn
    # A withdrawn article stays withdrawn if it gets another title.
    gone[rows] |= np.array([one.withdrawn for one in new], bool)
    return Catalogue(list(row_of), titles, texts, in_retrieval, in_ranking, counters, categories, gone)


def dated(catalogue: Catalogue, new: Sequence[Article], as_of: datetime | None) -> Catalogue:
    """A catalogue whose new articles have an age: since publication, else from the log, else starting now.

    Args:
        catalogue: the catalogue with the new articles and the counts of the log.
        new: the M new articles in it.
        as_of: time when its counters were taken; None: no log was counted, so there are no ages.
    """
    if as_of is None or not new:
        return catalogue
    row_of = {news_id: row for row, news_id in enumerate(catalogue.news_ids)}
    rows = np.array([row_of[one.news_id] for one in new], np.int64)
    counters = catalogue.counters.copy()
    known = with_published_ages(counters[rows], ArticleTable(new).published[1:], as_of)
    known[known[:, _AGE_HOURS] == 0, _AGE_HOURS] = _JUST_NOW_HOURS
    counters[rows] = known
    return replace(catalogue, counters=counters)


def with_published_ages(counters: Vectors, published: npt.NDArray[np.int64], as_of: datetime) -> Vectors:
    """Counters with ages since publication, if it is known; ages are negative before publication.

    Args:
        counters: float32 [M, 9].
        published: int64 [M], seconds since 1970; `UNKNOWN_TIME` if unknown.
        as_of: time when the counters were taken.
    """
    known = published != UNKNOWN_TIME
    hours = (epoch_seconds(as_of) - np.where(known, published, 0)) / 3600
    hours = np.where(hours == 0, _JUST_NOW_HOURS, hours)
    # Views before the publication time show that the article was already out.
    never_shown = counters[:, COUNTERS.index("views")] == 0
    age = counters[:, _AGE_HOURS]
    counters = counters.copy()
    counters[:, _AGE_HOURS] = np.where(known & (never_shown | (hours > age)), hours, age)
    return counters


def add_counts(
    catalogue: Catalogue, as_of: datetime | None, log: Counters | None
) -> tuple[Catalogue, datetime | None]:
    """Add the counts of a later log to the counters of a catalogue.

    Args:
        catalogue: the articles with their counters.
        as_of: time when those counters were taken, on the clock of the logs; None: no log was counted so far.
        log: counts since then, from at least one impression; None without a log.

    Returns:
        The catalogue, and the time of its counters: just after the log's end.
    """
    if log is None or log.newest is None:
        return catalogue, as_of
    now = log.newest + timedelta(seconds=1)
    older = 0.0 if as_of is None else (now - as_of) / _HOUR
    counters = merged(catalogue.counters, older, log.features(catalogue.news_ids, now))
    just_out = (catalogue.counters[:, _AGE_HOURS] < 0) & (counters[:, _AGE_HOURS] == 0)
    counters[just_out, _AGE_HOURS] = _JUST_NOW_HOURS
    counters[0] = 0
    return replace(catalogue, counters=counters), now


def withdrawn(catalogue: Catalogue, news_ids: Collection[str]) -> Catalogue:
    """A catalogue in which some articles are never shown again; unknown ids are ignored."""
    gone = np.asarray([news_id in news_ids for news_id in catalogue.news_ids])
    return replace(catalogue, withdrawn=np.asarray(catalogue.withdrawn) | gone)


def _grown(array: Vectors, size: int) -> Vectors:
    """A copy with more rows, filled with zeros, in the same memory order (by rows or by columns)."""
    by_columns = array.strides[0] < array.strides[1]
    grown = np.empty((size, array.shape[1]), np.float32, order="F" if by_columns else "C")
    grown[: len(array)], grown[len(array) :] = array, 0
    return grown
