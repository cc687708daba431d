"""Tables for terminals."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rich.table import Table

_SCORERS = MappingProxyType(
    {
        "two_tower": "two-tower model",
        "ranker_counters": "ranker with counters",
        "category": "categories read before",
        "bm25": "BM25 of titles",
        "click_through_rate": "click-through rate",
        "clicks": "all clicks so far",
        "clicks_1h": "clicks halved every hour",
        "clicks_6h": "clicks halved every 6 hours",
        "clicks_24h": "clicks halved every 24 hours",
        "clicks_of_categories": "clicks in categories read before",
        "newest": "newest first",
    }
)


def scorer_name(name: str) -> str:
    """A model, a baseline, or "one over another", as a report shows it: `bm25` is "BM25 of titles"."""
    return " over ".join(_SCORERS.get(part, part.replace("_", " ")) for part in name.split(" over "))


def plain_table(
    title: str,
    rows: Mapping[str, Mapping[str, Any]],
    columns: list[str],
    headings: Mapping[str, str] = MappingProxyType({}),
    digits: int = 3,
) -> Table:
    """A table of numbers.

    Args:
        title: title of the table.
        rows: row name -> its numbers; a row without numbers is left out.
        columns: names of the numbers to show; a cell is empty if its row lacks the number.
        headings: headings of columns that should not show their name.
        digits: decimal places of floats.
    """
    table = Table(title=title)
    for column in ("", *columns):
        table.add_column(headings.get(column, column), justify="right" if column else "left")
    for name, values in rows.items():
        if values:
            table.add_row(name.replace("_", " "), *(_cell(values.get(column), digits) for column in columns))
    return table


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any, digits: int) -> str:
    if not _number(value):
        return ""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def percent(value: float | None) -> str:
    """A fraction in percent, empty for None."""
    return "" if value is None else f"{100 * value:.1f}"
