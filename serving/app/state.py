"""What all parts of a running app share, and what is read again every second."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from genre_tf.contract import RECOMMENDER
from genre_tf.errors import FailureError, InputError
from genre_tf.serving.app.model_server import ModelServer
from genre_tf.serving.app.observing import LOGGER, Metrics
from genre_tf.serving.app.pool import Live, LiveCounters, Pool
from genre_tf.serving.app.rules import Rollout, RulesFile
from genre_tf.serving.app.storage import Store, Writes

Result = TypeVar("Result")

_LOOK_S = 1.0
_HALVED_S = 15.0  # how old counters may become if nothing is counted
_FEEDS = 64  # made at a time
_TEXTS = 4  # written at a time: the model server needs all its cores for each


@dataclass(frozen=True, slots=True)
class Headline:
    """A text that may stand for an article; text 0 is the article's own title."""

    text: int
    words: str
    interest: float
    clicks: int
    views: int


class State:
    """The database, the model server, and the newest view of articles, counters, approved texts and rules.

    Create it inside a running event loop; `follow` keeps it new.
    """

    def __init__(
        self, models: Path, store: Store, server: ModelServer, rules: RulesFile, rollout: Rollout
    ) -> None:
        self.store, self.server, self.rules, self.rollout = store, server, rules, rollout
        self.metrics = Metrics()
        self._models = models
        self._threads = ThreadPoolExecutor(_FEEDS, "feed")
        self._writers = ThreadPoolExecutor(_TEXTS, "text")
        self._answering = ""
        self.headlines: dict[str, list[Headline]] = {}
        self.queue_length = 0
        self._use(Pool.read(models))
        self.look()

    def _use(self, pool: Pool) -> None:
        self.pool = pool
        self._counters = LiveCounters(pool)
        self._seen: list[Any] = []
        self._counted = 0.0
        self._answering = f"{RECOMMENDER}/{pool.version.name}"

    @property
    def version(self) -> str:
        """The version that answers readers without a label."""
        return self._answering

    def answering(self, version: str) -> None:
        """Say which version answers readers without a label."""
        self._answering = version

    def look(self) -> None:
        """Read again what may have changed."""
        self.rules.look()
        answering = self._answering.rpartition("/")[2]
        if answering != self.pool.version.name and answering not in ("", "0"):
            try:
                self._use(Pool.read(self._models, int(answering)))
            except InputError as error:
                LOGGER.warning("%s", error)
                self._answering = f"{RECOMMENDER}/{self.pool.version.name}"
        counts = self.store.read(
            "SELECT article, slot, clicks, views FROM counts WHERE slot >= :slot",
            slot=self._counters.first_slot,
        )
        now, seen = time.time(), [tuple(row) for row in counts]
        if seen != self._seen or now - self._counted > _HALVED_S:  # encoding thousands of numbers takes time
            self.live: Live = self._counters.at(now, seen)
            self._seen, self._counted = seen, now
        self.headlines = self._approved()
        waiting = self.store.read("SELECT count(*) FROM texts WHERE status = 'waiting'")
        self.queue_length = int(waiting[0][0])
        self.metrics.waiting.set(self.queue_length)

    async def follow(self) -> None:
        """Look every second."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self.run(self.look)
            except Exception:  # the next time may succeed; until then the last view is used
                LOGGER.exception("cannot read the database")

    async def run(self, work: Callable[..., Result], *values: Any) -> Result:
        """Run something that waits for the database or the model server in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *values)

    async def run_long(self, work: Callable[..., Result], *values: Any) -> Result:
        """The same, of what the writer needs seconds for."""
        return await asyncio.get_running_loop().run_in_executor(self._writers, work, *values)

    async def write(self, work: Callable[[Writes], Result]) -> Result:
        """Run writes without a thread; returns when they are on disk."""
        return await asyncio.wrap_future(self.store.write(work))

    def titles(self, news_ids: Sequence[str]) -> list[str]:
        """The titles of those articles that are known and have one."""
        known = (self.pool.articles.get(news_id) for news_id in news_ids)
        return [one.title for one in known if one is not None and one.title.strip()]

    def _approved(self) -> dict[str, list[Headline]]:
        rows = self.store.read(
            "SELECT texts.id, texts.article, coalesce(texts.edited, texts.written), texts.interest, "
            "coalesce(headlines.clicks, 0), coalesce(headlines.views, 0) FROM texts LEFT JOIN headlines "
            "ON headlines.article = texts.article AND headlines.text = texts.id "
            "WHERE texts.status = 'approved' AND texts.kind = 'title' ORDER BY texts.id"
        )
        found: dict[str, list[Headline]] = {}
        for text, article, words, interest, clicks, views in rows:
            if article in self.pool.articles:
                known = Headline(text, words, min(max(interest, 0.0), 1.0), min(clicks, views), views)
                found.setdefault(article, []).append(known)
        own = {
            article: (clicks, views)
            for article, clicks, views in (
                self.store.read("SELECT article, clicks, views FROM headlines WHERE text = 0")
                if found
                else ()
            )
        }
        for article, choices in found.items():
            clicks, views = own.get(article, (0, 0))
            mean = sum(one.interest for one in choices) / len(choices)
            title = self.pool.articles[article].title
            choices.insert(0, Headline(0, title, mean, min(clicks, views), views))
        return found

    def health(self) -> dict[str, bool]:
        """Whether the database and the model server answer."""
        try:
            self.store.read("SELECT 1")
            database = True
        except Exception:
            database = False
        try:
            self.server.ping()
            server = True
        except FailureError:
            server = False
        return {"database": database, "model_server": server}

    def close(self) -> None:
        """Wait for what runs."""
        for threads in (self._threads, self._writers):
            threads.shutdown()
