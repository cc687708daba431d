"""Linear layers over live counters and similarities: of an impression, of the whole pool, and of a moment."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.counters import COUNTERS

# A new article is assumed to have 4 clicks in 100 views until it has its own: about the click rate of a news
# page. A weaker prior trusts lucky newcomers too much (measured on held-out training days).
_PRIOR_CLICKS, _PRIOR_VIEWS = 4.0, 100.0
COUNTER_FEATURES = 5
_RATE = 2  # index of the click rate among them
_CLICKS = tuple(place for place, name in enumerate(COUNTERS) if name.startswith("clicks"))
_VIEWS = tuple(place for place, name in enumerate(COUNTERS) if name.startswith("views"))
_WHOLE_VIEWS, _AGE = COUNTERS.index("views"), COUNTERS.index("age_hours")
_FRESH_HOURS = 12.0  # an article loses most of its readers within half a day
# At one learning rate, a few important weights must move far and thousands of others little: these few are
# stored divided by this number.
PACE = 10.0


class CounterHead(keras.layers.Layer):
    """A linear layer over S text similarities and counters of each candidate, relative to the other
    candidates.

    Everything is standardised within the impression: then a quiet night and a busy noon look the same, as do
    the first and the tenth day of a log, or readers with one and with many interests. Without this it ranks
    the next day worse (measured: 1.4 points of AUC for the counters, 0.7 for the similarities). A single
    candidate cannot be compared with others and gets the click rate, whose logit is the first bias.
    """

    def __init__(self, similarities: int, logit: float) -> None:
        super().__init__(name="counter_head", dtype="float32")  # counts go into thousands: never in 16 bits
        self.width = similarities + COUNTER_FEATURES
        self.linear = keras.layers.Dense(
            1,
            kernel_initializer=_likelier,
            bias_initializer=keras.initializers.Constant(logit / PACE),
            name="linear",
            dtype="float32",
        )

    def build(self, *_: object) -> None:
        """Create the weights."""
        self.linear.build((None, None, self.width))
        self.built = True

    def call(self, similarities: tf.Tensor, counters: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Logits of the click probability, float32 [B, C].

        From similarities [B, C, S] and counters [B, C, 3 or more]: clicks, views and age in hours; negative
        values count as zero, and further columns (halved counts) are ignored, because they do not rank
        impressions better. Candidates in `mask`, bool [B, C], are compared with each other.
        """
        return PACE * self.linear(self.features(similarities, counters, mask))[..., 0]  # [batch, candidates]

    def features(self, similarities: tf.Tensor, counters: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Inputs of the linear layer, float32 [B, C, S + 5], standardised per row; arguments as in `call`."""
        return tf.concat([standardise(similarities, mask), counter_features(counters, mask)], axis=-1)

    def assign(self, weights: tf.Tensor, bias: float) -> None:
        """Set weights for `features` as they are, float32 [S + 5], and a bias."""
        self.linear.kernel.assign(weights[:, None] / PACE)
        self.linear.bias.assign([bias / PACE])

    def shift(self, logit: float) -> None:
        """Shift all logits by the same amount."""
        self.linear.bias.assign_add([logit / PACE])


def _likelier(shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
    """Initial weights for every log: articles that are more similar or more clicked are likelier."""
    similarities = shape[0] - COUNTER_FEATURES
    rate = tf.one_hot([_RATE], COUNTER_FEATURES, on_value=0.3 / PACE, axis=0, dtype=dtype or tf.float32)
    return tf.concat([tf.fill([similarities, 1], tf.cast(0.1 / PACE, rate.dtype)), rate], axis=0)


def counter_features(counters: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Log clicks, log views, smoothed log click rate, log age, never shown; standardised within each row.

    From counters float32 [B, C, 3 or more] and a mask bool [B, C], float32 [B, C, 5], with magnitudes around
    one, and finite for any finite counters.
    """
    clicks, views, age_hours = tf.unstack(tf.maximum(counters[..., :3], 0.0), axis=-1)
    rate = tf.math.log((clicks + _PRIOR_CLICKS) / (tf.maximum(views, clicks) + _PRIOR_VIEWS))
    unseen = tf.cast(views == 0, tf.float32)
    columns = [tf.math.log1p(clicks), tf.math.log1p(views), rate, tf.math.log1p(age_hours), unseen]
    return standardise(tf.stack(columns, axis=-1), mask)  # [batch, candidates, features]


def standardise(features: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Zero mean and unit spread over the real candidates of each row: [B, C, F], bool [B, C] -> [B, C, F]."""
    real = tf.cast(mask, features.dtype)[..., None]
    count = tf.maximum(tf.reduce_sum(real, axis=1, keepdims=True), 1.0)
    mean = tf.reduce_sum(features * real, axis=1, keepdims=True) / count
    centred = (features - mean) * real
    variance = tf.reduce_sum(centred**2, axis=1, keepdims=True) / count
    return centred / tf.sqrt(variance + 1e-4)


def moment_features(counters: tf.Tensor, view_counters: bool) -> tf.Tensor:
    """Logarithms of counts and rates, and functions of age; they do not depend on other articles.

    Each count enters twice: `log(1 + n)` distinguishes large counts, `log(n + 0.05)` small, decayed ones.
    Views, which are another recommender's choice, enter with `view_counters` only.

    From float32 [..., 9], the columns of `COUNTERS` (negative numbers count as 0), to float32 [..., F],
    finite for finite counters.
    """
    counters = tf.maximum(counters, 0.0)
    clicks, views = (tf.gather(counters, places, axis=-1) for places in (_CLICKS, _VIEWS))  # 2 x [..., 4]
    age_hours = counters[..., _AGE : _AGE + 1]
    parts = [
        tf.math.log1p(clicks),
        tf.math.log(clicks + 0.05),
        tf.math.log1p(age_hours),
        tf.exp(-age_hours / _FRESH_HOURS),
    ]
    # Whether the article was ever shown; without views, the age says so, because it is 0 until then.
    seen = counters[..., _WHOLE_VIEWS : _WHOLE_VIEWS + 1] if view_counters else age_hours
    never_shown = tf.cast(tf.equal(seen, 0.0), tf.float32)
    if view_counters:
        # A prior of 4 clicks in 100 views; a quotient of huge numbers would be 0.
        rate = tf.math.log(clicks + 0.4) - tf.math.log(views + 10.0)
        parts += [tf.math.log1p(views), tf.math.log(views + 0.3), rate]
    return tf.concat([*parts, never_shown], axis=-1)


class MomentBias(keras.layers.Layer):
    """A linear layer over `moment_features`: the bias of an article for all readers at a moment."""

    def __init__(self, view_counters: bool) -> None:
        super().__init__(name="moment_bias", dtype="float32")  # counts go into thousands: never in 16 bits
        self.view_counters = view_counters
        features = moment_features(tf.zeros([1, len(COUNTERS)]), view_counters).shape[-1]
        self.kernel = self.add_weight(shape=(features,), initializer="zeros", name="kernel")
        # Keeps the bias of an article without counters at zero, so that texts alone stay comparable.
        self.rest = self.add_weight(shape=(features,), initializer="zeros", trainable=False, name="rest")
        self.rest.assign(moment_features(tf.zeros([len(COUNTERS)]), view_counters))
        self.built = True

    def call(self, counters: tf.Tensor) -> tf.Tensor:
        """Biases of articles: float32 [..., 9] -> float32 [...]; 0 for counters of zeros."""
        features = moment_features(counters, self.view_counters) - self.rest
        return tf.linalg.matvec(features, PACE * self.kernel)

    def assign(self, weights: npt.NDArray[np.floating]) -> None:
        """Set weights that apply to `moment_features` directly, float [F]."""
        self.kernel.assign(np.asarray(weights, np.float32) / PACE)


class PoolHead(keras.layers.Layer):
    """A linear layer over an article's S similarities to the history and its `moment_features`.

    Its features have the same meaning for one of forty shown articles and for one of three hundred retrieved
    ones. Its few weights are computed exactly after the training of the ranker (`fit_pool_head`), and
    gradient steps do not change them: text must keep learning what the counters could explain.
    """

    def __init__(self, similarities: int, view_counters: bool) -> None:
        super().__init__(name="pool_head", dtype="float32")
        self.view_counters = view_counters
        moment = moment_features(tf.zeros([1, len(COUNTERS)]), view_counters).shape[-1]
        # Before anything was measured: more similar articles are clicked more.
        start = keras.initializers.Constant([1.0 / similarities] * similarities + [0.0] * moment)
        self.kernel = self.add_weight(
            shape=(similarities + moment,), initializer=start, trainable=False, name="kernel"
        )
        self.bias = self.add_weight(shape=(), initializer="zeros", trainable=False, name="bias")
        self.built = True

    def features(self, similarities: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
        """The inputs of the linear layer: float32 [..., S] and [..., 9] -> float32 [..., S + F]."""
        return tf.concat([similarities, moment_features(counters, self.view_counters)], axis=-1)

    def call(self, similarities: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
        """Logits: float32 [B, C, S] and [B, C, 9] -> float32 [B, C]."""
        return tf.linalg.matvec(self.features(similarities, counters), self.kernel) + self.bias

    def assign(self, kernel: Any, bias: float) -> None:
        """Set weights, float32 [S + F], and a bias."""
        self.kernel.assign(kernel)
        self.bias.assign(bias)
