"""What live counters add to a click logit: clicks, views and age, compared among the candidates."""

import keras
import tensorflow as tf

# A fresh article is taken to have been clicked once in 25 views until its own numbers say otherwise:
# about the click rate of a news page.
_PRIOR_CLICKS, _PRIOR_VIEWS = 1.0, 25.0
_FEATURES = 5
# Logs and rates divided by these have a spread of about one, whatever the impression.
_SCALES = (2.0, 2.0, 0.5, 1.5, 1.0)


class CounterHead(keras.layers.Layer):
    """A linear layer over the text signals and the counters, and a small network on top that starts at zero.

    Counters enter twice: as they are, and standardised within the impression (a quiet night and a busy noon
    then look alike), which is worth some points of AUC and says nothing for a lone candidate.
    """

    def __init__(self, hidden: int = 16, name: str = "counter_head") -> None:
        super().__init__(name=name)
        self.trust = keras.layers.Dense(
            1, use_bias=False, kernel_initializer="zeros", name="trust"
        )  # how much less or more each text signal counts beside counters
        self.linear = keras.layers.Dense(1, kernel_initializer="zeros", name="linear")
        self.hidden = keras.layers.Dense(hidden, activation="tanh", name="hidden")
        self.output_layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="output")

    def build(self, signals_shape: tuple[int | None, ...], *_: object) -> None:
        """Create the weights for `signals_shape[-1]` text signals."""
        self.trust.build(signals_shape)
        counters = (*signals_shape[:-1], 2 * _FEATURES)
        self.linear.build(counters)
        self.hidden.build(counters)
        self.output_layer.build((*signals_shape[:-1], self.hidden.units))
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
        features = counter_features(counters, mask)  # [batch, candidates, 2 x features]
        text = tf.reduce_sum(signals, -1) + bias + self.trust(signals)[..., 0]
        return text + self.linear(features)[..., 0] + self.output_layer(self.hidden(features))[..., 0]


def counter_features(counters: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Log clicks, log views, smoothed log click rate, log age, never shown; as they are and standardised.

    Args:
        counters: float32 [B, C, 3].
        mask: bool [B, C].

    Returns:
        float32 [B, C, 10], of order one and finite for any finite counters.
    """
    clicks, views, age_hours = tf.unstack(tf.maximum(counters, 0.0), axis=-1)
    rate = tf.math.log((clicks + _PRIOR_CLICKS) / (tf.maximum(views, clicks) + _PRIOR_VIEWS))
    centred = rate - tf.math.log(_PRIOR_CLICKS / _PRIOR_VIEWS)
    unseen = tf.cast(views == 0, tf.float32)
    columns = [tf.math.log1p(clicks), tf.math.log1p(views), centred, tf.math.log1p(age_hours), unseen]
    raw = tf.stack(columns, axis=-1) / tf.constant(_SCALES)  # [batch, candidates, features]
    return tf.concat([raw, standardise(raw, mask)], axis=-1)


def standardise(features: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Zero mean and unit spread among the real candidates of each row: [B, C, F], bool [B, C] -> [B, C, F]."""
    real = tf.cast(mask, features.dtype)[..., None]
    count = tf.maximum(tf.reduce_sum(real, axis=1, keepdims=True), 1.0)
    mean = tf.reduce_sum(features * real, axis=1, keepdims=True) / count
    centred = (features - mean) * real
    variance = tf.reduce_sum(centred**2, axis=1, keepdims=True) / count
    return centred / tf.sqrt(variance + 1e-4)
