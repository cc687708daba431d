"""The generator: prefix, padding, and the whole model against prefill."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import GPT2, LanguageModel, tiny_byte_pair
from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.generation.prompts import UNSEEN
from genre_tf.models.writer import Writer

READER = 5


def new_generator(mode: str = "all") -> Writer:
    """A writer with weights far from those it starts with."""
    gpt2 = GPT2.new(tiny_byte_pair(CONTROL_TOKENS), layers=2, heads=2, hidden=16, max_tokens=64, dropout=0.3)
    random = np.random.default_rng(1)
    for weight in gpt2.backbone.weights:
        if "int" not in weight.dtype:
            weight.assign(weight + random.normal(0, 0.2, weight.shape))
    model = Writer(gpt2, trained_layers=mode, user_dimension=READER, prefix_tokens=3)
    for weight in (*model.reader_prefix.weights, *_added(model.language_model)):
        weight.assign(weight + random.normal(0, 0.2, weight.shape))
    return model


def _added(layers: Any) -> list[Any]:
    of_backbone = {id(weight) for weight in layers.backbone.weights}
    return [weight for weight in layers.weights if id(weight) not in of_backbone]


@pytest.fixture(
    scope="module", params=["all", "lora 2", "adalora 2", "lora 2 last 1", "adapters 3", "prefix 5 last 1"]
)
def generator(request: Any) -> Writer:
    return new_generator(request.param)


def batch(rows: list[list[int]], has_reader: list[bool], pad: int = 0) -> dict[str, Any]:
    width = max(map(len, rows)) + pad
    return {
        "token_ids": tf.constant([row + [9] * (width - len(row)) for row in rows]),
        "user_vector": tf.constant(np.random.default_rng(2).normal(size=(len(rows), READER)), tf.float32),
        "has_reader": tf.constant(has_reader),
    }


ROWS = [[3, 1, 4, 1, 5], [9, 2]]


def test_every_weight_is_trained(generator: Writer) -> None:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(generator(batch(ROWS, [True, False])) ** 2)
    gradients = tape.gradient(loss, generator.trainable_weights)
    assert all(gradient is not None for gradient in gradients)


def test_padding_behind_a_row_does_not_change_it(generator: Writer) -> None:
    plain, padded = (generator(batch(ROWS, [True, True], pad)) for pad in (0, 6))
    for index, row in enumerate(ROWS):
        np.testing.assert_allclose(padded[index, : len(row)], plain[index, : len(row)], atol=1e-5)


def test_readers_differ_and_no_reader_is_always_the_same(generator: Writer) -> None:
    one = batch([ROWS[0]], [True])
    other = {**one, "user_vector": -one["user_vector"]}
    assert np.abs(generator(one) - generator(other)).max() > 1e-3
    nobody = [generator({**each, "has_reader": tf.constant([False])}) for each in (one, other)]
    np.testing.assert_array_equal(*nobody)


def test_prefill_on_the_left_padded_prompt_gives_the_whole_models_logits(generator: Writer) -> None:
    inputs = batch(ROWS, [True, False])
    whole = generator(inputs)
    decoder = CachedDecoder(generator.language_model)
    width = 8
    token_ids = tf.constant([[7] * (width - len(row)) + row for row in ROWS])
    mask = tf.constant([[False] * (width - len(row)) + [True] * len(row) for row in ROWS])
    prefix = generator.reader_prefix(inputs["user_vector"], inputs["has_reader"])
    logits, cache = decoder.prefill(decoder.embed(token_ids), mask, prefix)
    for index, row in enumerate(ROWS):
        np.testing.assert_allclose(logits[index], whole[index, len(row) - 1], atol=2e-5)
    longer = {**inputs, "token_ids": tf.constant([[*ROWS[0], 6]]), "user_vector": inputs["user_vector"][:1]}
    longer["has_reader"] = inputs["has_reader"][:1]
    (first, *_) = np.asarray(cache.bias).shape
    nothing = decoder.nothing_written(first, 1, 1)
    one = decoder.embed(tf.constant([[[6]], [[6]]]))
    logits, _ = decoder.read(one, tf.constant([[[len(row)]] for row in ROWS]), cache, nothing)
    np.testing.assert_allclose(logits[0], generator(longer)[0, -1], atol=2e-5)


def test_a_decoder_takes_over_what_was_learned_and_leaves_the_frozen_weights(generator: Writer) -> None:
    decoder = CachedDecoder(generator.language_model)
    inputs = batch(ROWS[:1], [True])
    before = [weight.numpy() for weight in generator.backbone.weights]
    trained = generator.language_model.trainable_weights
    kept = [weight.numpy() for weight in trained]
    for weight in trained:
        weight.assign(weight * 1.1)
    decoder.refresh()
    prefix = generator.reader_prefix(inputs["user_vector"], inputs["has_reader"])
    logits, _ = decoder.prefill(
        decoder.embed(inputs["token_ids"]), tf.ones([1, len(ROWS[0])], tf.bool), prefix
    )
    np.testing.assert_allclose(logits, generator(inputs)[:, -1], atol=2e-5)
    for weight, value in zip(trained, kept, strict=True):
        weight.assign(value)
    for weight, value in zip(generator.backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("mode", ["none", "lora 2"])
def test_a_frozen_language_model_starts_as_it_was_and_only_what_was_added_is_trained(mode: str) -> None:
    whole = new_generator()
    gpt2 = LanguageModel(whole.backbone, whole.prompts.tokenizer, None, whole.config)
    frozen = Writer(gpt2, trained_layers=mode, user_dimension=READER, prefix_tokens=3)
    for mine, theirs in zip(frozen.reader_prefix.weights, whole.reader_prefix.weights, strict=True):
        mine.assign(theirs)
    inputs = batch(ROWS, [True, False])
    np.testing.assert_allclose(frozen(inputs), whole(inputs), atol=1e-5)
    trained = sum(int(np.prod(weight.shape)) for weight in frozen.language_model.trainable_weights)
    hidden, wide, rank = 16, 64, 2
    of_layer = rank * (4 * 2 * hidden + 2 * (hidden + wide))
    assert trained == len(CONTROL_TOKENS) * hidden + (2 * of_layer if mode == "lora 2" else 0)


def test_no_gradient_as_large_as_a_frozen_kernel_is_computed() -> None:
    model = new_generator("lora 2")
    # No other tensor has these sizes: 7 columns a row, and 1 row.
    inputs = batch([[1, 2, 3, 4, 5, 6, 7]], [True])

    @tf.function
    def gradients() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(inputs, training=True) ** 2)
        return tape.gradient(loss, model.trainable_weights)

    graph = gradients.get_concrete_function().graph
    needed, waiting = set(), [tensor.op for tensor in graph.outputs]
    while waiting:
        op = waiting.pop()
        if op not in needed:
            needed.add(op)
            waiting += [tensor.op for tensor in op.inputs]
    products = [op for op in needed if op.type == "MatMul" and op.get_attr("transpose_a")]
    shapes = {tuple(op.outputs[0].shape) for op in products}
    assert (16, 2) in shapes and (2, 16) in shapes, "those of the updates are seen"
    vocabulary = model.prompts.tokenizer.vocabulary_size
    assert not shapes & {(16, 48), (16, 16), (16, 64), (64, 16), (vocabulary, 16), (16, vocabulary)}


def test_a_prefix_is_seen_the_less_the_lower_its_bias() -> None:
    whole = new_generator()
    inputs = batch(ROWS, [True, True])
    layers = whole.language_model
    alone = layers.logits(layers.states(layers.embed(inputs["token_ids"])))
    changes = []
    for bias in (0.0, UNSEEN, 5 * UNSEEN):
        whole.reader_prefix.bias.assign(bias)
        changes.append(float(np.abs(whole(inputs) - alone).max()))
    assert changes[0] > changes[1] > 0
    assert changes[2] < 1e-4


def test_dropout_is_on_in_training_alone(generator: Writer) -> None:
    inputs = batch(ROWS, [True, True])
    np.testing.assert_array_equal(generator(inputs, training=False), generator(inputs, training=False))
    assert np.abs(generator(inputs, training=True) - generator(inputs, training=True)).max() > 1e-3


def test_weights_come_back_from_a_file(generator: Writer, tmp_path: Any) -> None:
    generator.save_weights(tmp_path / "model.weights.h5")
    again = new_generator(generator.trained_layers)
    for weight in again.weights:
        if "int" not in weight.dtype:
            weight.assign(weight * 0.5)
    again.load_weights(tmp_path / "model.weights.h5")
    inputs = batch(ROWS, [True, False])
    np.testing.assert_array_equal(again(inputs), generator(inputs))
