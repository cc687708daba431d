"""A catalogue with more articles, with newer counters, with fewer articles."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Article
from genre_tf.data.counters import Counters
from genre_tf.errors import InputError
from genre_tf.export.index import Catalogue, older_than

_HOUR = timedelta(hours=1)
_CLICKS, _VIEWS, _AGE_HOURS = range(3)

Vectors = npt.NDArray[np.float32]


def joined(catalogue: Catalogue, new: Sequence[Article], retrieval: Vectors, ranking: Vectors) -> Catalogue:
    """A catalogue with articles put in, those of known ids in their old places.

    Args:
        catalogue: what is known.
        new: M articles.
        retrieval: float32 [M, D].
        ranking: float32 [M, R].

    Returns:
        Old rows keep their numbers; new articles have no clicks, views and age yet.
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
    vectors = [_grown(old, size) for old in (catalogue.retrieval_vectors, catalogue.ranking_vectors)]
    vectors[0][rows], vectors[1][rows] = retrieval, ranking
    counters = _grown(catalogue.counters, size)
    return Catalogue(list(row_of), titles, texts, *vectors, counters, categories)


def add_counts(
    catalogue: Catalogue, as_of: datetime | None, log: Counters | None
) -> tuple[Catalogue, datetime | None]:
    """Counters that know a later log too.

    Args:
        catalogue: the articles, with their counters.
        as_of: when those counters were taken, on the clock of the logs; None without any log so far.
        log: of what happened since then, at least one impression; None without a log.

    Returns:
        The catalogue, and when its counters are of: just after the log.
    """
    if log is None or log.newest is None:
        return catalogue, as_of
    now = log.newest + timedelta(seconds=1)
    found = log.features(catalogue.news_ids, now)  # [N, 3]
    counters = catalogue.counters.astype(np.float64)
    older = 0.0 if as_of is None else (now - as_of) / _HOUR
    shown_before = counters[:, _VIEWS] > 0
    age = np.where(shown_before, counters[:, _AGE_HOURS] + older, found[:, _AGE_HOURS])
    counters = np.column_stack([counters[:, :_AGE_HOURS] + found[:, :_AGE_HOURS], age])
    counters[0] = 0
    return replace(catalogue, counters=counters.astype(np.float32)), now


def expired_rows(
    catalogue: Catalogue, as_of: datetime | None, limit: float | datetime | None
) -> npt.NDArray[np.bool_]:
    """Which articles were first shown too long ago; one that nobody was shown yet has no age.

    Args:
        catalogue: N articles.
        as_of: when its counters were taken.
        limit: hours, or the time before which an article was first shown; None: nothing is too old.

    Returns:
        bool [N].

    Raises:
        InputError: there are no ages, as no log was ever counted.
    """
    if limit is None:
        return np.zeros(len(catalogue.news_ids), bool)
    if as_of is None:
        raise InputError(
            "--expire needs to know when articles were shown: export with a log, or give --behaviors"
        )
    hours = limit if isinstance(limit, float) else (as_of - limit) / _HOUR
    return older_than(catalogue.counters, hours)


def kept(catalogue: Catalogue, rows: npt.NDArray[np.bool_]) -> Catalogue:
    """A catalogue of some of its rows, bool [N]."""
    if rows.all():
        return catalogue

    def some(column: Sequence[str]) -> list[str]:
        return [value for value, keep in zip(column, rows, strict=True) if keep]

    return Catalogue(
        some(catalogue.news_ids),
        some(catalogue.titles),
        some(catalogue.texts),
        catalogue.retrieval_vectors[rows],
        catalogue.ranking_vectors[rows],
        catalogue.counters[rows],
        some(catalogue.categories),
    )


def _grown(array: Vectors, size: int) -> Vectors:
    """A copy with more rows, of zeros, that lies in memory as the array does: by rows or by columns."""
    by_columns = array.strides[0] < array.strides[1]
    grown = np.empty((size, array.shape[1]), np.float32, order="F" if by_columns else "C")
    grown[: len(array)], grown[len(array) :] = array, 0
    return grown
