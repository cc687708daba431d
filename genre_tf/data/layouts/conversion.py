"""Converts logs in another layout to a data set in MIND's format, written whole or not at all."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from genre_tf.data.articles import TEXT_FIELDS, Article, Impression
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.column_map import (
    ArticleColumns,
    ColumnMap,
    HistoryColumns,
    ImpressionColumns,
    SplitFiles,
)
from genre_tf.data.layouts.events import (
    DEV,
    EVENT,
    TRAIN,
    FirstClicks,
    History,
    LogLine,
    Pages,
    PastClicks,
    ViewedPages,
    drawn_pages,
    made_lines,
    read_events,
)
from genre_tf.data.layouts.tables import Source, SourceRow, SplitSummary
from genre_tf.data.lines import MAX_LINE_BYTES, Fault, FaultPolicy, shown
from genre_tf.data.mind import BEHAVIORS, NEWS, WITHDRAWN, LogForm, epoch_time, mind_time, parse_behaviors
from genre_tf.errors import InputError
from genre_tf.files import whole_folder

MAX_CANDIDATES = 10_000
"""Most rows that one impression can have: MIND's largest has 299."""

REPORT_FILE = "conversion.json"
_OTHER_BYTES = 200  # more than a line of MIND's news file has beside the texts: tabs, a time and a state
ADVICE = "--check lists every fault"
NO_CLICK = "no impression has a click; do the columns and values of clicks in the map fit the log?"
NO_HISTORY = (
    "no reader has a history: nobody clicked before an impression, or the column of histories is empty; then "
    "models can only learn what is popular"
)
_LABEL = re.compile(r"-[01]$")

Splits = dict[str, SplitSummary]


def convert(
    source: Path,
    out: Path,
    column_map: ColumnMap,
    *,
    max_bad_rows: int = 0,
    overwrite: bool = False,
) -> Splits:
    """Turns logs of another layout into a data set in MIND's format.

    Articles are held in memory, and so are all rows of a log of clicks or events, and all clicks where
    histories are made of them; impressions are read row by row.

    Args:
        source: folder of the files.
        out: data set folder to write: a folder with MIND's two files for each split, and `conversion.json`.
        column_map: which columns hold what.
        max_bad_rows: faulty rows that may be skipped in each split (in total, for a log of clicks or events).
        overwrite: replace `out` if it exists.

    Returns:
        Counts of what was written, by split.

    Raises:
        InputError: faulty files, more bad rows than allowed, or an `out` that exists.
        FailureError: `out` cannot be written.
    """
    policy = replace(FaultPolicy.allowing(max_bad_rows), advice=ADVICE)
    if source.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{out} holds the files that are read; give another folder to write")
    if out.exists() and not overwrite:
        raise InputError(f"{out} already exists; give another folder, or --overwrite to replace it")
    with whole_folder(out) as folder:
        splits = dict(_splits(source, column_map, policy, partial(_opened, folder)))
        report = {"splits": {name: asdict(each) for name, each in splits.items()}, "map": asdict(column_map)}
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (folder / REPORT_FILE).write_text(text, "utf-8")
    return splits


def check_layout(source: Path, column_map: ColumnMap) -> tuple[Splits, bool]:
    """Reads everything as `convert` does, and writes nothing.

    Returns:
        Counts of what would be written, with every fault, and whether a whole file is unusable.

    Raises:
        InputError: a file that the map names is missing.
    """
    splits = dict(_splits(source, column_map, FaultPolicy(None), partial(_opened, None)))
    return splits, any(fault.whole_file for split in splits.values() for fault in split.faults)


def summary_values(splits: Splits) -> dict[str, Any]:
    """Plain values for JSON, faults as lines of text."""
    return {
        name: {**asdict(split), "faults": [str(fault) for fault in split.faults]}
        for name, split in splits.items()
    }


Opened = Callable[[str, str], BinaryIO]
"""Opens a file of a split, such as `news.tsv`, to write."""


def _opened(folder: Path | None, split: str, name: str) -> BinaryIO:
    path = Path(os.devnull)
    if folder is not None:
        path = folder / split / name
        path.parent.mkdir(exist_ok=True)
    return path.open("wb")


def _splits(
    folder: Path, column_map: ColumnMap, policy: FaultPolicy, opened: Opened
) -> Iterator[tuple[str, SplitSummary]]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the files of the log")
    columns, histories = column_map.impressions, column_map.histories
    if columns is None:
        yield from _of_whole_log(Source(folder, column_map.reading, policy), column_map, opened)
        return
    seen: set[str] = set()
    sources: dict[str, Source] = {}
    articles: dict[str, dict[str, Article]] = {}
    for name, files in column_map.splits.items():
        sources[name] = Source(folder, column_map.reading, replace(policy, faults=[]), seen=seen)
        articles[name] = _read_articles(sources[name], files.articles, column_map.articles)

    def clicks() -> Iterator[Impression]:
        """The labelled impressions of all splits; the second reading of their logs reports the faults."""
        for name, files in column_map.splits.items():
            if files.labelled:
                quiet = Source(folder, column_map.reading, FaultPolicy(None))
                yield from (found for _, found in _impressions(quiet, files, columns, articles[name]))

    past = None
    in_files = all(files.histories for files in column_map.splits.values())
    has_labels = bool(columns.clicked or columns.labels or columns.labelled)
    if has_labels and not (columns.history or in_files):
        past = PastClicks(clicks(), columns.newest)
    for name, files in column_map.splits.items():
        made = None if files.histories else past
        found = _impressions(sources[name], files, columns, articles[name], histories, made)
        lines = (LogLine(text, sum(one.clicked or ()), bool(one.history)) for text, one in found)
        sources[name].counts.made_histories = made is not None
        labelled = has_labels and files.labelled
        yield name, _written(opened, name, articles[name].values(), lines, sources[name], labelled)


def _of_whole_log(
    source: Source, column_map: ColumnMap, opened: Opened
) -> Iterator[tuple[str, SplitSummary]]:
    """Splits a log of clicks or events by time."""
    clicks, events, files = column_map.clicks, column_map.events, column_map.files
    columns = clicks.as_events() if clicks else events
    if columns is None or files is None:
        raise ValueError("this map describes neither clicks nor events, or names no files of them")
    patterns = files.clicks if clicks else files.events
    # If each row describes its article, faults of a row are reported only once, when its click is read.
    once = set(source.files(files.articles)) <= set(source.files(patterns))
    policy = FaultPolicy(None) if once else source.policy
    of_articles = replace(source, policy=policy, counts=SplitSummary())
    articles = _read_articles(of_articles, files.articles, column_map.articles)
    for fault in policy.faults if once else ():
        if fault.whole_file:  # such as a missing column
            source.policy.reject([fault])
    news_ids, catalogue = list(articles), list(articles.values())
    users, rows = dict[str, int](), {news_id: row for row, news_id in enumerate(news_ids)}
    log = np.fromiter(read_events(source, patterns, columns, users, rows), EVENT)
    first_clicks = FirstClicks(log, users)
    pages: Pages
    if clicks:
        times, pages = first_clicks.time, partial(drawn_pages, first_clicks, clicks)
    else:
        viewed, counts = ViewedPages(log, first_clicks, columns), source.counts
        counts.clicks_without_view, counts.unmatched = viewed.clicks_without_view, viewed.unmatched
        times, pages = viewed.times, viewed.pages
    del log  # what is made of it has its own arrays
    reach = "no row of it shows an article"
    if len(times):
        first, last = (epoch_time(int(each)) for each in (times.min(), times.max()))
        newest = f"the newest {columns.dev_days:g} days are dev (dev_days)"
        reach = f"it reaches from {first} to {last}, and {newest}"

    def articles_of(rows: set[int]) -> Iterator[Article]:  # known when the log has been written
        yield from (catalogue[row] for row in sorted(rows))

    for name in (TRAIN, DEV):
        named = set[int]()
        lines = made_lines(name, first_clicks, news_ids, columns, times, pages, named)
        yield name, _written(opened, name, articles_of(named), lines, source, reach=reach)


def _read_articles(source: Source, patterns: Sequence[str], columns: ArticleColumns) -> dict[str, Article]:
    """Articles by id, in the order of the files."""
    articles: dict[str, Article] = {}
    of_text = (columns.news_id, columns.title, columns.abstract, columns.category, columns.subcategory)
    for row in source.rows(patterns, (*of_text, columns.published, columns.withdrawn), columns.skip):
        news_id = row.read(columns.news_id, cells.one_id) or ""
        title, abstract = (row.read(name, cells.text) or "" for name in (columns.title, columns.abstract))
        if not title.strip():
            row.fault(columns.title, "is empty; every article needs a title")
        of_category = (columns.category, columns.subcategory)
        category, subcategory = (row.read(column, cells.first_text) or "" for column in of_category)
        if columns.category_separator:
            category, _, inner = category.partition(columns.category_separator)
            subcategory = subcategory or inner.partition(columns.category_separator)[0]
        published = row.read(columns.published, cells.if_any(cells.moment), source.reading.time_unit)
        gone = bool(row.read(columns.withdrawn, cells.withdrawn))
        article = Article(news_id, category, subcategory, title, abstract, published, gone)
        written = sum(len(getattr(article, name).encode()) for name in TEXT_FIELDS)
        if written >= MAX_LINE_BYTES - _OTHER_BYTES:
            limit = f"{MAX_LINE_BYTES >> 20} MiB"
            row.fault("line", f"is longer than {limit} in MIND's format; shorten its texts")
        if news_id in articles:
            if columns.repeated:
                continue
            row.fault(columns.news_id, f"{shown(news_id)} is also in an earlier row; keep one of them")
        if source.accepts(row):
            articles[news_id] = article
    return articles


def _impressions(
    source: Source,
    files: SplitFiles,
    columns: ImpressionColumns,
    articles: Iterable[str],
    histories: HistoryColumns | None = None,
    past: PastClicks | None = None,
) -> Iterator[tuple[str, Impression]]:
    """The lines of one split's log in the order of its files, and the impression of each.

    Every line is checked by MIND's own rules: a value that `genre prepare` would refuse is a fault here, in
    the column of the source that it came from. Histories are the rows' own, after those of the split's files
    of histories or of `past`.
    """
    known = {news_id: news_id for news_id in articles}
    has_signals, read_before = bool(columns.signals or columns.dwell), dict[str, History]()
    if files.histories and histories is not None:
        read_before = _read_histories(source, files.histories, histories, known, columns.drop_unknown_history)
        has_signals |= bool(histories.dwell)
    of_clicks = (columns.clicked, columns.labels, columns.dwell) if files.labelled else ()
    of_row = (columns.impression_id, columns.user_id, columns.time, columns.history, columns.candidates)
    wanted = (*of_row, columns.labelled, columns.signals, *of_clicks)
    rows = source.rows(files.impressions, wanted, columns.skip)
    if columns.row_per_candidate:
        rows = _grouped(rows, columns, source)
    names = {  # of MIND's fields
        "impression_id": columns.impression_id,
        "user_id": columns.user_id,
        "time": columns.time,
        "history": columns.history,
        "impressions": columns.candidates or columns.labelled,
        "signals": columns.signals or columns.dwell,
    }
    seen, form = set[str](), None
    for place, row in enumerate(rows, start=1):
        user = row.read(columns.user_id, cells.one_id) or ""
        time = row.read(columns.time, cells.moment, source.reading.time_unit)
        before = read_before.get(user, History())
        if past is not None and time is not None:
            before, dropped = past.before(user, time, known)
            source.counts.dropped += dropped
        own = row.read(columns.history, cells.ids, source.reading.separator) or []
        if columns.drop_unknown_history:
            kept = [news_id for news_id in own if news_id in known]
            source.counts.dropped += len(own) - len(kept)
            own = kept
        candidates = read_candidates(row, columns, source, files.labelled)
        impression_id = row.read(columns.impression_id, cells.one_id) or str(place)
        history = " ".join([before.news_ids, *own]).strip()
        fields = [impression_id, user, mind_time(time) if time else "", history, " ".join(candidates)]
        if has_signals:
            fields.append(_signals(row, columns, before, candidates, files.labelled))
        line = "\t".join(fields)
        found = row.faults or parse_behaviors(line, known, seen, form)
        if not row.faults and len(line.encode()) >= MAX_LINE_BYTES:
            limit = f"{MAX_LINE_BYTES >> 20} MiB"
            found = [("line", f"is longer than {limit} in MIND's format; shorten its history")]
        if isinstance(found, Impression):
            seen.add(impression_id)
            form = LogForm.of(found)
            yield line, found
        else:
            row.faults = [(names.get(field) or field, message) for field, message in found]
            source.accepts(row)


def _signals(
    row: SourceRow, columns: ImpressionColumns, before: History, candidates: list[str], labelled: bool
) -> str:
    """What followed the clicks of a row and those of its history."""
    own: list[str] = []
    clicked = [each[:-2] for each in candidates if each.endswith("-1")]
    if columns.signals:
        own = (row.read(columns.signals, cells.signals) or "").split()
    elif columns.dwell and labelled and len(clicked) == 1:
        read = row.read(columns.dwell, cells.if_any(cells.seconds))
        own = [] if read is None else [f"{clicked[0]}:dwell={read:g}"]
    # What is known of an earlier click stays: a history must not know what follows.
    known = {each.rpartition(":")[0]: each for each in before.signals.split()}
    return " ".join([*known.values(), *(each for each in own if each.rpartition(":")[0] not in known)])


def _grouped(rows: Iterator[SourceRow], columns: ImpressionColumns, source: Source) -> Iterator[SourceRow]:
    """Joins rows of one shown article each to rows of one impression each, numbered by their first row."""

    # Faults of these cells go with their rows: those of the joined row are reported.
    def impression_of(row: SourceRow) -> tuple[Path, str]:
        found = row.read(columns.impression_id, cells.one_id)
        return row.file, found or str(row.cells.get(columns.impression_id))

    for (file, _), group in groupby(rows, impression_of):
        shown_rows = list(islice(group, MAX_CANDIDATES + 1))
        first = shown_rows[0]
        values: dict[str, Any] = {
            name: [row.cells.get(name) for row in shown_rows] for name in (columns.candidates, columns.labels)
        }
        if columns.dwell:  # the dwell time of a click is in its own row
            clicked = next((row for row in shown_rows if row.read(columns.labels, cells.flag)), first)
            values[columns.dwell] = clicked.cells.get(columns.dwell)
        joined = SourceRow(file, first.number, {**first.cells, **values})
        if len(shown_rows) > MAX_CANDIDATES:
            wrong = f"more than {MAX_CANDIDATES:,} consecutive rows are of this impression"
            joined.fault(columns.impression_id, wrong)
        if source.accepts(joined):
            yield joined


def read_candidates(row: SourceRow, columns: ImpressionColumns, source: Source, labelled: bool) -> list[str]:
    """The candidates of a row: ids, with the suffix -1 or -0 if clicks are read (`labelled`) and known."""
    separator = source.reading.separator
    if columns.labelled:
        found = [cells.labelled_id(each) for each in row.read(columns.labelled, cells.ids, separator) or []]
        return found if labelled else [_LABEL.sub("", each) for each in found]
    news_ids = row.read(columns.candidates, cells.ids, separator) or []
    if not labelled or not (columns.clicked or columns.labels):
        return list(dict.fromkeys(news_ids)) if columns.merge_repeated else news_ids
    if columns.clicked:
        clicked = row.read(columns.clicked, cells.ids, separator) or []
        flags = [news_id in clicked for news_id in news_ids]
        if unknown := [news_id for news_id in clicked if news_id not in news_ids]:
            row.fault(columns.clicked, f"{shown(unknown[0])} was clicked but is not among the candidates")
    else:
        labels = row.read(columns.labels, cells.several_of, separator, cells.flag)
        flags = labels or []
        if labels is not None and len(flags) != len(news_ids):
            row.fault(columns.labels, f"{len(flags)} labels for {len(news_ids)} candidates")
    pairs = list(zip(news_ids, flags, strict=False))
    if columns.merge_repeated:
        hits = {news_id for news_id, flag in pairs if flag}
        pairs = [(news_id, news_id in hits) for news_id in dict.fromkeys(news_ids)]
    return [f"{news_id}-{int(flag)}" for news_id, flag in pairs]


def _read_histories(
    source: Source, patterns: Sequence[str], columns: HistoryColumns, known: Mapping[str, str], drop: bool
) -> dict[str, History]:
    """Reads histories by reader, and holds them in memory: about ten bytes per click.

    Clicks on articles that are not `known` are faults, unless `drop` leaves them out.
    """
    found: dict[str, History] = {}
    separator = source.reading.separator
    for row in source.rows(patterns, (columns.user_id, columns.history, columns.dwell)):
        user = row.read(columns.user_id, cells.one_id)
        news_ids = row.read(columns.history, cells.ids, separator) or []
        seconds = row.read(columns.dwell, cells.several_of, separator, cells.if_any(cells.seconds))
        seconds = seconds or [None] * len(news_ids)
        if len(seconds) != len(news_ids):
            row.fault(columns.dwell, f"{len(seconds)} dwell times for {len(news_ids)} clicks")
        clicks = list(zip(news_ids, seconds, strict=False))
        unknown = [news_id for news_id, _ in clicks if news_id not in known]
        if user in found:
            row.fault(columns.user_id, f"{shown(user)} is also in an earlier row; keep one of them")
        if unknown and not drop:
            row.fault(columns.history, f"{shown(unknown[0])} is not among the articles; add the article")
        if source.accepts(row):
            source.counts.dropped += len(unknown)
            clicks = [click for click in clicks if click[0] in known][-columns.newest :]  # 0: all
            read = {news_id: f"{news_id}:dwell={time:g}" for news_id, time in clicks if time is not None}
            found[user] = History(" ".join(news_id for news_id, _ in clicks), " ".join(read.values()))
    return found


def _written(
    opened: Opened,
    split: str,
    articles: Iterable[Article],
    lines: Iterable[LogLine],
    source: Source,
    labelled: bool = True,
    reach: str = "",
) -> SplitSummary:
    """Writes a split, its articles last; `reach`: the time that a log which is split by time covers."""
    impressions = clicks = without_click = without_history = 0
    with opened(split, BEHAVIORS) as log, opened(split, NEWS) as news:
        for line in lines:
            impressions, clicks = impressions + 1, clicks + line.clicks
            without_click += labelled and not line.clicks
            without_history += not line.history
            log.write(line.text.encode() + b"\n")
        written = list(articles)
        with_status = any(article.has_status for article in written)
        for article in written:
            fields = [getattr(article, name) for name in TEXT_FIELDS]
            if with_status:
                published = article.published.isoformat() if article.published else ""
                url_and_entities = ("", "", "")
                fields += [*url_and_entities, published, WITHDRAWN if article.withdrawn else ""]
            news.write("\t".join(fields).encode() + b"\n")
    if not (impressions and written):
        message = "no usable row; does the map have the right columns and skip rules?"
        if reach:
            message = (
                f"no impression in this part of the log: {reach}; do the map's columns and days fit the log?"
            )
        source.policy.reject([Fault(str(source.folder), 0, split, message)])
    return replace(
        source.counts,
        articles=len(written),
        impressions=impressions,
        clicks=clicks,
        without_click=without_click,
        without_history=without_history,
        bad_rows=source.policy.bad_rows,
        faults=tuple(source.policy.faults),
        warnings=(
            *[NO_CLICK] * (labelled and impressions > 0 and not clicks),
            *[NO_HISTORY] * (impressions > 0 and without_history == impressions),
        ),
    )
