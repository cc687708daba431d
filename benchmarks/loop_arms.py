"""The arms of `genre bench loop`: a newsroom each, with its own model, counters, events and histories."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genre_tf.benchmarks.loop_world import SHOWN, Floats, Rows, Visits, World
from genre_tf.config import read_config
from genre_tf.contract import COUNTERS
from genre_tf.data.articles import ArticleTable
from genre_tf.data.counters import Counters
from genre_tf.data.prepared import COUNTERS_FILE
from genre_tf.evaluation.scoring import RankerScorer, TwoTowerScorer
from genre_tf.evaluation.whole_pool import PoolAnswers, learned_limit
from genre_tf.export.articles_file import IndexedArticle
from genre_tf.export.pool import Pool
from genre_tf.funnel.rules import Rules, is_new
from genre_tf.models.checkpoint import load_news_encoder, load_ranker, load_two_tower
from genre_tf.serving.app.pool import LiveCounters
from genre_tf.serving.app.pool import Pool as LivePool
from genre_tf.serving.app.storage import SLOT_SECONDS, Store, Writes
from genre_tf.serving.loop.event_log import write_log
from genre_tf.serving.loop.turn import continue_run
from genre_tf.training.run_folder import RejectedError

Say = Callable[[str], None]

_AGE = COUNTERS.index("age_hours")
_JUST_NOW_HOURS = 1e-3
_NEVER_HOURS = -1.0  # the age of what is not published yet


@dataclass(frozen=True, eq=False)
class Version:
    """What a run exports: the funnel over all articles of the world, and the counters of its export."""

    run: Path
    answers: PoolAnswers
    counters: npt.NDArray[np.float32]  # [articles + 1, 9]; row 0 is the padding article
    moment: float  # when they were taken, in seconds since 1970

    @classmethod
    def of(cls, run: Path, table: ArticleTable, states: Path) -> "Version":
        """Load a run as `genre export` does; `states` is a folder that keeps what frozen layers compute."""
        config = read_config(run / "config.toml")
        shared = load_news_encoder(run, config)
        towers, ranker = load_two_tower(run, shared=shared), load_ranker(run, shared=shared)
        in_retrieval, in_ranking = (
            model.news.embed(model.news.features(table, states)) for model in (towers, ranker)
        )
        stages = TwoTowerScorer(towers, in_retrieval), RankerScorer(ranker, in_ranking, with_counters=True)
        rules = Rules(max_age_hours=learned_limit(run))
        answers = PoolAnswers(stages, table, config.data.max_history, rules)
        pool = Pool.of(table, Counters.load(run / "prepared" / COUNTERS_FILE))
        if pool.as_of is None:
            raise ValueError(f"{run} has counted no log")
        return cls(run, answers, pool.counters, pool.as_of.replace(tzinfo=UTC).timestamp())


@dataclass(frozen=True, eq=False)
class Lost:
    """Expected clicks of some visits, float64 [B] each."""

    best: Floats  # of the oracle's feed
    shown: Floats  # of the feed that was shown
    by_taste: Floats  # of a feed by the reader's true taste alone, without popularity and age
    missed: Floats  # of those articles of the oracle's feed that were not shown
    missed_new: Floats  # the part of `missed` on articles that the models call new: under 10 views

    @classmethod
    def together(cls, parts: "list[Lost]") -> "Lost":
        """The visits of several parts."""
        names = cls.__dataclass_fields__
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class Arm:
    """A newsroom: feeds from its version, events in its database, and what its readers have clicked.

    Args:
        live: whether counters are those of the moment; otherwise they are those of the version's export, and
            articles that are published later count as just published, without views.
        folder: an empty folder for its database, logs and runs.
    """

    def __init__(self, name: str, live: bool, world: World, version: Version, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.name, self.version = name, version
        self._live, self._world, self._folder = live, world, folder
        self._ids = [one.news_id for one in world.articles]
        self._row_of = {news_id: row for row, news_id in enumerate(self._ids, start=1)}
        self._histories = [list(history) for history in world.histories]
        self._store = Store(f"sqlite:///{folder / 'app.db'}")
        self._first = world.midnight(0)  # of the hours that no run has learned from
        self._number = 0
        self._store.write(self._keep_earlier).result()
        self.use(version)

    def use(self, version: Version) -> None:
        """Answer by another version from now on."""
        self.version = version
        articles = {
            one.news_id: IndexedArticle(one.news_id, one.title, one.category, "", tuple(counters))
            for one, counters in zip(self._world.articles, version.counters[1:].tolist(), strict=True)
        }
        counters = version.counters[1:].astype(np.float64)
        pool = LivePool(version.run, articles, counters, version.moment, version.moment)
        self._counters = LiveCounters(pool)

    def serve(self, visits: Visits) -> Lost:
        """Show each reader a feed, and keep the clicks that the oracle decides."""
        counters = self._counters_at(visits.second)
        in_pool = np.zeros(len(counters), bool)
        in_pool[visits.pool + 1] = True
        self.version.answers.set_moment(counters, in_pool)
        histories = [self._histories[reader] for reader in visits.readers]
        rows, scores = self.version.answers.served([" ".join(history) for history in histories])
        place_of = np.full(len(counters), -1)  # by row, in the pool; the last one is asked for by row -1
        place_of[visits.pool + 1] = np.arange(len(visits.pool))
        places = np.where(rows > 0, place_of[rows], -1)  # [B, 10]
        shown = np.zeros(visits.probability.shape, bool)  # [B, P]
        visit, position = np.nonzero(places >= 0)
        shown[visit, places[visit, position]] = True
        read = np.array([[self._ids[one] in set(history) for one in visits.pool] for history in histories])
        clicked = shown & (visits.draw < visits.probability)
        self._store.write(lambda writes: self._keep(writes, visits, places, scores, clicked)).result()
        for history, row in zip(histories, clicked, strict=True):
            history.extend(self._ids[visits.pool[place]] for place in np.flatnonzero(row))
        return lost_clicks(visits, shown, read, is_new(counters)[visits.pool + 1])

    def learn(self, day: int, say: Say) -> Path | None:
        """Continue the run on the log since the last time, as `genre loop` does; None if that is refused."""
        folder, until = self._folder / f"day{day}", self._world.midnight(day + 1)
        articles = {one.news_id: one for one in self._world.published_before(until)}
        found = write_log(self._store, articles, folder / "log", self._first, until)
        say(f"{self.name}, night {day + 1}: {found.impressions} impressions, {found.clicks} clicks")
        try:
            continue_run(self.version.run, folder / "log", folder / "run", lambda line: None)
        except RejectedError as rejected:
            say(f"{self.name}, night {day + 1}: {rejected}")
            return None
        self._first = found.newest_from
        return folder / "run"

    def close(self) -> None:
        """Close the database."""
        self._store.close()

    def _counters_at(self, second: int) -> npt.NDArray[np.float32]:
        """The counters that the arm knows: float32 [articles + 1, 9]."""
        counters = self.version.counters.copy()
        if not self._live:
            counters[counters[:, _AGE] < 0, _AGE] = _JUST_NOW_HOURS
            return counters
        counts = self._store.read(
            "SELECT article, slot, clicks, views FROM counts WHERE slot >= :slot",
            slot=self._counters.first_slot,
        )
        live = self._counters.at(float(second), [tuple(count) for count in counts]).of
        counters[:, _AGE] = _NEVER_HOURS
        counters[[self._row_of[news_id] for news_id in live]] = list(live.values())
        return counters

    def _keep_earlier(self, writes: Writes) -> None:
        """The clicks before the simulation are part of histories, but name no impression."""
        for reader, history in enumerate(self._histories):
            for news_id in history:
                row = {"kind": "click", "time": float(self._first - 1), "article": news_id}
                writes.new_event(reader=_name(reader), **row)

    def _keep(
        self,
        writes: Writes,
        visits: Visits,
        places: Rows,
        scores: npt.NDArray[np.float32],
        clicked: npt.NDArray[np.bool_],
    ) -> None:
        """Keep impressions and clicks as the app does, at times of the simulation."""
        for visit, reader in enumerate(visits.readers.tolist()):
            self._number += 1
            # In the ten minutes of the slot.
            time, key = visits.second + visit % 600, f"{self._number}"
            real = places[visit] >= 0
            ids = [self._ids[row] for row in visits.pool[places[visit, real]]]
            scored = zip(ids, scores[visit, real].tolist(), strict=True)
            items = [[one, score, "model", 0, None] for one, score in scored]
            row = {"reader": _name(reader), "time": float(time), "impression": key}
            writes.insert("impressions", model_version="simulated", trace="", items=json.dumps(items), **row)
            for news_id, click in zip(ids, clicked[visit, places[visit, real]].tolist(), strict=True):
                if click:
                    writes.new_event(kind="click", article=news_id, **row)
                writes.count("counts", news_id, time // SLOT_SECONDS, clicks=int(click), views=1)


def _name(reader: int) -> str:
    return f"U{reader + 1}"


def lost_clicks(
    visits: Visits, shown: npt.NDArray[np.bool_], read: npt.NDArray[np.bool_], new: npt.NDArray[np.bool_]
) -> Lost:
    """Compare feeds with those of the oracle.

    Args:
        shown: bool [B, P], the articles of each feed.
        read: bool [B, P], what each reader has clicked before; not in the oracle's feed either.
        new: bool [P], the articles that the models call new.
    """
    probability = np.where(read, 0.0, visits.probability)

    def feed(score: Floats) -> npt.NDArray[np.bool_]:
        best = np.argsort(np.where(read, -np.inf, score), axis=1)[:, -SHOWN:]
        chosen = np.zeros(score.shape, bool)
        np.put_along_axis(chosen, best, True, axis=1)
        return chosen

    best = feed(visits.probability)
    missed = best & ~shown
    # Draws break ties of taste: they are independent of everything that taste leaves out.
    by_taste = feed(visits.taste + 1e-6 * visits.draw)

    def clicks(chosen: npt.NDArray[np.bool_]) -> Floats:
        return np.asarray((probability * chosen).sum(axis=1))

    return Lost(clicks(best), clicks(shown), clicks(by_taste), clicks(missed), clicks(missed & new))
