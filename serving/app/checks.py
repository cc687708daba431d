"""Checks of what clients send: each fault says where it is, in which field, and what is expected."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from genre_tf.contract import KINDS, TONES

EVENT_KINDS = ("click", "dwell", "comment", "share", "hide")
DECISIONS = ("approve", "edit", "reject", "withdraw")
MOST_EVENTS = 1_000  # of one request

_ID = re.compile(r"[^\s/\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]{1,128}")
_LONGEST_TEXT = 20_000
_DAY_SECONDS = 86_400


class RefusedError(Exception):
    """A request that is answered with an error: its status, and the document that says why."""

    def __init__(self, status: int, error: str, **more: Any) -> None:
        super().__init__(error)
        self.status, self.document = status, {"error": error, **more}


class Field(NamedTuple):
    """A field of a JSON object: `read` returns the value, or raises a ValueError with what is expected."""

    read: Callable[[Any], Any]
    required: bool = False
    default: Any = None


def identifier(value: Any) -> str:
    """An id of a reader, an article, an event, an impression."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError("must be one word of at most 128 characters, without / and control characters")
    return value


def words(value: Any) -> str:
    """A text that is not blank; control characters are left out, and what is no Unicode text."""
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ValueError(f"must be a text of at most {_LONGEST_TEXT:,} characters")
    lines = value.replace("\r\n", "\n").split("\n")
    kept = ("".join(letter for letter in line.replace("\t", " ") if letter.isprintable()) for line in lines)
    cleaned = "\n".join(kept).strip()
    if not cleaned:
        raise ValueError("must not be blank")
    return cleaned


def one_line(value: Any) -> str:
    """As `words`, on one line."""
    return " ".join(words(value).split())


def number(least: float, most: float) -> Callable[[Any], float]:
    """A number in a range."""

    def read(value: Any) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:  # NaN is not in any range
            raise ValueError(f"must be a number from {least:g} to {most:g}")
        return float(value)

    return read


def whole(least: int, most: int) -> Callable[[Any], int]:
    """A whole number in a range."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return read


def one_of(*choices: str) -> Callable[[Any], str]:
    """One of some words."""

    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return read


_READER = Field(identifier, required=True)
_SEED = Field(whole(-(2**63), 2**63 - 1), default=0)
EVENT = {
    "reader": _READER,
    "kind": Field(one_of(*EVENT_KINDS), required=True),
    "article": Field(identifier, required=True),
    "impression": Field(identifier),
    "seconds": Field(number(0, _DAY_SECONDS)),
    "event": Field(identifier),
}
WRITE = {
    "reader": _READER,
    "kind": Field(one_of(*KINDS), required=True),
    "article": Field(identifier, required=True),
    "tone": Field(one_of("", *TONES), default=""),
    "topic": Field(one_line, default=""),
    "seed": _SEED,
}
ASK = {"reader": _READER, "question": Field(one_line, required=True), "seed": _SEED}
DECISION = {
    "decision": Field(one_of(*DECISIONS), required=True),
    "text": Field(words),
    "note": Field(words),
}


def read_object(value: Any, fields: Mapping[str, Field], place: int | None = None) -> dict[str, Any]:
    """The values of a JSON object by its fields.

    Raises:
        RefusedError: with status 422, for the first fault.
    """
    where = "" if place is None else f"entry {place}: "
    told = {} if place is None else {"place": place}
    if not isinstance(value, dict):
        raise RefusedError(422, f"{where}must be a JSON object; got {_shown(value)}", field=None, **told)
    for name in value:
        if name not in fields:
            error = f"{where}{_shown(name)} is not a field; fields: {', '.join(fields)}"
            raise RefusedError(422, error, field=name[:100], **told)
    read = {}
    for name, field in fields.items():
        given = value.get(name)
        if given is None:
            if field.required:
                raise RefusedError(422, f"{where}{name} is missing", field=name, **told)
            read[name] = field.default
            continue
        try:
            read[name] = field.read(given)
        except ValueError as error:
            raise RefusedError(
                422, f"{where}{name} {error}; got {_shown(given)}", field=name, **told
            ) from None
    return read


def read_events(value: Any) -> list[dict[str, Any]]:
    """One event or a list of them; a fault in one of them refuses all."""
    listed = value if isinstance(value, list) else [value]
    if not 1 <= len(listed) <= MOST_EVENTS:
        raise RefusedError(422, f"give 1 to {MOST_EVENTS} events; got {len(listed)}", field=None)
    events = []
    for place, one in enumerate(listed):
        event = read_object(one, EVENT, place)
        if (event["kind"] == "dwell") != (event["seconds"] is not None):
            error = f"entry {place}: seconds belong to dwell, and dwell needs them"
            raise RefusedError(422, error, field="seconds", place=place)
        events.append(event)
    return events


def parse_json(body: bytes) -> Any:
    """A JSON document; status 400 if it is not one."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is not JSON: {_shown(str(error))}") from None


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
