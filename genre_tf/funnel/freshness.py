"""Which known articles may be shown now, and which of them are new, decided by their counters alone.

Histories may contain every known article; the pool consists of the articles that may be shown. An article is
stale if it is older than the limit and no longer clicked. With a limit, an article without any known time
(neither published nor shown) is not shown. Without a limit every published article may be shown.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.contract import COUNTERS

STILL_READ = 0.5
"""From this number of clicks (halved every 24 hours) an article of any age counts as still clicked."""
NO_LIMIT = 1e30
"""The age limit in hours that means no limit."""
NEW_VIEWS = 10
"""An article with fewer views is new: its counters say too little."""

_VIEWS, _AGE, _CLICKS_24H = (COUNTERS.index(name) for name in ("views", "age_hours", "clicks_24h"))
_LOW_BITS = (1 << 62) - 1  # keeps values positive, so that shifts ignore the sign
_UNIFORM_BITS = 23  # with one bit more, float32 would round the greatest value to 1, with infinite noise


def may_be_shown(counters: Any, limit_hours: Any) -> Any:
    """Which articles are published and not stale.

    Args:
        counters: float32 [..., 9], from NumPy or TensorFlow; an article under embargo has a negative age.
        limit_hours: older articles are stale unless they are still clicked; a number, or a scalar from the
            same library; `NO_LIMIT`: no article is stale.

    Returns:
        bool [...], from the same library.
    """
    age = counters[..., _AGE]
    timed = (counters[..., _VIEWS] > 0) | (age > 0)
    young = (age <= limit_hours) | (counters[..., _CLICKS_24H] >= STILL_READ)
    return (age >= 0) & ((limit_hours >= NO_LIMIT) | (timed & young))


def is_new(counters: Any) -> Any:
    """Which articles have fewer than `NEW_VIEWS` views: [..., 9] -> bool [...]."""
    return counters[..., _VIEWS] < NEW_VIEWS


def learned_age_limit(counters: npt.NDArray[np.float32], share: float = 0.99) -> float | None:
    """The age limit that keeps a given share of a log's clicks.

    Clicks on articles that were still clicked count as age 0, because such articles are shown at any age.

    Args:
        counters: float32 [n, 9], counters of each clicked article just before its click.
        share: share of the clicks that the limit keeps.

    Returns:
        Hours, at least 24, rounded up to whole hours; None if there are no clicks.
    """
    if not len(counters):
        return None
    age = np.where(counters[:, _CLICKS_24H] >= STILL_READ, 0.0, counters[:, _AGE])
    limit = float(np.quantile(age, share, method="higher"))
    return max(24.0, float(np.ceil(limit)))


def exploration_noise(keys: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Standard Gumbel noise that depends only on the request and the article.

    Args:
        keys: int64 [B], keys of the requests.
        rows: int64 [B, F] or [1, F], rows of the articles.

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
