"""Writes a newsroom: two splits in MIND's format, with true click probabilities and the settings."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from itertools import compress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from genre_tf.data.synth.catalogue import Catalogue, write_catalogue
from genre_tf.data.synth.oracle import oracle_metrics
from genre_tf.data.synth.readers import Dwell, Pools, Readers, draw_clicks, draw_pools, logged_probabilities
from genre_tf.data.synth.settings import FIRST_DAY, NewsroomSettings
from genre_tf.errors import InputError
from genre_tf.files import whole_folder

BLOCK = 8_192  # impressions drawn at once; bounds memory however long the log is
EXAMPLE_READERS = 4


def write_newsroom(
    out: str | Path, settings: NewsroomSettings | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write a newsroom; the whole folder, or nothing.

    Args:
        out: folder to write: `train/` and `dev/` with `news.tsv`, `behaviors.tsv` and `truth.tsv`
            (impression id, then the true click probability of each candidate in its order), and
            `newsroom.json`.
        settings: what to write; the same settings give the same files.
        overwrite: whether an existing newsroom may be replaced.

    Returns:
        The content of `newsroom.json`: settings, counts, the oracle's metrics of both splits, and some
        readers of different tastes.

    Raises:
        InputError: `out` is not empty, and `overwrite` is not given or `out` is not a newsroom.
        FailureError: `out` cannot be written.

    Example:
        >>> few = genre_tf.data.NewsroomSettings(articles=200, readers=20, impressions=120)
        >>> sorted(genre_tf.data.write_newsroom(mind / "newsroom", few)["oracle"])
        ['dev', 'train']
    """
    out = Path(out).resolve()
    _require_free(out, overwrite)
    with whole_folder(out) as folder:
        return _write_all(folder, settings or NewsroomSettings())


def _require_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{out} already exists; give another folder, or --overwrite to replace it")
    if not (out / "newsroom.json").is_file():
        raise InputError(f"{out} is not a newsroom (no newsroom.json) and is not replaced; remove it first")


def _write_all(folder: Path, settings: NewsroomSettings) -> dict[str, Any]:
    rng = np.random.Generator(np.random.PCG64(settings.seed))
    catalogue = write_catalogue(settings, rng)
    readers = Readers(settings, catalogue, rng)
    log = _Log(settings, catalogue, readers, rng)
    log.live_through_earlier_days()
    last = settings.days - 1
    for split, days in {"train": range(last), "dev": range(last, last + 1)}.items():
        (folder / split).mkdir()
        _write_news(folder / split / "news.tsv", catalogue, before_hours=24.0 * days.stop)
        with log.writing_to(folder / split):
            for day in days:
                log.live_through(day)
    report = {
        "settings": asdict(settings),
        "first_day": FIRST_DAY.date().isoformat(),
        "topics": len(catalogue.topics),
        "entities": len(catalogue.entity_names),
        "distinct_titles": len({article.title for article in catalogue.articles}),
        "oracle": {split: oracle_metrics(folder, split) for split in ("train", "dev")},
        "example_readers": log.example_readers(),
    }
    (folder / "newsroom.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _write_news(path: Path, catalogue: Catalogue, before_hours: float) -> None:
    count = int(np.searchsorted(catalogue.published_hours, before_hours))
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for article in catalogue.articles[:count]:
            fields = (article.news_id, article.category, article.subcategory, article.title, article.abstract)
            file.write("\t".join((*fields, "", "[]", "[]")) + "\n")


class _Log:
    """Simulates the days: pools, clicks, growing histories, drifting tastes."""

    def __init__(
        self, settings: NewsroomSettings, catalogue: Catalogue, readers: Readers, rng: np.random.Generator
    ) -> None:
        self._settings, self._catalogue, self._readers, self._rng = settings, catalogue, readers, rng
        self._ids = [article.news_id for article in catalogue.articles]
        self._histories: list[list[str]] = [[] for _ in range(settings.readers)]
        self._log: TextIO | None = None
        self._truth: TextIO | None = None
        self._written = 0
        self._dwell = Dwell(settings) if settings.signals else None

    @contextmanager
    def writing_to(self, folder: Path) -> Iterator[None]:
        """Log the impressions within the block, numbered from 1 in each split, as in MIND."""
        with (
            (folder / "behaviors.tsv").open("w", encoding="utf-8", newline="\n") as self._log,
            (folder / "truth.tsv").open("w", encoding="utf-8", newline="\n") as self._truth,
        ):
            self._written = 0
            yield
        self._log = self._truth = None

    def live_through_earlier_days(self) -> None:
        """Simulate the days before the log, in which the known readers build up their histories."""
        settings = self._settings
        # Without a log readers differ in how much they have read, not in how often they appear later.
        sigma = 0.7
        share = self._rng.lognormal(-(sigma**2) / 2, sigma, size=settings.readers)  # 1 on average
        count = (share * settings.earlier_impressions).round().astype(np.int64)
        count[self._readers.anonymous] = 0
        readers = np.repeat(np.arange(settings.readers), count)
        day = self._rng.integers(-settings.earlier_days, 0, size=len(readers))
        for today in range(-settings.earlier_days, 0):
            self._day(today, self._rng.permutation(readers[day == today]))

    def live_through(self, day: int) -> None:
        """Simulate a logged day."""
        settings = self._settings
        share = np.diff(np.linspace(0, settings.impressions, settings.days + 1).astype(np.int64))
        readers = self._rng.choice(settings.readers, size=int(share[day]), p=self._readers.activity)
        self._day(day, readers)

    def _day(self, day: int, readers: NDArray[np.int64]) -> None:
        self._readers.drift(self._rng)
        # People read from six in the morning on, most of them in the evening.
        hours = np.sort(24.0 * day + self._rng.triangular(6.0, 19.0, 24.0, size=len(readers)))
        for start in range(0, len(readers), BLOCK):
            block = slice(start, start + BLOCK)
            pools = draw_pools(
                readers[block], hours[block], self._readers, self._catalogue, self._settings, self._rng
            )
            self._block(pools)

    def _block(self, pools: Pools) -> None:
        clicks = draw_clicks(pools.probabilities, pools.mask, self._rng)
        truth = logged_probabilities(pools.probabilities, pools.mask)
        for row, reader in enumerate(pools.readers.tolist()):
            shown = pools.mask[row]
            candidates = [self._ids[article] for article in pools.articles[row, shown].tolist()]
            clicked, probability = clicks[row, shown], truth[row, shown]
            history = self._histories[reader]
            if not set(candidates).isdisjoint(history):
                unread = np.array([candidate not in history for candidate in candidates])
                if unread.sum() >= 2:  # a pool of one could not hold a click and a non-click
                    candidates = list(compress(candidates, unread.tolist()))
                    clicked, probability = self._again(pools.probabilities[row, shown][unread])
            if self._dwell is not None:
                self._dwell.read(reader, list(compress(candidates, clicked)), probability[clicked])
            if self._log is not None:
                self._write(pools.hours[row], reader, candidates, clicked.tolist(), probability)
            if not self._readers.anonymous[reader]:
                history.extend(
                    candidate for candidate, click in zip(candidates, clicked, strict=True) if click
                )
                del history[: -self._settings.history_limit]

    def _again(self, probabilities: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Clicks and true probabilities of one pool, without the articles already read."""
        pool, mask = probabilities[None, :], np.ones((1, len(probabilities)), dtype=bool)
        return draw_clicks(pool, mask, self._rng)[0], logged_probabilities(pool, mask)[0]

    def _write(
        self,
        hours: float,
        reader: int,
        candidates: list[str],
        clicked: list[bool],
        probability: NDArray[np.float64],
    ) -> None:
        assert self._log is not None and self._truth is not None  # noqa: S101
        self._written += 1
        shown = " ".join(
            f"{news_id}-{int(click)}" for news_id, click in zip(candidates, clicked, strict=True)
        )
        history = " ".join(self._histories[reader])
        signals = ""
        if self._dwell is not None:
            known = (*self._histories[reader], *compress(candidates, clicked))
            signals = f"\t{self._dwell.column(reader, known)}"
        time = FIRST_DAY + timedelta(hours=hours)
        date = f"{time.month}/{time.day}/{time.year} {time.hour % 12 or 12}:{time:%M:%S %p}"
        self._log.write(f"{self._written}\tU{reader + 1}\t{date}\t{history}\t{shown}{signals}\n")
        self._truth.write(f"{self._written}\t{' '.join(f'{value:.6g}' for value in probability.tolist())}\n")

    def example_readers(self) -> list[dict[str, Any]]:
        """Readers with a history and no favourite category in common, as far as there are any."""
        chosen: list[dict[str, Any]] = []
        seen: set[str] = set()
        per_topic = self._catalogue.entities_per_topic
        for reader, history in enumerate(self._histories):
            interests = [
                self._catalogue.topics[topic] for topic in np.flatnonzero(self._readers.interests[reader])
            ]
            categories = {name.split("/")[0] for name in interests}
            if len(history) < 10 or len(interests) > 4 or categories & seen:
                continue
            follows = self._readers.followed[reader]
            follows = follows[self._readers.interests[reader, follows // per_topic]]
            chosen.append(
                {
                    "user_id": f"U{reader + 1}",
                    "interests": interests,
                    "follows": sorted({self._catalogue.entity_names[entity] for entity in follows}),
                    "history": list(history),
                }
            )
            seen |= categories
            if len(chosen) == EXAMPLE_READERS:
                break
        return chosen
