"""Fits, saves, loads and clones each public model, on one or two devices; prints what it saw as JSON.

python use_models.py MIND_FOLDER DEVICES
"""

import json
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import genre_tf

mind, devices = sys.argv[1], int(sys.argv[2])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
names = [f"CPU:{number}" for number in range(devices)]
strategy = tf.distribute.MirroredStrategy(names) if devices > 1 else tf.distribute.get_strategy()
folder = Path(tempfile.mkdtemp())
train, dev = (genre_tf.data.read_mind(mind, split=split) for split in ("train", "dev"))
QUESTION = {"history": [["Storm closes schools"], []], "candidates": [["Snow", "Cup final"], ["Snow"]]}
found: dict[str, dict[str, object]] = {}


def compiled(model: keras.Model) -> keras.Model:
    with strategy.scope():
        optimizer = keras.optimizers.Adam(0.01)
        if isinstance(model, genre_tf.models.Ranker):
            metrics = [genre_tf.metrics.ImpressionAUC(), genre_tf.metrics.ImpressionNDCG(k=5)]
            model.compile(optimizer, loss=genre_tf.losses.ClickCrossEntropy(), metrics=metrics)
        elif isinstance(model, genre_tf.models.TwoTower):
            metrics = [genre_tf.metrics.PoolRecall(k=5)]
            model.compile(optimizer, loss=genre_tf.losses.SampledSoftmax(), metrics=metrics)
        else:
            model.compile(optimizer, loss=None if isinstance(model, genre_tf.models.Writer) else "mse")
    return model


def answer(model: keras.Model) -> np.ndarray | list[list[str]]:
    if isinstance(model, genre_tf.models.Ranker):
        return model.predict(QUESTION, verbose=0)
    if isinstance(model, genre_tf.models.TwoTower):
        found = model.recommend(QUESTION["history"], articles=dev.articles, k=5)
        return np.array([[one.score for one in row] for row in found])
    if isinstance(model, genre_tf.models.Writer):
        return model.generate(history=[["Snow"]], source=["Snow on Monday"], samples=2, seed=1)
    return model.predict(["Storm closes schools", ""], verbose=0)


def data(model: keras.Model, log: genre_tf.data.ClickLog) -> dict[str, object]:
    if isinstance(model, genre_tf.models.Writer):
        return {"x": log.texts(model, batch_size=8), "steps_per_epoch": 4}
    if isinstance(model, genre_tf.models.NewsEncoder):
        return {"x": log.articles.titles[:16], "y": np.ones([16, model.dimension], np.float32)}
    return {"x": log.batches(model, batch_size=30, shuffle=model.name == "x", seed=1)}


def same(one: object, other: object) -> bool:
    if isinstance(one, list):
        return one == other
    return bool(np.allclose(one, other, atol=1e-5, equal_nan=True))


keras.utils.set_random_seed(3)
with strategy.scope():
    news = genre_tf.models.NewsEncoder.from_preset(
        "tiny", trainable="last 1", categories=train.articles.categories, dropout=0.0
    )
    models = [
        genre_tf.models.Ranker(news, max_history=5, counters=True, dropout=0.0),
        genre_tf.models.TwoTower(news, max_history=5, heads=2, dimension=24, dropout=0.0),
        genre_tf.models.Writer.from_preset("tiny"),
        news,
    ]
for model in models:
    name = type(model).__name__
    before = answer(model)
    seen = compiled(model).fit(**data(model, train), epochs=2, verbose=0).history
    kept = answer(model)
    model.save(folder / f"{name}.keras")
    model.save_to_preset(folder / name)
    with strategy.scope():
        loaded = keras.saving.load_model(folder / f"{name}.keras")
        preset = type(model).from_preset(folder / name)
        clone = keras.models.clone_model(model)
    found[name] = {
        "loss": seen["loss"],
        "moved": not same(before, kept),
        "loaded": same(answer(loaded), kept),
        "preset": same(answer(preset), kept),
        "clone": clone.count_params() == model.count_params() == loaded.count_params(),
        "clone_fits": bool(
            np.isfinite(compiled(clone).fit(**data(clone, train), verbose=0).history["loss"][0])
        ),
        "goes_on": bool(np.isfinite(loaded.fit(**data(loaded, train), verbose=0).history["loss"][0])),
    }
    if name in ("Ranker", "TwoTower"):
        found[name]["evaluated"] = model.evaluate(
            dev.batches(model, batch_size=30), verbose=0, return_dict=True
        )
print(json.dumps(found))
