"""Reads MIND's files: `news.tsv` and `behaviors.tsv`, plain or gzipped, labelled or not.

Each row is accepted whole, or rejected with all of its faults. A sixth column of `behaviors.tsv`, which MIND
does not have, may hold signals, such as reading times: see `genre_tf.data.signals`. A ninth and a tenth
column of `news.tsv` may say when an article was published and whether it was withdrawn.

Format: https://github.com/msnews/msnews.github.io/blob/master/assets/doc/introduction.md
"""

import itertools
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from genre_tf.data.articles import Article, Impression, Split
from genre_tf.data.lines import Fault, FaultPolicy, find_file, read_lines, shown
from genre_tf.data.signals import Signals, parse_signals
from genre_tf.errors import InputError

NEWS, BEHAVIORS = "news.tsv", "behaviors.tsv"
NEWS_COLUMNS = range(5, 11)
"""MIND has 8; the last three are not read and may be left out; publishing time and state may follow."""

BEHAVIORS_COLUMNS = range(5, 7)
"""MIND has 5; a sixth may hold signals, such as reading times."""

WITHDRAWN = "withdrawn"
"""The state of an article that the newsroom has withdrawn."""

RowFaults = list[tuple[str, str]]
"""Faults of a row: columns and messages."""

_TITLE = 3  # its column
_EPOCH = datetime(1970, 1, 1)
_LABELS = {"-0": False, "-1": True}
# A cell as writers of CSV quote it: in quotation marks, those inside doubled, and at least one pair inside.
_QUOTED = re.compile(r'"(?:[^"]*"")+[^"]*"')
_TIME = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d{2}):(\d{2}) ([AP]M)(?: UTC)?", re.ASCII)
_ZONE = re.compile(r" (?:UTC|GMT|Z|([+-]\d\d:?(?:\d\d)?))$", re.ASCII)


def read_split(data: Path, name: str, max_bad_rows: int = 0) -> Split:
    """Reads one split of a MIND-format data set.

    Args:
        data: folder of the data set, such as `mind_sample`.
        name: folder of the split in it, such as `train`; holds `news.tsv[.gz]` and `behaviors.tsv[.gz]`.
        max_bad_rows: rows of both files together that may be skipped; 0 stops at the first.

    Returns:
        The split, with the faults of the rows that were skipped. Nothing of a skipped row is kept.

    Raises:
        InputError: a wrong path, an unusable file, or more bad rows than allowed.
    """
    policy = FaultPolicy.allowing(max_bad_rows)
    news, behaviors = split_files(data, name)
    articles = read_news(news, policy)
    known = {news_id: news_id for news_id in articles}
    impressions = list(iterate_behaviors(behaviors, known, policy))
    return Split(name, articles, impressions, policy.faults, policy.bad_rows)


def split_files(data: Path, name: str) -> tuple[Path, Path]:
    """The news and the behaviours file of a split; an `InputError` if one is missing says what is there."""
    folder = data / name
    if not data.is_dir():
        raise InputError(f"{data} is not a folder; give a data set folder that holds {name}/{NEWS}")
    if not name or not folder.is_dir():
        there = ", ".join(split_names(data))
        advice = "give one of those" if there else inner_splits(data) or "give another folder"
        raise InputError(f"{data} has no split {name!r} (splits found: {there or 'none'}); {advice}")
    paths = []
    for file in (NEWS, BEHAVIORS):
        path = find_file(folder, file)
        if path is None:
            inner = [data / name / each for each in split_names(folder)]
            advice = f"; move the files of {inner[0]} into it" if inner else ""
            raise InputError(f"{folder} holds no {file} or {file}.gz; a split needs MIND's two files{advice}")
        paths.append(path)
    return paths[0], paths[1]


def split_names(data: Path) -> list[str]:
    """Names of the folders in a data set that hold at least one of MIND's two files, sorted."""
    patterns = (f"*/{file}{ending}" for file in (NEWS, BEHAVIORS) for ending in ("", ".gz"))
    return sorted({path.parent.name for pattern in patterns for path in data.glob(pattern)})


def inner_splits(data: Path) -> str:
    """What to do if the splits are one folder too deep, as archives often unpack; empty if they are not."""
    folders = [path for path in sorted(data.iterdir()) if path.is_dir() and split_names(path)]
    if len(folders) < 2:
        return "".join(f"its splits are in {folder}; give that folder" for folder in folders)
    inner = ", ".join(str(folder / name) for folder in folders for name in split_names(folder))
    return f"its splits are one folder too deep ({inner}); move them up"


def read_news(
    path: Path, policy: FaultPolicy | None = None, wanted: Container[str] | None = None
) -> dict[str, Article]:
    """Reads a news file.

    Args:
        path: `news.tsv` or `news.tsv.gz`; 5 to 10 columns (the sixth to the eighth are not read), the same
            number in every row.
        policy: what to do with faulty rows; stops at the first if not given.
        wanted: ids of the only articles to read, of which the file may have none; None reads all.

    Returns:
        Articles by id, in the order of the file.

    Raises:
        InputError: the file is unusable, or the policy stops.
    """
    policy = policy or FaultPolicy()
    articles: dict[str, Article] = {}
    columns = 0
    for number, text in read_lines(path, policy):
        fields = text.split("\t")
        if wanted is not None and fields[0] not in wanted:
            continue
        faults: RowFaults = []
        if len(fields) not in NEWS_COLUMNS:
            expected = "8 expected (5 to 7 without url and entities, 9 or 10 with published and state)"
            faults.append(("columns", f"{len(fields)} received, {expected}, separated by tabs"))
        elif columns not in (0, len(fields)):
            # A tab inside a title would otherwise shift the columns of a short row unnoticed.
            before = f"{columns} in the rows before; is there a tab in a text?"
            faults.append(("columns", f"{len(fields)} received, {before}"))
        else:
            article = _article(fields, articles, faults)
        if faults:
            policy.reject([Fault(str(path), number, *fault) for fault in faults])
        else:
            columns = len(fields)
            articles[article.news_id] = article
    if wanted is None:
        require_rows(path, articles, policy)
    return articles


def first_titles(data: Path, split: str, most: int = 1000) -> list[str]:
    """Titles of the first rows of a split's news file, without a check of the rows."""
    lines = itertools.islice(read_lines(split_files(data, split)[0], FaultPolicy(None)), most)
    fields = (line.split("\t") for _, line in lines)
    return [row[_TITLE] for row in fields if len(row) > _TITLE]


def iterate_behaviors(path: Path, known: Mapping[str, str], policy: FaultPolicy) -> Iterator[Impression]:
    """Reads a behaviours file row by row, without holding it.

    Args:
        path: `behaviors.tsv` or `behaviors.tsv.gz`.
        known: the ids of the split's articles, each mapped to itself.
        policy: what to do with faulty rows.

    Yields:
        Impressions in the order of the file; all labelled or all not, all with signals or all without.

    Raises:
        InputError: the file is unusable, or the policy stops.
    """
    rows = BehaviorsRow(str(path), known)
    for number, text in read_lines(path, policy):
        impression = rows.read(number, text, policy)
        if impression is not None:
            yield impression
    require_rows(path, rows.seen, policy)


def require_rows(path: Path, rows: object, policy: FaultPolicy) -> None:
    """Reports a file without usable rows to the policy, unless it was already reported as unusable."""
    if rows or any(fault.whole_file and fault.file == str(path) for fault in policy.faults):
        return
    policy.reject([Fault(str(path), 0, "file", "holds no usable row; `genre check` lists every fault")])


def parse_time(text: str) -> datetime | None:
    """Reads MIND's time, such as `11/9/2019 12:01:13 AM`, also before ` UTC`; None if it is not one."""
    # By hand: `strptime` takes several times as long, and a log has a time in every row.
    match = _TIME.fullmatch(text)
    if match is None or not 1 <= int(match[4]) <= 12:
        return None
    hour = int(match[4]) % 12 + (12 if match[7] == "PM" else 0)
    try:
        return datetime(int(match[3]), int(match[1]), int(match[2]), hour, int(match[5]), int(match[6]))
    except ValueError:
        return None


def mind_time(found: datetime) -> str:
    """A time as MIND writes it, such as `11/9/2019 12:01:13 AM`."""
    half = "PM" if found.hour >= 12 else "AM"
    clock = f"{found.hour % 12 or 12}:{found.minute:02d}:{found.second:02d}"
    return f"{found.month}/{found.day}/{found.year:04d} {clock} {half}"


def parse_iso_time(text: str) -> datetime | None:
    """Reads a date or a date-time of ISO 8601, such as `2026-03-02T08:15:00+01:00`; None if it is not one.

    The zone may also be written ` UTC`, ` GMT` or ` +0100`, as data warehouses and logs do. The result is as
    of `naive_time`. Digits alone are refused: `1483225203` means seconds since 1970.
    """
    if text.isdigit():
        return None
    try:
        return naive_time(datetime.fromisoformat(_ZONE.sub(lambda zone: zone[1] or "Z", text)))
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


def unquoted(text: str) -> str:
    """A text without the quoting of CSV, such as `"A ""late"" goal"`; any other text as it is.

    MIND's format has no quoting, but copies that went through a CSV writer have such titles. A text that is
    only between quotation marks stays: it may well be a headline.
    """
    return text[1:-1].replace('""', '"') if _QUOTED.fullmatch(text) else text


def id_fault(value: str) -> str | None:
    """The fault of an id, if any: it must be one word, because lists of ids are joined by spaces."""
    if not value:
        return "is empty; every row needs an id"
    if len(value.split()) != 1 or value != value.strip():
        return f"{shown(value)} holds white space; ids are single words"
    return None


def _article(fields: list[str], articles: dict[str, Article], faults: RowFaults) -> Article:
    news_id, category, subcategory, title, abstract = map(unquoted, fields[:5])
    if wrong := id_fault(news_id):
        faults.append(("news_id", wrong))
    elif news_id in articles:
        faults.append(("news_id", f"{shown(news_id)} is also in an earlier row; keep one of them"))
    if not title.strip():
        faults.append(("title", "is empty; every article needs a title"))
    elif not articles and (title.lower(), category.lower()) == ("title", "category"):
        faults.append(("line", "is a header, which MIND's files do not have; remove the line"))
    published, state = [cell.strip() for cell in (*fields[8:], "", "")[:2]]
    time = parse_iso_time(published) if published else None
    if published and time is None:
        wrong = f"{shown(fields[8])} is not a time; write ISO 8601: 2026-03-02T08:15:00+01:00"
        faults.append(("published", wrong))
    if state not in ("", WITHDRAWN):
        wrong = f"{shown(fields[9])} is not a state; write {WITHDRAWN} or leave it empty"
        faults.append(("state", wrong))
    return Article(news_id, category, subcategory, title, abstract, time, state == WITHDRAWN)


class LogForm(NamedTuple):
    """The form that all rows of a behaviours file share."""

    labelled: bool
    signals: bool  # whether they have the sixth column

    @classmethod
    def of(cls, impression: Impression) -> "LogForm":
        """The form of the log that a row belongs to."""
        return cls(impression.clicked is not None, impression.signals is not None)


class BehaviorsRow:
    """Reads rows of a behaviours file one by one; every article must be `known`, see `parse_behaviors`."""

    def __init__(self, file: str, known: Mapping[str, str]) -> None:
        self.file, self._known = file, known
        self.seen: set[str] = set()  # ids of the rows taken so far
        self.form: LogForm | None = None  # their form; None if there are none

    def read(self, number: int, text: str, policy: FaultPolicy) -> Impression | None:
        """Takes a line, without its line end; or rejects it and returns None."""
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
    if len(fields) not in BEHAVIORS_COLUMNS:
        expected = "5 expected: id, user, time, history, impressions; signals may follow"
        return [("columns", f"{len(fields)} received, {expected}")]
    if form is not None and len(fields) != 5 + form.signals:
        before = f"{5 + form.signals} in the rows before; give signals in all rows or in none"
        return [("columns", f"{len(fields)} received, {before}")]
    faults: RowFaults = []
    impression_id, user_id, time_text, history_text, candidates_text = fields[:5]
    if wrong := id_fault(impression_id):
        faults.append(("impression_id", wrong))
    elif impression_id in seen:
        wrong = f"{shown(impression_id)} is also in an earlier row; keep one of them"
        faults.append(("impression_id", wrong))
    if wrong := id_fault(user_id):
        faults.append(("user_id", wrong))
    time = parse_time(time_text)
    if time is None:
        faults.append(("time", f"{shown(time_text)} is not a time; write it as 11/9/2019 12:01:13 AM"))
    history = _known_ids(history_text.split(), known, "history", faults)
    news_ids, clicked = _candidates(candidates_text.split(), known, form.labelled if form else None, faults)
    signals: Signals | None = None
    if len(fields) > 5:
        of_row = None  # if the row has unknown articles, only the form of its signals is checked
        if not any(field in ("history", "impressions") for field, _ in faults):
            of_row = {news_id: news_id for news_id in (*history, *news_ids)}
        signals, wrongs = parse_signals(fields[5], of_row)
        faults += [("signals", message) for message in wrongs]
    if faults or time is None:
        return faults
    return Impression(impression_id, user_id, time, history, news_ids, clicked, signals)


def row_ids(text: str) -> dict[str, str]:
    """The article ids of a behaviours row, each mapped to itself: for `parse_behaviors` without a news file.

    The candidates count as labelled if all of them end in -0 or -1.
    """
    history, candidates = (column.split() for column in [*text.split("\t"), "", "", "", "", ""][3:5])
    labelled = all(_label(token) is not None for token in candidates)
    bare = (token[:-2] for token in candidates) if labelled else candidates
    return {news_id: news_id for news_id in (*history, *bare)}


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
) -> tuple[tuple[str, ...], tuple[bool, ...] | None]:
    """The fifth column of a behaviours row: ids, and the clicks unless the row has no labels."""
    field = "impressions"
    labels = [None if token in known else _label(token) for token in tokens]
    without = labels.count(None)
    if not tokens:
        faults.append((field, "is empty; an impression shows at least one article"))
    elif 0 < without < len(tokens):
        token = tokens[labels.index(None)]
        faults.append((field, f"{shown(token)} has no label -0 or -1, but others have; label all or none"))
        return (), None
    elif labelled not in (None, without == 0):
        kinds = ("has labels", "have none") if without == 0 else ("has no labels", "have them")
        wrong = f"the row {kinds[0]}, but the rows before {kinds[1]}; keep them in separate logs"
        faults.append((field, wrong))
    bare = tokens if without else [token[:-2] for token in tokens]
    news_ids = _known_ids(bare, known, field, faults)
    if len(set(bare)) < len(bare):
        twice = Counter(bare).most_common(1)[0][0]
        faults.append((field, f"{shown(twice)} is listed twice; list an article once"))
    return news_ids, None if without else tuple(label is True for label in labels)


def _label(token: str) -> bool | None:
    return _LABELS.get(token[-2:]) if len(token) > 2 else None
