"""The counters of every impression, strictly from the past, computed on many workers.

A single process counts a whole log at once. Here each article is counted separately, hour by hour. First the
events of each hour are summed, then the state before each hour is computed from these sums, then the few
events within an hour are looked up in their own `ViewLog`. A worker never holds more than the hours of one
article, or the views of one article in one hour, however long the log is.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Impression
from genre_tf.data.beam.log_rows import TableFile
from genre_tf.data.counters import Counters, epoch_seconds
from genre_tf.data.decay import HOUR_SECONDS, UNKNOWN_TIME, CounterState, earliest, halved
from genre_tf.data.view_log import WEIGHTS, ViewLog, carried, from_units

# Plain tuples: Beam pickles anything else, which takes far longer, and a log has some 40 views an impression.
Hour = tuple[str, int]
"""An article and an hour since 1970."""

View = tuple[int, int, int, int]
"""One article shown once: seconds since 1970, clicks (0 or 1), row number of the impression, slot."""

Total = tuple[int, ...]
"""Sums over the views of an article in an hour: clicks, views, six sums of `WEIGHTS` (of the clicks, of the
views), seconds of the oldest and of the newest view."""

State = tuple[list[float], int, int, int]
"""The state of an article after an hour: counts as in `CounterState`, as of the beginning of that hour; and
in seconds, the time when it was published or first shown, the beginning of that hour, and its newest view."""

Known = tuple[int, list[float]]
"""A slot, with the nine counters of its article just before the impression."""


class KnownBefore(beam.PTransform):
    """(row number, impression) -> (row number, `Known`) for every candidate, and the log's counters.

    The output `known` has these pairs; `counters` has one `Counters` with a row per article, gathered on one
    worker because it becomes one file.

    Args:
        articles: the log's articles, some with their publishing times.
    """

    def __init__(self, articles: TableFile) -> None:
        super().__init__()
        self._articles = articles

    def expand(self, impressions: beam.PCollection) -> Any:
        """Build the steps."""
        views = impressions | "Views" >> beam.FlatMap(_views)
        states = (
            views
            | "ViewTotal" >> beam.Map(_view_total)
            | "PerHour" >> beam.CombinePerKey(_sum)
            | "ByArticle" >> beam.MapTuple(lambda hour, total: (hour[0], (hour[1], total)))
            | "Hours" >> beam.GroupByKey()
            | "Along" >> beam.ParDo(CountHours(self._articles)).with_outputs("end", main="before")
        )
        known = (
            {"views": views, "before": states.before}
            | "JoinHours" >> beam.CoGroupByKey()
            | "Within" >> beam.FlatMap(_within_hour)
        )
        counters = (
            states.end
            | "AllArticles" >> beam.combiners.ToList()
            | "Counters" >> beam.Map(_counters, self._articles)
        )
        return {"known": known, "counters": counters}


class CountHours(beam.DoFn):
    """(article, its hours with their totals) -> (`Hour`, `State` before it); `end`: (article, `State`)."""

    def __init__(self, articles: TableFile) -> None:
        self._articles = articles

    def setup(self) -> None:
        """Read the table once."""
        self._table = self._articles.load()

    def process(self, article: tuple[str, Iterable[tuple[int, Total]]]) -> Iterator[Any]:
        """Process the hours of one article in order."""
        news_id, hours = article[0], sorted(article[1])
        totals = np.array([total for _, total in hours], np.int64)  # [hours, 10]
        begins = HOUR_SECONDS * np.array([hour for hour, _ in hours], np.int64)
        published = self._table.published[[self._table.row(news_id)]]
        first, newest = int(earliest(published, totals[:1, 8])[0]), int(totals[-1, 9])
        within = from_units(totals[:, 2:8])
        left = carried(within, begins, np.zeros(1, np.int64), np.zeros((1, 6)))
        whole = np.cumsum(totals[:, :2], axis=0)  # [hours, 2]
        # The state before the first hour is empty; before any other hour it is that after the previous one.
        states = np.concatenate([np.zeros((1, 8)), np.hstack([whole, left + within])])  # [1 + hours, 8]
        moments = np.concatenate([begins[:1], begins]).tolist()
        known = [
            (counts, first, moment, newest) for counts, moment in zip(states.tolist(), moments, strict=True)
        ]
        for (hour, _), before in zip(hours, known[:-1], strict=True):
            yield (news_id, hour), before
        yield beam.pvalue.TaggedOutput("end", (news_id, known[-1]))


def _views(element: tuple[int, Impression]) -> Iterator[tuple[Hour, View]]:
    number, impression = element
    seconds = epoch_seconds(impression.time)
    clicked = impression.clicked or (False,) * len(impression.candidates)
    for slot, news_id in enumerate(impression.candidates):
        yield (news_id, seconds // HOUR_SECONDS), (seconds, int(clicked[slot]), number, slot)


def _view_total(element: tuple[Hour, View]) -> tuple[Hour, Total]:
    hour, (seconds, clicks, _, _) = element
    weights = WEIGHTS[seconds % HOUR_SECONDS].tolist()
    return hour, (clicks, 1, *(clicks * weight for weight in weights), *weights, seconds, seconds)


def _sum(totals: Iterable[Total]) -> Total:
    """The sum of totals of one article and hour, in any order; empty if there are none."""
    columns = list(zip(*(total for total in totals if total), strict=True))
    return (*map(sum, columns[:8]), min(columns[8]), max(columns[9])) if columns else ()


def _within_hour(joined: tuple[Hour, dict[str, Any]]) -> Iterator[tuple[int, Known]]:
    views: list[View] = list(joined[1]["views"])
    ((counts, first, begins, _),) = joined[1]["before"]
    seconds, clicked = (np.array([view[part] for view in views], np.int64) for part in (0, 1))
    rows = np.ones(len(views), np.int32)
    before = CounterState(_below_padding([counts]), _below_padding([first], UNKNOWN_TIME), begins)
    known = ViewLog(2, rows, seconds, clicked.astype(np.uint8), before).before(rows, seconds)
    for (_, _, number, slot), values in zip(views, known.tolist(), strict=True):
        yield number, (slot, values)


def _below_padding(rows: list[Any], padding: int = 0) -> npt.NDArray[Any]:
    """Rows of articles, after a row for the padding article."""
    known = np.array(rows)
    return np.concatenate([np.full_like(known[:1], padding), known])


def _counters(articles: list[tuple[str, State]], table: TableFile) -> Counters:
    """The counters of all articles, as of the log's newest view."""
    counters = Counters()
    if articles:
        news_ids, states = zip(*articles, strict=True)
        counts, first, begins, newest = (np.array(part) for part in zip(*states, strict=True))
        counts[:, 2:] = halved(counts[:, 2:], newest.max() - begins)
        counters.replace(news_ids, CounterState(counts, first, int(newest.max())))
    counters.publish(table.load().articles)
    return counters
