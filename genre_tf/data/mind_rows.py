"""Rows of MIND's two files: each is accepted whole, or rejected with all of its faults."""

import re
from collections import Counter
from collections.abc import Container, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from genre_tf.data.articles import Article, Impression
from genre_tf.data.faults import Fault, FaultPolicy, shown
from genre_tf.data.signals import Signals, parse_signals

NEWS_COLUMNS = range(5, 11)
"""MIND has 8; the last three are not read and may be left out; publishing time and state may follow."""

_EPOCH = datetime(1970, 1, 1)

WITHDRAWN = "withdrawn"
"""The state of an article that the newsroom has withdrawn."""

BEHAVIORS_COLUMNS = range(5, 7)
"""MIND has 5; a sixth may hold signals, such as reading times."""

RowFaults = list[tuple[str, str]]
"""Faults of a row: columns and messages."""

_LABELS = {"-0": False, "-1": True}

# A cell as writers of CSV quote it: in quotation marks, those inside doubled, and at least one pair inside.
_QUOTED = re.compile(r'"(?:[^"]*"")+[^"]*"')

_TIME = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d{2}):(\d{2}) ([AP]M)(?: UTC)?", re.ASCII)


_ZONE = re.compile(r" (?:UTC|GMT|Z|([+-]\d\d:?(?:\d\d)?))$", re.ASCII)


def _offset(zone: re.Match[str]) -> str:
    return zone[1] or "Z"


class LogForm(NamedTuple):
    """The form that all rows of a behaviours file share.

    Args:
        labelled: whether they have labels.
        signals: whether they have the sixth column.
    """

    labelled: bool
    signals: bool

    @classmethod
    def of(cls, impression: Impression) -> "LogForm":
        """The form of the log that a row belongs to."""
        return cls(impression.clicked is not None, impression.signals is not None)


class Candidates(NamedTuple):
    """The fifth column of a behaviours row: ids, and the clicks unless the row has no labels."""

    news_ids: tuple[str, ...]
    clicked: tuple[bool, ...] | None


def parse_time(text: str) -> datetime | None:
    """Reads MIND's time, such as `11/9/2019 12:01:13 AM`, also with ` UTC` after it; None if it is not one.

    By hand: `strptime` takes several times as long, and a log has a time in every row.
    """
    match = _TIME.fullmatch(text)
    if match is None or not 1 <= int(match[4]) <= 12:
        return None
    hour = int(match[4]) % 12 + (12 if match[7] == "PM" else 0)
    try:
        return datetime(int(match[3]), int(match[1]), int(match[2]), hour, int(match[5]), int(match[6]))
    except ValueError:
        return None


def unquoted(text: str) -> str:
    """A text without the quoting of CSV, such as `"A ""late"" goal"`; any other text as it is.

    MIND's format has no quoting, but copies that went through a CSV writer have such titles. A text that is
    only between quotation marks stays: it may well be a headline.
    """
    return text[1:-1].replace('""', '"') if _QUOTED.fullmatch(text) else text


def parse_iso_time(text: str) -> datetime | None:
    """Reads a date or a date-time of ISO 8601, such as `2026-03-02T08:15:00+01:00`; None if it is not one.

    The zone may also be written ` UTC`, ` GMT` or ` +0100`, as data warehouses and logs do. The result is as
    of `naive_time`. Digits alone are refused: `1483225203` means seconds since 1970.
    """
    if text.isdigit():
        return None
    try:
        return naive_time(datetime.fromisoformat(_ZONE.sub(_offset, text)))
    except ValueError:
        return None


def naive_time(time: datetime) -> datetime | None:
    """A time in whole seconds and without a zone, in UTC if it had one; None if UTC cannot represent it."""
    try:
        naive = time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:  # within hours of the earliest or the latest possible time
        return None
    return naive.replace(microsecond=0)


def epoch_seconds(time: datetime) -> int:
    """Whole seconds since 1970 on the log's own clock."""
    return int((time - _EPOCH).total_seconds())


def epoch_time(seconds: int) -> datetime:
    """The time of `epoch_seconds`."""
    return _EPOCH + timedelta(seconds=seconds)


def id_fault(value: str) -> str | None:
    """The fault of an id, if any: it must be one word, because lists of ids are joined by spaces."""
    if not value:
        return "is empty; every row needs an id"
    if len(value.split()) != 1 or value != value.strip():
        return f"{shown(value)} holds white space; ids are single words"
    return None


class NewsRow:
    """Reads rows of a news file one by one into `articles`."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.articles: dict[str, Article] = {}
        self._columns = 0

    def read(self, number: int, text: str, policy: FaultPolicy) -> None:
        """Takes one row, or rejects it.

        Args:
            number: 1-based line number.
            text: the row without its line end.
            policy: gets the faults.
        """
        fields = text.split("\t")
        faults = self._column_faults(len(fields))
        article = None if faults else self._article(fields, faults)
        if article is None or faults:
            policy.reject([Fault(self.file, number, *fault) for fault in faults])
            return
        self._columns = len(fields)
        self.articles[article.news_id] = article

    def _column_faults(self, columns: int) -> RowFaults:
        if columns not in NEWS_COLUMNS:
            expected = "8 expected (5 to 7 without url and entities, 9 or 10 with published and state)"
            return [("columns", f"{columns} received, {expected}, separated by tabs")]
        if self._columns not in (0, columns):
            # A tab inside a title would otherwise shift the columns of a short row unnoticed.
            before = f"{self._columns} in the rows before; is there a tab in a text?"
            return [("columns", f"{columns} received, {before}")]
        return []

    def _article(self, fields: list[str], faults: RowFaults) -> Article:
        news_id, category, subcategory, title, abstract = map(unquoted, fields[:5])
        if wrong := id_fault(news_id):
            faults.append(("news_id", wrong))
        elif news_id in self.articles:
            faults.append(("news_id", f"{shown(news_id)} is also in an earlier row; keep one of them"))
        if not title.strip():
            faults.append(("title", "is empty; every article needs a title"))
        elif not self.articles and (title.lower(), category.lower()) == ("title", "category"):
            faults.append(("line", "is a header, which MIND's files do not have; remove the line"))
        published = _published(fields[8], faults) if len(fields) > 8 else None
        withdrawn = _withdrawn(fields[9], faults) if len(fields) > 9 else False
        return Article(news_id, category, subcategory, title, abstract, published, withdrawn)


def _published(cell: str, faults: RowFaults) -> datetime | None:
    text = cell.strip()
    time = parse_iso_time(text) if text else None
    if text and time is None:
        faults.append(
            ("published", f"{shown(cell)} is not a time; write ISO 8601: 2026-03-02T08:15:00+01:00")
        )
    return time


def _withdrawn(cell: str, faults: RowFaults) -> bool:
    state = cell.strip()
    if state not in ("", WITHDRAWN):
        faults.append(("state", f"{shown(cell)} is not a state; write {WITHDRAWN} or leave it empty"))
    return state == WITHDRAWN


class BehaviorsRow:
    """Reads rows of a behaviours file one by one.

    Args:
        file: path, for messages.
        known: see `parse_behaviors`; every id of the log must be among these.

    Attributes:
        seen: the ids of the rows taken so far.
        form: their form; None if there are none.
    """

    def __init__(self, file: str, known: Mapping[str, str]) -> None:
        self.file = file
        self._known = known
        self.seen: set[str] = set()
        self.form: LogForm | None = None

    def read(self, number: int, text: str, policy: FaultPolicy) -> Impression | None:
        """Takes one row, or rejects it.

        Args:
            number: 1-based line number.
            text: the row without its line end.
            policy: gets the faults.

        Returns:
            The impression; None for a row that was rejected.
        """
        row = parse_behaviors(text, self._known, self.seen, self.form)
        if not isinstance(row, Impression):
            policy.reject([Fault(self.file, number, *fault) for fault in row])
            return None
        self.seen.add(row.impression_id)
        self.form = LogForm.of(row)
        return row


def parse_behaviors(
    text: str, known: Mapping[str, str], seen: Container[str], form: LogForm | None
) -> Impression | RowFaults:
    """Reads one row of a behaviours file; depends on nothing but its arguments.

    Args:
        text: the row without its line end.
        known: the articles' ids, each mapped to itself, so that a log shares the strings that it repeats.
        seen: impression ids of the rows taken before.
        form: form of the rows taken before; None if there are none.

    Returns:
        The impression, or every fault of the row: at least one.
    """
    fields = text.split("\t")
    faults = _column_faults(len(fields), form)
    if faults:
        return faults
    impression_id, user_id, time_text, history_text, candidates_text = fields[:5]
    if wrong := id_fault(impression_id):
        faults.append(("impression_id", wrong))
    elif impression_id in seen:
        faults.append(
            ("impression_id", f"{shown(impression_id)} is also in an earlier row; keep one of them")
        )
    if wrong := id_fault(user_id):
        faults.append(("user_id", wrong))
    time = parse_time(time_text)
    if time is None:
        faults.append(("time", f"{shown(time_text)} is not a time; write it as 11/9/2019 12:01:13 AM"))
    history = _known_ids(history_text.split(), known, "history", faults)
    candidates = _candidates(candidates_text.split(), known, form.labelled if form else None, faults)
    signals = _signals(fields[5], history, candidates, faults) if len(fields) > 5 else None
    if faults or time is None:
        return faults
    return Impression(impression_id, user_id, time, history, *candidates, signals)


def row_ids(text: str) -> dict[str, str]:
    """The article ids of a behaviours row, each mapped to itself: for `parse_behaviors` without a news file.

    The candidates count as labelled if all of them end in -0 or -1.
    """
    history, candidates = (column.split() for column in [*text.split("\t"), "", "", "", "", ""][3:5])
    labelled = all(_label(token) is not None for token in candidates)
    bare = (token[:-2] for token in candidates) if labelled else candidates
    return {news_id: news_id for news_id in (*history, *bare)}


def _column_faults(columns: int, form: LogForm | None) -> RowFaults:
    expected = "5 expected: id, user, time, history, impressions; signals may follow"
    if columns not in BEHAVIORS_COLUMNS:
        return [("columns", f"{columns} received, {expected}")]
    if form is not None and columns != 5 + form.signals:
        advice = "give signals in all rows or in none"
        return [("columns", f"{columns} received, {5 + form.signals} in the rows before; {advice}")]
    return []


def _signals(text: str, history: tuple[str, ...], candidates: Candidates, faults: RowFaults) -> Signals:
    of_row = None  # if the row has unknown articles, only the form of its signals is checked
    if not any(field in ("history", "impressions") for field, _ in faults):
        of_row = {news_id: news_id for news_id in (*history, *candidates.news_ids)}
    signals, wrong = parse_signals(text, of_row)
    faults += [("signals", message) for message in wrong]
    return signals


def _known_ids(
    news_ids: list[str], known: Mapping[str, str], field: str, faults: RowFaults
) -> tuple[str, ...]:
    # A log has a hundred ids per row: the loop below is only for rows with a fault.
    with suppress(KeyError):
        return tuple(map(known.__getitem__, news_ids))
    found = tuple(known[news_id] for news_id in news_ids if news_id in known)
    first = next(news_id for news_id in news_ids if news_id not in known)
    more = len(news_ids) - len(found) - 1
    others = f" and {more} more are" if more else " is"
    faults.append((field, f"{shown(first)}{others} not in the split's news file; add the article"))
    return found


def _candidates(
    tokens: list[str], known: Mapping[str, str], labelled: bool | None, faults: RowFaults
) -> Candidates:
    field = "impressions"
    labels = [None if token in known else _label(token) for token in tokens]
    without = labels.count(None)
    if not tokens:
        faults.append((field, "is empty; an impression shows at least one article"))
    elif 0 < without < len(tokens):
        token = tokens[labels.index(None)]
        faults.append((field, f"{shown(token)} has no label -0 or -1, but others have; label all or none"))
    elif labelled not in (None, without == 0):
        kinds = ("has labels", "have none") if without == 0 else ("has no labels", "have them")
        faults.append(
            (field, f"the row {kinds[0]}, but the rows before {kinds[1]}; keep them in separate logs")
        )
    bare = tokens if without else [token[:-2] for token in tokens]
    if 0 < without < len(tokens):
        return Candidates((), None)
    news_ids = _known_ids(bare, known, field, faults)
    if len(set(bare)) < len(bare):
        twice = Counter(bare).most_common(1)[0][0]
        faults.append((field, f"{shown(twice)} is listed twice; list an article once"))
    return Candidates(news_ids, None if without else tuple(label is True for label in labels))


def _label(token: str) -> bool | None:
    return _LABELS.get(token[-2:]) if len(token) > 2 else None
