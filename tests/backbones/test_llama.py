"""Llama against `transformers` in PyTorch: logits equal within 2e-5; what is trained of it, and how."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import (
    LLAMA,
    LanguageModel,
    load_language_model,
    save_language_model,
    tiny_byte_pair,
)
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.backbones.trainable import compute_in, parse_trainable
from genre_tf.errors import InputError

from .conftest import torch, transformers, write_llama
from .test_sources import change_config

TOLERANCE = 2e-5
IDS = np.array([[5, 9, 3, 22, 8, 41, 2, 60, 77], [4, 4, 17, 33, 1, 2, 3, 70, 6]], np.int32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("llama")
    return folder, write_llama(folder)


@pytest.fixture(scope="module")
def llama(model: tuple[Path, Any]) -> LanguageModel:
    return load_language_model(str(model[0]))


def layers(llama: LanguageModel, trainable: str = "all", control_ids: tuple[int, ...] = ()) -> LanguageLayers:
    return LanguageLayers(llama.backbone, parse_trainable(trainable), control_ids)


def ours(of: LanguageLayers, ids: np.ndarray) -> np.ndarray:
    return of.logits(of.states(of.embed(tf.constant(ids)), True)).numpy()


def theirs(model: Any, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(ids).long()).logits.numpy()


def test_logits_equal_those_of_transformers_and_of_keras_hub(
    model: tuple[Path, Any], llama: LanguageModel
) -> None:
    _, reference = model
    np.testing.assert_allclose(ours(layers(llama), IDS), theirs(reference, IDS), atol=TOLERANCE)
    states = llama.backbone({"token_ids": IDS, "padding_mask": np.ones_like(IDS)})
    logits = llama.backbone.token_embedding(states, reverse=True).numpy()
    np.testing.assert_allclose(logits, theirs(reference, IDS), atol=TOLERANCE)


def test_saved_folder_gives_the_same_logits_here_and_in_transformers(
    model: tuple[Path, Any], tmp_path: Path
) -> None:
    llama = load_language_model(str(model[0]), special_tokens=["<|title|>", "<|body|>"])
    size = llama.backbone.vocabulary_size
    assert llama.tokenizer.token_id("<|body|>") == size - 1 == model[1].config.vocab_size
    save_language_model(llama, tmp_path)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    logits = ours(layers(llama), IDS)
    np.testing.assert_allclose(theirs(reference, IDS), logits, atol=TOLERANCE)
    np.testing.assert_allclose(logits[..., : size - 1], theirs(model[1], IDS), atol=TOLERANCE)
    np.testing.assert_array_equal(ours(layers(load_language_model(str(tmp_path))), IDS), logits)


def test_old_configurations_name_the_rotary_base_elsewhere(tmp_path: Path) -> None:
    reference = write_llama(tmp_path)
    change_config(tmp_path, rope_parameters=None, rope_theta=500.0, num_hidden_layers=2)
    np.testing.assert_allclose(
        ours(layers(load_language_model(str(tmp_path))), IDS), theirs(reference, IDS), atol=TOLERANCE
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mistral"}, "describes a 'mistral' model"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "rope_type is 'llama3'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "rope_scaling is"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"head_dim": 8}, "head_dim is 8"),
        ({"num_key_value_heads": 4}, "cannot be divided"),
        ({"num_hidden_layers": 3}, "lack layers.2"),
        ({"vocab_size": 7}, "vocab_size 7"),
    ],
)
def test_refuses_what_it_would_compute_wrongly(
    changes: dict[str, Any], said: str, model: tuple[Path, Any], tmp_path: Path
) -> None:
    for file in model[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change_config(tmp_path, **changes)
    with pytest.raises(InputError, match=said):
        load_language_model(str(tmp_path))


def test_lora_starts_at_the_pretrained_function_and_trains_nothing_else(model: tuple[Path, Any]) -> None:
    of = layers(load_language_model(str(model[0]), special_tokens=["<|body|>"]), "lora 2", (258,))
    np.testing.assert_allclose(ours(of, IDS)[..., :258], theirs(model[1], IDS), atol=TOLERANCE)
    widths = 2 * [24 + 24] + 2 * [24 + 8] + 3 * [24 + 40]  # query, project; key, value; feed-forward
    expected = of.layers * 2 * sum(widths) + 24  # and one row of the embeddings
    assert sum(np.prod(weight.shape) for weight in of.trainable_variables) == expected


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "float32"])  # the last one is left behind
def test_training_updates_of_low_rank_lowers_the_loss(llama: LanguageModel, precision: str) -> None:
    of = layers(llama, "lora 2", (60, 256))
    compute_in(precision, of)
    ids = tf.constant(IDS)
    optimizer = keras.optimizers.Adam(0.05)
    optimizer.build(of.trainable_variables)
    before = [weight.numpy() for weight in of.backbone.weights]

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            logits = of.logits(of.states(of.embed(ids[:, :-1]), True))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ids[:, 1:], logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, of.trainable_variables), of.trainable_variables)
        return loss

    losses = [float(step()) for _ in range(25)]
    assert losses[-1] < 0.7 * losses[0]
    for weight, value in zip(of.backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_closed_gradients_equal_numeric_ones(llama: LanguageModel) -> None:
    """Of the whole, in the direction of the gradient: what the closed gradients say is what happens."""
    of = layers(llama)
    kept = of.backbone.get_weights()

    def loss() -> Any:
        states = of.states(of.embed(tf.constant(IDS)), True)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(IDS, of.logits(states)))

    with tf.GradientTape() as tape:
        here = loss()
    variables = of.trainable_variables
    gradients = [tf.convert_to_tensor(part) for part in tape.gradient(here, variables)]
    norm = tf.linalg.global_norm(gradients)
    side = []
    for step in (1e-3, -2e-3):
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_add(step * gradient / norm)
        side.append(float(loss()))
    of.backbone.set_weights(kept)
    np.testing.assert_allclose((side[0] - side[1]) / 2e-3, norm, rtol=2e-3)


def test_refuses_what_cannot_be_trained() -> None:
    tiny = LLAMA.new(
        tiny_byte_pair(), layers=2, heads=4, key_heads=2, hidden=32, intermediate=64, max_tokens=256
    )
    for text, said in (("last 3", "has 2 layers"), ("adapters 99", "too large"), ("lora 99", "too large")):
        with pytest.raises(InputError, match=said):
            layers(tiny, text)
    rows = layers(tiny, "none", (256,)).trainable_variables
    assert [weight.shape for weight in rows] == [(1, 32)]  # of the control token, which is new


def test_refuses_sizes_that_do_not_divide_each_other() -> None:
    with pytest.raises(InputError, match="width of 16 cannot be divided among 3 heads"):
        LLAMA.new(tiny_byte_pair(), layers=1, heads=3, key_heads=3, hidden=16, intermediate=8,
                  max_tokens=8)  # fmt: skip
