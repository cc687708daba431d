"""A log of events, one row per view, click, share, ... of an article: read, and grouped into impressions."""

import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genre_tf.data.faults import shown
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.column_map import EVENTS, EventColumns
from genre_tf.data.layouts.made_impressions import (
    FirstClicks,
    Floats,
    Integers,
    MadeImpressions,
    Page,
    Signals,
    SignalTexts,
)
from genre_tf.data.layouts.tables import Source
from genre_tf.data.mind import epoch_seconds
from genre_tf.data.signals import KEYS

Flags = npt.NDArray[np.bool_]
VIEWS, CLICKS, DWELLS, COMMENTS, SHARES, HIDES = range(len(EVENTS))
_NONE = -1


class EventLog(NamedTuple):
    """The events of a log, in the order of its rows; all are held in memory: 52 bytes each.

    Args:
        users: names of the readers.
        user: int64 [n], readers, as rows of `users`.
        article: int64 [n], articles, as rows of the catalogue.
        time: int64 [n], seconds since 1970.
        kind: uint8 [n], what each event is, such as `CLICKS`.
        page: int64 [n], number of the page view or session that each event names; -1: none.
        position: float64 [n], place in the list; infinite if unknown.
        seconds: float64 [n], reading time of a click, or a reading time by itself; NaN if unknown.
    """

    users: list[str]
    user: Integers
    article: Integers
    time: Integers
    kind: npt.NDArray[np.uint8]
    page: Integers
    position: Floats
    seconds: Floats

    def as_clicks(self) -> FirstClicks:
        """The clicks of a log that has only clicks."""
        signals = Signals.of_dwell(self.time, self.seconds)
        return FirstClicks(self.users, self.user, self.article, self.time, signals)


def read_events(
    source: Source, patterns: Sequence[str], columns: EventColumns, known: Mapping[str, int]
) -> EventLog:
    """Reads a log of events; `known` maps the ids of articles to their rows.

    Raises:
        InputError: an unusable file, or the policy stops.
    """
    users, pages = dict[str, int](), dict[tuple[int, str], int]()
    kinds, numbers = columns.kinds(), {name: number for number, name in enumerate(EVENTS)}
    user_of, article_of, time_of, page_of = (array("q") for _ in range(4))
    kind_of, position_of, seconds_of = bytearray(), array("d"), array("d")
    required = (columns.user_id, columns.news_id, columns.time, columns.event)
    wanted = (*required, columns.dwell, columns.position, columns.impression_id)
    for row in source.rows(patterns, wanted, columns.skip):
        reader, news_id = (row.read(column, cells.one_id) for column in required[:2])
        unknown = news_id is not None and news_id not in known
        if unknown and columns.drop_unknown:
            source.dropped += 1
            continue
        at = row.read(columns.time, source.moment)
        read = row.read(columns.dwell, cells.if_any(cells.seconds))
        if unknown:
            row.fault(columns.news_id, f"{shown(news_id)} is not among the articles; add the article")
        if read is not None and not 0 <= read < math.inf:
            row.fault(columns.dwell, f"{read} is not a finite number of seconds of at least 0")
        name = row.read(columns.event, lambda value: cells.event(value, kinds)) if columns.event else "clicks"
        place = row.read(columns.position, cells.if_any(cells.position))
        page_id = row.read(columns.impression_id, cells.if_any(cells.one_id))
        if name == "dwells" and read is None and not row.faults:
            if columns.dwell:
                row.fault(columns.dwell, "is empty; a reading time needs a number of seconds")
            else:
                wrong = "is a reading time, but the map names no column of seconds (dwell); name it"
                row.fault(columns.event, wrong)
        if not source.accepts(row):
            continue
        user_row = users.setdefault(reader, len(users))
        user_of.append(user_row)
        article_of.append(known[news_id])
        time_of.append(epoch_seconds(at))
        kind_of.append(numbers[name])
        seconds_of.append(math.nan if read is None else read)
        if columns.impression_id:
            page_of.append(pages.setdefault((user_row, page_id), len(pages)) if page_id else _NONE)
        if columns.position:
            position_of.append(math.inf if place is None else place)
    user, article, time = (np.frombuffer(each, np.int64) for each in (user_of, article_of, time_of))
    kind, seconds = np.frombuffer(kind_of, np.uint8), np.frombuffer(seconds_of, np.float64)
    # A column that the map does not name takes no memory.
    page = np.frombuffer(page_of, np.int64) if page_of else np.broadcast_to(np.int64(_NONE), len(time))
    position = np.frombuffer(position_of) if position_of else np.broadcast_to(math.inf, len(time))
    return EventLog(list(users), user, article, time, kind, page, position, seconds)


class EventImpressions(MadeImpressions):
    """Impressions of a log of events: the views of a page, in order, and the clicks on them.

    Views with the same page id and reader are one impression, wherever they are in the log. Those without an
    id are one impression while each is less than `gap_minutes` after the one before. An article that is shown
    twice counts once. The time of an impression is that of its first event.

    A click belongs to the impression of its page id if that shows the article; otherwise to the latest one
    that showed the article to this reader, at most `click_minutes` before. Any other click is only history. A
    reading time, a comment or a share belongs to the reader's latest click on the article.

    Args:
        events: the log.
        news_ids: ids of the articles, by row.
        columns: how events are grouped.

    Attributes:
        clicks_without_view: clicks that are only history.
        unmatched: reading times, comments and shares without a click, and hides without a view: left out.
    """

    def __init__(self, events: EventLog, news_ids: Sequence[str], columns: EventColumns) -> None:
        width = max(1, len(news_ids))
        pair = events.user * width + events.article
        page = _pages(events, round(columns.gap_minutes * 60))
        shown = _shown(events, page, width)
        self._article = events.article[shown]
        begins = np.flatnonzero(np.diff(page[shown], prepend=-1))
        self._bounds = np.append(begins, len(shown))

        place_of = _places(page[shown] * width + self._article)
        viewed = _latest(pair, events.time, events.kind == VIEWS)
        recent = (viewed != _NONE) & (events.time - events.time[viewed] <= round(columns.click_minutes * 60))
        place = place_of(np.where(recent, page[viewed], _NONE) * width + events.article)
        named = place_of(page * width + events.article)
        place = np.where(named != _NONE, named, place)  # [events], of the article in an impression

        clicks = np.flatnonzero(events.kind == CLICKS)
        signals, lost = _signals(events, pair, clicks)
        place_of_click = place[clicks]
        on_page = place_of_click != _NONE
        self._clicked = np.zeros(len(shown), np.bool_)
        self._clicked[place_of_click[on_page]] = True
        self._followed = SignalTexts(place_of_click[signals.click], signals)
        self.clicks_without_view = int((~on_page).sum())
        self.unmatched = lost + int((place[events.kind == HIDES] == _NONE).sum())

        # A click that is logged before its view begins the impression: it must not be in its own history.
        rows = np.concatenate([np.flatnonzero(events.kind == VIEWS), clicks[on_page]])
        pages = np.concatenate([page[events.kind == VIEWS], page[shown[place_of_click[on_page]]]])
        numbers = np.searchsorted(page[shown[begins]], pages)
        self._user = events.user[shown[begins]]
        self._time, first_row = (np.full(len(begins), np.iinfo(np.int64).max) for _ in range(2))
        np.minimum.at(self._time, numbers, events.time[rows])
        np.minimum.at(first_row, numbers, rows)
        self._order = np.lexsort((first_row, self._time))
        user, article, time = (column[clicks] for column in (events.user, events.article, events.time))
        log = FirstClicks(events.users, user, article, time, signals)
        super().__init__(log, news_ids, columns, self._time)

    def pages(self, split: str, after: int, until: int) -> Iterator[Page]:
        """Impressions within a period, in the order of time."""
        for number in self._order.tolist():
            time = int(self._time[number])
            if after < time <= until:
                places = np.arange(*self._bounds[number : number + 2])
                yield Page(
                    int(self._user[number]),
                    time,
                    self._article[places].tolist(),
                    self._clicked[places].tolist(),
                    self._followed.of(places),
                )


def _pages(events: EventLog, gap_seconds: int) -> Integers:
    """Number of the page of each view, and of each other event that names one; else -1: int64 [n]."""
    page = events.page.copy()
    loose = np.flatnonzero((events.kind == VIEWS) & (page == _NONE))
    loose = loose[np.lexsort((events.time[loose], events.user[loose]))]
    user, time = events.user[loose], events.time[loose]
    begins = (np.diff(user, prepend=_NONE) != 0) | (np.diff(time, prepend=0) >= gap_seconds)
    page[loose] = page.max(initial=_NONE) + np.cumsum(begins)
    return page


def _shown(events: EventLog, page: Integers, width: int) -> Integers:
    """The view that counts of each article of each page, page by page and in the order of the list."""
    views = np.flatnonzero(events.kind == VIEWS)
    views = views[np.lexsort((events.time[views], events.position[views], page[views]))]
    first = np.unique(page[views] * width + events.article[views], return_index=True)[1]
    return views[np.sort(first)]


def _latest(key: Integers, time: Integers, target: Flags) -> Integers:
    """For each event the newest target of its key at or before its time; -1 if there is none: int64 [n]."""
    order = np.lexsort((~target, time, key))  # of one second, targets come first
    newest = np.maximum.accumulate(np.where(target[order], np.arange(len(order)), _NONE))
    found = np.where(newest == _NONE, _NONE, order[newest])
    latest = np.empty_like(order)
    latest[order] = np.where(key[found] == key[order], found, _NONE)
    return latest


def _places(keys: Integers) -> Callable[[Integers], Integers]:
    """A function that finds the places of keys among some different ones: int64 [n]; -1 for others."""
    order = np.argsort(keys)
    ordered = keys[order]

    def place_of(wanted: Integers) -> Integers:
        if not len(ordered):
            return np.full(len(wanted), _NONE)
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return np.where(ordered[place] == wanted, order[place], _NONE)

    return place_of


def _signals(events: EventLog, pair: Integers, clicks: Integers) -> tuple[Signals, int]:
    """What followed each click, by its number among the clicks; and the number of signals without a click."""
    click = _latest(pair, events.time, events.kind == CLICKS)
    parts, lost = [Signals.of_dwell(events.time[clicks], events.seconds[clicks])], 0
    for kind, name in ((DWELLS, "dwell"), (COMMENTS, "comments"), (SHARES, "shares")):
        rows = np.flatnonzero(events.kind == kind)
        lost += int((click[rows] == _NONE).sum())
        rows = rows[click[rows] != _NONE]
        value = events.seconds[rows] if kind == DWELLS else np.ones(len(rows))
        number = np.searchsorted(clicks, click[rows])
        parts.append(Signals(number, np.full(len(rows), KEYS.index(name)), value, events.time[rows]))
    return Signals.joined(*parts), lost
