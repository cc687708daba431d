"""Current popularity: features of an article's live counters, and a bias computed from them."""

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.counters import COUNTERS

_CLICKS = tuple(place for place, name in enumerate(COUNTERS) if name.startswith("clicks"))
_VIEWS = tuple(place for place, name in enumerate(COUNTERS) if name.startswith("views"))
_WHOLE_VIEWS, _AGE = COUNTERS.index("views"), COUNTERS.index("age_hours")
_FRESH_HOURS = 12.0  # an article loses most of its readers within half a day
# A few weights decide much and must move far in training: they are stored divided by this number.
_PACE = 10.0


def moment_features(counters: tf.Tensor, view_counters: bool) -> tf.Tensor:
    """Logarithms of counts and rates, and functions of age; they do not depend on other articles.

    Each count enters twice: `log(1 + n)` distinguishes large counts, `log(n + 0.05)` small, decayed ones.

    Args:
        counters: float32 [..., 9], the columns of `COUNTERS`; negative numbers count as 0.
        view_counters: whether to use views, which are another recommender's choice.

    Returns:
        float32 [..., F], finite for finite counters.
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
    """A linear layer over `moment_features`: the bias of an article for all readers at a moment.

    Args:
        view_counters: whether it uses views.
    """

    def __init__(self, view_counters: bool, name: str = "moment_bias") -> None:
        super().__init__(name=name, dtype="float32")  # counts go into thousands: never in 16 bits
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
        return tf.linalg.matvec(features, _PACE * self.kernel)

    def assign(self, weights: npt.NDArray[np.floating]) -> None:
        """Set weights that apply to `moment_features` directly, float [F]."""
        self.kernel.assign(np.asarray(weights, np.float32) / _PACE)
