"""Logs of clicks and events in memory: what readers had clicked at a moment, and impressions made of them."""

import math
import random
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Impression
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.column_map import EVENTS, ClickColumns, EventColumns
from genre_tf.data.layouts.tables import Source
from genre_tf.data.lines import shown
from genre_tf.data.mind import epoch_seconds, epoch_time, mind_time
from genre_tf.data.signals import KEYS, Signal

Integers = npt.NDArray[np.int64]
Events = npt.NDArray[np.void]

VIEWS, CLICKS, DWELLS, COMMENTS, SHARES, HIDES = range(len(EVENTS))
TRAIN, DEV = "train", "dev"
_KEY_OF = {CLICKS: 0, DWELLS: 0, COMMENTS: 1, SHARES: 2}  # places in KEYS
_DAY_S = int(timedelta(days=1).total_seconds())
_NONE = -1
_TRIES = 4
"""Random draws per wanted article before all unread articles are listed; few draws hit read ones."""


EVENT = np.dtype(
    [
        ("user", np.int64),  # row of the reader
        ("article", np.int64),  # row of the catalogue
        ("time", np.int64),  # seconds since 1970
        ("kind", np.uint8),  # such as CLICKS
        ("page", np.int64),  # number of the page view or session that the event names; -1: none
        ("position", np.float64),  # place in the list; infinite if unknown
        ("value", np.float64),  # seconds that were read, NaN if unknown; number of comments or shares
    ],
    align=True,
)
"""An event of a log. Logs of events and of clicks are arrays of them: 56 bytes for each row, in memory."""


def read_events(
    source: Source,
    patterns: Sequence[str],
    columns: EventColumns,
    users: dict[str, int],
    known: Mapping[str, int],
) -> Iterator[tuple[Any, ...]]:
    """The events of some files; `users` gets the rows of the readers, `known` has those of the articles."""
    pages = dict[tuple[int, str], int]()
    kinds, numbers = columns.kinds(), {name: number for number, name in enumerate(EVENTS)}
    required = (columns.user_id, columns.news_id, columns.time, columns.event)
    wanted = (*required, columns.dwell, columns.position, columns.impression_id)
    for row in source.rows(patterns, wanted, columns.skip):
        reader, news_id = (row.read(column, cells.one_id) for column in required[:2])
        unknown = news_id is not None and news_id not in known
        if unknown and columns.drop_unknown:
            source.counts.dropped += 1
            continue
        at = row.read(columns.time, cells.moment, source.reading.time_unit)
        read = row.read(columns.dwell, cells.if_any(cells.seconds))
        if unknown:
            row.fault(columns.news_id, f"{shown(news_id)} is not among the articles; add the article")
        if read is not None and not 0 <= read < math.inf:
            row.fault(columns.dwell, f"{read} is not a finite number of seconds of at least 0")
        name = row.read(columns.event, cells.event, kinds) if columns.event else "clicks"
        place = row.read(columns.position, cells.if_any(cells.position))
        page_id = row.read(columns.impression_id, cells.if_any(cells.one_id))
        if name == "dwells" and read is None and not row.faults:
            if columns.dwell:
                row.fault(columns.dwell, "is empty; a reading time needs a number of seconds")
            else:
                wrong = "is a reading time, but the map names no column of seconds (dwell); name it"
                row.fault(columns.event, wrong)
        if source.accepts(row):
            user = users.setdefault(reader, len(users))
            page = pages.setdefault((user, page_id), len(pages)) if page_id else _NONE
            position = math.inf if place is None else place
            value = 1.0 if name in ("comments", "shares") else math.nan if read is None else read
            yield user, known[news_id], epoch_seconds(at), numbers[name], page, position, value


class SignalTexts:
    """Signals by a key, in the form of the column of signals: `dwell=35,shares=1`; equal kinds are added up.

    Args:
        log: `EVENT` [events].
        rows: int64 [n], those of the log that are signals.
        key: int64 [n], such as the row of a click.
    """

    def __init__(self, log: Events, rows: Integers, key: Integers) -> None:
        order = np.argsort(key, kind="stable")
        kind, value, time = (log[name][rows[order]] for name in ("kind", "value", "time"))
        # A reading time in the row of its click begins with the click; all else is over when it is logged.
        time += np.ceil(np.where(kind == CLICKS, value, 0)).astype(np.int64)
        self._key, self._entries = key[order], (kind, value, time)

    def of(self, keys: Integers, before: int | None = None) -> list[str]:
        """The texts of some keys, empty if nothing is known; with `before`, of what was known by then."""
        texts = []
        begins, ends = (np.searchsorted(self._key, keys, side).tolist() for side in ("left", "right"))
        for begin, end in zip(begins, ends, strict=True):
            sums: dict[int, float] = {}
            entries = [column[begin:end].tolist() for column in self._entries] if begin < end else [()] * 3
            for kind, value, known in zip(*entries, strict=True):
                if before is None or known < before:
                    place = _KEY_OF[kind]
                    sums[place] = sums.get(place, 0.0) + value
            texts.append(",".join(f"{KEYS[place]}={sums[place]:g}" for place in sorted(sums)))
        return texts


class FirstClicks:
    """Clicks in the order of time: each reader's first click on each article, and what followed the clicks.

    A page that is loaded again is not a new choice. A reading time, a comment or a share belongs to the
    reader's latest click on the article. In memory about 50 bytes per click, and 32 more if it has signals.

    Args:
        log: `EVENT` [events], in the order of its rows.
        users: names of the readers.

    Attributes:
        user, article, time: int64 [clicks].
        pair: int64 [events], reader and article as one number: reader * `width` + article.
        signals: int64 [signals], the rows of what followed clicks.
        click_of: int64 [signals], the rows of the clicks.
        lost: number of signals without a click.
    """

    def __init__(self, log: Events, users: Iterable[str]) -> None:
        self.users, self.width = list(users), int(log["article"].max(initial=0)) + 1
        self.pair = log["user"] * self.width + log["article"]
        is_click, is_signal = log["kind"] == CLICKS, np.isin(log["kind"], (DWELLS, COMMENTS, SHARES))
        latest = _latest(self.pair, log["time"], is_click)
        own = is_click & ~np.isnan(log["value"])
        self.lost = int((latest[is_signal] == _NONE).sum())
        self.signals = np.flatnonzero(own | (is_signal & (latest != _NONE)))
        self.click_of = np.where(own[self.signals], self.signals, latest[self.signals])
        self._of_click = SignalTexts(log, self.signals, self.click_of)
        self._of_pair = SignalTexts(log, self.signals, self.pair[self.signals])

        clicks = np.flatnonzero(is_click)
        clicks = clicks[np.argsort(log["time"][clicks], kind="stable")]
        self._row = clicks[np.sort(np.unique(self.pair[clicks], return_index=True)[1])]
        self.user, self.article, self.time = (log[name][self._row] for name in ("user", "article", "time"))
        by_user = np.argsort(self.user, kind="stable")
        self._articles, self._times = self.article[by_user], self.time[by_user]
        self._begins = np.searchsorted(self.user[by_user], np.arange(len(self.users) + 1))

    def before(self, user: int, time: int, newest: int = 0) -> tuple[list[int], list[str]]:
        """A reader's history at a moment: articles clicked strictly before it, oldest first.

        Returns:
            Rows of the `newest` articles (0: all), and the signals of each that were known before the moment.
        """
        begin, end = self._begins[user], self._begins[user + 1]
        end = begin + np.searchsorted(self._times[begin:end], time)
        articles = self._articles[max(begin, end - newest) if newest else begin : end]
        return articles.tolist(), self._of_pair.of(user * self.width + articles, time)

    def signals_of(self, click: int) -> str:
        """What followed a click."""
        return self._of_click.of(self._row[[click]])[0]

    def ever_read(self, user: int) -> set[int]:
        """All articles that a reader clicks at any time."""
        return set(self._articles[self._begins[user] : self._begins[user + 1]].tolist())


class History(NamedTuple):
    """A reader's earlier clicks, oldest first, and what followed them, as in a line of MIND's format."""

    news_ids: str = ""  # N1 N2
    signals: str = ""  # N1:dwell=35


class PastClicks:
    """Histories made of the clicks of a log of impressions, all splits in any order; `newest` 0 keeps all."""

    def __init__(self, impressions: Iterable[Impression], newest: int) -> None:
        self._users, self._rows, self._newest = dict[str, int](), dict[str, int](), newest
        log = np.fromiter(self._events(impressions), EVENT)
        self._clicks, self._news_ids = FirstClicks(log, self._users), list(self._rows)

    def _events(self, impressions: Iterable[Impression]) -> Iterator[tuple[Any, ...]]:
        for one in impressions:
            signals = {signal.news_id: signal for signal in one.signals or ()}
            user, time = self._users.setdefault(one.user_id, len(self._users)), epoch_seconds(one.time)
            for news_id in compress(one.candidates, one.clicked or ()):
                row = self._rows.setdefault(news_id, len(self._rows))
                _, dwell, comments, shares = signals.get(news_id, Signal(news_id))
                yield user, row, time, CLICKS, _NONE, 0, math.nan if dwell is None else dwell
                known = time + math.ceil(dwell or 0.0)  # the log does not say when the others came
                for kind, count in ((COMMENTS, comments), (SHARES, shares)):
                    if count:
                        yield user, row, known, kind, _NONE, 0, count

    def before(self, user: str, time: datetime, known: Container[str]) -> tuple[History, int]:
        """A history as of a moment, and the number of clicks on unknown articles, which are left out."""
        if user not in self._users:
            return History(), 0
        rows, signals_of = self._clicks.before(self._users[user], epoch_seconds(time), self._newest)
        pairs = [(self._news_ids[row], values) for row, values in zip(rows, signals_of, strict=True)]
        kept = [(news_id, values) for news_id, values in pairs if news_id in known]
        signals = " ".join(f"{news_id}:{values}" for news_id, values in kept if values)
        return History(" ".join(news_id for news_id, _ in kept), signals), len(pairs) - len(kept)


class LogLine(NamedTuple):
    """A line of a behaviours file, the number of clicks in its impression, and whether it has a history."""

    text: str
    clicks: int
    history: bool


class Page(NamedTuple):
    """What a reader was shown at one time."""

    user: int  # row of the reader
    time: int  # seconds since 1970
    # By the rows of the articles, in their order: None, or what followed a click, such as dwell=35.
    shown: dict[int, str | None]


Pages = Callable[[str, int, int], Iterator[Page]]
"""Impressions of a split, later than one time and not later than another, in the order of time."""


def made_lines(
    split: str,
    clicks: FirstClicks,
    news_ids: Sequence[str],
    columns: EventColumns,
    times: Integers,
    pages: Pages,
    named: set[int],
) -> Iterator[LogLine]:
    """Lines of a split in the order of time.

    Args:
        split: `dev`, the newest days, or `train`, the days before.
        clicks: what histories are made of.
        news_ids: ids of the articles, by row.
        columns: the days of each split, and the length of a history.
        times: int64 [n], times of all impressions, in seconds since 1970.
        pages: the impressions.
        named: gets the rows of the articles in the lines.
    """
    newest = int(times.max(initial=0))
    dev_begins = newest - round(columns.dev_days * _DAY_S)
    train_begins = dev_begins - round(columns.train_days * _DAY_S) if columns.train_days else -(1 << 62)
    period = (train_begins, dev_begins) if split == TRAIN else (dev_begins, newest)
    for number, page in enumerate(pages(split, *period), start=1):
        history, known = clicks.before(page.user, page.time, columns.newest)
        named.update(history, page.shown)
        # An article that was clicked before and now again keeps what was known of it: a history must not know
        # what follows.
        clicked = {row: followed for row, followed in page.shown.items() if followed is not None}
        signals = clicked | dict(zip(history, known, strict=True))
        fields = [str(number), clicks.users[page.user], mind_time(epoch_time(page.time))]
        fields.append(" ".join(news_ids[row] for row in history))
        fields.append(" ".join(f"{news_ids[row]}-{int(row in clicked)}" for row in page.shown))
        if len(clicks.signals):
            rows = dict.fromkeys([*history, *clicked])
            fields.append(" ".join(f"{news_ids[row]}:{signals[row]}" for row in rows if signals[row]))
        yield LogLine("\t".join(fields), len(clicked), bool(history))


def drawn_pages(
    clicks: FirstClicks, columns: ClickColumns, split: str, after: int, until: int
) -> Iterator[Page]:
    """Impressions made of clicks: each click, and available articles that the reader never clicks.

    An article can be drawn if anyone clicked it within the `pool_hours` before, so the only use of the future
    is that the reader never clicks it. A click without any article to draw makes no impression, but is later
    history like any other. Equal seeds give equal lines.
    """
    generator = random.Random(f"{columns.seed} {split}")
    pool = _Pool(clicks, round(columns.pool_hours * 3600), columns.pool == "clicks")
    for click in np.flatnonzero((clicks.time > after) & (clicks.time <= until)).tolist():
        user, time, clicked = int(clicks.user[click]), int(clicks.time[click]), int(clicks.article[click])
        pool.move(time)
        others = pool.draw(columns.negatives, clicks.ever_read(user), generator)
        if others:
            rows = [clicked, *others]
            generator.shuffle(rows)
            followed = clicks.signals_of(click)
            yield Page(user, time, {row: followed if row == clicked else None for row in rows})


class _Pool:
    """Articles that were clicked within some seconds before a moment, which moves forward."""

    def __init__(self, log: FirstClicks, seconds: int, by_clicks: bool) -> None:
        self._log, self._seconds, self._by_clicks = log, seconds, by_clicks
        self._oldest = self._next = 0  # clicks from number `_oldest` to before `_next` are in the pool
        self._articles: list[int] = []
        self._places = dict[int, int]()  # of the articles in the list
        self._newest = dict[int, int]()  # of each article: number of its newest click

    def move(self, now: int) -> None:
        """Moves to a later moment; clicks of that very second are not in the pool yet."""
        time, article = self._log.time, self._log.article
        while self._next < len(time) and time[self._next] < now:
            row = int(article[self._next])
            self._newest[row] = self._next
            if row not in self._places:
                self._places[row] = len(self._articles)
                self._articles.append(row)
            self._next += 1
        while self._oldest < self._next and time[self._oldest] < now - self._seconds:
            row = int(article[self._oldest])
            if self._newest[row] == self._oldest:  # the last article of the list takes its place
                place, last = self._places.pop(row), self._articles.pop()
                if last != row:
                    self._articles[place], self._places[last] = last, place
            self._oldest += 1

    def draw(self, count: int, without: set[int], generator: random.Random) -> list[int]:
        """At most `count` different articles, none of `without`."""
        found: dict[int, None] = {}
        for _ in range(_TRIES * count if self._articles else 0):
            if self._by_clicks:
                one = int(self._log.article[generator.randrange(self._oldest, self._next)])
            else:
                one = self._articles[generator.randrange(len(self._articles))]
            if one not in without:
                found[one] = None
            if len(found) == count:
                return list(found)
        left = [one for one in self._articles if one not in without and one not in found]
        generator.shuffle(left)
        return [*found, *left][:count]


class ViewedPages:
    """Impressions of a log of events: the views of a page, in order, and the clicks on them.

    Views with the same page id and reader are one impression, wherever they are in the log. Those without an
    id are one impression while each is less than `gap_minutes` after the one before. An article that is shown
    twice counts once. The time of an impression is that of its first event.

    A click belongs to the impression of its page id if that shows the article; otherwise to the latest one
    that showed the article to this reader, at most `click_minutes` before. Any other click is only history.

    Attributes:
        times: int64 [n], of all impressions.
        clicks_without_view: clicks that are only history.
        unmatched: reading times, comments and shares without a click, and hides without a view: left out.
    """

    def __init__(self, log: Events, clicks: FirstClicks, columns: EventColumns) -> None:
        width, kind, time, article = clicks.width, log["kind"], log["time"], log["article"]
        views, is_click = np.flatnonzero(kind == VIEWS), kind == CLICKS
        page = _pages(log, round(columns.gap_minutes * 60))
        ordered = views[np.lexsort((time[views], log["position"][views], page[views]))]
        first = np.unique(page[ordered] * width + article[ordered], return_index=True)[1]
        counted = ordered[np.sort(first)]  # the views that count, page by page and in the order of the list
        self._article = article[counted]
        begins = np.flatnonzero(np.diff(page[counted], prepend=-1))
        self._bounds = np.append(begins, len(counted))

        place_of = _places(page[counted] * width + self._article)
        viewed = _latest(clicks.pair, time, kind == VIEWS)
        recent = (viewed != _NONE) & (time - time[viewed] <= round(columns.click_minutes * 60))
        place = place_of(np.where(recent, page[viewed], _NONE) * width + article)
        named = place_of(page * width + article)
        place = np.where(named != _NONE, named, place)  # [events], of the article in an impression
        on_page = np.flatnonzero(is_click & (place != _NONE))
        self._clicked = np.zeros(len(counted), np.bool_)
        self._clicked[place[on_page]] = True
        self._followed = SignalTexts(log, clicks.signals, place[clicks.click_of])
        self.clicks_without_view = int(is_click.sum()) - len(on_page)
        self.unmatched = clicks.lost + int((place[kind == HIDES] == _NONE).sum())

        # A click that is logged before its view begins the impression: it must not be in its own history.
        rows = np.concatenate([views, on_page])
        pages = np.concatenate([page[views], page[counted[place[on_page]]]])
        numbers = np.searchsorted(page[counted[begins]], pages)
        self._user = log["user"][counted[begins]]
        self.times, first_row = (np.full(len(begins), np.iinfo(np.int64).max) for _ in range(2))
        np.minimum.at(self.times, numbers, time[rows])
        np.minimum.at(first_row, numbers, rows)
        self._order = np.lexsort((first_row, self.times))

    def pages(self, split: str, after: int, until: int) -> Iterator[Page]:
        """See `Pages`."""
        for number in self._order.tolist():
            user, time = int(self._user[number]), int(self.times[number])
            if after < time <= until:
                places = np.arange(*self._bounds[number : number + 2])
                columns = (self._article[places].tolist(), self._clicked[places], self._followed.of(places))
                of_page = zip(*columns, strict=True)
                yield Page(user, time, {row: text if hit else None for row, hit, text in of_page})


def _pages(log: Events, gap_seconds: int) -> Integers:
    """Number of the page of each view, and of each other event that names one; else -1: int64 [n]."""
    page = log["page"].copy()
    loose = np.flatnonzero((log["kind"] == VIEWS) & (page == _NONE))
    loose = loose[np.lexsort((log["time"][loose], log["user"][loose]))]
    user, time = log["user"][loose], log["time"][loose]
    begins = (np.diff(user, prepend=_NONE) != 0) | (np.diff(time, prepend=0) >= gap_seconds)
    page[loose] = page.max(initial=_NONE) + np.cumsum(begins)
    return page


def _latest(key: Integers, time: Integers, target: npt.NDArray[np.bool_]) -> Integers:
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
