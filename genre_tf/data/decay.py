"""The counters of an article and their decay: the weight of a click or view halves with every half-life."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genre_tf.contract import COUNTERS as COUNTERS
from genre_tf.data.articles import PUBLISHED_UNKNOWN

HALF_LIVES_HOURS = (1, 6, 24)

COUNTS = tuple(name for name in COUNTERS if name != "age_hours")
"""The counters that events add to, in the order of `CounterState.counts`: two plain and six halved ones."""

UNKNOWN_TIME = PUBLISHED_UNKNOWN
"""Marks an unknown time: the smallest int64."""

HOUR_SECONDS = 3600

_HALF_LIVES_SECONDS = HOUR_SECONDS * np.array(HALF_LIVES_HOURS, np.float64)
_VIEWS, _AGE_HOURS = COUNTERS.index("views"), COUNTERS.index("age_hours")
_NEVER = 1 << 62  # later than any time, and small enough to subtract

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CounterState:
    """State of N articles at a moment.

    Args:
        counts: float64 [N, 8]: clicks, views, the halved clicks, the halved views.
        first: int64 [N], seconds since 1970: publication of each article, or its first view if that was
            earlier or no publication is known; `UNKNOWN_TIME` for an article with neither.
        seconds: the moment, which is the time of the newest event; None if nothing has happened yet.
    """

    counts: Floats
    first: Ints
    seconds: int | None = None


def remaining(seconds: npt.ArrayLike) -> Floats:
    """The part of a click or view that still counts after some seconds.

    Args:
        seconds: [...].

    Returns:
        float64 [..., 3], for each half-life.
    """
    return np.exp2(-np.asarray(seconds, np.float64)[..., None] / _HALF_LIVES_SECONDS)


def halved(counts: npt.ArrayLike, seconds: npt.ArrayLike) -> Floats:
    """Decayed clicks and views after some seconds.

    Args:
        counts: [..., 6].
        seconds: [...].

    Returns:
        float64 [..., 6].
    """
    return np.asarray(counts, np.float64) * np.tile(remaining(seconds), 2)


def counter_columns(counts: npt.ArrayLike, seconds: npt.ArrayLike, ages: npt.ArrayLike) -> Floats:
    """The counters of some articles, some time after they were counted.

    Args:
        counts: [..., 8], as in `CounterState`.
        seconds: [...], since the counts were taken; negative values count as 0.
        ages: [...], from `age_seconds`.

    Returns:
        float64 [..., 9], in the order of `COUNTERS`.
    """
    counts = np.asarray(counts, np.float64)
    columns = np.empty((*counts.shape[:-1], len(COUNTERS)))
    columns[..., :2] = counts[..., :2]
    columns[..., 2] = np.asarray(ages) / HOUR_SECONDS
    columns[..., 3:] = halved(counts[..., 2:], np.maximum(seconds, 0))
    return columns


def age_seconds(first: Ints, seconds: npt.ArrayLike) -> Ints:
    """Age of articles at a moment in seconds: int64 [...]; 0 if `first` is unknown or later."""
    return np.maximum(np.asarray(seconds, np.int64) - _never_if_unknown(first), 0)


def earliest(*times: Ints) -> Ints:
    """The earliest known of several times: int64 [N] each; `UNKNOWN_TIME` if none is known."""
    return _unknown_again(np.minimum.reduce([_never_if_unknown(each) for each in times]))


def decayed(counters: npt.NDArray[np.float32], hours: float) -> npt.NDArray[np.float32]:
    """Counters of some articles some hours later, if nothing has happened since.

    Args:
        counters: float32 [N, 9]; the age of an article under embargo may be negative.
        hours: hours since they were taken.

    Returns:
        float32 [N, 9]; the age of an article that was neither shown nor published stays 0.
    """
    return _later(counters, hours).astype(np.float32)


def merged(
    before: npt.NDArray[np.float32], hours: float, log: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Earlier counters and those of a later log, added up.

    Args:
        before: float32 [N, 9].
        hours: hours between the times of `before` and `log`.
        log: float32 [N, 9], of the log alone.

    Returns:
        float32 [N, 9], as of the moment of `log`; the age comes from `before` if it has one.
    """
    earlier = _later(before, hours)
    both = earlier + log
    both[:, _AGE_HOURS] = np.where(_has_age(before), earlier[:, _AGE_HOURS], log[:, _AGE_HOURS])
    return both.astype(np.float32)


def _later(counters: npt.NDArray[np.float32], hours: float) -> npt.NDArray[np.float64]:
    later = counters.astype(np.float64)
    later[:, _AGE_HOURS] += np.where(_has_age(counters), hours, 0)
    later[:, _AGE_HOURS + 1 :] = halved(later[:, _AGE_HOURS + 1 :], hours * HOUR_SECONDS)
    return later


def _has_age(counters: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    return (counters[:, _VIEWS] > 0) | (counters[:, _AGE_HOURS] != 0)


def _never_if_unknown(times: Ints) -> Ints:
    return np.where(times == UNKNOWN_TIME, _NEVER, times)


def _unknown_again(times: Ints) -> Ints:
    return np.where(times == _NEVER, UNKNOWN_TIME, times)
