"""Impressions made from clicks: each click with available articles that the reader never clicked."""

import math
import random
from collections.abc import Iterator, Sequence

from genre_tf.data.counters import epoch_time
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.click_log import DAY_S, ClickLog
from genre_tf.data.layouts.column_map import ClickColumns
from genre_tf.data.layouts.history_files import dwell_text
from genre_tf.data.layouts.impression_rows import LogLine

TRAIN, DEV = "train", "dev"
_TRIES = 4
"""Random draws per wanted article before all unread articles are listed; few draws hit read ones."""


class MadeImpressions:
    """Lines of a split's log.

    An article can be drawn if anyone clicked it within the `pool_hours` before, so the only use of the future
    is that the reader never clicks it. A click without any article to draw makes no impression, but is later
    history like any other.

    Args:
        log: the clicks.
        news_ids: ids of the articles, by row.
        columns: how impressions are made.
    """

    def __init__(self, log: ClickLog, news_ids: Sequence[str], columns: ClickColumns) -> None:
        self._log, self._news_ids, self._columns = log, news_ids, columns
        newest = int(log.time[-1]) if len(log) else 0
        dev_begins = newest - round(columns.dev_days * DAY_S)
        train_begins = dev_begins - round(columns.train_days * DAY_S) if columns.train_days else -(1 << 62)
        self._periods = {TRAIN: (train_begins, dev_begins), DEV: (dev_begins, newest)}
        self.named: dict[int, None] = {}

    def lines(self, split: str) -> Iterator[LogLine]:
        """Lines of `train` or `dev`, in the order of time; equal seeds give equal lines.

        `named` then holds the articles that are in them.
        """
        after, until = self._periods[split]
        generator = random.Random(f"{self._columns.seed} {split}")
        pool = _Pool(self._log, round(self._columns.pool_hours * 3600), self._columns.pool == "clicks")
        self.named = {}
        number = 0
        for click in range(len(self._log)):
            if not after < self._log.time[click] <= until:
                continue
            pool.move(int(self._log.time[click]))
            others = pool.draw(self._columns.negatives, self._log.ever_read(click), generator)
            if others:
                number += 1
                yield LogLine(self._line(click, number, others, generator), 1)

    def _line(self, click: int, number: int, others: list[int], generator: random.Random) -> str:
        log, before = self._log, self._log.before(click)[-self._columns.newest :]  # 0 keeps all
        clicked = int(log.article[click])
        shown = [clicked, *others]
        generator.shuffle(shown)
        history = log.article[before].tolist()
        self.named |= dict.fromkeys([*history, *shown])
        fields = [
            str(number),
            log.users[log.user[click]],
            cells.mind_time(epoch_time(int(log.time[click]))),
            " ".join(self._news_ids[row] for row in history),
            " ".join(f"{self._news_ids[row]}-{int(row == clicked)}" for row in shown),
        ]
        if self._columns.dwell:
            read = zip(
                [*history, clicked], [*log.dwell[before].tolist(), float(log.dwell[click])], strict=True
            )
            told = (f"{self._news_ids[row]}:{dwell_text(time)}" for row, time in read if not math.isnan(time))
            fields.append(" ".join(told))
        return "\t".join(fields)


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
