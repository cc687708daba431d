"""Rules for which articles a product could show at a moment: the pool that `recommend` is measured on."""

from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import PUBLISHED_UNKNOWN
from genre_tf.errors import InputError

POOL_RULES = MappingProxyType(
    {
        "split": "every article that the split shows to anyone, even later: one pool for all moments",
        "first_seen": "articles that were shown at or before the moment, according to the log",
        "published": "articles published at or before the moment; if the time is unknown, shown by then",
    }
)
"""Name of a rule -> what is in the pool, and why."""


def pool_mask(
    rule: str,
    first_seconds: npt.NDArray[np.int64],
    moment_seconds: int,
    shown_now: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """The articles of the pool at a moment.

    Args:
        rule: one of `POOL_RULES`.
        first_seconds: int64 [articles], seconds since 1970 from which an article is available. "first_seen":
            when it was first shown; "published": when it was published, or first shown if that is unknown;
            `PUBLISHED_UNKNOWN` if both are unknown: such an article is available only while it is shown.
        moment_seconds: the moment, in seconds since 1970.
        shown_now: bool [articles], shown by the impression of this moment and therefore available.

    Returns:
        bool [articles].

    Raises:
        InputError: there is no such rule.
    """
    if rule not in POOL_RULES:
        raise InputError(f"the pool rule must be one of {', '.join(POOL_RULES)}; got {rule!r}")
    if rule == "split":
        return np.ones(len(first_seconds), bool)
    known = first_seconds != PUBLISHED_UNKNOWN
    return np.asarray(shown_now | (known & (first_seconds <= moment_seconds)))
