"""Choose which of the ranked candidates are recommended: the best ones, or the best of different kinds.

It runs inside the graph, with portable ops. Without rules it is a plain top-k.
"""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from genre_tf.errors import InputError

NO_CATEGORY = -1
_NEVER = -1e30  # below every real value, and finite


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Recommendation rules in addition to the order of click probabilities.

    Attributes:
        max_age_hours: articles published (or first shown) longer ago, as of the last export or refresh, are
            not recommended unless they are still clicked; nor are articles without any time; see `freshness`.
        max_per_category: maximum number of recommended articles of one category; articles without a category
            are not limited. Fewer than K are recommended if there are not enough retrieved articles.
        diversity: lambda of maximal marginal relevance: 1 is the plain order; below 1, an article ranks lower
            the more it is similar to an article above it.
        exploration: share of the answers whose last place goes to a new article, which has no counters yet.
    """

    max_age_hours: float | None = None
    max_per_category: int | None = None
    diversity: float = 1.0
    exploration: float = 0.1  # new articles get a percent of all places, and recall@10 falls by 0.001

    def __post_init__(self) -> None:
        if self.max_age_hours is not None and not 0 < self.max_age_hours < float("inf"):
            raise InputError(f"max_age_hours must be a finite number above 0; got {self.max_age_hours}")
        if self.max_per_category is not None and self.max_per_category < 1:
            raise InputError(f"max_per_category must be at least 1; got {self.max_per_category}")
        if not 0 <= self.diversity <= 1:
            raise InputError(f"diversity must be between 0 and 1; got {self.diversity}")
        if not 0 <= self.exploration <= 1:
            raise InputError(f"exploration must be between 0 and 1; got {self.exploration}")

    @property
    def plain(self) -> bool:
        """Whether simply the best K articles are recommended."""
        return self.max_per_category is None and self.diversity == 1

    def as_sizes(self) -> dict[str, Any]:
        """Rules that differ from the default, for the contract."""
        return {name: value for name, value in vars(self).items() if value != getattr(Rules, name)}


def select(
    probability: tf.Tensor,
    found: tf.Tensor,
    vectors: tf.Tensor,
    categories: tf.Tensor,
    k: int,
    rules: Rules,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Choose one article after the other by maximal marginal relevance, within the cap of each category.

    Similarity is the cosine. Relevance is the click probability, scaled to 0 to 1 among the candidates of the
    row, because similarities have that magnitude and click probabilities do not.

    Args:
        probability: float32 [B, L].
        found: bool [B, L], True for candidates, False for padding.
        vectors: float32 [B, L, D]; not used if lambda is 1.
        categories: int32 [B, L]; `NO_CATEGORY` if unknown.
        k: number of articles to choose.
        rules: the cap and lambda.

    Returns:
        Positions int64 [B, k] among the candidates, in the order of choice, and bool [B, k], True for real
        choices.

    Source: Carbonell & Goldstein, "The Use of MMR, Diversity-Based Reranking", 1998.
    """
    batch = tf.shape(probability)[0]
    relevance = _scaled(probability, found)  # [B, L]
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


def _scaled(probability: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
    """Probabilities scaled to 0 to 1 among the candidates of each row; 0 if all are equal."""
    least = tf.reduce_min(tf.where(found, probability, 1.0), axis=1, keepdims=True)
    greatest = tf.reduce_max(tf.where(found, probability, 0.0), axis=1, keepdims=True)
    return tf.math.divide_no_nan(probability - least, tf.maximum(greatest - least, 0.0))
