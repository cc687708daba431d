"""The world of `genre bench loop`: a newsroom whose days go on, and the oracle that decides clicks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Article
from genre_tf.data.mind import NEWS, epoch_seconds
from genre_tf.serving.loop.event_log import write_news
from genre_tf.synth.catalogue import write_catalogue
from genre_tf.synth.newsroom import Life, write_log
from genre_tf.synth.readers import Readers, click_probabilities
from genre_tf.synth.settings import FIRST_DAY, NewsroomSettings

SHOWN = 10
"""Articles of a feed."""

HOUR_S = 3600
_SLOT_HOURS = 1 / 6  # visits of ten minutes see the same pool and counters, as if the app looked so often
_WAVE = 1.0

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class WorldSizes:
    """How large a newsroom is; all else is usual, except that attention rises and falls."""

    readers: int
    logged_days: int  # before the simulation; the first run learns from them
    logged_impressions: int  # a day: random recent articles
    days: int  # simulated
    visits: int  # a simulated day
    articles: int  # published each day

    def settings(self, seed: int) -> NewsroomSettings:
        """The newsroom of a seed."""
        usual, days = NewsroomSettings(), self.logged_days + self.days
        before = usual.earlier_days + usual.window_hours / 24
        return NewsroomSettings(
            articles=round(self.articles * (days + before)),
            readers=self.readers,
            days=days,
            impressions=self.logged_impressions * days,
            seed=seed,
            anonymous_share=0.0,  # the app knows its readers
            wave=_WAVE,
        )


@dataclass(frozen=True, eq=False)
class Visits:
    """The visits of ten minutes. All arms see the same ones, and draw clicks with the same random numbers."""

    second: int  # when they begin, since 1970
    readers: Rows  # [B], each once
    pool: Rows  # [P], numbers of the articles that may be shown
    probability: Floats  # [B, P], the oracle's
    taste: Floats  # [B, P], the part of its log-odds that is the reader's
    draw: Floats  # [B, P]; an article is clicked if this is below its probability


class World:
    """Articles, readers, and their visits."""

    def __init__(self, sizes: WorldSizes, seed: int) -> None:
        self.sizes, self._settings = sizes, sizes.settings(seed)
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._catalogue = write_catalogue(self._settings, self._rng)
        self._readers = Readers(self._settings, self._catalogue, self._rng)
        self._life = Life(self._settings, self._catalogue, self._readers, self._rng)
        published = (int(hours * HOUR_S) for hours in self._catalogue.published_hours.tolist())
        self.articles: list[Article] = [
            replace(article, published=FIRST_DAY + timedelta(seconds=seconds))
            for article, seconds in zip(self._catalogue.articles, published, strict=True)
        ]
        self.histories: list[list[str]] = []
        """What each reader has clicked before the simulation, oldest first."""

    def write_first_log(self, folder: Path) -> None:
        """Live through the days before the simulation, and write those that are logged, as `train/`."""
        days = self.sizes.logged_days
        for _ in self._life.earlier_days():
            pass
        (folder / "train").mkdir(parents=True)
        write_news(folder / "train" / NEWS, self.published_before(self.midnight(0)))
        write_log(folder / "train", (row for day in range(days) for row in self._life.logged_day(day)))
        self.histories = [list(history) for history in self._life.histories]

    def midnight(self, day: int) -> int:
        """When a simulated day begins, in seconds since 1970."""
        return epoch_seconds(FIRST_DAY) + (self.sizes.logged_days + day) * 24 * HOUR_S

    def published_before(self, second: int) -> list[Article]:
        """The articles that are out at a time."""
        return [one for one in self.articles if one.published and epoch_seconds(one.published) < second]

    def visits(self, day: int) -> Iterator[Visits]:
        """The visits of a simulated day; the days must be asked for in their order, as tastes drift."""
        self._readers.drift(self._rng)
        first = 24.0 * (self.sizes.logged_days + day)
        who = self._rng.choice(len(self._readers.activity), self.sizes.visits, p=self._readers.activity)
        # The hours of the newsroom's own log.
        hours = first + self._rng.triangular(6.0, 19.0, 24.0, size=len(who))
        slots = (hours / _SLOT_HOURS).astype(np.int64)
        for slot in np.unique(slots).tolist():
            yield self._visits(slot * _SLOT_HOURS, np.unique(who[slots == slot]))

    def _visits(self, hours: float, readers: Rows) -> Visits:
        published = self._catalogue.published_hours
        ends = np.searchsorted(published, [hours - self._settings.window_hours, hours])
        pool = np.arange(*ends)
        articles = np.repeat(pool[None], len(readers), axis=0)
        of_now = readers, np.full(len(readers), hours), articles
        return Visits(
            round(hours * HOUR_S) + epoch_seconds(FIRST_DAY),
            readers,
            pool,
            click_probabilities(*of_now, self._readers, self._catalogue, self._settings),
            self._readers.taste(readers, articles),
            self._rng.random(articles.shape),
        )
