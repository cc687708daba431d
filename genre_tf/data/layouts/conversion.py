"""Converts logs in another layout to a data set in MIND's format, written whole or not at all."""

import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from genre_tf.data.articles import TEXT_FIELDS, Article, Impression
from genre_tf.data.faults import Fault, FaultPolicy
from genre_tf.data.layouts.catalogue import read_catalogue
from genre_tf.data.layouts.click_log import read_clicks
from genre_tf.data.layouts.column_map import ColumnMap, SplitFiles
from genre_tf.data.layouts.event_log import EventImpressions, read_events
from genre_tf.data.layouts.histories import PastClicks
from genre_tf.data.layouts.impression_rows import ImpressionLines, LogLine
from genre_tf.data.layouts.made_impressions import DEV, TRAIN, DrawnImpressions, MadeImpressions
from genre_tf.data.layouts.source_files import Source
from genre_tf.data.mind import BEHAVIORS, NEWS
from genre_tf.data.mind_rows import WITHDRAWN
from genre_tf.data.whole_folder import whole_folder
from genre_tf.errors import InputError

REPORT_FILE = "conversion.json"
ADVICE = "--check lists every fault"
NO_CLICK = "no impression has a click; do the columns and values of clicks in the map fit the log?"
NO_HISTORY = (
    "no reader has a history: nobody clicked before an impression, or the column of histories is empty; then "
    "models can only learn what is popular"
)


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """Counts of what was written and left out in one split.

    Args:
        articles: articles written.
        impressions: impressions written.
        clicks: clicks in these.
        without_click: impressions without a click.
        without_history: impressions without a history.
        left_out: rows that the map's skip rules left out.
        dropped: clicks (or events) on unknown articles.
        clicks_without_view: clicks of a log of events that are only history, in the whole log.
        unmatched: its events without an earlier view or click of their article, which are left out.
        bad_rows: rows that were skipped for a fault.
        faults: their faults, up to the listing limit.
        made_histories: whether histories are clicks of a log of impressions.
        warnings: what is allowed but unlikely to be meant.
    """

    articles: int
    impressions: int
    clicks: int
    without_click: int = 0
    without_history: int = 0
    left_out: int = 0
    dropped: int = 0
    clicks_without_view: int = 0
    unmatched: int = 0
    bad_rows: int = 0
    faults: tuple[Fault, ...] = ()
    made_histories: bool = False
    warnings: tuple[str, ...] = ()


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
    if column_map.impressions is None:
        yield from _of_whole_log(Source(source, column_map.reading, policy), column_map, folder, ending)
        return
    seen: set[str] = set()
    splits = {}
    for name, files in column_map.splits.items():
        of_split = Source(source, column_map.reading, replace(policy, faults=[]), seen=seen)
        articles = read_catalogue(of_split, files.articles, column_map.articles)
        splits[name] = (of_split, files, articles)
    past = _past_clicks(column_map, splits)
    for name, (of_split, files, articles) in splits.items():
        made = None if files.histories else past
        lines = ImpressionLines(of_split, column_map, files, _ids(articles), made)
        split = None if folder is None else folder / name
        labelled = column_map.has_labels and files.labelled
        counts = _written(split, ending, articles.values(), lines, of_split, labelled)
        yield name, replace(counts, made_histories=made is not None)


_OneSplit = tuple[Source, SplitFiles, dict[str, Article]]


def _past_clicks(column_map: ColumnMap, splits: dict[str, _OneSplit]) -> PastClicks | None:
    """The clicks of all splits, if a split has no other histories; the second reading reports all faults."""
    columns = column_map.impressions
    if columns is None or columns.history or not column_map.has_labels:
        return None
    if all(files.histories for _, files, _ in splits.values()):
        return None

    def impressions() -> Iterator[Impression]:
        for of_split, files, articles in splits.values():
            if files.labelled:
                unreported = Source(of_split.folder, of_split.reading, FaultPolicy(None))
                only_log = replace(files, histories=())
                lines = ImpressionLines(unreported, column_map, only_log, _ids(articles))
                yield from (found for _, found in lines.impressions())

    return PastClicks(impressions(), columns.newest)


def _ids(articles: dict[str, Article]) -> dict[str, str]:
    return {news_id: news_id for news_id in articles}


def _of_whole_log(
    source: Source, column_map: ColumnMap, folder: Path | None, ending: str
) -> Iterator[tuple[str, SplitSummary]]:
    """Splits a log of clicks or events by time."""
    files = column_map.files
    if files is None:
        raise ValueError("this map names no files of a log of clicks or events")
    # If each row describes its article, faults of a row are reported only once, when its click is read.
    once = set(source.files(files.articles)) <= set(source.files((*files.clicks, *files.events)))
    told = replace(source, policy=_OfWholeFiles(source.policy) if once else source.policy)
    articles = read_catalogue(told, files.articles, column_map.articles)
    catalogue = list(articles.values())
    made = _made(source, column_map, list(articles))

    def named() -> Iterator[Article]:  # known when the log has been written
        yield from (catalogue[row] for row in sorted(made.named))

    for name in (TRAIN, DEV):
        split = None if folder is None else folder / name
        yield name, _written(split, ending, named(), made.lines(name), source, reach=made.reach)


def _made(source: Source, column_map: ColumnMap, news_ids: list[str]) -> MadeImpressions:
    rows = {news_id: row for row, news_id in enumerate(news_ids)}
    if column_map.clicks is not None:
        return DrawnImpressions(read_clicks(source, column_map, rows), news_ids, column_map.clicks)
    if column_map.events is None:
        raise ValueError("this map describes neither clicks nor events")
    made = EventImpressions(read_events(source, column_map, rows), news_ids, column_map.events)
    source.clicks_without_view, source.unmatched = made.clicks_without_view, made.unmatched
    return made


class _OfWholeFiles(FaultPolicy):
    """Passes on faults of whole files, such as a missing column, and no others."""

    def __init__(self, policy: FaultPolicy) -> None:
        super().__init__(None)
        self._policy = policy

    def reject(self, faults: list[Fault]) -> None:
        if faults[0].whole_file:
            self._policy.reject(faults)


def _written(
    folder: Path | None,
    ending: str,
    articles: Iterable[Article],
    lines: Iterable[LogLine],
    source: Source,
    labelled: bool = True,
    reach: str = "",
) -> SplitSummary:
    """Writes a split, its articles last; without a folder only reads it."""
    impressions = clicks = without_click = without_history = 0
    with ExitStack() as files:
        log = news = None
        if folder is not None:
            folder.mkdir()
            log, news = (
                files.enter_context(_text_file(folder / f"{name}{ending}")) for name in (BEHAVIORS, NEWS)
            )
        for line in lines:
            impressions, clicks = impressions + 1, clicks + line.clicks
            without_click += labelled and not line.clicks
            without_history += not line.history
            _write(log, line.text)
        written = list(articles)
        with_status = any(article.has_status for article in written)
        for article in written:
            _write(news, _news_line(article, with_status))
    if not (impressions and written):
        _refuse_empty(source, folder, reach)
    policy = source.policy
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
        bad_rows=policy.bad_rows,
        faults=tuple(policy.faults),
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


def _refuse_empty(source: Source, folder: Path | None, reach: str) -> None:
    message = "no usable row; does the map have the right columns and skip rules?"
    if reach:
        message = (
            f"no impression in this part of the log: {reach}; do the map's columns and days fit the log?"
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
