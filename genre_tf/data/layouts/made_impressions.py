"""Impressions made from a log of clicks or events, split by time, with histories of the readers' clicks."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np

from genre_tf.data.counters import epoch_time
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.click_log import DAY_S, ClickLog, Integers
from genre_tf.data.layouts.column_map import ClickColumns, EventColumns
from genre_tf.data.layouts.impression_rows import LogLine

TRAIN, DEV = "train", "dev"
_TRIES = 4
"""Random draws per wanted article before all unread articles are listed; few draws hit read ones."""


class Page(NamedTuple):
    """What a reader was shown at one time.

    Args:
        user: row of the reader.
        time: seconds since 1970.
        shown: rows of the articles, in their order.
        clicked: which of them were clicked.
        signals: what followed each click, such as `dwell=35`; empty if nothing is known.
    """

    user: int
    time: int
    shown: list[int]
    clicked: list[bool]
    signals: list[str]


class MadeImpressions(ABC):
    """Lines of a split's log; the newest days are `dev`, the days before are `train`.

    Args:
        log: the clicks, of which histories are made.
        news_ids: ids of the articles, by row.
        columns: the days of each split, and the length of a history.
        times: int64 [n], times of the impressions, in seconds since 1970.
    """

    def __init__(
        self, log: ClickLog, news_ids: Sequence[str], columns: ClickColumns | EventColumns, times: Integers
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
        """Lines of `train` or `dev`, in the order of time.

        `named` then holds the articles that are in them.
        """
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
            cells.mind_time(epoch_time(page.time)),
            " ".join(ids[row] for row in history),
            " ".join(f"{ids[row]}-{int(hit)}" for row, hit in zip(page.shown, page.clicked, strict=True)),
        ]
        if self.log.has_signals:
            # An article that was clicked before and now again keeps what was known of it: a history must not
            # know what follows.
            told = dict(zip(history, known, strict=True))
            for row, followed in compress(zip(page.shown, page.signals, strict=True), page.clicked):
                told.setdefault(row, followed)
            fields.append(" ".join(f"{ids[row]}:{values}" for row, values in told.items() if values))
        return LogLine("\t".join(fields), sum(page.clicked), bool(history))


class DrawnImpressions(MadeImpressions):
    """Impressions made of clicks: each click, and available articles that the reader never clicks.

    An article can be drawn if anyone clicked it within the `pool_hours` before, so the only use of the future
    is that the reader never clicks it. A click without any article to draw makes no impression, but is later
    history like any other. Equal seeds give equal lines.

    Args:
        log: the clicks.
        news_ids: ids of the articles, by row.
        columns: how impressions are made.
    """

    def __init__(self, log: ClickLog, news_ids: Sequence[str], columns: ClickColumns) -> None:
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

    def __init__(self, log: ClickLog, seconds: int, by_clicks: bool) -> None:
        self._log, self._seconds, self._by_clicks = log, seconds, by_clicks
        self._oldest = self._next = (
            0  # clicks from number `_oldest` up to, not including, `_next` are in the pool
        )
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
