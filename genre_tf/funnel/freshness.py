"""Which known articles may be shown now, and which of them are new: from their counters alone.

Histories are read by every article that was ever known; the pool is the part of them that may be shown. An
article is stale when it is older than the limit and no longer read. One without any time (never published,
never shown, as far as anyone knows) is not new, and is not shown either. Without a limit everything that is
published is shown.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.counters import COUNTERS

STILL_READ = 0.5
"""Clicks, halved every 24 hours, from which an article of any age counts as still read."""
NO_LIMIT = 1e30
"""The age limit in hours where there is none."""
NEW_VIEWS = 10
"""An article that was shown less often has no counters worth the name."""

_VIEWS, _AGE, _CLICKS_24H = (COUNTERS.index(name) for name in ("views", "age_hours", "clicks_24h"))
_LOW_BITS = (1 << 62) - 1  # so that no shift meets a sign
_UNIFORM_BITS = 23  # with one bit more, float32 would round the greatest to 1, whose noise is infinite


def may_be_shown(counters: Any, limit_hours: Any) -> Any:
    """Which articles are published and not stale.

    Args:
        counters: float32 [..., 9], of NumPy or TensorFlow; an article under embargo has a negative age.
        limit_hours: older articles are stale, unless they are still read; a number, or a scalar of the
            library; `NO_LIMIT`: none is.

    Returns:
        bool [...], of the same library.
    """
    age = counters[..., _AGE]
    timed = (counters[..., _VIEWS] > 0) | (age > 0)
    young = (age <= limit_hours) | (counters[..., _CLICKS_24H] >= STILL_READ)
    return (age >= 0) & ((limit_hours >= NO_LIMIT) | (timed & young))


def is_new(counters: Any) -> Any:
    """Which articles hardly anyone was shown yet: [..., 9] -> bool [...]."""
    return counters[..., _VIEWS] < NEW_VIEWS


def learned_age_limit(counters: npt.NDArray[np.float32], share: float = 0.99) -> float | None:
    """The age below which so many of a log's clicks fall, those on articles that are still read left out.

    Args:
        counters: float32 [n, 9], of each clicked article just before its click.
        share: of the clicks that the limit keeps.

    Returns:
        Hours, at least 24, rounded up to whole ones; None where no click tells an age.
    """
    if not len(counters):
        return None
    age = np.where(counters[:, _CLICKS_24H] >= STILL_READ, 0.0, counters[:, _AGE])
    limit = float(np.quantile(age, share, method="higher"))
    return max(24.0, float(np.ceil(limit)))


def exploration_noise(keys: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Standard Gumbel noise that depends on nothing but a request and an article.

    Args:
        keys: int64 [B], of the requests.
        rows: int64 [B, F] or [1, F].

    Returns:
        float32 [B, F].
    """
    mixed = keys[:, None] * 6364136223846793005 + rows * 1442695040888963407
    mixed = tf.bitwise.bitwise_and(mixed, _LOW_BITS)
    mixed = tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, tf.constant(31, tf.int64)))
    mixed = tf.bitwise.bitwise_and(mixed * 3202034522624059733, _LOW_BITS)
    mixed = tf.bitwise.right_shift(mixed, tf.constant(62 - _UNIFORM_BITS, tf.int64))
    uniform = (tf.cast(mixed, tf.float32) + 0.5) / 2.0**_UNIFORM_BITS
    return -tf.math.log(-tf.math.log(uniform))
