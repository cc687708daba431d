"""The candidates and clicks of a log row, in any form that a column map can describe."""

import re
from collections.abc import Sequence
from typing import Any

from genre_tf.data.faults import shown
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.catalogue import RowFaults, cell_of
from genre_tf.data.layouts.column_map import ImpressionColumns
from genre_tf.data.layouts.tables import Row

_LABEL = re.compile(r"-[01]$")


def read_candidates(
    row: Row, columns: ImpressionColumns, separator: str, labelled: bool, faults: RowFaults
) -> list[str]:
    """The candidates of a row.

    Args:
        row: its cells.
        columns: which columns hold what.
        separator: separator between ids in a text.
        labelled: whether to read clicks.
        faults: list to which faults are added.

    Returns:
        Ids; with the suffix -1 or -0 if clicks are read and known.
    """

    def ids(column: str) -> list[str]:
        return cell_of(row, column, lambda value: cells.ids(value, separator), faults) or []

    if columns.labelled:
        found = [cells.labelled_id(each) for each in ids(columns.labelled)]
        return found if labelled else [_LABEL.sub("", each) for each in found]
    news_ids = ids(columns.candidates)
    if not labelled or not (columns.clicked or columns.labels):
        return list(dict.fromkeys(news_ids)) if columns.merge_repeated else news_ids
    if columns.clicked:
        clicked = ids(columns.clicked)
        flags = [news_id in clicked for news_id in news_ids]
        if unknown := [news_id for news_id in clicked if news_id not in news_ids]:
            wrong = f"{shown(unknown[0])} was clicked but is not among the candidates"
            faults.append((columns.clicked, wrong))
    else:
        told = cell_of(row, columns.labels, lambda value: _flags(value, separator), faults)
        flags = told or []
        if told is not None and len(flags) != len(news_ids):
            faults.append((columns.labels, f"{len(flags)} labels for {len(news_ids)} candidates"))
    return _labelled(news_ids, flags, columns.merge_repeated)


def _flags(value: Any, separator: str) -> list[bool]:
    return [cells.flag(each) for each in cells.several(value, separator)]


def _labelled(news_ids: Sequence[str], flags: Sequence[bool], merge: bool) -> list[str]:
    pairs = list(zip(news_ids, flags, strict=False))
    if merge:
        clicked = {news_id for news_id, flag in pairs if flag}
        pairs = [(news_id, news_id in clicked) for news_id in dict.fromkeys(news_ids)]
    return [f"{news_id}-{int(flag)}" for news_id, flag in pairs]
