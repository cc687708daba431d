"""Gradient checkpointing gives the gradients of a plain training step, dropout included."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.layers import split_layers
from genre_tf.backbones.trainable import parse_trainable

IDS = np.array([[2, 40, 41, 42, 3], [2, 50, 3, 0, 0]], np.int32)


def _two_steps(mode: str, rematerialise: bool) -> list[np.ndarray]:
    keras.utils.set_random_seed(5)
    backbone = load_bert("tiny", dropout=0.3).backbone
    _, upper = split_layers(backbone, parse_trainable(mode), rematerialise=rematerialise)
    given = IDS if upper.embeddings is not None else tf.random.stateless_normal([2, 5, 32], [1, 2])

    @tf.function
    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            states = upper(given, IDS != 0, training=True)
            loss = tf.reduce_sum(states * states[:, ::-1, ::-1])
        return [loss, *tape.gradient(loss, [weight.value for weight in upper.trainable_weights])]

    return [tf.convert_to_tensor(found).numpy() for _ in range(2) for found in step()]


@pytest.mark.parametrize("mode", ["all", "lora 4 last 1"])
def test_gradients_equal_those_of_a_plain_step(mode: str) -> None:
    plain, twice = (_two_steps(mode, rematerialise) for rematerialise in (False, True))
    assert len(plain) == len(twice) >= 10
    assert plain[0] != plain[len(plain) // 2], "each step draws its own dropout"
    for a, b in zip(plain, twice, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
