"""Converts logs in another layout to a data set in MIND's format, written whole or not at all."""

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from genre_tf.data.articles import TEXT_FIELDS, Article, Impression
from genre_tf.data.faults import Fault, FaultPolicy, shown
from genre_tf.data.layouts.cells import first_text, if_any, one_id, text, withdrawn
from genre_tf.data.layouts.column_map import ArticleColumns, ColumnMap, ImpressionColumns, SplitFiles
from genre_tf.data.layouts.event_log import EventImpressions, read_events
from genre_tf.data.layouts.impression_rows import ImpressionLines
from genre_tf.data.layouts.made_impressions import (
    DEV,
    TRAIN,
    DrawnImpressions,
    LogLine,
    MadeImpressions,
    PastClicks,
)
from genre_tf.data.layouts.tables import Source, SourceRow
from genre_tf.data.lines import MAX_LINE_BYTES
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


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """Counts of what was written and left out in one split."""

    articles: int  # written
    impressions: int  # written
    clicks: int  # in these
    without_click: int = 0  # impressions without a click
    without_history: int = 0  # impressions without a history
    left_out: int = 0  # rows that the map's skip rules left out
    dropped: int = 0  # clicks (or events) on unknown articles
    clicks_without_view: int = 0  # clicks of a log of events that are only history, in the whole log
    unmatched: int = 0  # its events without an earlier view or click of their article, which are left out
    bad_rows: int = 0  # rows that were skipped for a fault
    faults: tuple[Fault, ...] = ()  # of these, up to the listing limit
    made_histories: bool = False  # whether histories are clicks of a log of impressions
    warnings: tuple[str, ...] = ()  # what is allowed but unlikely to be meant


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
    _require_folder(source)
    if source.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{out} holds the files that are read; give another folder to write")
    if out.exists() and not overwrite:
        raise InputError(f"{out} already exists; give another folder, or --overwrite to replace it")
    with whole_folder(out) as folder:
        splits = dict(_splits(source, column_map, policy, _Out(folder, ".gz" if compress else "")))
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
    _require_folder(source)
    policy = FaultPolicy(None)
    splits = dict(_splits(source, column_map, policy, _Out()))
    return splits, any(fault.whole_file for split in splits.values() for fault in split.faults)


def summary_values(splits: Splits) -> dict[str, Any]:
    """Plain values for JSON, faults as lines of text."""
    return {
        name: {**asdict(split), "faults": [str(fault) for fault in split.faults]}
        for name, split in splits.items()
    }


def _require_folder(source: Path) -> None:
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; give the folder that holds the files of the log")


class _Out(NamedTuple):
    """Where the splits are written, and the ending of their files (`.gz` or nothing); nowhere by default."""

    folder: Path | None = None
    ending: str = ""

    @contextmanager
    def file(self, split: str, name: str) -> Iterator[BinaryIO]:
        """Opens a file of a split to write."""
        path = Path(os.devnull)
        if self.folder is not None:
            path = self.folder / split / f"{name}{self.ending}"
            path.parent.mkdir(exist_ok=True)
        with path.open("wb") as plain:
            if not self.ending:
                yield plain
                return
            # Without the time in its header equal files have equal bytes.
            with gzip.GzipFile("", "wb", fileobj=plain, mtime=0) as packed:
                yield cast(BinaryIO, packed)


def _splits(
    source: Path, column_map: ColumnMap, policy: FaultPolicy, out: _Out
) -> Iterator[tuple[str, SplitSummary]]:
    columns = column_map.impressions
    if columns is None:
        yield from _of_whole_log(Source(source, column_map.reading, policy), column_map, out)
        return
    seen: set[str] = set()
    splits: dict[str, _Split] = {}
    for name, files in column_map.splits.items():
        of_split = Source(source, column_map.reading, replace(policy, faults=[]), seen=seen)
        articles = _read_articles(of_split, files.articles, column_map.articles)
        splits[name] = (of_split, files, articles)
    in_files = all(files.histories for _, files, _ in splits.values())
    past = None
    if column_map.has_labels and not (columns.history or in_files):
        past = PastClicks(_unreported(splits.values(), columns), columns.newest)
    for name, (of_split, files, articles) in splits.items():
        made = None if files.histories else past
        lines = ImpressionLines(of_split, files, columns, articles, column_map.histories, made)
        labelled = column_map.has_labels and files.labelled
        counts = _written(out, name, articles.values(), lines, of_split, labelled)
        yield name, replace(counts, made_histories=made is not None)


_Split = tuple[Source, SplitFiles, dict[str, Article]]


def _unreported(splits: Iterable[_Split], columns: ImpressionColumns) -> Iterator[Impression]:
    """The labelled impressions of all splits; the second reading of their logs reports the faults."""
    for of_split, files, articles in splits:
        if files.labelled:
            quiet = Source(of_split.folder, of_split.reading, FaultPolicy(None))
            yield from (found for _, found in ImpressionLines(quiet, files, columns, articles).impressions())


def _of_whole_log(source: Source, column_map: ColumnMap, out: _Out) -> Iterator[tuple[str, SplitSummary]]:
    """Splits a log of clicks or events by time."""
    clicks, events, files = column_map.clicks, column_map.events, column_map.files
    columns = clicks.as_events() if clicks else events
    if columns is None or files is None:
        raise ValueError("this map describes neither clicks nor events, or names no files of them")
    patterns = files.clicks if clicks else files.events
    # If each row describes its article, faults of a row are reported only once, when its click is read.
    once = set(source.files(files.articles)) <= set(source.files(patterns))
    of_articles = replace(source, policy=_OfWholeFiles(source.policy) if once else source.policy)
    articles = _read_articles(of_articles, files.articles, column_map.articles)
    news_ids, catalogue = list(articles), list(articles.values())
    log = read_events(source, patterns, columns, {news_id: row for row, news_id in enumerate(news_ids)})
    made: MadeImpressions
    if clicks:
        made = DrawnImpressions(log.as_clicks(), news_ids, clicks)
    else:
        made = EventImpressions(log, news_ids, columns)
        source.clicks_without_view, source.unmatched = made.clicks_without_view, made.unmatched
    del log  # what is made of it has its own arrays

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
        article = _article(row, columns, source)
        if article.news_id in articles:
            if columns.repeated:
                continue
            wrong = f"{shown(article.news_id)} is also in an earlier row; keep one of them"
            row.fault(columns.news_id, wrong)
        if source.accepts(row):
            articles[article.news_id] = article
    return articles


def _article(row: SourceRow, columns: ArticleColumns, source: Source) -> Article:
    news_id, title = row.read(columns.news_id, one_id) or "", row.read(columns.title, text) or ""
    if not title.strip():
        row.fault(columns.title, "is empty; every article needs a title")
    category, subcategory = (
        row.read(column, first_text) or "" for column in (columns.category, columns.subcategory)
    )
    if columns.category_separator:
        category, _, inner = category.partition(columns.category_separator)
        subcategory = subcategory or inner.partition(columns.category_separator)[0]
    article = Article(
        news_id,
        category,
        subcategory,
        title,
        row.read(columns.abstract, text) or "",
        row.read(columns.published, if_any(source.moment)),
        bool(row.read(columns.withdrawn, withdrawn)),
    )
    if sum(len(getattr(article, name).encode()) for name in TEXT_FIELDS) >= MAX_LINE_BYTES - _OTHER_BYTES:
        row.fault("line", f"is longer than {MAX_LINE_BYTES >> 20} MiB in MIND's format; shorten its texts")
    return article


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
            news.write(_news_line(article, with_status).encode() + b"\n")
    if not (impressions and written):
        message = "no usable row; does the map have the right columns and skip rules?"
        if reach:
            message = (
                f"no impression in this part of the log: {reach}; do the map's columns and days fit the log?"
            )
        if out.folder is not None:
            raise InputError(f"{source.folder}: {split}: {message}")
        source.policy.reject([Fault(str(source.folder), 0, "file", message)])
    return SplitSummary(
        articles=len(written),
        impressions=impressions,
        clicks=clicks,
        without_click=without_click,
        without_history=without_history,
        left_out=source.left_out,
        dropped=source.dropped,
        clicks_without_view=source.clicks_without_view,
        unmatched=source.unmatched,
        bad_rows=source.policy.bad_rows,
        faults=tuple(source.policy.faults),
        warnings=(
            *[NO_CLICK] * (labelled and impressions > 0 and not clicks),
            *[NO_HISTORY] * (impressions > 0 and without_history == impressions),
        ),
    )


def _news_line(article: Article, with_status: bool) -> str:
    texts = [getattr(article, name) for name in TEXT_FIELDS]
    if not with_status:
        return "\t".join(texts)
    published = article.published.isoformat() if article.published else ""
    url_and_entities = ("", "", "")
    return "\t".join((*texts, *url_and_entities, published, WITHDRAWN if article.withdrawn else ""))
