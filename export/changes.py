"""Inputs of a refresh: news, a log since the last counters, an age limit and withdrawn articles."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from genre_tf.data.articles import Article
from genre_tf.data.counters import Counters
from genre_tf.data.faults import FaultPolicy
from genre_tf.data.mind import iterate_behaviors
from genre_tf.errors import InputError
from genre_tf.funnel.index import Catalogue


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a refresh changes; at least one of the first four is required."""

    news: Path | None = None  # articles in MIND's format; known ids are used only if the title has changed
    behaviors: Path | None = None  # a log; impressions before the counters were taken are left out
    expire: float | datetime | None = None  # articles older than these hours, or than this time, are stale
    withdraw: frozenset[str] = frozenset()  # ids of articles that are never shown again
    max_bad_rows: int = 0

    def __post_init__(self) -> None:
        if self.news is None and self.behaviors is None and self.expire is None and not self.withdraw:
            raise InputError("nothing to refresh: give --news, --behaviors, --expire or --withdraw")


def parse_expiry(text: str) -> float | datetime:
    """Parse hours, or a date with or without a time.

    Raises:
        InputError: the text is neither.
    """
    try:
        hours = float(text)
    except ValueError:
        try:
            return datetime.fromisoformat(text).replace(tzinfo=None)
        except ValueError:
            raise InputError(f"--expire must be hours or a date such as 2019-11-15; got {text!r}") from None
    if not 0 < hours < float("inf"):
        raise InputError(f"--expire must be hours above 0; got {text!r}")
    return hours


def read_log(
    changes: Changes,
    before: Catalogue,
    articles: Mapping[str, Article],
    counted_to: datetime | None,
    report: Callable[[str], None],
) -> Counters | None:
    """Count the impressions that were not counted yet; None without a log.

    Args:
        changes: contains the path of the log.
        before: the index that the log belongs to.
        articles: new articles by id; the log may contain them too.
        counted_to: time when the counters of that index were taken; None: no log was counted so far.
        report: called with each line of progress.

    Raises:
        InputError: the log has no clicks, ends too early, or contains only other articles.
    """
    if changes.behaviors is None:
        return None
    known = _AnyId({news_id: news_id for news_id in (*before.news_ids[1:], *articles)})
    counters, left_out = Counters(), 0
    for impression in iterate_behaviors(changes.behaviors, known, FaultPolicy(changes.max_bad_rows)):
        if impression.clicked is None:
            raise InputError(
                f"{changes.behaviors} has no labels (such as N1-0, N2-1); views without their clicks would "
                "make every click rate too low. Give a log with clicks"
            )
        if counted_to is not None and impression.time < counted_to:
            left_out += 1
        else:
            counters.observe(impression)
    if counters.newest is None:
        raise InputError(
            f"the log ends before {counted_to}; the index has already counted up to then. Give a later log"
        )
    if not known.keys() & counters.views.keys():
        raise InputError(
            f"{changes.behaviors} shows none of the {len(known)} articles: give a log that shows them"
        )
    if left_out:
        report(f"left out {left_out} impressions before {counted_to}: they are already counted")
    return counters


class _AnyId(dict[str, str]):
    """Maps every id to itself, unknown ids too: a log also contains articles that have expired since."""

    def __missing__(self, news_id: str) -> str:
        return news_id


def new_articles(before: Catalogue, articles: Mapping[str, Article]) -> list[Article]:
    """Articles whose id is unknown, whose title has changed, or which are newly withdrawn."""
    states = zip(before.titles, np.asarray(before.withdrawn).tolist(), strict=True)
    known = dict(zip(before.news_ids, states, strict=True))

    def is_known(one: Article) -> bool:
        title, gone = known.get(one.news_id, (None, False))
        return title == " ".join(one.title.split()) and (gone or not one.withdrawn)

    return [one for one in articles.values() if not is_known(one)]
