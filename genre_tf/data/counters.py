"""Live popularity: clicks, views and age of every article, knowing only the past.

Counters that look into the future add 4 AUC points from nowhere, which no live system sees again.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Impression
from genre_tf.errors import InputError

COUNTERS = ("clicks", "views", "age_hours")

_EPOCH = datetime(1970, 1, 1)
_HOUR = timedelta(hours=1)


class Counters:
    """Counts clicks and views of articles, and remembers when each was first shown.

    An impression without labels adds views only.
    """

    def __init__(self) -> None:
        self.clicks: dict[str, int] = {}
        self.views: dict[str, int] = {}
        self.first_seen: dict[str, datetime] = {}
        self.newest: datetime | None = None

    def copy(self) -> "Counters":
        """Counters that know the same and may learn other things."""
        other = Counters()
        other.clicks, other.views = dict(self.clicks), dict(self.views)
        other.first_seen, other.newest = dict(self.first_seen), self.newest
        return other

    def observe(self, impression: Impression) -> None:
        """Counts what was shown and clicked in an impression.

        Args:
            impression: not necessarily newer than those before.
        """
        time = impression.time
        for news_id in impression.candidates:
            self.views[news_id] = self.views.get(news_id, 0) + 1
            self.first_seen[news_id] = min(time, self.first_seen.get(news_id, time))
        for news_id, clicked in zip(impression.candidates, impression.clicked or (), strict=False):
            if clicked:
                self.clicks[news_id] = self.clicks.get(news_id, 0) + 1
        self.newest = time if self.newest is None else max(time, self.newest)

    def features(self, news_ids: Sequence[str], time: datetime) -> npt.NDArray[np.float32]:
        """What is known about articles at a moment.

        Args:
            news_ids: C article ids.
            time: the moment; later than everything observed.

        Returns:
            float32 [C, 3]: clicks, views, hours since it was first shown; zeros for an article never shown.

        Raises:
            InputError: something at or after `time` was observed: the counters would look into the future.
        """
        if self.newest is not None and time <= self.newest:
            raise InputError(
                f"the counters already know what happened at {self.newest}, and were asked about {time}: "
                "they would look into the future. Give logs in the order of time, without overlap"
            )
        return counter_rows(
            (
                self.clicks.get(news_id, 0),
                self.views.get(news_id, 0),
                (time - self.first_seen.get(news_id, time)) / _HOUR,
            )
            for news_id in news_ids
        )

    def save(self, file: Path) -> None:
        """Writes the counters as `.npz` without pickles; equal counters give equal bytes.

        Args:
            file: path, ending in `.npz`.
        """
        news_ids = sorted(self.views)
        newest = [] if self.newest is None else [epoch_seconds(self.newest)]
        np.savez(
            file,
            news_ids=np.asarray(news_ids, np.str_),
            clicks=np.asarray([self.clicks.get(news_id, 0) for news_id in news_ids], np.int64),
            views=np.asarray([self.views[news_id] for news_id in news_ids], np.int64),
            first_seen_seconds=np.asarray(
                [epoch_seconds(self.first_seen[news_id]) for news_id in news_ids], np.int64
            ),
            newest_seconds=np.asarray(newest, np.int64),
        )

    @classmethod
    def load(cls, file: Path) -> "Counters":
        """Reads what `save` wrote.

        Args:
            file: the `.npz` file.

        Raises:
            InputError: there is no such file, or it holds no counters.
        """
        counters = cls()
        try:
            # Opened here: NumPy leaves the file open when it is no archive.
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                news_ids = arrays["news_ids"].tolist()
                columns = [arrays[name].tolist() for name in ("clicks", "views", "first_seen_seconds")]
                newest = arrays["newest_seconds"].tolist()
        except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
            raise InputError(f"{file} holds no counters ({error}); run `genre prepare` again") from None
        counters.clicks = {
            news_id: count for news_id, count in zip(news_ids, columns[0], strict=True) if count
        }
        counters.views = dict(zip(news_ids, columns[1], strict=True))
        counters.first_seen = {
            news_id: epoch_time(at) for news_id, at in zip(news_ids, columns[2], strict=True)
        }
        counters.newest = epoch_time(newest[0]) if newest else None
        return counters


def impression_counters(
    impressions: Sequence[Impression], counters: Counters
) -> list[npt.NDArray[np.float32]]:
    """What was known about each impression's candidates just before it; strictly past.

    Impressions of the same time do not know each other. To let a log see earlier logs that overlap with it,
    pass them all in one sequence and take the rows of the log.

    Args:
        impressions: a log in any order.
        counters: what is known before the log; afterwards knows the whole log.

    Returns:
        float32 [C, 3] for each impression, in the order of the log.

    Raises:
        InputError: the counters know something that is not earlier than the log.
    """
    known: list[npt.NDArray[np.float32]] = [np.zeros((0, len(COUNTERS)), np.float32)] * len(impressions)
    in_time = sorted(range(len(impressions)), key=lambda number: impressions[number].time)
    for time, same_time in groupby(in_time, key=lambda number: impressions[number].time):
        numbers = list(same_time)
        for number in numbers:
            known[number] = counters.features(impressions[number].candidates, time)
        for number in numbers:
            counters.observe(impressions[number])
    return known


def counter_rows(known: Iterable[tuple[int, int, float]]) -> npt.NDArray[np.float32]:
    """What is known of C articles, as an array.

    Args:
        known: clicks, views and age in hours of each.

    Returns:
        float32 [C, 3].
    """
    return np.asarray(list(known), np.float32).reshape(-1, len(COUNTERS))  # [candidates, 3]


def epoch_seconds(time: datetime) -> int:
    """Whole seconds since 1970 on the log's own clock."""
    return int((time - _EPOCH).total_seconds())


def epoch_time(seconds: int) -> datetime:
    """The time of `epoch_seconds`."""
    return _EPOCH + timedelta(seconds=seconds)
