"""Converts rows of a log of impressions, in any layout, to lines of MIND's behaviours file."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from genre_tf.data.articles import Impression
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.column_map import HistoryColumns, ImpressionColumns, SplitFiles
from genre_tf.data.layouts.events import History, LogLine, PastClicks
from genre_tf.data.layouts.tables import Source, SourceRow
from genre_tf.data.lines import MAX_LINE_BYTES, shown
from genre_tf.data.mind import LogForm, mind_time, parse_behaviors

MAX_CANDIDATES = 10_000
"""Most rows that one impression can have: MIND's largest has 299."""

_NO_HISTORY = History()
_LABEL = re.compile(r"-[01]$")


class ImpressionLines:
    """Makes the lines of one split's log, one by one.

    Every line is checked by MIND's own rules before it is returned: a value that `genre prepare` would refuse
    is a fault here, in the column of the source that it came from. Histories are the rows' own, after those
    of the split's files of histories or of `past`.
    """

    def __init__(
        self,
        source: Source,
        files: SplitFiles,
        columns: ImpressionColumns,
        articles: Iterable[str],
        histories: HistoryColumns | None = None,
        past: PastClicks | None = None,
    ) -> None:
        self.columns, self.files = columns, files
        self._source, self._past = source, past
        self._known = {news_id: news_id for news_id in articles}
        self._histories: dict[str, History] = {}
        self._has_signals = bool(columns.signals or columns.dwell)
        if files.histories and histories is not None:
            drop = columns.drop_unknown_history
            self._histories = read_histories(source, files.histories, histories, self._known, drop)
            self._has_signals |= bool(histories.dwell)
        self._seen: set[str] = set()
        self._form: LogForm | None = None

    def __iter__(self) -> Iterator[LogLine]:
        """Lines in the order of the files; see `impressions`."""
        for text, found in self.impressions():
            yield LogLine(text, sum(found.clicked or ()), bool(found.history))

    def impressions(self) -> Iterator[tuple[str, Impression]]:
        """Lines in the order of the files, and the impression of each."""
        columns = self.columns
        of_clicks = (columns.clicked, columns.labels, columns.dwell) if self.files.labelled else ()
        of_row = (columns.impression_id, columns.user_id, columns.time, columns.history, columns.candidates)
        wanted = (*of_row, columns.labelled, columns.signals, *of_clicks)
        rows = self._source.rows(self.files.impressions, wanted, columns.skip)
        if columns.row_per_candidate:
            rows = _grouped(rows, columns, self._source)
        names = {  # of MIND's fields
            "impression_id": columns.impression_id,
            "user_id": columns.user_id,
            "time": columns.time,
            "history": columns.history,
            "impressions": columns.candidates or columns.labelled,
            "signals": columns.signals or columns.dwell,
        }
        for place, row in enumerate(rows, start=1):
            line = self._line(row, place)
            if row.faults:
                self._source.accepts(row)
                continue
            found = parse_behaviors(line, self._known, self._seen, self._form)
            if len(line.encode()) >= MAX_LINE_BYTES:
                limit = f"{MAX_LINE_BYTES >> 20} MiB"
                found = [("line", f"is longer than {limit} in MIND's format; shorten its history")]
            if isinstance(found, Impression):
                self._seen.add(found.impression_id)
                self._form = LogForm.of(found)
                yield line, found
            else:
                row.faults = [(names.get(field) or field, message) for field, message in found]
                self._source.accepts(row)

    def _line(self, row: SourceRow, place: int) -> str:
        columns, source = self.columns, self._source
        user = row.read(columns.user_id, cells.one_id) or ""
        time = row.read(columns.time, source.moment)
        before = self._histories.get(user, _NO_HISTORY)
        if self._past is not None and time is not None:
            before, dropped = self._past.before(user, time, self._known)
            source.counts.dropped += dropped
        own = row.read(columns.history, source.ids) or []
        if columns.drop_unknown_history:
            kept = [news_id for news_id in own if news_id in self._known]
            source.counts.dropped += len(own) - len(kept)
            own = kept
        candidates = read_candidates(row, columns, source, self.files.labelled)
        fields = [
            row.read(columns.impression_id, cells.one_id) or str(place),
            user,
            mind_time(time) if time else "",
            " ".join([before.news_ids, *own]).strip(),
            " ".join(candidates),
        ]
        if self._has_signals:
            signals: list[str] = []
            clicked = [each[:-2] for each in candidates if each.endswith("-1")]
            if columns.signals:
                signals = (row.read(columns.signals, cells.signals) or "").split()
            elif columns.dwell and self.files.labelled and len(clicked) == 1:
                read = row.read(columns.dwell, cells.if_any(cells.seconds))
                signals = [] if read is None else [f"{clicked[0]}:dwell={read:g}"]
            # What is known of an earlier click stays: a history must not know what follows.
            known = {each.rpartition(":")[0]: each for each in before.signals.split()}
            new = (each for each in signals if each.rpartition(":")[0] not in known)
            fields.append(" ".join([*known.values(), *new]))
        return "\t".join(fields)


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
    if columns.labelled:
        found = [cells.labelled_id(each) for each in row.read(columns.labelled, source.ids) or []]
        return found if labelled else [_LABEL.sub("", each) for each in found]
    news_ids = row.read(columns.candidates, source.ids) or []
    if not labelled or not (columns.clicked or columns.labels):
        return list(dict.fromkeys(news_ids)) if columns.merge_repeated else news_ids
    if columns.clicked:
        clicked = row.read(columns.clicked, source.ids) or []
        flags = [news_id in clicked for news_id in news_ids]
        if unknown := [news_id for news_id in clicked if news_id not in news_ids]:
            row.fault(columns.clicked, f"{shown(unknown[0])} was clicked but is not among the candidates")
    else:
        labels = row.read(columns.labels, source.several(cells.flag))
        flags = labels or []
        if labels is not None and len(flags) != len(news_ids):
            row.fault(columns.labels, f"{len(flags)} labels for {len(news_ids)} candidates")
    pairs = list(zip(news_ids, flags, strict=False))
    if columns.merge_repeated:
        hits = {news_id for news_id, flag in pairs if flag}
        pairs = [(news_id, news_id in hits) for news_id in dict.fromkeys(news_ids)]
    return [f"{news_id}-{int(flag)}" for news_id, flag in pairs]


def read_histories(
    source: Source, patterns: Sequence[str], columns: HistoryColumns, known: Mapping[str, str], drop: bool
) -> dict[str, History]:
    """Reads histories by reader, and holds them in memory: about ten bytes per click.

    Clicks on articles that are not `known` are faults, unless `drop` leaves them out.
    """
    found: dict[str, History] = {}
    for row in source.rows(patterns, (columns.user_id, columns.history, columns.dwell)):
        user = row.read(columns.user_id, cells.one_id)
        news_ids = row.read(columns.history, source.ids) or []
        seconds = row.read(columns.dwell, source.several(cells.if_any(cells.seconds)))
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
