"""Keras' own `fit` under MultiWorkerMirroredStrategy, in one of several processes that TF_CONFIG names.

Prints, as a line of JSON, the functions in which it failed (empty: it did not): as it is, and without the
first of the two that are known to fail.
"""

import json
import traceback

import keras
import tensorflow as tf

import genre_tf  # noqa: F401  (before TensorFlow's Keras is touched)


class WithoutSymbolicBuild(keras.Sequential):
    def _maybe_symbolic_build(self, *_, **__):
        pass


def failed_in(strategy: tf.distribute.Strategy, kind: type[keras.Sequential]) -> list[str]:
    with strategy.scope():
        model = kind([keras.Input([2]), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    rows = tf.data.Dataset.from_tensor_slices((tf.ones([8, 2]), tf.ones([8, 1]))).batch(4)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    try:
        model.fit(rows.with_options(options), verbose=0)
    except Exception as error:
        return [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return []


if __name__ == "__main__":
    keras.config.disable_traceback_filtering()
    joined = tf.distribute.MultiWorkerMirroredStrategy()
    print(json.dumps([failed_in(joined, kind) for kind in (keras.Sequential, WithoutSymbolicBuild)]))
