"""The clicks of each reader, and what is made of them: histories of any moment, and impressions."""

import math
import random
from abc import ABC, abstractmethod
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Impression
from genre_tf.data.layouts.cells import mind_time
from genre_tf.data.layouts.column_map import ClickColumns, EventColumns
from genre_tf.data.mind import epoch_seconds, epoch_time
from genre_tf.data.signals import KEYS, Signal

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
DAY_S = int(timedelta(days=1).total_seconds())

TRAIN, DEV = "train", "dev"
_TRIES = 4
"""Random draws per wanted article before all unread articles are listed; few draws hit read ones."""


class Signals(NamedTuple):
    """What followed clicks: reading times, comments and shares, one entry each.

    Args:
        click: int64 [n], numbers of the clicks.
        kind: int64 [n], places in `KEYS`.
        value: float64 [n], seconds of reading, or the number of comments or shares.
        known: int64 [n], when each was over, in seconds since 1970; a history knows only what is earlier.
    """

    click: Integers
    kind: Integers
    value: Floats
    known: Integers

    @classmethod
    def of_dwell(cls, time: Integers, seconds: Floats) -> "Signals":
        """Reading times that begin with their click, of all clicks in the order of their numbers.

        Args:
            time: int64 [n], of the clicks.
            seconds: float64 [n]; NaN if unknown.
        """
        click = np.flatnonzero(~np.isnan(seconds))
        known = time[click] + np.ceil(seconds[click]).astype(np.int64)
        return cls(click, np.full(len(known), KEYS.index("dwell")), seconds[click], known)

    @classmethod
    def joined(cls, *parts: "Signals") -> "Signals":
        """All entries of several."""
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class SignalTexts:
    """Signals by a key, in the form of the column of signals: `dwell=35,shares=1`; equal kinds are added up.

    Args:
        key: int64 [n], such as a number of a click.
        signals: n entries.
    """

    def __init__(self, key: Integers, signals: Signals) -> None:
        order = np.argsort(key, kind="stable")
        self._key = key[order]
        self._kind, self._value, self._known = (column[order] for column in signals[1:])

    def of(self, keys: Integers, before: int | None = None) -> list[str]:
        """The texts of some keys, empty if nothing is known; with `before`, of what was known by then."""
        begins, ends = (np.searchsorted(self._key, keys, side) for side in ("left", "right"))
        pairs = zip(begins.tolist(), ends.tolist(), strict=True)
        return [self._text(slice(*pair), before) if pair[0] < pair[1] else "" for pair in pairs]

    def _text(self, entries: slice, before: int | None) -> str:
        sums: dict[int, float] = {}
        columns = (self._kind, self._value, self._known)
        for kind, value, known in zip(*(column[entries].tolist() for column in columns), strict=True):
            if before is None or known < before:
                sums[kind] = sums.get(kind, 0.0) + value
        return ",".join(f"{KEYS[kind]}={sums[kind]:g}" for kind in sorted(sums))


class FirstClicks:
    """Clicks in the order of time: each reader's first click on each article, and what followed the clicks.

    A page that is loaded again is not a new choice. All clicks are held in memory for sorting: about 50 bytes
    per click, and 32 more if it has signals.

    Args:
        users: names of the readers.
        user: int64 [n], reader of each click, as a row of `users`.
        article: int64 [n], clicked article, as a row of the catalogue.
        time: int64 [n], seconds since 1970.
        signals: what followed them; its clicks are numbered as these arrays are.
    """

    def __init__(
        self, users: list[str], user: Integers, article: Integers, time: Integers, signals: Signals
    ) -> None:
        order = np.argsort(time, kind="stable")
        self._width = int(article.max(initial=0)) + 1
        pairs = user * self._width + article
        self._of_click = SignalTexts(signals.click, signals)
        self._of_pair = SignalTexts(pairs[signals.click], signals)
        order = order[np.sort(np.unique(pairs[order], return_index=True)[1])]
        self.users, self.has_signals = users, len(signals.click) > 0
        self.user, self.article, self.time, self._number = user[order], article[order], time[order], order
        by_user = np.argsort(self.user, kind="stable")
        self._articles, self._times = self.article[by_user], self.time[by_user]
        self._begins = np.searchsorted(self.user[by_user], np.arange(len(users) + 1))

    def before(self, user: int, time: int, newest: int = 0) -> tuple[list[int], list[str]]:
        """A reader's history at a moment: articles clicked strictly before it, oldest first.

        Args:
            user: row of the reader.
            time: the moment.
            newest: number of clicks to keep; 0: all.

        Returns:
            Rows of the articles, and the signals of each as far as they were known before the moment.
        """
        begin, end = self._begins[user], self._begins[user + 1]
        end = begin + np.searchsorted(self._times[begin:end], time)
        articles = self._articles[max(begin, end - newest) if newest else begin : end]
        return articles.tolist(), self._of_pair.of(user * self._width + articles, time)

    def signals_of(self, click: int) -> str:
        """What followed a click."""
        return self._of_click.of(self._number[[click]])[0]

    def ever_read(self, user: int) -> set[int]:
        """All articles that a reader clicks at any time."""
        return set(self._articles[self._begins[user] : self._begins[user + 1]].tolist())


class History(NamedTuple):
    """A reader's earlier clicks, oldest first, and what followed them, as in a line of MIND's format."""

    news_ids: str = ""  # N1 N2
    signals: str = ""  # N1:dwell=35


class PastClicks:
    """Histories made of the clicks of a log.

    Args:
        impressions: the log, of all its splits and in any order.
        newest: number of clicks to keep of a history; 0: all.
    """

    def __init__(self, impressions: Iterable[Impression], newest: int) -> None:
        self._users, self._rows, self._newest = dict[str, int](), dict[str, int](), newest
        user_of, article_of, time_of = array("q"), array("q"), array("q")
        followed = [array("d") for _ in KEYS]
        for one in impressions:
            signals = {signal.news_id: signal for signal in one.signals or ()}
            for news_id in compress(one.candidates, one.clicked or ()):
                user_of.append(self._users.setdefault(one.user_id, len(self._users)))
                article_of.append(self._rows.setdefault(news_id, len(self._rows)))
                time_of.append(epoch_seconds(one.time))
                values = signals.get(news_id, Signal(news_id))[1:]
                for column, value in zip(followed, values, strict=True):
                    column.append(math.nan if value is None else value)
        user, article, time = (np.frombuffer(each, np.int64) for each in (user_of, article_of, time_of))
        dwell, *counts = (np.frombuffer(each, np.float64) for each in followed)
        parts = [Signals.of_dwell(time, dwell)]
        known = time + np.ceil(np.nan_to_num(dwell)).astype(np.int64)  # the log does not say when they came
        for kind, count in enumerate(counts, start=1):
            click = np.flatnonzero(count)
            parts.append(Signals(click, np.full(len(click), kind), count[click], known[click]))
        self._log = FirstClicks(list(self._users), user, article, time, Signals.joined(*parts))
        self._news_ids = list(self._rows)

    def before(self, user: str, time: datetime, known: Container[str]) -> tuple[History, int]:
        """A reader's history at a moment: articles clicked strictly before it.

        Returns:
            The history, and the number of clicks on articles that are not `known`, which are left out.
        """
        if user not in self._users:
            return History(), 0
        rows, signals_of = self._log.before(self._users[user], epoch_seconds(time), self._newest)
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
    shown: list[int]  # rows of the articles, in their order
    clicked: list[bool]  # which of them were clicked
    signals: list[str]  # what followed each click, such as dwell=35; empty if nothing is known


class MadeImpressions(ABC):
    """Lines of a split's log; the newest days are `dev`, the days before are `train`.

    Args:
        log: the clicks, of which histories are made.
        news_ids: ids of the articles, by row.
        columns: the days of each split, and the length of a history.
        times: int64 [n], times of the impressions, in seconds since 1970.
    """

    def __init__(
        self, log: FirstClicks, news_ids: Sequence[str], columns: ClickColumns | EventColumns, times: Integers
    ) -> None:
        self.log, self._news_ids, self._newest_clicks = log, news_ids, columns.newest
        self._dev_days, self._oldest = columns.dev_days, int(times.min(initial=1 << 62))
        newest = int(times.max(initial=0))
        dev_begins = newest - round(columns.dev_days * DAY_S)
        train_begins = dev_begins - round(columns.train_days * DAY_S) if columns.train_days else -(1 << 62)
        self._periods = {TRAIN: (train_begins, dev_begins), DEV: (dev_begins, newest)}
        self.named: dict[int, None] = {}

    @property
    def reach(self) -> str:
        """The time that the log covers, for the message that a split is empty."""
        newest = self._periods[DEV][1]
        if self._oldest > newest:
            return "no row of it shows an article"
        return (
            f"it reaches from {epoch_time(self._oldest)} to {epoch_time(newest)}, and the newest "
            f"{self._dev_days:g} days are dev (dev_days)"
        )

    @abstractmethod
    def pages(self, split: str, after: int, until: int) -> Iterator[Page]:
        """Impressions later than one time and not later than another, in the order of time."""

    def lines(self, split: str) -> Iterator[LogLine]:
        """Lines of `train` or `dev`, in the order of time; `named` then holds the articles in them."""
        self.named = {}
        for number, page in enumerate(self.pages(split, *self._periods[split]), start=1):
            yield self._line(number, page)

    def _line(self, number: int, page: Page) -> LogLine:
        history, known = self.log.before(page.user, page.time, self._newest_clicks)
        self.named |= dict.fromkeys([*history, *page.shown])
        ids = self._news_ids
        fields = [
            str(number),
            self.log.users[page.user],
            mind_time(epoch_time(page.time)),
            " ".join(ids[row] for row in history),
            " ".join(f"{ids[row]}-{int(hit)}" for row, hit in zip(page.shown, page.clicked, strict=True)),
        ]
        if self.log.has_signals:
            # An article that was clicked before and now again keeps what was known of it: a history must not
            # know what follows.
            signals = dict(zip(history, known, strict=True))
            for row, followed in compress(zip(page.shown, page.signals, strict=True), page.clicked):
                signals.setdefault(row, followed)
            fields.append(" ".join(f"{ids[row]}:{values}" for row, values in signals.items() if values))
        return LogLine("\t".join(fields), sum(page.clicked), bool(history))


class DrawnImpressions(MadeImpressions):
    """Impressions made of clicks: each click, and available articles that the reader never clicks.

    An article can be drawn if anyone clicked it within the `pool_hours` before, so the only use of the future
    is that the reader never clicks it. A click without any article to draw makes no impression, but is later
    history like any other. Equal seeds give equal lines.
    """

    def __init__(self, log: FirstClicks, news_ids: Sequence[str], columns: ClickColumns) -> None:
        super().__init__(log, news_ids, columns, log.time)
        self._columns = columns

    def pages(self, split: str, after: int, until: int) -> Iterator[Page]:
        """Impressions of the clicks within a period, in the order of time."""
        columns, log = self._columns, self.log
        generator = random.Random(f"{columns.seed} {split}")
        pool = _Pool(log, round(columns.pool_hours * 3600), columns.pool == "clicks")
        for click in np.flatnonzero((log.time > after) & (log.time <= until)).tolist():
            user, time, clicked = int(log.user[click]), int(log.time[click]), int(log.article[click])
            pool.move(time)
            others = pool.draw(columns.negatives, log.ever_read(user), generator)
            if not others:
                continue
            shown = [clicked, *others]
            generator.shuffle(shown)
            hits = [row == clicked for row in shown]
            followed = log.signals_of(click)
            yield Page(user, time, shown, hits, [followed if hit else "" for hit in hits])


class _Pool:
    """Articles that were clicked within some seconds before a moment, which moves forward."""

    def __init__(self, log: FirstClicks, seconds: int, by_clicks: bool) -> None:
        self._log, self._seconds, self._by_clicks = log, seconds, by_clicks
        self._oldest = self._next = 0  # clicks from number `_oldest` to before `_next` are in the pool
        self._counts: dict[int, int] = {}
        self._articles: list[int] = []
        self._places: dict[int, int] = {}

    def move(self, now: int) -> None:
        """Moves to a later moment; clicks of that very second are not in the pool yet."""
        time, article = self._log.time, self._log.article
        while self._next < len(time) and time[self._next] < now:
            self._add(int(article[self._next]))
            self._next += 1
        while self._oldest < self._next and time[self._oldest] < now - self._seconds:
            self._remove(int(article[self._oldest]))
            self._oldest += 1

    def draw(self, count: int, without: set[int], generator: random.Random) -> list[int]:
        """At most `count` different articles, none of `without`."""
        found: dict[int, None] = {}
        for _ in range(_TRIES * count if self._articles else 0):
            one = self._one(generator)
            if one not in without:
                found[one] = None
            if len(found) == count:
                return list(found)
        left = [one for one in self._articles if one not in without and one not in found]
        generator.shuffle(left)
        return [*found, *left][:count]

    def _one(self, generator: random.Random) -> int:
        if self._by_clicks:
            return int(self._log.article[generator.randrange(self._oldest, self._next)])
        return self._articles[generator.randrange(len(self._articles))]

    def _add(self, article: int) -> None:
        self._counts[article] = self._counts.get(article, 0) + 1
        if self._counts[article] == 1:
            self._places[article] = len(self._articles)
            self._articles.append(article)

    def _remove(self, article: int) -> None:
        self._counts[article] -= 1
        if not self._counts[article]:
            place, last = self._places.pop(article), self._articles.pop()
            if last != article:
                self._articles[place] = last
                self._places[last] = place
