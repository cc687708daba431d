"""Settings as frozen dataclasses: ranges and choices are checked, and tables of TOML become settings."""

import dataclasses
import math
import types
import typing
from dataclasses import field
from typing import Any, Literal, TypeVar

from genre_tf.errors import InputError

Settings = TypeVar("Settings", bound=Any)


def within(default: Any, least: float, most: float = math.inf) -> Any:
    """A setting that must lie in a range; of a tuple, each number in it."""
    return field(default=default, metadata={"range": (least, most)})


def range_of(settings: type, name: str) -> tuple[float, float]:
    """Least and greatest value of a setting."""
    fields = {each.name: each for each in dataclasses.fields(settings)}
    least, most = fields[name].metadata.get("range", (-math.inf, math.inf))
    return least, most


def _check_choice(kind: Any, value: Any, where: str) -> Any:
    choices = typing.get_args(kind)
    if value not in choices:
        raise InputError(f"{where} must be one of {', '.join(filter(None, choices))}; got {value!r}")
    return value


class Section:
    """Settings that refuse wrong values as soon as they are made: training reads some only after minutes."""

    section = ""
    """Its name in a TOML file."""

    def __init_subclass__(cls, section: str) -> None:
        cls.section = section

    def __post_init__(self) -> None:
        """Raise an `InputError` for a value that is out of its range or none of the choices."""
        for name, kind in typing.get_type_hints(type(self)).items():
            value, place = getattr(self, name), f"{self.section}.{name}"
            if typing.get_origin(kind) is Literal:
                _check_choice(kind, value, place)
            least, most = range_of(type(self), name)
            for each in value if isinstance(value, tuple) else (value,):
                if least > -math.inf and not least <= each <= most:
                    limits = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
                    raise InputError(f"{place} must be {limits}; got {each:g}")


def from_table(
    kind: type[Settings], table: dict[str, Any], where: str, default: Settings | None = None
) -> Settings:
    """Build a settings dataclass from a nested table of plain values.

    Args:
        kind: the dataclass.
        table: names to values, as TOML gives them.
        where: place of the table, for error messages.
        default: gives what the table leaves out; None: the defaults of the dataclass.

    Raises:
        InputError: an unknown key, a missing key without a default, or a value of the wrong type.
    """
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise InputError(f"{where}: unknown key {key!r}; known keys: {', '.join(hints)}")
        values[key] = _convert(hints[key], value, f"{where}: {key}", getattr(default, key, None))
    if default is not None:
        return dataclasses.replace(default, **values)  # type: ignore[type-var]
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        optional = each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
        if not optional and each.name not in values:
            given = ", ".join(table) or "none"
            raise InputError(f"{where}: {each.name} is missing; keys given: {given}")
    return kind(**values)


def _convert(kind: Any, value: Any, where: str, default: Any = None) -> Any:
    if isinstance(kind, types.UnionType):  # Settings | None: a table that may be left out
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        return _check_choice(kind, value, where)
    of_tables = typing.get_origin(kind) is dict  # dict[str, Settings]: a table for each name
    if dataclasses.is_dataclass(kind) or of_tables:
        if not isinstance(value, dict):
            raise InputError(f"{where} must be a table of settings; got {value!r}")
        if of_tables:
            each = typing.get_args(kind)[1]
            return {name: _convert(each, part, f"{where}.{name}") for name, part in value.items()}
        return from_table(typing.cast(type, kind), value, where, default)
    if isinstance(kind, types.GenericAlias):  # tuple[float, ...] and its like
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list; got {value!r}")
        return tuple(_convert(typing.get_args(kind)[0], each, where) for each in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where} must be of type {kind.__name__}; got {value!r}")
    return value
