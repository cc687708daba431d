"""Writes a newsroom: two splits in MIND's format, with true click probabilities and the settings."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import timedelta
from itertools import compress, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genre_tf.data.mind import BEHAVIORS, NEWS, mind_time
from genre_tf.errors import InputError
from genre_tf.files import whole_folder
from genre_tf.metrics.ranking import METRICS, ranking_metrics
from genre_tf.synth.catalogue import ENTITIES_PER_TOPIC, Catalogue, write_catalogue
from genre_tf.synth.readers import Dwell, Readers, draw_clicks, draw_pools, logged_probabilities
from genre_tf.synth.settings import FIRST_DAY, NewsroomSettings

BLOCK = 8_192  # impressions drawn at once; bounds memory however long the log is
EXAMPLE_READERS = 4


def write_newsroom(
    out: str | Path, settings: NewsroomSettings | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write a newsroom; the whole folder, or nothing.

    Args:
        out: folder to write: `train/` and `dev/` with `news.tsv`, `behaviors.tsv` and `truth.tsv`
            (impression id, then the true click probability of each candidate in its order),
            `newsroom.json`, and for `settings.headline` above 0 `headlines.tsv` (article id, effect in
            log-odds, text).
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
    out, settings = Path(out).resolve(), settings or NewsroomSettings()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not overwrite:
            raise InputError(f"{out} already exists; give another folder, or --overwrite to replace it")
        if not (out / "newsroom.json").is_file():
            wrong = f"{out} is not a newsroom (no newsroom.json) and is not replaced; remove it first"
            raise InputError(wrong)
    rng = np.random.Generator(np.random.PCG64(settings.seed))
    with whole_folder(out) as folder:
        catalogue = write_catalogue(settings, rng)
        readers = Readers(settings, catalogue, rng)
        life = Life(settings, catalogue, readers, rng)
        for _ in life.earlier_days():
            pass
        last = settings.days - 1
        oracle: dict[str, dict[str, float]] = {}
        for split, days in {"train": range(last), "dev": range(last, last + 1)}.items():
            (folder / split).mkdir()
            _write_news(folder / split / NEWS, catalogue, before_hours=24.0 * days.stop)
            oracle[split] = write_log(folder / split, (row for day in days for row in life.logged_day(day)))
        report = {
            "settings": asdict(settings),
            "first_day": FIRST_DAY.date().isoformat(),
            "topics": len(catalogue.topics),
            "entities": len(catalogue.entity_names),
            "distinct_titles": len({article.title for article in catalogue.articles}),
            "oracle": oracle,
            "example_readers": _example_readers(life.histories, readers, catalogue),
        }
        if catalogue.headlines:
            _write_headlines(folder / "headlines.tsv", catalogue)
        (folder / "newsroom.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _write_news(path: Path, catalogue: Catalogue, before_hours: float) -> None:
    count = int(np.searchsorted(catalogue.published_hours, before_hours))
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for article in catalogue.articles[:count]:
            fields = (article.news_id, article.category, article.subcategory, article.title, article.abstract)
            file.write("\t".join((*fields, "", "[]", "[]")) + "\n")


def _write_headlines(path: Path, catalogue: Catalogue) -> None:
    """A line for each text that tells an article: id, effect on a click in log-odds, text."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for article, headlines in zip(catalogue.articles, catalogue.headlines, strict=True):
            for text, effect in headlines.items():
                file.write(f"{article.news_id}\t{effect:.6g}\t{text}\n")


class _Row(NamedTuple):
    """An impression."""

    reader: int
    hours: float  # since the first logged midnight
    history: list[str]
    candidates: list[str]
    clicked: NDArray[np.bool_]
    probability: NDArray[np.float64]  # true, of a click on each candidate
    signals: str | None


def write_log(folder: Path, rows: Iterator[_Row]) -> dict[str, float]:
    """Write impressions, numbered from 1, and their truth.

    Returns:
        Means over the impressions of the metrics of a ranking by the truth, and `impressions`, their number.
    """
    totals, number = dict.fromkeys(METRICS, 0.0), 0
    with (
        (folder / BEHAVIORS).open("w", encoding="utf-8", newline="\n") as log,
        (folder / "truth.tsv").open("w", encoding="utf-8", newline="\n") as truth,
    ):
        while block := [*islice(rows, BLOCK)]:
            for row in block:
                number += 1
                time = mind_time(FIRST_DAY + timedelta(hours=row.hours))
                pairs = zip(row.candidates, row.clicked.tolist(), strict=True)
                shown = " ".join(f"{news_id}-{int(click)}" for news_id, click in pairs)
                fields = [str(number), f"U{row.reader + 1}", time, " ".join(row.history), shown]
                fields += [] if row.signals is None else [row.signals]
                log.write("\t".join(fields) + "\n")
                truth.write(f"{number}\t{' '.join(f'{value:.6g}' for value in row.probability.tolist())}\n")
            found = ranking_metrics([row.probability for row in block], [row.clicked for row in block])
            totals = {name: totals[name] + float(found[name].sum()) for name in METRICS}
    return {name: total / number for name, total in totals.items()} | {"impressions": number}


class Life:
    """Simulates the days: pools, clicks, growing histories, drifting tastes."""

    def __init__(
        self, settings: NewsroomSettings, catalogue: Catalogue, readers: Readers, rng: np.random.Generator
    ) -> None:
        self._settings, self._catalogue, self._readers, self._rng = settings, catalogue, readers, rng
        self._ids = [article.news_id for article in catalogue.articles]
        self._dwell = Dwell(settings) if settings.signals else None
        self.histories: list[list[str]] = [[] for _ in range(settings.readers)]

    def earlier_days(self) -> Iterator[_Row]:
        """The days before the log, in which the known readers build up their histories."""
        settings = self._settings
        # Without a log readers differ in how much they have read, not in how often they appear later.
        sigma = 0.7
        share = self._rng.lognormal(-(sigma**2) / 2, sigma, size=settings.readers)  # 1 on average
        count = (share * settings.earlier_impressions).round().astype(np.int64)
        count[self._readers.anonymous] = 0
        readers = np.repeat(np.arange(settings.readers), count)
        day = self._rng.integers(-settings.earlier_days, 0, size=len(readers))
        for today in range(-settings.earlier_days, 0):
            yield from self._day(today, self._rng.permutation(readers[day == today]))

    def logged_day(self, day: int) -> Iterator[_Row]:
        """A day of the log."""
        settings = self._settings
        share = np.diff(np.linspace(0, settings.impressions, settings.days + 1).astype(np.int64))
        readers = self._rng.choice(settings.readers, size=int(share[day]), p=self._readers.activity)
        yield from self._day(day, readers)

    def _day(self, day: int, readers: NDArray[np.int64]) -> Iterator[_Row]:
        self._readers.drift(self._rng)
        # People read from six in the morning on, most of them in the evening.
        hours = np.sort(24.0 * day + self._rng.triangular(6.0, 19.0, 24.0, size=len(readers)))
        for start in range(0, len(readers), BLOCK):
            now, at = readers[start : start + BLOCK], hours[start : start + BLOCK]
            pools = draw_pools(now, at, self._readers, self._catalogue, self._settings, self._rng)
            clicks = draw_clicks(pools.probabilities, pools.mask, self._rng)
            truth = logged_probabilities(pools.probabilities, pools.mask)
            for row, reader in enumerate(now.tolist()):
                shown = pools.mask[row]
                candidates = [self._ids[article] for article in pools.articles[row, shown].tolist()]
                clicked, probability = clicks[row, shown], truth[row, shown]
                history = self.histories[reader]
                if not set(candidates).isdisjoint(history):
                    unread = np.array([candidate not in history for candidate in candidates])
                    if unread.sum() >= 2:  # a pool of one could not hold a click and a non-click
                        candidates = list(compress(candidates, unread.tolist()))
                        pool = pools.probabilities[row, shown][unread][None, :]
                        mask = np.ones(pool.shape, dtype=bool)
                        clicked = draw_clicks(pool, mask, self._rng)[0]
                        probability = logged_probabilities(pool, mask)[0]
                chosen, signals = list(compress(candidates, clicked.tolist())), None
                if self._dwell is not None:
                    self._dwell.read(reader, chosen, probability[clicked])
                    signals = self._dwell.column(reader, (*history, *chosen))
                yield _Row(reader, float(at[row]), list(history), candidates, clicked, probability, signals)
                if not self._readers.anonymous[reader]:
                    history.extend(chosen)
                    del history[: -self._settings.history_limit]


def _example_readers(
    histories: Iterable[list[str]], readers: Readers, catalogue: Catalogue
) -> list[dict[str, Any]]:
    """Readers with a history and no favourite category in common, as far as there are any."""
    chosen: list[dict[str, Any]] = []
    seen: set[str] = set()
    for reader, history in enumerate(histories):
        interests = [catalogue.topics[topic] for topic in np.flatnonzero(readers.interests[reader])]
        categories = {name.split("/")[0] for name in interests}
        if len(history) < 10 or len(interests) > 4 or categories & seen:
            continue
        follows = readers.followed[reader]
        follows = follows[readers.interests[reader, follows // ENTITIES_PER_TOPIC]]
        names = sorted({catalogue.entity_names[entity] for entity in follows})
        about = {"interests": interests, "follows": names, "history": list(history)}
        chosen.append({"user_id": f"U{reader + 1}", **about})
        seen |= categories
        if len(chosen) == EXAMPLE_READERS:
            break
    return chosen
