"""The counters of every impression, strictly of the past, computed on many workers.

One reader counts along the log; here each article is counted by itself, hour by hour: what an hour adds is
summed first, then what was known before each hour, then the few events within it are put in order. No worker
ever holds more than one article's hours, or the views of one article in one hour, however long the log is.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import apache_beam as beam

from genre_tf.data.articles import Impression
from genre_tf.data.counters import Counters, epoch_seconds, epoch_time

_HOUR_SECONDS = 3600

# Plain tuples: Beam pickles anything else, which takes far longer, and a log has some 40 views an impression.
Hour = tuple[str, int]
"""An article and an hour since 1970."""

View = tuple[int, int, int, int]
"""One article shown once: seconds since 1970, clicks (0 or 1), row number of the impression, slot."""

Total = tuple[int, int, int, int]
"""What views of an article add up to: clicks, views, seconds of the oldest and of the newest."""

Known = tuple[int, tuple[int, int, float]]
"""A slot, with the clicks, views and age in hours of its article just before the impression."""


class KnownBefore(beam.PTransform):
    """(row number, impression) -> (row number, `Known`) for every candidate, and the log's counters.

    They come under `known`; under `counters` comes one `Counters`: a row per article, gathered by one worker,
    since they become one file.
    """

    def expand(self, impressions: beam.PCollection) -> Any:
        """Build the steps."""
        views = impressions | "Views" >> beam.FlatMap(_views)
        per_hour = (
            views
            | "ViewTotal" >> beam.Map(_view_total)
            | "PerHour" >> beam.CombinePerKey(_sum)
            | "ByArticle" >> beam.Map(_by_article)
            | "Hours" >> beam.GroupByKey()
        )
        before = per_hour | "Before" >> beam.FlatMap(_before_each_hour)
        known = (
            {"views": views, "before": before}
            | "JoinHours" >> beam.CoGroupByKey()
            | "Within" >> beam.FlatMap(_within_hour)
        )
        counters = (
            per_hour
            | "PerArticle" >> beam.Map(_article_total)
            | "AllArticles" >> beam.combiners.ToList()
            | "Counters" >> beam.Map(_counters)
        )
        return {"known": known, "counters": counters}


def _views(element: tuple[int, Impression]) -> Iterator[tuple[Hour, View]]:
    number, impression = element
    seconds = epoch_seconds(impression.time)
    clicked = impression.clicked or (False,) * len(impression.candidates)
    for slot, news_id in enumerate(impression.candidates):
        yield (news_id, seconds // _HOUR_SECONDS), (seconds, int(clicked[slot]), number, slot)


def _view_total(element: tuple[Hour, View]) -> tuple[Hour, Total]:
    hour, (seconds, clicks, _, _) = element
    return hour, (clicks, 1, seconds, seconds)


def _sum(totals: Iterable[Total]) -> Total:
    """The sum of totals of any times; clicks and views 0 without any."""
    columns = list(zip(*(total for total in totals if total[1]), strict=True))
    return (sum(columns[0]), sum(columns[1]), min(columns[2]), max(columns[3])) if columns else (0, 0, 0, 0)


def _by_article(element: tuple[Hour, Total]) -> tuple[str, tuple[int, Total]]:
    (news_id, hour), total = element
    return news_id, (hour, total)


def _before_each_hour(article: tuple[str, Iterable[tuple[int, Total]]]) -> Iterator[tuple[Hour, Total]]:
    known = _sum(())
    for hour, total in sorted(article[1]):
        yield (article[0], hour), known
        known = _sum((known, total))


def _within_hour(joined: tuple[Hour, dict[str, Any]]) -> Iterator[tuple[int, Known]]:
    (before,) = joined[1]["before"]
    clicks, views, first, _ = before
    for seconds, same_time in groupby(sorted(joined[1]["views"]), key=lambda view: view[0]):
        first = first if views else seconds
        age_hours = (seconds - first) / _HOUR_SECONDS
        shown = list(same_time)
        # Views of one second do not know each other.
        for _, _, number, slot in shown:
            yield number, (slot, (clicks, views, age_hours))
        clicks += sum(view[1] for view in shown)
        views += len(shown)


def _article_total(article: tuple[str, Iterable[tuple[int, Total]]]) -> tuple[str, Total]:
    return article[0], _sum(total for _, total in article[1])


def _counters(articles: list[tuple[str, Total]]) -> Counters:
    counters = Counters()
    for news_id, (clicks, views, first, last) in articles:
        if clicks:
            counters.clicks[news_id] = clicks
        counters.views[news_id] = views
        counters.first_seen[news_id] = epoch_time(first)
        newest = epoch_time(last)
        counters.newest = newest if counters.newest is None else max(counters.newest, newest)
    return counters
