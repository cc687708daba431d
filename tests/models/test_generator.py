"""The generator: padding, and the whole model against prefill."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import GPT2, LanguageModel, tiny_byte_pair
from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.models.writer import Writer


def new_generator(mode: str = "all") -> Writer:
    """A writer with weights far from those it starts with."""
    gpt2 = GPT2.new(tiny_byte_pair(CONTROL_TOKENS), layers=2, heads=2, hidden=16, max_tokens=64, dropout=0.3)
    random = np.random.default_rng(1)
    for weight in gpt2.backbone.weights:
        if "int" not in weight.dtype:
            weight.assign(weight + random.normal(0, 0.2, weight.shape))
    model = Writer(gpt2, trained_layers=mode)
    for weight in _added(model.language_model):
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


def batch(rows: list[list[int]], pad: int = 0) -> dict[str, Any]:
    width = max(map(len, rows)) + pad
    return {"token_ids": tf.constant([row + [9] * (width - len(row)) for row in rows])}


ROWS = [[3, 1, 4, 1, 5], [9, 2]]


def test_every_weight_is_trained(generator: Writer) -> None:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(generator(batch(ROWS)) ** 2)
    gradients = tape.gradient(loss, generator.trainable_weights)
    assert all(gradient is not None for gradient in gradients)


def test_padding_behind_a_row_does_not_change_it(generator: Writer) -> None:
    plain, padded = (generator(batch(ROWS, pad)) for pad in (0, 6))
    for index, row in enumerate(ROWS):
        np.testing.assert_allclose(padded[index, : len(row)], plain[index, : len(row)], atol=1e-5)


def test_prefill_on_the_left_padded_prompt_gives_the_whole_models_logits(generator: Writer) -> None:
    inputs = batch(ROWS)
    whole = generator(inputs)
    decoder = CachedDecoder(generator.language_model)
    width = 8
    token_ids = tf.constant([[7] * (width - len(row)) + row for row in ROWS])
    mask = tf.constant([[False] * (width - len(row)) + [True] * len(row) for row in ROWS])
    logits, cache = decoder.prefill(decoder.embed(token_ids), mask)
    for index, row in enumerate(ROWS):
        np.testing.assert_allclose(logits[index], whole[index, len(row) - 1], atol=2e-5)
    longer = batch([[*ROWS[0], 6]])
    (first, *_) = np.asarray(cache.bias).shape
    nothing = decoder.nothing_written(first, 1, 1)
    one = decoder.embed(tf.constant([[[6]], [[6]]]))
    logits, _ = decoder.read(one, tf.constant([[[len(row)]] for row in ROWS]), cache, nothing)
    np.testing.assert_allclose(logits[0], generator(longer)[0, -1], atol=2e-5)


def test_a_decoder_takes_over_what_was_learned_and_leaves_the_frozen_weights(generator: Writer) -> None:
    decoder = CachedDecoder(generator.language_model)
    inputs = batch(ROWS[:1])
    before = [weight.numpy() for weight in generator.backbone.weights]
    trained = generator.language_model.trainable_weights
    kept = [weight.numpy() for weight in trained]
    for weight in trained:
        weight.assign(weight * 1.1)
    decoder.refresh()
    logits, _ = decoder.prefill(decoder.embed(inputs["token_ids"]), tf.ones([1, len(ROWS[0])], tf.bool))
    np.testing.assert_allclose(logits, generator(inputs)[:, -1], atol=2e-5)
    for weight, value in zip(trained, kept, strict=True):
        weight.assign(value)
    for weight, value in zip(generator.backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("mode", ["none", "lora 2"])
def test_a_frozen_language_model_starts_as_it_was_and_only_what_was_added_is_trained(mode: str) -> None:
    whole = new_generator()
    gpt2 = LanguageModel(whole.backbone, whole.prompts.tokenizer, None, whole.config)
    frozen = Writer(gpt2, trained_layers=mode)
    inputs = batch(ROWS)
    np.testing.assert_allclose(frozen(inputs), whole(inputs), atol=1e-5)
    trained = sum(int(np.prod(weight.shape)) for weight in frozen.language_model.trainable_weights)
    hidden, wide, rank = 16, 64, 2
    of_layer = rank * (4 * 2 * hidden + 2 * (hidden + wide))
    assert trained == len(CONTROL_TOKENS) * hidden + (2 * of_layer if mode == "lora 2" else 0)


def test_no_gradient_as_large_as_a_frozen_kernel_is_computed() -> None:
    model = new_generator("lora 2")
    # No other tensor has these sizes: 7 columns a row, and 1 row.
    inputs = batch([[1, 2, 3, 4, 5, 6, 7]])

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


def test_dropout_is_on_in_training_alone(generator: Writer) -> None:
    inputs = batch(ROWS)
    np.testing.assert_array_equal(generator(inputs, training=False), generator(inputs, training=False))
    assert np.abs(generator(inputs, training=True) - generator(inputs, training=True)).max() > 1e-3


def test_weights_come_back_from_a_file(generator: Writer, tmp_path: Any) -> None:
    generator.save_weights(tmp_path / "model.weights.h5")
    again = new_generator(generator.trained_layers)
    for weight in again.weights:
        if "int" not in weight.dtype:
            weight.assign(weight * 0.5)
    again.load_weights(tmp_path / "model.weights.h5")
    inputs = batch(ROWS)
    np.testing.assert_array_equal(again(inputs), generator(inputs))
