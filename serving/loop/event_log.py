"""Readers' events of whole hours as a log in MIND's format, with signals."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genre_tf.data.articles import Article
from genre_tf.data.mind import BEHAVIORS, NEWS, epoch_time, mind_time
from genre_tf.data.signals import KEYS
from genre_tf.errors import InputError
from genre_tf.serving.app.observing import hashed
from genre_tf.serving.app.storage import Store

HOUR_S = 3600
_LATE_S = 600  # clicks follow an impression by minutes: an hour is complete that much after its end
_NEWEST = 0.1  # share of the hours with clicks that the new run is measured on
# At most the last day is held out: the exported counters end where it begins, and the app takes counters that
# are two days older than their version for those of another clock.
_MOST_NEWEST_S = 24 * HOUR_S
_MOST_HISTORY = 200  # newest clicks of a row; models read at most some tens

_ANY_CLICK = """
SELECT 1 AS found FROM impressions JOIN events ON events.impression = impressions.impression
AND events.reader = impressions.reader AND events.kind = 'click'
WHERE impressions.time >= :first AND impressions.time < :until LIMIT 1
"""
_IMPRESSIONS = """
SELECT impression, reader, time, items FROM impressions WHERE time >= :first AND time < :until ORDER BY time
"""
_CLICKS_BEFORE = """
SELECT reader, article, time FROM events WHERE kind = 'click' AND time < :until AND reader IN
(SELECT reader FROM impressions WHERE time >= :first AND time < :until) ORDER BY seq
"""
_WHAT_FOLLOWED = """
SELECT events.impression, events.kind, events.article, events.seconds FROM events JOIN impressions
ON impressions.impression = events.impression AND impressions.reader = events.reader
WHERE impressions.time >= :first AND impressions.time < :until
AND events.kind IN ('click', 'dwell', 'comment', 'share')
"""
_HIDDEN = """
SELECT reader, article FROM events WHERE kind = 'hide' AND reader IN
(SELECT reader FROM impressions WHERE time >= :first AND time < :until)
"""
_SIGNAL_OF = {"comment": "comments", "share": "shares"}


@dataclass(kw_only=True)
class Collected:
    """What a log holds."""

    first: int  # the first hour, in seconds since 1970 (UTC)
    until: int  # the end of the last hour
    impressions: int = 0
    clicks: int = 0
    readers: int = 0
    articles: int = 0
    skipped: int = 0  # impressions without an article that is known
    newest_from: int = 0  # where the part begins that the new run is measured on
    impressions_newest: int = 0


@dataclass
class _Followed:
    clicked: set[str] = field(default_factory=set)
    signals: dict[str, dict[str, float]] = field(default_factory=dict)


def last_full_hour(now: float) -> int:
    """The end of the newest hour whose clicks are in."""
    return int((now - _LATE_S) // HOUR_S) * HOUR_S


def first_hour(store: Store) -> int | None:
    """The hour of the oldest impression that is kept; None if there is none."""
    oldest = store.read("SELECT min(time) AS oldest FROM impressions")[0].oldest
    return None if oldest is None else int(oldest // HOUR_S) * HOUR_S


def count_impressions(store: Store, first: int, until: int) -> int:
    """Impressions with at least one click, of the hours from `first` to `until`."""
    rows = store.read(
        "SELECT count(DISTINCT impressions.impression) AS found FROM impressions JOIN events "
        "ON events.impression = impressions.impression AND events.kind = 'click' "
        "WHERE impressions.time >= :first AND impressions.time < :until",
        first=first,
        until=until,
    )
    return int(rows[0].found)


def hours_with_clicks(store: Store, first: int, until: int) -> list[int]:
    """The hours from `first` to `until` that have an impression with a click, ascending."""
    hours = range(first, until, HOUR_S)
    return [hour for hour in hours if store.read(_ANY_CLICK, first=hour, until=hour + HOUR_S)]


def newest_hour(hours: Sequence[int], until: int) -> int:
    """Where the newest tenth of the hours with clicks begins; at least one of them, and at most a day."""
    newest = hours[-max(1, round(_NEWEST * len(hours)))]
    of_last_day = [hour for hour in hours if hour >= until - _MOST_NEWEST_S]
    return max([newest, *of_last_day[:1]])


def write_log(
    store: Store, articles: Mapping[str, Article], folder: Path, first: int, until: int
) -> Collected:
    """Write `train/` and, of the newest tenth of the hours with clicks, `dev/`.

    What a reader has erased is not in the database, and so not in the log. Ids of readers are hashed, always
    in the same way. A click counts for the impression that it names; any other is part of the history only.
    An article that the reader has hidden counts as not clicked.

    Args:
        store: the database of the app.
        articles: all articles by id; others are left out of histories and lists. The news file of `train/`
            has all, as those that nobody was shown yet are recommended, too.
        folder: an empty folder.
        first, until: whole hours, in seconds since 1970 (UTC); `until` is not included.

    Raises:
        InputError: there are fewer than two hours with clicks.
    """
    hours = hours_with_clicks(store, first, until)
    if len(hours) < 2:
        raise InputError(f"clicks of {len(hours)} hours: two are needed, to learn and to measure")
    newest = newest_hour(hours, until)
    found = Collected(first=first, until=until, newest_from=newest)
    readers: set[str] = set()
    used: dict[str, Article] = {}
    for split in ("train", "dev"):
        (folder / split).mkdir(parents=True)
    files = [
        (folder / split / BEHAVIORS).open("w", encoding="utf-8", newline="\n") for split in ("train", "dev")
    ]
    with files[0] as train, files[1] as dev:
        for start in range(first, until, HOUR_S):
            for row in _rows_of_hour(store, articles, start, found, used):
                found.impressions += 1
                found.impressions_newest += start >= newest
                readers.add(row[0])
                line = "\t".join((str(found.impressions), *row))
                (dev if start >= newest else train).write(line + "\n")
    for split, some in (("train", articles), ("dev", used)):
        write_news(folder / split / NEWS, some.values())
    found.readers, found.articles = len(readers), len(used)
    return found


def _rows_of_hour(
    store: Store, articles: Mapping[str, Article], start: int, found: Collected, used: dict[str, Article]
) -> Iterator[tuple[str, ...]]:
    """The columns of MIND's log after the number, of the impressions of one hour, in order of time."""
    hour = {"first": start, "until": start + HOUR_S}
    impressions = store.read(_IMPRESSIONS, **hour)
    histories: dict[str, list[tuple[float, str]]] = {}
    for click in store.read(_CLICKS_BEFORE, **hour):
        histories.setdefault(click.reader, []).append((click.time, click.article))
    hidden = {(row.reader, row.article) for row in store.read(_HIDDEN, **hour)}
    followed: dict[str, _Followed] = {}
    for event in store.read(_WHAT_FOLLOWED, **hour):
        _add(followed.setdefault(event.impression, _Followed()), event)
    for impression in impressions:
        shown = [item[0] for item in json.loads(impression.items) if item[0] in articles]
        if not shown:
            found.skipped += 1
            continue
        what = followed.get(impression.impression, _Followed())
        earlier = (
            article for time, article in histories.get(impression.reader, ()) if time < impression.time
        )
        history = [article for article in dict.fromkeys(earlier) if article in articles][-_MOST_HISTORY:]
        used.update((article, articles[article]) for article in (*shown, *history))
        clicked = [
            article in what.clicked and (impression.reader, article) not in hidden for article in shown
        ]
        found.clicks += sum(clicked)
        yield (
            hashed(impression.reader, store.salt),
            mind_time(epoch_time(int(impression.time))),
            " ".join(history),
            " ".join(f"{article}-{int(click)}" for article, click in zip(shown, clicked, strict=True)),
            _signals(what, [article for article, click in zip(shown, clicked, strict=True) if click]),
        )


def _add(followed: _Followed, event: Any) -> None:
    if event.kind == "click":
        followed.clicked.add(event.article)
        return
    signals = followed.signals.setdefault(event.article, {})
    if event.kind == "dwell":
        signals["dwell"] = signals.get("dwell", 0.0) + (event.seconds or 0.0)
    else:
        name = _SIGNAL_OF[event.kind]
        signals[name] = signals.get(name, 0.0) + 1


def _signals(followed: _Followed, clicked: Sequence[str]) -> str:
    told = []
    for article in clicked:
        values = followed.signals.get(article, {})
        pairs = ",".join(f"{key}={values[key]:g}" for key in KEYS if key in values)
        if pairs:
            told.append(f"{article}:{pairs}")
    return " ".join(told)


def write_news(path: Path, articles: Iterable[Article]) -> None:
    """Write articles in MIND's format, with the columns `published` and `state`."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for one in articles:
            published = "" if one.published is None else one.published.isoformat()
            state = "withdrawn" if one.withdrawn else ""
            texts = (one.news_id, one.category, one.subcategory, one.title, one.abstract)
            file.write(
                "\t".join((*(" ".join(text.split()) for text in texts), "", "", "", published, state)) + "\n"
            )
