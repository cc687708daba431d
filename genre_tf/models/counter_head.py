"""What live counters add to a click logit: clicks, views and age, compared among the candidates."""

import keras
import tensorflow as tf

# A fresh article is taken to have been clicked 3 times in 75 views until its own numbers say otherwise: about the
# click rate of a news page. A weaker prior trusts lucky newcomers (chosen on held-out training days).
_PRIOR_CLICKS, _PRIOR_VIEWS = 3.0, 75.0
_FEATURES = 5
_RATE = 2  # place of the click rate among them


class CounterHead(keras.layers.Layer):
    """A linear layer over the counters, and over how much each text signal counts beside them.

    The counters are standardised within the impression: a quiet night and a busy noon then look alike, and so do
    the first day of a log and its tenth. As they are, they rank the next day worse than the text does
    (measured). A lone candidate has nothing to be compared with: its counters say nothing.
    """

    def __init__(self, name: str = "counter_head") -> None:
        super().__init__(name=name)
        self.trust = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="trust")
        self.linear = keras.layers.Dense(1, kernel_initializer=_start, name="linear")

    def build(self, signals_shape: tuple[int | None, ...], *_: object) -> None:
        """Create the weights for `signals_shape[-1]` text signals."""
        self.trust.build(signals_shape)
        self.linear.build((*signals_shape[:-1], _FEATURES))
        self.built = True

    def call(self, signals: tf.Tensor, bias: tf.Tensor, counters: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Logits with counters.

        Args:
            signals: float32 [B, C, S], the summands of the text logit.
            bias: float32 [], the constant of the text logit.
            counters: float32 [B, C, 3]: clicks, views, age in hours; negative ones count as zero.
            mask: bool [B, C], candidates to compare with each other.

        Returns:
            float32 [B, C].
        """
        features = counter_features(counters, mask)  # [batch, candidates, features]
        text = tf.reduce_sum(signals, -1) + bias + self.trust(signals)[..., 0]
        return text + self.linear(features)[..., 0]


def _start(shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
    """A more clicked article of the same impression is the likelier one: what every log says, to start from."""
    return tf.one_hot([_RATE], shape[0], on_value=0.4, axis=0, dtype=dtype or tf.float32)


def counter_features(counters: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Log clicks, log views, smoothed log click rate, log age, never shown; standardised within each row.

    Args:
        counters: float32 [B, C, 3].
        mask: bool [B, C].

    Returns:
        float32 [B, C, 5], of order one and finite for any finite counters.
    """
    clicks, views, age_hours = tf.unstack(tf.maximum(counters, 0.0), axis=-1)
    rate = tf.math.log((clicks + _PRIOR_CLICKS) / (tf.maximum(views, clicks) + _PRIOR_VIEWS))
    unseen = tf.cast(views == 0, tf.float32)
    columns = [tf.math.log1p(clicks), tf.math.log1p(views), rate, tf.math.log1p(age_hours), unseen]
    return standardise(tf.stack(columns, axis=-1), mask)  # [batch, candidates, features]


def standardise(features: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Zero mean and unit spread among the real candidates of each row: [B, C, F], bool [B, C] -> [B, C, F]."""
    real = tf.cast(mask, features.dtype)[..., None]
    count = tf.maximum(tf.reduce_sum(real, axis=1, keepdims=True), 1.0)
    mean = tf.reduce_sum(features * real, axis=1, keepdims=True) / count
    centred = (features - mean) * real
    variance = tf.reduce_sum(centred**2, axis=1, keepdims=True) / count
    return centred / tf.sqrt(variance + 1e-4)
