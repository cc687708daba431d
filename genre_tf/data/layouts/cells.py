"""Converts cells of CSV, JSON and Parquet files to the strings of MIND's files, or raises `CellError`."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from genre_tf.data.lines import listed, shown
from genre_tf.data.mind import WITHDRAWN, id_fault, naive_time, parse_iso_time, parse_time

Value = TypeVar("Value")

_WITHDRAWN = {"": False, "0": False, "false": False, "1": True, "true": True, WITHDRAWN: True}
_NUMBER = re.compile(r"-?\d{1,20}(\.\d*)?", re.ASCII)
_WHOLE = re.compile(r"(-?\d+)\.0+", re.ASCII)
_EXACT = 1 << 53  # above it, floats skip whole numbers
# A list of texts as Python prints it, which is how pandas writes lists to CSV.
_PYTHON_LIST = re.compile(r"\[\s*'[^'\"\\]*'(?:\s*,\s*'[^'\"\\]*')*\s*\]")
_EPOCH = datetime(1970, 1, 1)
_NO_TIME = 1e20  # in no unit, not even nanoseconds
_SECONDS_OF_TODAY = range(600_000_000, 4_100_000_000)  # since 1970: the years 1989 to 2099
_ODD = re.compile("[\t\n\r\0\ud800-\udfff]")
_HALVES = re.compile("[\ud800-\udfff]")  # half a character: JSON can escape it, UTF-8 cannot hold it
# Characters that would break a line of MIND's files, which have no quoting.
_BREAKS = str.maketrans(dict.fromkeys("\t\n\r\0", " "))


class CellError(ValueError):
    """A cell has an invalid value; the message says what is wrong."""


def is_missing(value: Any) -> bool:
    """Whether a cell is absent, blank, NaN or an empty list (also as a JSON array in a text)."""
    if isinstance(value, str):
        return "".join(value.split()) in ("", "[]")
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def text(value: Any) -> str:
    """A cell as one line of text: tabs, line ends and zero bytes become spaces, half characters U+FFFD."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return _HALVES.sub("\ufffd", value.translate(_BREAKS)) if _ODD.search(value) else value
    if is_missing(value):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Decimal) and value.is_finite():
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers with missing values is read as floats
    if not isinstance(value, int | float):
        raise CellError(f"{shown(str(value))} is neither a text nor a number")
    return str(value)


def whole(value: str) -> str:
    """A text; a whole number written as a float, such as `12.0`, without its fraction."""
    found = _WHOLE.fullmatch(value) if "." in value else None
    return found[1] if found else value


def first_text(value: Any) -> str:
    """As `text` and `whole`; for a list its first element."""
    return whole(text((value or [""])[0] if isinstance(value, list) else value))


def one_id(value: Any) -> str:
    """An id that can be part of a list joined by spaces: not empty, without white space; `12.0` is `12`."""
    if isinstance(value, float) and abs(value) > _EXACT:
        raise CellError(f"{value} is not exact as a float; write ids as integers or as text")
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:  # such as a UUID of 16 bytes
            raise CellError(f"{shown(value.hex())} (bytes in hex) is not UTF-8; write ids as text") from None
    found = whole(text(value))
    if wrong := id_fault(found):
        raise CellError(wrong)
    return found


def if_any(read: Callable[..., Value]) -> Callable[..., Value | None]:
    """A reader of cells that may be empty, for which it gives None."""
    return lambda value, *more: None if is_missing(value) else read(value, *more)


def several(value: Any, separator: str) -> Sequence[Any]:
    """The elements of a list: a list itself, a JSON array, a list as Python prints it, or separated text."""
    if isinstance(value, list):
        return value
    if is_missing(value):
        return []
    if isinstance(value, str) and value.startswith("["):
        try:
            found = json.loads(value.replace("'", '"') if _PYTHON_LIST.fullmatch(value) else value)
        except (ValueError, RecursionError):
            raise CellError(f"{shown(value)} begins as a JSON array but is not one") from None
        return list(found)
    if isinstance(value, str):
        return value.split() if separator == " " else [part.strip() for part in value.split(separator)]
    return [value]


def several_of(value: Any, separator: str, read: Callable[[Any], Value]) -> list[Value]:
    """As `several`, each of them read with `read`."""
    return [read(each) for each in several(value, separator)]


def ids(value: Any, separator: str) -> list[str]:
    """As `several`, each of them an id."""
    if separator == " " and isinstance(value, str) and not value.startswith("["):
        found = text(value).split()  # the most common case
        return [whole(each) for each in found] if "." in value else found
    return several_of(value, separator, one_id)


def labelled_id(value: str) -> str:
    """A candidate with the suffix -1 or -0, its id and label as `whole`; others as they are."""
    if "." not in value:
        return value
    news_id, _, label = value.rpartition("-")
    return f"{whole(news_id)}-{whole(label)}" if news_id and whole(label) in ("0", "1") else value


def signals(value: Any) -> str:
    """Signals such as `N1:dwell=35`, their ids as `whole`."""
    parts = ((each, *each.rpartition(":")) for each in text(value).split())
    return " ".join(f"{whole(news_id)}:{values}" if colon else each for each, news_id, colon, values in parts)


def _word(value: Any) -> str:
    return whole(text(value).strip().lower())


def flag(value: Any) -> bool:
    """A label: 1, 0, true or false."""
    found = _word(value)
    if found not in ("0", "1", "true", "false"):
        raise CellError(f"{shown(found)} is not a label; give 1 or 0 for each candidate")
    return found in ("1", "true")


def seconds(value: Any, what: str = "a number of seconds") -> float:
    """A dwell time."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise CellError(f"{shown(str(value))} is not {what}") from None


def position(value: Any) -> float:
    """A place in a list, as a finite number."""
    found = seconds(value, "a position")
    if not math.isfinite(found):
        raise CellError(f"{found} is not a position; give a number such as 3")
    return found


def event(value: Any, kinds: Mapping[str, str]) -> str:
    """What a row of a log of events is: `kinds` maps the known values, in lower case, to their meanings."""
    found = _word(value)
    if found not in kinds:
        wrong = f"{shown(found)} is not a known event" if found else "is empty"
        advice = "add it to views, clicks, ... of [events]" if found else "give one of them"
        raise CellError(
            f"{wrong}; known events: {listed(kinds)}; {advice}, or leave such rows out (skip in the map)"
        )
    return kinds[found]


def moment(value: Any, unit: str) -> datetime:
    """A time in whole seconds without a zone; a time with a zone is converted to UTC.

    Of a time of Parquet; of seconds or milliseconds since 1970, as `unit` says (`s` or `ms`), unless they are
    only plausible in the other unit; or of a text: MIND's form, ISO 8601 or such a number.
    """
    found = value if isinstance(value, datetime) else None
    if isinstance(value, date) and found is None:
        found = datetime(value.year, value.month, value.day)
    elif isinstance(value, str):
        found = parse_time(value.strip()) or parse_iso_time(value.strip())
        value = float(value) if found is None and _NUMBER.fullmatch(value.strip()) else value
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if found is None and is_number and abs(value) < _NO_TIME:
        if unit == "ms" and int(value) in _SECONDS_OF_TODAY:
            days = timedelta(milliseconds=float(value)).days
            advice = 'if times are in seconds, set time_unit = "s" in [reading]'
            raise CellError(f"{text(value)} ms are only {days} days after 1970; {advice}")
        try:
            found = _EPOCH + timedelta(seconds=float(value) / (1000 if unit == "ms" else 1))
        except OverflowError:
            advice = "write times in seconds or milliseconds"
            if unit == "s":
                advice = 'set time_unit = "ms" in [reading] if times are in milliseconds'
            outside = "is outside the years 1 to 9999"
            raise CellError(f"{text(value)} {unit} after 1970 {outside}; {advice}") from None
    found = None if found is None else naive_time(found)
    if found is None:
        forms = "ISO 8601, MIND's form (11/9/2019 12:01:13 AM), or seconds since 1970"
        raise CellError(f"{shown(text(value))} is not a time; write {forms}")
    return found


def withdrawn(value: Any) -> bool:
    """Whether an article was withdrawn: a label as in `flag`, the state as in `news.tsv`, or nothing."""
    found = _word(value)
    if found not in _WITHDRAWN:
        advice = f"write {WITHDRAWN}, 1 or true; else 0, false or nothing"
        raise CellError(f"{shown(found)} is not a state; {advice}")
    return _WITHDRAWN[found]
