"""Which articles may be recommended now, and which of the ranked ones are.

Histories may contain every known article; the pool consists of the articles that may be shown. An article is
stale if it is older than the limit and no longer clicked. With a limit, an article without any known time
(neither published nor shown) is not shown. Without a limit every published article may be shown. New articles
have few views.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.contract import COUNTERS
from genre_tf.errors import InputError

STILL_READ = 0.5
"""From this number of clicks (halved every 24 hours) an article of any age counts as still clicked."""
NO_LIMIT = 1e30
"""The age limit in hours that means no limit."""
NEW_VIEWS = 10
"""An article with fewer views is new: its counters say too little."""

_VIEWS, _AGE, _CLICKS_24H = (COUNTERS.index(name) for name in ("views", "age_hours", "clicks_24h"))
_LOW_BITS = (1 << 62) - 1  # keeps values positive, so that shifts ignore the sign
_UNIFORM_BITS = 23  # with one bit more, float32 would round the greatest value to 1, with infinite noise
NO_CATEGORY = -1
_NEVER = -1e30  # below every real value, and finite


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Recommendation rules in addition to the order of click probabilities."""

    # Articles published (or first shown) longer ago, as of the last export or refresh, are not recommended
    # unless they are still clicked; nor are articles without any time.
    max_age_hours: float | None = None
    # Articles without a category are not limited. Fewer than K are recommended if too few were retrieved.
    max_per_category: int | None = None
    # Lambda of maximal marginal relevance: 1 is the plain order; below 1, an article ranks lower the more it
    # is similar to an article above it.
    diversity: float = 1.0
    # Share of the answers whose last place goes to a new article, which has no counters yet. By default new
    # articles get a percent of all places, and recall@10 falls by 0.001.
    exploration: float = 0.1

    def __post_init__(self) -> None:
        if self.max_age_hours is not None and not 0 < self.max_age_hours < float("inf"):
            raise InputError(f"max_age_hours must be a finite number above 0; got {self.max_age_hours}")
        if self.max_per_category is not None and self.max_per_category < 1:
            raise InputError(f"max_per_category must be at least 1; got {self.max_per_category}")
        for name in ("diversity", "exploration"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be between 0 and 1; got {getattr(self, name)}")

    @property
    def plain(self) -> bool:
        """Whether simply the best K articles are recommended."""
        return self.max_per_category is None and self.diversity == 1

    def as_sizes(self) -> dict[str, Any]:
        """Rules that differ from the default, for the contract."""
        return {name: value for name, value in vars(self).items() if value != getattr(Rules, name)}


def may_be_shown(counters: Any, limit_hours: Any) -> Any:
    """Which articles are published and not stale: float32 [..., 9] -> bool [...], NumPy or TensorFlow.

    Articles older than `limit_hours` are stale unless they are still clicked; with `NO_LIMIT` no article is.
    An article under embargo has a negative age.
    """
    age = counters[..., _AGE]
    timed = (counters[..., _VIEWS] > 0) | (age > 0)
    young = (age <= limit_hours) | (counters[..., _CLICKS_24H] >= STILL_READ)
    return (age >= 0) & ((limit_hours >= NO_LIMIT) | (timed & young))


def is_new(counters: Any) -> Any:
    """Which articles have fewer than `NEW_VIEWS` views: [..., 9] -> bool [...]."""
    return counters[..., _VIEWS] < NEW_VIEWS


def learned_age_limit(counters: npt.NDArray[np.float32], share: float = 0.99) -> float | None:
    """The age limit that keeps a share of a log's clicks: whole hours, at least 24; None without clicks.

    Clicks on articles that were still clicked count as age 0, because such articles are shown at any age. The
    counters, float32 [n, 9], are those of each clicked article just before its click.
    """
    if not len(counters):
        return None
    age = np.where(counters[:, _CLICKS_24H] >= STILL_READ, 0.0, counters[:, _AGE])
    limit = float(np.quantile(age, share, method="higher"))
    return max(24.0, float(np.ceil(limit)))


def exploration_noise(keys: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Standard Gumbel noise that depends only on the request's key and the article's row.

    Keys int64 [B] and rows int64 [B, F] or [1, F] -> float32 [B, F].
    """
    mixed = keys[:, None] * 6364136223846793005 + rows * 1442695040888963407
    mixed = tf.bitwise.bitwise_and(mixed, _LOW_BITS)
    mixed = tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, tf.constant(31, tf.int64)))
    mixed = tf.bitwise.bitwise_and(mixed * 3202034522624059733, _LOW_BITS)
    mixed = tf.bitwise.right_shift(mixed, tf.constant(62 - _UNIFORM_BITS, tf.int64))
    uniform = (tf.cast(mixed, tf.float32) + 0.5) / 2.0**_UNIFORM_BITS
    return -tf.math.log(-tf.math.log(uniform))


def select(
    probability: tf.Tensor,
    found: tf.Tensor,
    vectors: tf.Tensor,
    categories: tf.Tensor,
    k: int,
    rules: Rules,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Choose one article after the other by maximal marginal relevance, within the cap of each category.

    Similarity is the cosine of vectors, float32 [B, L, D], which are not used if lambda is 1. Relevance is
    the click probability, float32 [B, L], scaled to 0 to 1 among the candidates of the row, because
    similarities have that magnitude and click probabilities do not. `found`, bool [B, L], is False for
    padding; categories are int32 [B, L], `NO_CATEGORY` if unknown.

    Returns:
        Positions int64 [B, k] in the order of choice, and bool [B, k], True for real choices.

    Source: Carbonell & Goldstein, "The Use of MMR, Diversity-Based Reranking", 1998.
    """
    batch = tf.shape(probability)[0]
    least = tf.reduce_min(tf.where(found, probability, 1.0), axis=1, keepdims=True)
    greatest = tf.reduce_max(tf.where(found, probability, 0.0), axis=1, keepdims=True)
    # 0 if all are equal:
    relevance = tf.math.divide_no_nan(probability - least, tf.maximum(greatest - least, 0.0))  # [B, L]
    directions = tf.math.l2_normalize(vectors, axis=-1)  # [B, L, D]
    cap = k if rules.max_per_category is None else rules.max_per_category

    def choose(step: tf.Tensor, free: tf.Tensor, nearest: tf.Tensor, used: tf.Tensor, *chosen: Any) -> Any:
        marginal = rules.diversity * relevance - (1 - rules.diversity) * nearest
        value = tf.where(free & (used < cap), marginal, _NEVER)
        place = tf.argmax(value, axis=1)  # [B]
        real = tf.reduce_max(value, axis=1) > _NEVER / 2  # [B]
        if rules.diversity < 1:
            similar = tf.linalg.matvec(directions, tf.gather(directions, place, batch_dims=1))  # [B, L]
            nearest = tf.maximum(nearest, similar)
        category = tf.gather(categories, place, batch_dims=1)[:, None]
        same = (categories == category) & (categories != NO_CATEGORY) & real[:, None]
        taken = tf.one_hot(place, tf.shape(value)[1], on_value=True, off_value=False)
        arrays = [array.write(step, part) for array, part in zip(chosen, (place, real), strict=True)]
        used += tf.cast(same, tf.int32)
        return [step + 1, free & ~taken, nearest, used, *arrays]

    nothing_near = tf.fill(tf.shape(probability), -1.0)
    none_used = tf.zeros_like(categories)
    arrays = [tf.TensorArray(kind, size=k, element_shape=[None]) for kind in (tf.int64, tf.bool)]
    start = [tf.constant(0), found, nothing_near, none_used, *arrays]
    *_, places, real = tf.while_loop(lambda step, *_: step < k, choose, start, parallel_iterations=1)
    shape = tf.stack([k, batch])
    return tuple(tf.transpose(tf.reshape(array.stack(), shape)) for array in (places, real))  # 2 x [B, k]
