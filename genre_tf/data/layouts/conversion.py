"""Converts logs in another layout to a data set in MIND's format, written whole or not at all."""

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from genre_tf.data.articles import TEXT_FIELDS, Article, Impression
from genre_tf.data.layouts.cells import first_text, if_any, one_id, text, withdrawn
from genre_tf.data.layouts.column_map import ArticleColumns, ColumnMap
from genre_tf.data.layouts.events import (
    DEV,
    EVENT,
    TRAIN,
    DrawnImpressions,
    EventImpressions,
    FirstClicks,
    LogLine,
    MadeImpressions,
    PastClicks,
    read_events,
)
from genre_tf.data.layouts.impression_rows import ImpressionLines
from genre_tf.data.layouts.tables import Source, SplitSummary
from genre_tf.data.lines import MAX_LINE_BYTES, Fault, FaultPolicy, shown
from genre_tf.data.mind import BEHAVIORS, NEWS, WITHDRAWN
from genre_tf.errors import InputError
from genre_tf.files import whole_folder

REPORT_FILE = "conversion.json"
_OTHER_BYTES = 200  # more than a line of MIND's news file has beside the texts: tabs, a time and a state
ADVICE = "--check lists every fault"
NO_CLICK = "no impression has a click; do the columns and values of clicks in the map fit the log?"
NO_HISTORY = (
    "no reader has a history: nobody clicked before an impression, or the column of histories is empty; then "
    "models can only learn what is popular"
)


Splits = dict[str, SplitSummary]


def convert(
    source: Path,
    out: Path,
    column_map: ColumnMap,
    *,
    max_bad_rows: int = 0,
    overwrite: bool = False,
    compress: bool = False,
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
        compress: write `.tsv.gz`.

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
        splits = dict(_splits(source, column_map, policy, _Out(folder, compress)))
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
    splits = dict(_splits(source, column_map, FaultPolicy(None), _Out()))
    return splits, any(fault.whole_file for split in splits.values() for fault in split.faults)


def summary_values(splits: Splits) -> dict[str, Any]:
    """Plain values for JSON, faults as lines of text."""
    return {
        name: {**asdict(split), "faults": [str(fault) for fault in split.faults]}
        for name, split in splits.items()
    }


@dataclass(frozen=True)
class _Out:
    """Where the splits are written, and whether gzipped; nowhere by default."""

    folder: Path | None = None
    compress: bool = False

    @contextmanager
    def file(self, split: str, name: str) -> Iterator[BinaryIO]:
        """Opens a file of a split to write."""
        path = Path(os.devnull)
        if self.folder is not None:
            path = self.folder / split / (f"{name}.gz" if self.compress else name)
            path.parent.mkdir(exist_ok=True)
        with path.open("wb") as plain:
            if not self.compress:
                yield plain
                return
            # Without the time in its header equal files have equal bytes.
            with gzip.GzipFile("", "wb", fileobj=plain, mtime=0) as packed:
                yield cast(BinaryIO, packed)


def _splits(
    folder: Path, column_map: ColumnMap, policy: FaultPolicy, out: _Out
) -> Iterator[tuple[str, SplitSummary]]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the files of the log")
    columns, histories = column_map.impressions, column_map.histories
    if columns is None:
        yield from _of_whole_log(Source(folder, column_map.reading, policy), column_map, out)
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
                lines = ImpressionLines(quiet, files, columns, articles[name])
                yield from (found for _, found in lines.impressions())

    past = None
    in_files = all(files.histories for files in column_map.splits.values())
    if column_map.has_labels and not (columns.history or in_files):
        past = PastClicks(clicks(), columns.newest)
    for name, files in column_map.splits.items():
        made = None if files.histories else past
        lines = ImpressionLines(sources[name], files, columns, articles[name], histories, made)
        labelled = column_map.has_labels and files.labelled
        counts = _written(out, name, articles[name].values(), lines, sources[name], labelled)
        yield name, replace(counts, made_histories=made is not None)


def _of_whole_log(source: Source, column_map: ColumnMap, out: _Out) -> Iterator[tuple[str, SplitSummary]]:
    """Splits a log of clicks or events by time."""
    clicks, events, files = column_map.clicks, column_map.events, column_map.files
    columns = clicks.as_events() if clicks else events
    if columns is None or files is None:
        raise ValueError("this map describes neither clicks nor events, or names no files of them")
    patterns = files.clicks if clicks else files.events
    # If each row describes its article, faults of a row are reported only once, when its click is read.
    once = set(source.files(files.articles)) <= set(source.files(patterns))
    of_articles = replace(
        source, policy=_OfWholeFiles(source.policy) if once else source.policy, counts=SplitSummary()
    )
    articles = _read_articles(of_articles, files.articles, column_map.articles)
    news_ids, catalogue = list(articles), list(articles.values())
    users, rows = dict[str, int](), {news_id: row for row, news_id in enumerate(news_ids)}
    log = np.fromiter(read_events(source, patterns, columns, users, rows), EVENT)
    first_clicks = FirstClicks(log, users)
    made: MadeImpressions
    if clicks:
        made = DrawnImpressions(first_clicks, news_ids, clicks)
    else:
        made = EventImpressions(log, first_clicks, news_ids, columns)
    del log  # what is made of it has its own arrays
    source.counts.clicks_without_view, source.counts.unmatched = made.clicks_without_view, made.unmatched

    def named() -> Iterator[Article]:  # known when the log has been written
        yield from (catalogue[row] for row in sorted(made.named))

    for name in (TRAIN, DEV):
        yield name, _written(out, name, named(), made.lines(name), source, reach=made.reach)


class _OfWholeFiles(FaultPolicy):
    """Passes on faults of whole files, such as a missing column, and no others."""

    def __init__(self, policy: FaultPolicy) -> None:
        super().__init__(None)
        self._policy = policy

    def reject(self, faults: list[Fault]) -> None:
        if faults[0].whole_file:
            self._policy.reject(faults)


def _read_articles(source: Source, patterns: Sequence[str], columns: ArticleColumns) -> dict[str, Article]:
    """Articles by id, in the order of the files."""
    articles: dict[str, Article] = {}
    of_text = (columns.news_id, columns.title, columns.abstract, columns.category, columns.subcategory)
    for row in source.rows(patterns, (*of_text, columns.published, columns.withdrawn), columns.skip):
        news_id, title = row.read(columns.news_id, one_id) or "", row.read(columns.title, text) or ""
        if not title.strip():
            row.fault(columns.title, "is empty; every article needs a title")
        of_category = (columns.category, columns.subcategory)
        category, subcategory = (row.read(column, first_text) or "" for column in of_category)
        if columns.category_separator:
            category, _, inner = category.partition(columns.category_separator)
            subcategory = subcategory or inner.partition(columns.category_separator)[0]
        abstract = row.read(columns.abstract, text) or ""
        published = row.read(columns.published, if_any(source.moment))
        gone = bool(row.read(columns.withdrawn, withdrawn))
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


def _written(
    out: _Out,
    split: str,
    articles: Iterable[Article],
    lines: Iterable[LogLine],
    source: Source,
    labelled: bool = True,
    reach: str = "",
) -> SplitSummary:
    """Writes a split, its articles last; `reach`: the time that a log which is split by time covers."""
    impressions = clicks = without_click = without_history = 0
    with out.file(split, BEHAVIORS) as log, out.file(split, NEWS) as news:
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
        if out.folder is not None:
            raise InputError(f"{source.folder}: {split}: {message}")
        source.policy.reject([Fault(str(source.folder), 0, "file", message)])
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
