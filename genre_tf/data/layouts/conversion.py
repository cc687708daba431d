"""Converts logs in another layout to a data set in MIND's format, written whole or not at all."""

import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from genre_tf.data.articles import TEXT_FIELDS, Article
from genre_tf.data.faults import Fault, FaultPolicy
from genre_tf.data.layouts.catalogue import read_catalogue
from genre_tf.data.layouts.click_log import read_clicks
from genre_tf.data.layouts.column_map import ColumnMap
from genre_tf.data.layouts.impression_rows import ImpressionLines, LogLine
from genre_tf.data.layouts.made_impressions import DEV, TRAIN, MadeImpressions
from genre_tf.data.layouts.source_files import Source
from genre_tf.data.mind import BEHAVIORS, NEWS
from genre_tf.data.mind_rows import WITHDRAWN
from genre_tf.data.whole_folder import whole_folder
from genre_tf.errors import InputError

REPORT_FILE = "conversion.json"
ADVICE = "--check lists every fault"


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """Counts of what was written and left out in one split.

    Args:
        articles: articles written.
        impressions: impressions written.
        clicks: clicks in these.
        left_out: rows that the map's skip rules left out.
        dropped: clicks of histories on unknown articles.
        bad_rows: rows that were skipped for a fault.
        faults: their faults, up to the listing limit.
    """

    articles: int
    impressions: int
    clicks: int
    left_out: int = 0
    dropped: int = 0
    bad_rows: int = 0
    faults: tuple[Fault, ...] = ()


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

    Articles are held in memory, and so are all clicks of a log of clicks; impressions are read row by row.

    Args:
        source: folder of the files.
        out: data set folder to write: a folder with MIND's two files for each split, and `conversion.json`.
        column_map: which columns hold what.
        max_bad_rows: faulty rows that may be skipped in each split (in total, for a log with clicks only).
        overwrite: replace `out` if it exists.
        compress: write `.tsv.gz`.

    Returns:
        Counts of what was written, by split.

    Raises:
        InputError: faulty files, more bad rows than allowed, or an `out` that exists.
        FailureError: `out` cannot be written.
    """
    policy = replace(FaultPolicy.allowing(max_bad_rows), advice=ADVICE)
    _require_places(source, out, overwrite)
    with whole_folder(out) as folder:
        splits = dict(_splits(source, column_map, policy, folder, ".gz" if compress else ""))
        report = {"splits": {name: asdict(each) for name, each in splits.items()}, "map": asdict(column_map)}
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (folder / REPORT_FILE).write_text(text, "utf-8")
    return splits


def check_layout(source: Path, column_map: ColumnMap) -> tuple[Splits, bool]:
    """Reads everything and writes nothing.

    Args:
        source: folder of the files.
        column_map: which columns hold what.

    Returns:
        Counts of what would be written, with every fault, and whether a whole file is unusable.

    Raises:
        InputError: a file that the map names is missing.
    """
    _require_folder(source)
    policy = FaultPolicy(None)
    splits = dict(_splits(source, column_map, policy, None, ""))
    return splits, any(fault.whole_file for split in splits.values() for fault in split.faults)


def _splits(
    source: Path, column_map: ColumnMap, policy: FaultPolicy, folder: Path | None, ending: str
) -> Iterator[tuple[str, SplitSummary]]:
    if column_map.clicks is not None:
        yield from _of_clicks(Source(source, column_map.reading, policy), column_map, folder, ending)
        return
    seen: set[str] = set()
    for name, files in column_map.splits.items():
        of_split = Source(source, column_map.reading, replace(policy, faults=[]), seen=seen)
        articles = read_catalogue(of_split, files.articles, column_map.articles)
        lines = ImpressionLines(of_split, column_map, files, {news_id: news_id for news_id in articles})
        split = None if folder is None else folder / name
        yield name, _written(split, ending, articles.values(), lines, of_split)


def _of_clicks(
    source: Source, column_map: ColumnMap, folder: Path | None, ending: str
) -> Iterator[tuple[str, SplitSummary]]:
    if column_map.clicks is None or column_map.files is None:
        raise ValueError("this map does not describe a log of clicks")
    # If each click describes its article, faults of a row are reported only once, when its click is read.
    once = set(source.files(column_map.files.articles)) <= set(source.files(column_map.files.clicks))
    told = replace(source, policy=_OfWholeFiles(source.policy) if once else source.policy)
    articles = read_catalogue(told, column_map.files.articles, column_map.articles)
    catalogue = list(articles.values())
    rows = {news_id: row for row, news_id in enumerate(articles)}
    log = read_clicks(source, column_map, rows)
    made = MadeImpressions(log, list(articles), column_map.clicks)

    def named() -> Iterator[Article]:  # known when the log has been written
        yield from (catalogue[row] for row in sorted(made.named))

    for name in (TRAIN, DEV):
        split = None if folder is None else folder / name
        yield name, _written(split, ending, named(), made.lines(name), source)


class _OfWholeFiles(FaultPolicy):
    """Passes on faults of whole files, such as a missing column, and no others."""

    def __init__(self, policy: FaultPolicy) -> None:
        super().__init__(None)
        self._policy = policy

    def reject(self, faults: list[Fault]) -> None:
        if faults[0].whole_file:
            self._policy.reject(faults)


def _written(
    folder: Path | None, ending: str, articles: Iterable[Article], lines: Iterable[LogLine], source: Source
) -> SplitSummary:
    """Writes a split, its articles last; without a folder only reads it."""
    impressions = clicks = 0
    with ExitStack() as files:
        log = news = None
        if folder is not None:
            folder.mkdir()
            log, news = (
                files.enter_context(_text_file(folder / f"{name}{ending}")) for name in (BEHAVIORS, NEWS)
            )
        for line in lines:
            impressions, clicks = impressions + 1, clicks + line.clicks
            _write(log, line.text)
        written = list(articles)
        with_status = any(article.has_status for article in written)
        for article in written:
            _write(news, _news_line(article, with_status))
    if not (impressions and written):
        _refuse_empty(source, folder)
    policy = source.policy
    return SplitSummary(
        articles=len(written),
        impressions=impressions,
        clicks=clicks,
        left_out=source.left_out,
        dropped=source.dropped,
        bad_rows=policy.bad_rows,
        faults=tuple(policy.faults),
    )


def _news_line(article: Article, with_status: bool) -> str:
    texts = [getattr(article, name) for name in TEXT_FIELDS]
    if not with_status:
        return "\t".join(texts)
    published = article.published.isoformat() if article.published else ""
    url_and_entities = ("", "", "")
    return "\t".join((*texts, *url_and_entities, published, WITHDRAWN if article.withdrawn else ""))


def _refuse_empty(source: Source, folder: Path | None) -> None:
    message = (
        "no usable row (for clicks: none with other articles to draw); does the map have the right columns, "
        "skip rules and days?"
    )
    if folder is not None:
        raise InputError(f"{source.folder}: {folder.name}: {message}")
    source.policy.reject([Fault(str(source.folder), 0, "file", message)])


@contextmanager
def _text_file(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as plain:
        if path.suffix != ".gz":
            yield plain
            return
        # Without the time in its header equal files have equal bytes.
        with gzip.GzipFile("", "wb", fileobj=plain, mtime=0) as packed:
            yield cast(BinaryIO, packed)


def _write(file: BinaryIO | None, line: str) -> None:
    if file is not None:
        file.write(line.encode() + b"\n")


def _require_folder(source: Path) -> None:
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; give the folder that holds the files of the log")


def _require_places(source: Path, out: Path, overwrite: bool) -> None:
    _require_folder(source)
    if source.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{out} holds the files that are read; give another folder to write")
    if out.exists() and not overwrite:
        raise InputError(f"{out} already exists; give another folder, or --overwrite to replace it")


def summary_values(splits: Splits) -> dict[str, Any]:
    """Plain values for JSON, faults as lines of text."""
    return {
        name: {**asdict(split), "faults": [str(fault) for fault in split.faults]}
        for name, split in splits.items()
    }
