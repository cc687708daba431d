"""The generator: prefix, padding, and the whole model against prefill."""

from typing import Any

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.generation.cached_gpt2 import CachedGpt2
from genre_tf.generation.prompt_embeddings import prompt_embeddings
from genre_tf.models.generator import Generator
from genre_tf.models.prompts import Prompt

VOCABULARY, READER = 40, 5


@pytest.fixture(scope="module")
def generator() -> Generator:
    backbone = keras_hub.models.GPT2Backbone(VOCABULARY, 2, 2, 16, 64, dropout=0.3, max_sequence_length=32)
    model = Generator(backbone, user_dimension=READER, prefix_tokens=3)
    random = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(weight + random.normal(0, 0.2, weight.shape))
    return model


def batch(rows: list[list[int]], has_reader: list[bool], pad: int = 0) -> dict[str, Any]:
    width = max(map(len, rows)) + pad
    return {
        "token_ids": tf.constant([row + [9] * (width - len(row)) for row in rows]),
        "user_vector": tf.constant(np.random.default_rng(2).normal(size=(len(rows), READER)), tf.float32),
        "has_reader": tf.constant(has_reader),
    }


ROWS = [[3, 1, 4, 1, 5], [9, 2]]


def test_every_weight_is_trained(generator: Generator) -> None:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(generator(batch(ROWS, [True, False])) ** 2)
    gradients = tape.gradient(loss, generator.trainable_weights)
    assert all(gradient is not None for gradient in gradients)


def test_padding_behind_a_row_does_not_change_it(generator: Generator) -> None:
    plain, padded = (generator(batch(ROWS, [True, True], pad)) for pad in (0, 6))
    for index, row in enumerate(ROWS):
        np.testing.assert_allclose(padded[index, : len(row)], plain[index, : len(row)], atol=1e-5)


def test_readers_differ_and_no_reader_is_always_the_same(generator: Generator) -> None:
    one = batch([ROWS[0]], [True])
    other = {**one, "user_vector": -one["user_vector"]}
    assert np.abs(generator(one) - generator(other)).max() > 1e-3
    nobody = [generator({**each, "has_reader": tf.constant([False])}) for each in (one, other)]
    np.testing.assert_array_equal(*nobody)


def test_prefill_on_the_left_padded_prompt_gives_the_whole_models_logits(generator: Generator) -> None:
    inputs = batch(ROWS, [True, False])
    whole = generator(inputs)
    decoder = CachedGpt2(generator.backbone)
    width = 8
    token_ids = tf.constant([[7] * (width - len(row)) + row for row in ROWS])
    mask = tf.constant([[False] * (width - len(row)) + [True] * len(row) for row in ROWS])
    prompt = Prompt(token_ids, mask, inputs["has_reader"])
    embeddings = prompt_embeddings(decoder, generator.reader_prefix, prompt, inputs["user_vector"])
    logits, _ = decoder.prefill(*embeddings)
    for index, row in enumerate(ROWS):
        np.testing.assert_allclose(logits[index], whole[index, len(row) - 1], atol=1e-5)


def test_dropout_is_on_in_training_alone(generator: Generator) -> None:
    inputs = batch(ROWS, [True, True])
    np.testing.assert_array_equal(generator(inputs, training=False), generator(inputs, training=False))
    assert np.abs(generator(inputs, training=True) - generator(inputs, training=True)).max() > 1e-3


def test_weights_come_back_from_a_file(generator: Generator, tmp_path: Any) -> None:
    generator.save_weights(tmp_path / "model.weights.h5")
    sizes = {name: getattr(generator.backbone, name) for name in ("num_layers", "num_heads", "hidden_dim")}
    backbone = keras_hub.models.GPT2Backbone(VOCABULARY, intermediate_dim=64, max_sequence_length=32, **sizes)
    again = Generator(backbone, user_dimension=READER, prefix_tokens=3)
    again.load_weights(tmp_path / "model.weights.h5")
    inputs = batch(ROWS, [True, False])
    np.testing.assert_array_equal(again(inputs), generator(inputs))
