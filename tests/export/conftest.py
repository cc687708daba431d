"""A small servable for tests: a Keras 3 layer behind string inputs, complete with all of assets.extra."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.export import contract, exchanges, warmup
from genre_tf.export.publishing import publish, staged


@pytest.fixture(scope="session")
def publish_toy():
    """Publish the toy servable into MODELS/toy; its records expect `wrong_by` more than it answers."""

    def publish_version(models, wrong_by=0.0):
        with staged(models / "toy") as folder:
            write_toy(folder, wrong_by)
            return publish(folder)

    return publish_version


def write_toy(folder, wrong_by):
    layer = keras.layers.Dense(2)
    layer.build((None, 1))

    def count(text, factor):
        letters = tf.strings.length(text)[:, None] * tf.cast(factor, tf.int32)[:, None]
        return {"letters": layer(tf.cast(letters, tf.float32)), "upper": tf.strings.upper(text)}

    archive = keras.export.ExportArchive()
    archive.track(layer)
    inputs = [tf.TensorSpec([None], tf.string, "text"), tf.TensorSpec([None], tf.int64, "factor")]
    archive.add_endpoint("count", count, inputs)
    archive.write_out(str(folder), verbose=False)
    add_extras(folder, layer, wrong_by)


def add_extras(folder, layer, wrong_by):
    extra = folder / "assets.extra"
    extra.mkdir()
    rows = {"text": exchanges.as_bytes(["abc", ""]), "factor": np.array([1, 2], np.int64)}
    answer = {
        "letters": np.asarray(layer(np.array([[3.0], [0.0]], np.float32))) + np.float32(wrong_by),
        "upper": exchanges.as_bytes(["ABC", ""]),
    }
    names = ("count", "serving_default")
    exchanges.write_exchanges(
        extra / exchanges.PARITY_FILE, [exchanges.Exchange(name, "two rows", rows, answer) for name in names]
    )
    warmup.write_warmup(extra / warmup.WARMUP_FILE, "toy", dict.fromkeys(names, rows), [1, 4])
    contract.write_contract(folder, "toy", {"letters": 2}, [1, 4], {"metrics": {"auc": 0.5}})
