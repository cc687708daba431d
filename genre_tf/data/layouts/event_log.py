"""A log of events, one row per view, click, share, ... of an article: read, and grouped into impressions."""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genre_tf.data.layouts import cells
from genre_tf.data.layouts.catalogue import RowFaults, cell_of
from genre_tf.data.layouts.click_log import ClickLog, Floats, Integers, Signals, SignalTexts, read_act
from genre_tf.data.layouts.column_map import EVENTS, ColumnMap, EventColumns
from genre_tf.data.layouts.made_impressions import MadeImpressions, Page
from genre_tf.data.layouts.source_files import Source
from genre_tf.data.layouts.tables import Row
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


def read_events(source: Source, column_map: ColumnMap, known: Mapping[str, int]) -> EventLog:
    """Reads a log of events.

    Args:
        source: where the files are.
        column_map: which columns of a log of events hold what.
        known: rows of the articles by their ids.

    Raises:
        InputError: an unusable file, or the policy stops.
    """
    if column_map.events is None or column_map.files is None:
        raise ValueError("this map does not describe a log of events")
    columns, users, pages = column_map.events, dict[str, int](), dict[tuple[int, str], int]()
    kinds, numbers = columns.kinds(), {name: number for number, name in enumerate(EVENTS)}
    integers = [array("q") for _ in range(4)]
    kind_of, position_of, seconds_of = bytearray(), array("d"), array("d")
    required = (columns.user_id, columns.news_id, columns.time, columns.event)
    wanted = (*required, columns.dwell, columns.position, columns.impression_id)
    for path, number, row in source.rows(column_map.files.events, wanted, columns.skip):
        if columns.drop_unknown and _is_of_unknown_article(row, columns, known):
            source.dropped += 1
            continue
        faults: RowFaults = []
        act = read_act(row, columns, known, source.reading.time_unit, faults)
        name = cell_of(row, columns.event, lambda value: cells.event(value, kinds), faults)
        position = cell_of(row, columns.position, cells.position, faults)
        page = cell_of(row, columns.impression_id, cells.id_if_any, faults)
        if name == "dwells" and math.isnan(act.seconds) and not faults:
            faults.append(_without_seconds(columns))
        if faults or act.user is None or act.news_id is None or act.time is None:
            source.reject(path, number, faults)
            continue
        user = users.setdefault(act.user, len(users))
        page_number = pages.setdefault((user, page), len(pages)) if page else _NONE
        for column, cell in zip(integers, (user, known[act.news_id], act.time, page_number), strict=True):
            column.append(cell)
        kind_of.append(numbers[name])
        position_of.append(math.inf if position is None else position)
        seconds_of.append(act.seconds)
    user_rows, article_rows, times, page_rows = (np.frombuffer(each, np.int64) for each in integers)
    position_values, seconds = (np.frombuffer(each, np.float64) for each in (position_of, seconds_of))
    kind = np.frombuffer(kind_of, np.uint8)
    return EventLog(list(users), user_rows, article_rows, times, kind, page_rows, position_values, seconds)


def _is_of_unknown_article(row: Row, columns: EventColumns, known: Mapping[str, int]) -> bool:
    news_id = cell_of(row, columns.news_id, cells.one_id, [])
    return news_id is not None and news_id not in known


def _without_seconds(columns: EventColumns) -> tuple[str, str]:
    if not columns.dwell:
        return columns.event, "is a reading time, but the map names no column of seconds (dwell); name it"
    return columns.dwell, "is empty; a reading time needs a number of seconds"


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

        place_of = _Places(page[shown] * width + self._article)
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
        log = ClickLog(events.users, user, article, time, signals)
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
    """For each event the newest target of the same key at or before its time; -1 if there is none.

    Args:
        key: int64 [n].
        time: int64 [n].
        target: bool [n].

    Returns:
        int64 [n].
    """
    order = np.lexsort((~target, time, key))  # of one second, targets come first
    newest = np.maximum.accumulate(np.where(target[order], np.arange(len(order)), _NONE))
    found = np.where(newest == _NONE, _NONE, order[newest])
    latest = np.empty_like(order)
    latest[order] = np.where(key[found] == key[order], found, _NONE)
    return latest


class _Places:
    """Places of different keys: int64 [m]; -1 for others."""

    def __init__(self, keys: Integers) -> None:
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def __call__(self, keys: Integers) -> Integers:
        """Places of keys: int64 [n] -> int64 [n]."""
        if not len(self._keys):
            return np.full(len(keys), _NONE)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._order[place], _NONE)


def _signals(events: EventLog, pair: Integers, clicks: Integers) -> tuple[Signals, int]:
    """What followed each click, by its number among the clicks; and the number of signals without a click."""
    click = _latest(pair, events.time, events.kind == CLICKS)
    of_click = Signals.of_dwell(np.arange(len(clicks)), events.time[clicks], events.seconds[clicks])
    parts, lost = [of_click], 0
    for kind, name in ((DWELLS, "dwell"), (COMMENTS, "comments"), (SHARES, "shares")):
        rows = np.flatnonzero(events.kind == kind)
        lost += int((click[rows] == _NONE).sum())
        rows = rows[click[rows] != _NONE]
        value = events.seconds[rows] if kind == DWELLS else np.ones(len(rows))
        number = np.searchsorted(clicks, click[rows])
        parts.append(Signals(number, np.full(len(rows), KEYS.index(name)), value, events.time[rows]))
    return Signals.joined(*parts), lost
