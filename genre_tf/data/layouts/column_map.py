"""A column map says what the columns of a log's files contain; read from TOML, or a ready map."""

import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Literal

from genre_tf.errors import InputError
from genre_tf.settings import from_table

MAPS_FOLDER = Path(__file__).with_name("maps")
NEWEST = 100
"""Clicks in a history: MIND's format repeats them in each row, and training reads 50."""

EVENTS = {
    "views": ("view", "impression", "shown"),
    "clicks": ("click", "open"),
    "dwells": ("dwell", "read"),
    "comments": ("comment",),
    "shares": ("share",),
    "hides": ("hide",),
}
"""What a row of a log of events can be, and the values that say so unless the map gives others."""
MAX_MAP_BYTES = 1 << 20
"""1 MiB: a map has a few dozen lines."""


@dataclass(frozen=True, kw_only=True)
class SkipRule:
    """Rows that are left out without being faults: those where `column` holds `value`."""

    column: str
    value: str = ""  # empty: rows where the column is empty or absent


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the files are written."""

    format: Literal["", "csv", "jsonl", "parquet"] = ""  # empty: by the file's ending
    delimiter: str = ""  # for CSV files; empty: a tab for .tsv, otherwise a comma
    # For CSV files: none (a quotation mark is an ordinary character), line (quoted cells end on their line),
    # lines (quoted cells may span lines). Empty: none if tabs separate columns; otherwise lines, but a cell
    # whose further lines are all rows of their own is a fault: its quotation mark was left open.
    quotes: Literal["", "none", "line", "lines"] = ""
    separator: str = " "  # separates the ids of a list that is text
    time_unit: Literal["s", "ms"] = "s"  # for times that are numbers: s or ms since 1970


@dataclass(frozen=True, kw_only=True)
class ArticleColumns:
    """Columns that describe an article; an empty name: no such column."""

    news_id: str
    title: str
    abstract: str = ""
    category: str = ""
    subcategory: str = ""
    published: str = ""  # time of publication, past or future; an empty cell: unknown
    withdrawn: str = ""  # withdrawn, 1 or true if it was withdrawn; 0, false or empty if not
    category_separator: str = ""  # splits a category such as news|local into category and subcategory
    repeated: bool = False  # an article may be in several rows; the first one counts
    skip: tuple[SkipRule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImpressionColumns:
    """Columns of a log of impressions: one row is the list that one reader was shown at one time."""

    user_id: str
    time: str
    impression_id: str = ""  # empty: rows are numbered
    # Ids of the reader's earlier clicks, oldest first. If empty, and without [histories], they are the clicks
    # in this log, of all splits.
    history: str = ""
    candidates: str = ""  # ids of the articles shown
    clicked: str = ""  # ids of the articles clicked
    labels: str = ""  # instead of `clicked`: 1 or 0 for each candidate
    labelled: str = ""  # instead of all three: ids with the suffix -1 or -0, as in MIND
    dwell: str = ""  # seconds that the click was read; left out if several were clicked
    signals: str = ""  # instead of `dwell`: N1:dwell=35,shares=1 N3:dwell=120
    # Each row is one shown article; consecutive rows with the same `impression_id` are one impression.
    row_per_candidate: bool = False
    merge_repeated: bool = False  # a candidate that is listed twice counts once; else it is a fault
    drop_unknown_history: bool = False  # clicks on unknown articles are left out; else they are faults
    newest: int = NEWEST  # earlier clicks in a history that is made of this log; 0: all
    skip: tuple[SkipRule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HistoryColumns:
    """Columns of a file of histories, one row per reader."""

    user_id: str
    history: str
    dwell: str = ""  # seconds that each click was read
    newest: int = 0  # newest clicks kept of each; 0: all


@dataclass(frozen=True, kw_only=True)
class _TimedColumns:
    """Columns of a log that is split by time."""

    user_id: str
    news_id: str
    time: str
    dwell: str = ""  # seconds of reading, in rows that are clicks or `dwells`
    newest: int = 0  # number of earlier clicks in a history; 0: all
    train_days: float = 0.0  # before these days clicks are only history; 0: no limit
    dev_days: float = 1.0  # the newest days, for evaluation
    skip: tuple[SkipRule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClickColumns(_TimedColumns):
    """Columns of a log with clicks only, and how impressions are made of the clicks."""

    negatives: int = 20  # drawn for each click, as in published work on Adressa
    pool_hours: float = 24.0  # an article can be drawn if anyone clicked it in these hours before
    # Every such article equally often, or in proportion to its clicks.
    pool: Literal["articles", "clicks"] = "articles"
    seed: int = 7

    def as_events(self) -> "EventColumns":
        """The same log as one of events that are all clicks."""
        shared = {each.name: getattr(self, each.name) for each in fields(_TimedColumns)}
        return EventColumns(event="", **shared)


@dataclass(frozen=True, kw_only=True)
class EventColumns(_TimedColumns):
    """Columns of a log of events: one row is one view, click, share, ... of one article by one reader."""

    event: str  # what the reader did; the values below, in any case; empty: always a click
    views: tuple[str, ...] = ()  # the article was shown; empty, as for all of these: see `EVENTS`
    clicks: tuple[str, ...] = ()
    dwells: tuple[str, ...] = ()  # the row's `dwell` is the reading time of an earlier click
    comments: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()  # shown and not clicked, as its view says
    position: str = ""  # place in the list, smallest first; empty: views are in the order of time
    impression_id: str = ""  # of the page view or the session; empty: views are grouped by time
    # While a reader scrolls, views are seconds apart; after a minute without any the reader was elsewhere and
    # sees a new page.
    gap_minutes: float = 1.0
    # Half an hour is where web analytics end a visit: a later click came from somewhere else than the page.
    click_minutes: float = 30.0
    newest: int = NEWEST
    drop_unknown: bool = False  # events of unknown articles are left out; else they are faults

    def kinds(self) -> dict[str, str]:
        """The known values of `event`, in lower case, and for each the key of `EVENTS` that it belongs to."""
        given = {value.strip().lower(): kind for kind in EVENTS for value in getattr(self, kind)}
        usual = {value: kind for kind in EVENTS if not getattr(self, kind) for value in EVENTS[kind]}
        return {**usual, **given}


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """Files of one split, as patterns inside the source folder."""

    articles: tuple[str, ...]
    impressions: tuple[str, ...]
    histories: tuple[str, ...] = ()
    labelled: bool = True  # False: clicks are unknown, whatever the map says


@dataclass(frozen=True, kw_only=True)
class LogFiles:
    """Files of a log of clicks or events, as patterns inside the source folder."""

    articles: tuple[str, ...]
    clicks: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ColumnMap:
    """A whole map: either `impressions` with `splits`, or `clicks` or `events` with `files`."""

    articles: ArticleColumns
    reading: Reading = field(default_factory=Reading)
    impressions: ImpressionColumns | None = None
    histories: HistoryColumns | None = None
    clicks: ClickColumns | None = None
    events: EventColumns | None = None
    splits: dict[str, SplitFiles] = field(default_factory=dict)
    files: LogFiles | None = None


def ready_maps() -> list[str]:
    """Names of the maps that come with the package."""
    return sorted(path.stem for path in MAPS_FOLDER.glob("*.toml"))


def read_map(name: str) -> ColumnMap:
    """Reads a column map.

    Args:
        name: one of the ready maps, or a TOML file.

    Raises:
        InputError: no such map, invalid TOML, an unknown or missing key, or keys that do not go together.
    """
    file = MAPS_FOLDER / f"{name}.toml" if name in ready_maps() else Path(name)
    if not file.is_file():
        raise InputError(f"there is no column map {name!r}; give a TOML file, or {' or '.join(ready_maps())}")
    if file.stat().st_size > MAX_MAP_BYTES:
        raise InputError(f"{file} is larger than a column map can be ({MAX_MAP_BYTES >> 20} MiB)")
    try:
        table = tomllib.loads(file.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file} cannot be read as TOML: {error}") from None
    found = from_table(ColumnMap, table, str(file))
    for fault in _faults(found):
        raise InputError(f"{file}: {fault}")
    return found


def _faults(found: ColumnMap) -> Iterator[str]:
    """What is wrong with values of keys, or with keys beside each other."""
    reading, clicks, events = found.reading, found.clicks, found.events
    for name, part in vars(found).items():
        for key in fields(part) if is_dataclass(part) else ():
            if key.default is MISSING and getattr(part, key.name) == "":
                yield f"{name}.{key.name} must name a column"
    if len(reading.delimiter) > 1:
        yield "reading.delimiter must be one character"
    if not reading.separator:
        yield "reading.separator must not be empty"
    if any(part and part.newest < 0 for part in (found.impressions, found.histories, clicks, events)):
        yield "newest must be at least 0"
    for name, part in (("clicks", clicks), ("events", events)):
        if part and (part.dev_days <= 0 or part.train_days < 0):
            yield f"{name}.dev_days must be above 0, train_days at least 0"
    if clicks:
        if not 1 <= clicks.negatives <= 1000:
            yield "clicks.negatives must be between 1 and 1000"
        if clicks.pool_hours <= 0:
            yield "clicks.pool_hours must be above 0"
    if events:
        if events.gap_minutes <= 0 or events.click_minutes < 0:
            yield "events.gap_minutes must be above 0, click_minutes at least 0"
        keys: dict[str, list[str]] = {}
        for kind in EVENTS:
            for value in getattr(events, kind):
                keys.setdefault(value.strip().lower(), []).append(f"events.{kind}")
        for value, twice in keys.items():
            if len(twice) > 1:
                yield f"{' and '.join(twice)} hold the same value {value!r}; give it to one of them"
    kinds = [name for name in ("impressions", "clicks", "events") if getattr(found, name)]
    if len(kinds) != 1:
        yield (
            "give one of [impressions] (a row is a list that was shown), [events] (a row is a view, a click, "
            f"...) and [clicks] (all rows are clicks); got {' and '.join(kinds) or 'no such table'}"
        )
    elif found.impressions:
        yield from _faults_of_impressions(found, found.impressions)
    elif not getattr(found.files, kinds[0], ()):
        yield f"[{kinds[0]}] needs [files] with articles and {kinds[0]}"


def _faults_of_impressions(found: ColumnMap, columns: ImpressionColumns) -> Iterator[str]:
    if not found.splits:
        yield "[impressions] needs tables such as [splits.train], which name the files"
    for name, split in found.splits.items():
        if not name.isidentifier():
            yield f"{name!r} cannot be the name of a split: use letters, digits and _"
        if split.histories and not found.histories:
            yield "a split names histories: give their columns in [histories]"
    if bool(columns.labelled) + bool(columns.candidates) != 1:
        yield "impressions need either `candidates` or `labelled`"
    if bool(columns.clicked) + bool(columns.labels) + bool(columns.labelled) > 1:
        yield "impressions can have only one of `clicked`, `labels` and `labelled`"
    if columns.row_per_candidate and not (columns.impression_id and columns.candidates and columns.labels):
        yield "impressions with `row_per_candidate` need `impression_id`, `candidates` and `labels`"
    if columns.dwell and columns.signals:
        yield "impressions can have only one of `dwell` and `signals`"
    if columns.signals and found.histories and found.histories.dwell:
        yield "histories.dwell cannot be combined with impressions.signals, which hold dwell times"
