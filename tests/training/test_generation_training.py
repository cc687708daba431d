"""Training of the generator: its loss, and that a run learns, saves and loads."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import LLAMA, save_language_model, tiny_byte_pair
from genre_tf.backbones.trainable import compute_in
from genre_tf.config import GenerationConfig, TaskSharesConfig
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.batches import BatchLayout
from genre_tf.data.learning_texts import article_examples
from genre_tf.errors import InputError
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.generation.writer import WritingGraph
from genre_tf.losses.tokens import token_losses
from genre_tf.models.checkpoint import (
    FOLDER,
    WEIGHTS_FILE,
    load_generator,
    save_generator_sizes,
)
from genre_tf.models.new_writer import new_generator
from genre_tf.models.text_rows import TextBatching, TextRows
from genre_tf.models.writer import Writer
from genre_tf.training.generation import GenerationTrainer, Perplexity, _of_tasks

SETTINGS = GenerationConfig(
    backbone="new",
    trainable="all",
    vocabulary_size=300,
    layers=1,
    heads=2,
    hidden=32,
    max_tokens=64,
)
TABLE = ArticleTable(
    [
        Article(f"N{n}", "news", "", f"The {word} wins again", f"A {word} won.")
        for n, word in enumerate("abcd")
    ]
)


@pytest.fixture
def parts(tmp_path: Any) -> Writer:
    return new_generator(SETTINGS, TABLE, tmp_path / FOLDER)


def rows_of(parts: Writer) -> TextRows:
    examples = article_examples(TABLE, range(1, 5))
    return TextRows(examples, TABLE, parts.prompts)


def test_loss_is_the_weighted_mean_over_every_position(parts: Writer) -> None:
    batch = next(iter(rows_of(parts).batches(TextBatching(tokens=400, context_weight=0.25))))
    logits = parts(batch)
    everywhere = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits).numpy()
    weight = batch["label_weight"].numpy()
    expected = (everywhere * weight).sum() / weight.sum()
    loss = GenerationTrainer(parts)(batch, training=False)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert set(np.unique(weight)) == {0.0, 0.25, 1.0}


def test_tasks_without_a_share_are_neither_learned_nor_validated_on() -> None:
    texts = article_examples(TABLE, range(1, 5))
    titles = dataclasses.replace(SETTINGS, tasks=TaskSharesConfig(interest=0, plain=0, summary=0, body=0))
    assert {text.task for text in _of_tasks(texts, SETTINGS)} == {"title", "summary", "body"}
    assert {text.task for text in _of_tasks(texts, titles)} == {"title"}
    assert _of_tasks(texts[1:2], titles) == texts[1:2]  # nothing else to learn


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_16_bits_change_losses_and_gradients_a_little(parts: Writer, precision: str) -> None:
    batch = next(iter(rows_of(parts).batches(TextBatching(tokens=500))))
    trainer = GenerationTrainer(parts)

    def loss_and_gradients() -> tuple[float, list[np.ndarray]]:
        with tf.GradientTape() as tape:
            loss = trainer(batch, training=False)
        found = tape.gradient(loss, trainer.model.trainable_weights)
        return float(loss), [tf.convert_to_tensor(gradient).numpy() for gradient in found]

    loss, gradients = loss_and_gradients()
    compute_in(precision, parts.language_model)
    rounded, coarse = loss_and_gradients()
    assert rounded == pytest.approx(loss, rel=2e-3)
    assert any((one != other).any() for one, other in zip(gradients, coarse, strict=True))
    assert {gradient.dtype for gradient in coarse} == {np.dtype(np.float32)}
    dots = [float((one * other).sum()) for one, other in zip(gradients, coarse, strict=True)]
    assert sum(dots) == pytest.approx(sum(float((one**2).sum()) for one in gradients), rel=2e-2)


def test_a_replica_without_rows_adds_nothing(parts: Writer) -> None:
    """The last batch of an epoch may have fewer rows than there are replicas."""
    layout = BatchLayout(parts=2, wanted=(1,))
    batch = next(iter(rows_of(parts).batches(TextBatching(tokens=1), layout=layout)))
    assert len(batch["labels"]) == 0
    trainer = GenerationTrainer(parts)
    with tf.GradientTape() as tape:
        loss = trainer(batch, training=True)
    assert float(loss) == 0.0
    for gradient in tape.gradient(loss, trainer.model.trainable_weights):
        np.testing.assert_array_equal(tf.convert_to_tensor(gradient), np.zeros(gradient.shape))


def test_steps_lower_the_perplexity_and_weights_come_back(parts: Writer, tmp_path: Any) -> None:
    rows = rows_of(parts)
    measure = Perplexity(parts, rows, 500)
    before = measure()["perplexity"]
    assert before == pytest.approx(parts.backbone.vocabulary_size, rel=0.1)
    parts.compile(keras.optimizers.Adam(0.01))
    parts.fit(rows.batches(TextBatching(tokens=500), seed=1, epochs=None), steps_per_epoch=25, verbose=0)
    after = measure()["perplexity"]
    assert after < before / 10
    save_generator_sizes(parts, tmp_path / FOLDER)
    parts.save_weights(tmp_path / FOLDER / WEIGHTS_FILE)
    again = load_generator(tmp_path)
    batch = next(iter(rows.batches(TextBatching(tokens=500))))
    np.testing.assert_allclose(
        token_losses(again, batch, False)[0],
        token_losses(parts, batch, False)[0],
        rtol=1e-5,
    )
    assert again.common_words == parts.common_words
    assert again.prompts.sizes == parts.prompts.sizes


def test_a_run_without_or_with_a_damaged_generator_says_so(parts: Writer, tmp_path: Any) -> None:
    with pytest.raises(InputError, match="no trained generator"):
        load_generator(tmp_path)
    save_generator_sizes(parts, tmp_path / FOLDER)
    (tmp_path / FOLDER / WEIGHTS_FILE).write_bytes(b"no weights")
    with pytest.raises(InputError, match="damaged"):
        load_generator(tmp_path)


@pytest.mark.parametrize("wrong", [{"max_tokens": 12}, {"hidden": 33}, {"vocabulary_size": 9}])
def test_impossible_sizes_are_input_errors(wrong: dict[str, int], tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"12 tokens|width of 33|vocabulary of 9"):
        new_generator(dataclasses.replace(SETTINGS, **wrong), TABLE, tmp_path)


def test_a_named_gpt2_gets_the_control_tokens(tmp_path: Any) -> None:
    parts = new_generator(dataclasses.replace(SETTINGS, backbone="tiny"), TABLE, tmp_path)
    assert set(CONTROL_TOKENS) < set(parts.prompts.tokenizer.special_tokens)
    assert parts.backbone.vocabulary_size == parts.prompts.tokenizer.vocabulary_size


def test_a_frozen_language_model_comes_back_with_what_was_trained_beside_it(tmp_path: Any) -> None:
    settings = dataclasses.replace(SETTINGS, trainable="lora 2")
    parts = new_generator(settings, TABLE, tmp_path / FOLDER)
    assert "writer, lora 2: " in parts.trained_share()
    for weight in parts.trainable_weights:
        weight.assign(weight + 0.1)
    save_generator_sizes(parts, tmp_path / FOLDER)
    parts.save_weights(tmp_path / FOLDER / WEIGHTS_FILE)
    again = load_generator(tmp_path)
    assert again.trained_layers == "lora 2"
    batch = next(iter(rows_of(parts).batches(TextBatching(tokens=500))))
    np.testing.assert_array_equal(again(batch), parts(batch))
    assert len(again.trainable_weights) == len(parts.trainable_weights)


def test_a_llama_is_trained_kept_and_writes_as_a_gpt2_does(tmp_path: Any) -> None:
    sizes = {"layers": 1, "heads": 4, "key_heads": 2, "hidden": 16, "intermediate": 32, "max_tokens": 64}
    save_language_model(LLAMA.new(tiny_byte_pair(), **sizes), tmp_path / "llama")
    settings = dataclasses.replace(SETTINGS, backbone=str(tmp_path / "llama"), trainable="lora 2")
    parts = new_generator(settings, TABLE, tmp_path / FOLDER)
    batch = next(iter(rows_of(parts).batches(TextBatching(tokens=500))))
    with tf.GradientTape() as tape:
        loss = GenerationTrainer(parts)(batch, training=True)
    assert all(each is not None for each in tape.gradient(loss, parts.trainable_weights))
    for weight in parts.trainable_weights:
        weight.assign(weight + 0.1)
    save_generator_sizes(parts, tmp_path / FOLDER)
    parts.save_weights(tmp_path / FOLDER / WEIGHTS_FILE)
    again = load_generator(tmp_path)
    np.testing.assert_array_equal(again(batch), parts(batch))
    texts = [tf.constant([text]) for text in ("b wins", "A c won.", "title")]
    decoded = WritingGraph(again).decode(*texts, tf.constant([1], tf.int64))
    assert np.isfinite(decoded.log_probability.numpy()).all()


@pytest.mark.parametrize("mode", ["last 9", "lora 8 last 9", "everything"])
def test_what_a_writer_cannot_train_is_an_input_error(mode: str, tmp_path: Any) -> None:
    with pytest.raises(InputError, match="; got "):
        new_generator(dataclasses.replace(SETTINGS, trainable=mode), TABLE, tmp_path)


def test_validation_reads_kept_states_and_finds_the_same(tmp_path: Any) -> None:
    settings = dataclasses.replace(SETTINGS, backbone="tiny", trainable="lora 2 last 1")
    parts = new_generator(settings, TABLE, tmp_path)
    rows, batching = rows_of(parts), TextBatching(tokens=400, context_weight=0.0)
    kept = Perplexity(parts, rows, 400)
    assert all("frozen_states" in batch for batch in kept.batches)
    plain = [token_losses(parts, batch, False).losses for batch in rows.batches(batching)]
    np.testing.assert_allclose(kept()["loss"], np.concatenate(plain).mean(), rtol=1e-4)
