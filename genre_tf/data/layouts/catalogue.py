"""Reads articles in other layouts as rows of MIND's news file."""

from collections.abc import Callable, Sequence
from typing import Any

from genre_tf.data.articles import TEXT_FIELDS, Article
from genre_tf.data.faults import shown
from genre_tf.data.layouts.cells import CellError, first_text, moment_if_any, one_id, text, withdrawn
from genre_tf.data.layouts.column_map import ArticleColumns
from genre_tf.data.layouts.source_files import Source
from genre_tf.data.layouts.tables import Row
from genre_tf.data.lines import MAX_LINE_BYTES

RowFaults = list[tuple[str, str]]
OTHER_BYTES = 200
"""More than a line of MIND's news file has beside the texts: tabs, a time and a state."""


def read_catalogue(source: Source, patterns: Sequence[str], columns: ArticleColumns) -> dict[str, Article]:
    """Reads the articles of several files.

    Args:
        source: where they are.
        patterns: patterns of the files.
        columns: which columns hold what.

    Returns:
        Articles by id, in the order of the files.

    Raises:
        InputError: an unusable file, or the policy stops.
    """
    articles: dict[str, Article] = {}
    of_text = (columns.news_id, columns.title, columns.abstract, columns.category, columns.subcategory)
    wanted = (*of_text, columns.published, columns.withdrawn)
    for path, number, row in source.rows(patterns, wanted, columns.skip):
        article, faults = _article(row, columns, source.reading.time_unit)
        if article is not None and article.news_id in articles:
            if columns.repeated:
                continue
            wrong = f"{shown(article.news_id)} is also in an earlier row; keep one of them"
            faults.append((columns.news_id, wrong))
        if faults or article is None:
            source.reject(path, number, faults)
        else:
            articles[article.news_id] = article
    return articles


def _article(row: Row, columns: ArticleColumns, time_unit: str) -> tuple[Article | None, RowFaults]:
    faults: RowFaults = []

    def cell(column: str, read: Callable[[Any], str]) -> str:
        return cell_of(row, column, read, faults) or ""

    news_id, title = cell(columns.news_id, one_id), cell(columns.title, text)
    if not title.strip():
        faults.append((columns.title, "is empty; every article needs a title"))
    category, subcategory = cell(columns.category, first_text), cell(columns.subcategory, first_text)
    if columns.category_separator:
        category, _, inner = category.partition(columns.category_separator)
        subcategory = subcategory or inner.partition(columns.category_separator)[0]
    article = Article(
        news_id,
        category,
        subcategory,
        title,
        cell(columns.abstract, text),
        cell_of(row, columns.published, lambda value: moment_if_any(value, time_unit), faults),
        bool(cell_of(row, columns.withdrawn, withdrawn, faults)),
    )
    if sum(len(getattr(article, name).encode()) for name in TEXT_FIELDS) >= MAX_LINE_BYTES - OTHER_BYTES:
        faults.append(
            ("line", f"is longer than {MAX_LINE_BYTES >> 20} MiB in MIND's format; shorten its texts")
        )
    return (article if news_id else None), faults


def cell_of(row: Row, column: str, read: Callable[[Any], Any], faults: RowFaults) -> Any:
    """Reads one cell.

    Args:
        row: the row.
        column: name of the column; empty: no such column.
        read: makes the value of the cell, or raises `CellError`.
        faults: list to which faults are added.

    Returns:
        The value; None if there is none or it is invalid.
    """
    if not column:
        return None
    try:
        return read(row.get(column))
    except CellError as error:
        faults.append((column, str(error)))
        return None
