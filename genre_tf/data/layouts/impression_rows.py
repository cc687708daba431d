"""Converts rows of a log of impressions, in any layout, to lines of MIND's behaviours file."""

from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from genre_tf.data.articles import Impression
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.candidate_cells import read_candidates
from genre_tf.data.layouts.catalogue import RowFaults, cell_of
from genre_tf.data.layouts.column_map import ColumnMap, ImpressionColumns, SplitFiles
from genre_tf.data.layouts.histories import History, PastClicks, dwell_text, read_histories
from genre_tf.data.layouts.source_files import Source
from genre_tf.data.layouts.tables import Row
from genre_tf.data.lines import MAX_LINE_BYTES
from genre_tf.data.mind_rows import LogForm, parse_behaviors

NO_HISTORY = History()
MAX_CANDIDATES = 10_000
"""Most rows that one impression can have: MIND's largest has 299."""

NumberedRows = Iterator[tuple[Path, int, Row]]


class LogLine(NamedTuple):
    """A line of a behaviours file, the number of clicks in its impression, and whether it has a history."""

    text: str
    clicks: int
    history: bool


class ImpressionLines:
    """Makes the lines of one split's log, one by one.

    Every line is checked by MIND's own rules before it is returned: a value that `genre prepare` would refuse
    is a fault here, in the column of the source that it came from.

    Args:
        source: where the files are.
        column_map: which columns of a log of impressions hold what.
        files: files of the split.
        known: the ids of the split's articles, each mapped to itself.
        past: earlier clicks of the readers, if histories are made of them.
    """

    def __init__(
        self,
        source: Source,
        column_map: ColumnMap,
        files: SplitFiles,
        known: Mapping[str, str],
        past: PastClicks | None = None,
    ) -> None:
        if column_map.impressions is None:
            raise ValueError("this map does not describe a log of impressions")
        self.columns, self.files = column_map.impressions, files
        self._source, self._known, self._past = source, known, past
        self._histories: dict[str, History] = {}
        columns, histories = self.columns, column_map.histories
        if files.histories and histories is not None:
            drop = columns.drop_unknown_history
            self._histories = read_histories(source, files.histories, histories, known, drop)
        of_histories = bool(files.histories and histories is not None and histories.dwell)
        self._tells_signals = bool(columns.signals or columns.dwell or of_histories)
        self._seen: set[str] = set()
        self._form: LogForm | None = None

    def __iter__(self) -> Iterator[LogLine]:
        """Lines in the order of the files.

        Raises:
            InputError: an unusable file, or the policy stops.
        """
        for text, found in self.impressions():
            yield LogLine(text, sum(found.clicked or ()), bool(found.history))

    def impressions(self) -> Iterator[tuple[str, Impression]]:
        """Lines in the order of the files, and the impression of each.

        Raises:
            InputError: an unusable file, or the policy stops.
        """
        columns = self.columns
        of_clicks = (columns.clicked, columns.labels, columns.dwell) if self.files.labelled else ()
        of_row = (columns.impression_id, columns.user_id, columns.time, columns.history, columns.candidates)
        wanted = (*of_row, columns.labelled, columns.signals, *of_clicks)
        rows = self._source.rows(self.files.impressions, wanted, columns.skip)
        if columns.row_per_candidate:
            rows = _grouped(rows, columns, self._source)
        for place, (path, number, row) in enumerate(rows, start=1):
            faults: RowFaults = []
            line = self._line(row, place, faults)
            found = faults or self._parsed(line)
            if isinstance(found, Impression):
                self._seen.add(found.impression_id)
                self._form = LogForm.of(found)
                yield line, found
            else:
                self._source.reject(path, number, found)

    def _line(self, row: Row, place: int, faults: RowFaults) -> str:
        columns, reading = self.columns, self._source.reading
        user = cell_of(row, columns.user_id, cells.one_id, faults) or ""
        time = cell_of(row, columns.time, lambda value: cells.moment(value, reading.time_unit), faults)
        before = self._histories.get(user, NO_HISTORY)
        if self._past is not None and time is not None:
            before, dropped = self._past.before(user, time, self._known)
            self._source.dropped += dropped
        own = cell_of(row, columns.history, lambda value: cells.ids(value, reading.separator), faults) or []
        if columns.drop_unknown_history:
            kept = [news_id for news_id in own if news_id in self._known]
            self._source.dropped += len(own) - len(kept)
            own = kept
        candidates = read_candidates(row, columns, reading.separator, self.files.labelled, faults)
        fields = [
            cell_of(row, columns.impression_id, cells.one_id, faults) or str(place),
            user,
            cells.mind_time(time) if time else "",
            " ".join([before.news_ids, *own]).strip(),
            " ".join(candidates),
        ]
        if self._tells_signals:
            fields.append(self._signals(row, before, candidates, faults))
        return "\t".join(fields)

    def _signals(self, row: Row, before: History, candidates: list[str], faults: RowFaults) -> str:
        columns = self.columns
        own: list[str] = []
        clicked = [each[:-2] for each in candidates if each.endswith("-1")]
        if columns.signals:
            own = (cell_of(row, columns.signals, cells.signals, faults) or "").split()
        elif columns.dwell and self.files.labelled and len(clicked) == 1:
            read = cell_of(row, columns.dwell, cells.seconds, faults)
            own = [] if read is None else [f"{clicked[0]}:{dwell_text(read)}"]
        # What is known of an earlier click stays: a history must not know what follows.
        earlier = {each.rpartition(":")[0]: each for each in before.signals.split()}
        return " ".join(
            [*earlier.values(), *(each for each in own if each.rpartition(":")[0] not in earlier)]
        )

    def _parsed(self, line: str) -> Impression | RowFaults:
        if len(line.encode()) >= MAX_LINE_BYTES:
            return [
                ("line", f"is longer than {MAX_LINE_BYTES >> 20} MiB in MIND's format; shorten its history")
            ]
        found = parse_behaviors(line, self._known, self._seen, self._form)
        if isinstance(found, Impression):
            return found
        columns = self.columns
        names = {
            "impression_id": columns.impression_id,
            "user_id": columns.user_id,
            "time": columns.time,
            "history": columns.history,
            "impressions": columns.candidates or columns.labelled,
            "signals": columns.signals or columns.dwell,
        }
        return [(names.get(field) or field, message) for field, message in found]


def _grouped(rows: NumberedRows, columns: ImpressionColumns, source: Source) -> NumberedRows:
    """Joins rows of one shown article each to rows of one impression each, numbered by their first row."""

    def impression_of(numbered: tuple[Path, int, Row]) -> tuple[Path, str]:
        path, _, row = numbered
        found = cell_of(row, columns.impression_id, cells.one_id, [])
        return path, found or str(row.get(columns.impression_id))

    for (path, _), group in groupby(rows, impression_of):
        shown_rows = list(islice(group, MAX_CANDIDATES + 1))
        _, number, first = shown_rows[0]
        if len(shown_rows) > MAX_CANDIDATES:
            wrong = f"more than {MAX_CANDIDATES:,} consecutive rows are of this impression"
            source.reject(path, number, [(columns.impression_id, wrong)])
            continue
        clicked = [row for _, _, row in shown_rows if cell_of(row, columns.labels, cells.flag, [])]
        listed = {
            name: [row.get(name) for _, _, row in shown_rows] for name in (columns.candidates, columns.labels)
        }
        # The dwell time of a click is in its own row.
        dwell = {columns.dwell: clicked[0].get(columns.dwell)} if columns.dwell and clicked else {}
        yield path, number, {**first, **listed, **dwell}
