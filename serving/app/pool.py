"""The articles of the served version with the counters of the moment: what `recommend_live` is told."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.contract import ASSETS_FOLDER, CONTRACT_FILE, COUNTERS, MOST_LIVE, RECOMMENDER
from genre_tf.data.log_counters import HOUR_SECONDS, counter_columns, halved
from genre_tf.errors import InputError
from genre_tf.export.articles_file import IndexedArticle, read_articles
from genre_tf.export.publishing import versions
from genre_tf.files import read_json_object
from genre_tf.serving.app.model_server import inputs
from genre_tf.serving.app.storage import SLOT_SECONDS
from genre_tf.serving.client import calls

_AGE, _VIEWS = COUNTERS.index("age_hours"), COUNTERS.index("views")
_CLICKS_6H, _VIEWS_24H = COUNTERS.index("clicks_6h"), COUNTERS.index("views_24h")
_SAME_CLOCK_S = 48 * HOUR_SECONDS  # a log that ended longer before the export is an old one
_OPEN_SLOTS = 2  # newest slots, to which other processes may still add
_MOST_POPULAR = 500

Floats = npt.NDArray[np.float64]
Count = Sequence[Any]  # article, slot, clicks, views


@dataclass(frozen=True)
class Pool:
    """The articles of a version, and when their counters were taken, in seconds since 1970."""

    version: Path
    articles: dict[str, IndexedArticle]
    counters: Floats  # [articles, 9]
    moment: float
    since: float  # clicks and views of the app count from then on; earlier ones are in the counters

    @classmethod
    def read(cls, models: Path, version: int | None = None) -> "Pool":
        """The newest version in a MODELS folder, or another one.

        The clock of an old log is not today's: if the log ended more than two days before the export, its
        counters count as taken at the export.

        Raises:
            InputError: there is no version, or it has no list of articles.
        """
        found = versions(models / RECOMMENDER)
        if not found:
            raise InputError(f"no {RECOMMENDER} in {models}: give a folder that `genre export` wrote")
        folder = models / RECOMMENDER / str(version or found[-1])
        articles = {one.news_id: one for one in read_articles(folder)}
        file = folder / ASSETS_FOLDER / CONTRACT_FILE
        exported = file.stat().st_mtime
        told = read_json_object(file, "Export again.").get("sources", {}).get("counters_as_of")
        as_of = datetime.fromisoformat(told).replace(tzinfo=UTC).timestamp() if told else 0.0
        same_clock = 0 <= exported - as_of <= _SAME_CLOCK_S
        moment, since = (as_of, as_of) if same_clock else (exported, 0.0)
        counters = np.array([one.counters for one in articles.values()]).reshape(-1, len(COUNTERS))
        return cls(folder, articles, counters, moment, since)


@dataclass(frozen=True)
class Live:
    """Counters of the moment, ready to be sent."""

    of: Mapping[str, Sequence[float]]  # article -> its counters, those first that are read most
    rows: Mapping[str, bytes]  # the inputs of `recommend_live` for them
    message: bytes  # the same, as `ModelServer.ask` takes it
    popular: Sequence[str]  # articles by clicks that are halved every 6 hours, the best first

    @classmethod
    def of_counters(cls, of: Mapping[str, Sequence[float]], popular: Sequence[str]) -> "Live":
        """The counters of some articles."""
        found = calls.recommend_live([[]], [of]).inputs
        rows = {name: value[0] for name, value in found.items() if name != "history"}
        return cls(of, rows, _message(rows), popular)

    def without(self, articles: Collection[str]) -> bytes:
        """The message in which some articles count as never published and never seen: they are not found.

        They stand first, with zeros: the model server ignores that an article is named again.
        """
        if not articles:
            return self.message
        zeros = (b"0 " * len(articles)).strip()
        first = dict.fromkeys(self.rows, zeros) | {"news_id": " ".join(sorted(articles)).encode()}
        return _message({name: (first[name] + b" " + row).strip() for name, row in self.rows.items()})


def _message(rows: Mapping[str, bytes]) -> bytes:
    return inputs({name: np.array([row], object) for name, row in rows.items()})


class LiveCounters:
    """Adds the app's clicks and views to the counters of a version.

    The clicks and views of older slots are summed up once. Those of the newest slots are read again each
    time, because other processes of the app add to them.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._row_of = {news_id: row for row, news_id in enumerate(pool.articles)}
        self._sums = np.zeros((len(self._row_of), len(COUNTERS) - 1))  # as of `_moment`
        self._first = np.full(len(self._row_of), np.inf)  # seconds since 1970 of the first view
        self._moment = 0.0
        self.first_slot = int(pool.since // SLOT_SECONDS)
        """The first slot whose counts `at` needs."""

    def at(self, now: float, counts: Iterable[Count], most: int = MOST_LIVE) -> Live:
        """The counters at a moment, given the counts of all slots since `first_slot`."""
        closed = int(now // SLOT_SECONDS) - _OPEN_SLOTS
        known = [count for count in counts if count[0] in self._row_of]
        old = [count for count in known if count[1] < closed]
        self._sums[:, 2:] = halved(self._sums[:, 2:], max(now - self._moment, 0.0)) if self._moment else 0.0
        self._moment = now
        self._add(self._sums, old, now)
        self.first_slot = max(self.first_slot, closed)
        sums = self._sums.copy()
        self._add(sums, [count for count in known if count[1] >= closed], now)
        return self._live(sums, now, most)

    def _add(self, sums: Floats, counts: Sequence[Count], now: float) -> None:
        if not counts:
            return
        rows = np.array([self._row_of[count[0]] for count in counts])
        numbers = np.array([count[1:] for count in counts], np.float64)  # slot, clicks, views
        times = (numbers[:, 0] + 0.5) * SLOT_SECONDS
        each = np.repeat(numbers[:, 1:], 3, axis=1)  # [counts, 6]
        added = np.concatenate([numbers[:, 1:], halved(each, np.maximum(now - times, 0))], axis=1)
        np.add.at(sums, rows, added)
        np.minimum.at(self._first, rows, numbers[:, 0] * SLOT_SECONDS)

    def _live(self, sums: Floats, now: float, most: int) -> Live:
        pool = self.pool
        elapsed = max(now - pool.moment, 0.0)
        base = pool.counters
        plain = np.delete(base, _AGE, axis=1)  # [articles, 8], in the order of `_sums`
        timed = (base[:, _VIEWS] > 0) | (base[:, _AGE] != 0)
        own_age = np.where(np.isinf(self._first), 0.0, np.maximum(now - self._first, 1.0))
        age = np.where(timed, base[:, _AGE] * HOUR_SECONDS + elapsed, own_age)
        numbers = counter_columns(plain, np.full(len(base), elapsed), age)
        numbers += np.insert(sums, _AGE, 0.0, axis=1)
        # Articles under embargo stay as the index has them; those that the app has shown come first.
        shown = np.insert(sums, _AGE, 0.0, axis=1)[:, _VIEWS_24H]
        order = np.lexsort((-numbers[:, _VIEWS_24H], -shown))
        ids, hidden = list(pool.articles), [one.withdrawn for one in pool.articles.values()]
        rows = [row for row in order[:most].tolist() if age[row] >= 0]
        short = np.round(numbers[rows], 3).tolist()
        best = np.argsort(-numbers[:, _CLICKS_6H], kind="stable").tolist()
        popular = [ids[row] for row in best if not hidden[row] and age[row] >= 0][:_MOST_POPULAR]
        return Live.of_counters(dict(zip((ids[row] for row in rows), short, strict=True)), popular)
