"""The losses of ranker and retrieval with their gradients, on one device and two: `losses_of_replicas.py`."""

import json

import keras
import numpy as np
import tensorflow as tf

import genre_tf  # noqa: F401  (before TensorFlow's Keras is touched)
from genre_tf.losses.clicks import (
    click_and_softmax_loss,
    click_loss,
    contrastive_loss,
    softmax_loss,
    teacher_loss,
)
from genre_tf.models.two_tower import DRAWN, TwoTower
from genre_tf.training.retrieval import RetrievalTrainer

random = np.random.default_rng(4)
LOGITS = random.normal(size=(5, 4)).astype(np.float32)
LABELS = (random.random((5, 4)) < 0.4).astype(np.float32)
MASK = np.arange(4) < [[4], [3], [2], [4], [3]]
WEIGHTS = random.uniform(0.5, 2.0, (5, 4)).astype(np.float32)
TEACHER = random.normal(size=(5, 4)).astype(np.float32)
TEXTS = random.normal(size=(9, 3)).astype(np.float32)
TEXTS /= np.linalg.norm(TEXTS, axis=1, keepdims=True)
TEXTS[0] = 0.0
CLICKED = (random.random((5, 9)) < 0.5).astype(np.float32)
CLICKED[:, 0] = 0.0
PROBABILITY = random.uniform(0.05, 1.0, (5, 4)).astype(np.float32)


class Towers(keras.Model):
    """Logits as they are given, in place of two towers."""

    corrected = TwoTower.corrected

    def call(self, batch, training=None):
        return batch["logits"]


RETRIEVAL = RetrievalTrainer(Towers())


def retrieval_loss(logits, rows):
    """Of clicks that stand first, each of its own weight."""
    batch = {
        "logits": logits,
        "labels": np.eye(4, dtype=np.float32)[np.zeros(len(rows), int)],
        "mask": MASK[rows],
        "label_weights": WEIGHTS[rows],
        DRAWN: PROBABILITY[rows],
    }
    return RETRIEVAL.loss_of(batch, True)


LOSSES = {
    "click": lambda logits, rows: click_loss(logits, LABELS[rows], MASK[rows], WEIGHTS[rows], 0.1),
    "softmax": lambda logits, rows: softmax_loss(logits, LABELS[rows], MASK[rows], WEIGHTS[rows], 0.1),
    "click+softmax": lambda logits, rows: click_and_softmax_loss(
        logits, LABELS[rows], MASK[rows], WEIGHTS[rows], 0.1
    ),
    "teacher": lambda logits, rows: teacher_loss(logits, TEACHER[rows], MASK[rows], 2.0),
    "retrieval": retrieval_loss,
}


def own_articles(rows):
    """Articles that rows name, the padding article first; another replica may hold some of them too."""
    return np.flatnonzero(np.append(True, CLICKED[rows].any(0)[1:]))


def share(name, rows):
    """Loss of some rows, and its gradient at what all share: the logits' scale, or a map of the texts."""
    shared = tf.eye(3) if name == "contrastive" else tf.ones([])
    with tf.GradientTape() as tape:
        tape.watch(shared)
        if name == "contrastive":
            articles = own_articles(rows)
            texts, clicked = TEXTS[articles] @ shared, CLICKED[rows][:, articles]
            loss = contrastive_loss(texts, tf.constant(articles, tf.int32), clicked, 0.3)
        else:
            loss = LOSSES[name](shared * LOGITS[rows], rows)
    return tf.concat([[loss], tf.reshape(tape.gradient(loss, shared), [-1])], 0)


def main():
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def of_replica(name):
        context = tf.distribute.get_replica_context()
        second = tf.get_static_value(context.replica_id_in_sync_group)
        return share(name, np.arange(3, 5) if second else np.arange(3))

    found = {}
    for name in (*LOSSES, "contrastive"):
        shares = strategy.run(tf.function(of_replica, autograph=False), args=(name,))
        one, two = share(name, np.arange(5)), strategy.reduce("sum", shares, axis=None)
        found[name] = [one.numpy().tolist(), two.numpy().tolist()]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
