"""Packed texts: each is computed as if it were alone, and as the checkpoint's own code computes it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.bert import BERT, tiny_vocabulary
from genre_tf.backbones.language_models import GPT2, LLAMA, tiny_byte_pair
from genre_tf.pretraining.language_models import CausalLanguageModel, MaskedLanguageModel
from genre_tf.text.wordpiece import WordPiece

TEXTS = [[5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16]]


def _packed(first=TEXTS[0]) -> dict[str, tf.Tensor]:
    """Texts 0 and 1 in a row of 9 with two empty places, text 2 in a row of its own."""
    rows = [[*first, *TEXTS[1], 0, 0], [*TEXTS[2], 0, 0, 0, 0]]
    text = [[1] * 4 + [2] * 3 + [0, 0], [1] * 5 + [0] * 4]
    position = [[0, 1, 2, 3, 0, 1, 2, 0, 0], [0, 1, 2, 3, 4, 0, 0, 0, 0]]
    columns = {"token_ids": rows, "text": text, "position": position}
    return {name: tf.constant(column, tf.int32) for name, column in columns.items()}


def _spread(backbone: keras.Model) -> None:
    random = np.random.default_rng(4)
    for weight in backbone.weights:
        weight.assign(weight + 0.3 * random.normal(size=weight.shape).astype(np.float32))


@pytest.fixture(scope="module")
def gpt2():
    made = GPT2.new(tiny_byte_pair(), layers=2, heads=2, hidden=16, max_tokens=16, dropout=0.0)
    _spread(made.backbone)
    return made


def _of_each_text(states):
    return states[0, :4], states[0, 4:7], states[1, :5]


def test_gpt2_packed_is_gpt2_alone(gpt2):
    packed = CausalLanguageModel(gpt2).states(_packed())
    for text, states in zip(TEXTS, _of_each_text(packed), strict=True):
        inputs = {"token_ids": np.asarray([text]), "padding_mask": np.ones((1, len(text)), np.int32)}
        np.testing.assert_allclose(states, gpt2.backbone(inputs)[0], atol=2e-5)


@pytest.fixture(scope="module")
def bert():
    made = BERT.new(WordPiece(tiny_vocabulary()), layers=2, heads=2, hidden=16, dropout=0.0)
    _spread(made.backbone)
    return made


def test_bert_packed_is_bert_alone(bert):
    packed = MaskedLanguageModel(bert).states(_packed())
    for text, states in zip(TEXTS, _of_each_text(packed), strict=True):
        inputs = {
            name: np.asarray([values])
            for name, values in (
                ("token_ids", text),
                ("padding_mask", [1] * len(text)),
                ("segment_ids", [0] * len(text)),
            )
        }
        np.testing.assert_allclose(states, bert.backbone(inputs)["sequence_output"][0], atol=2e-5)


def test_no_text_sees_another(gpt2, bert):
    for model in (CausalLanguageModel(gpt2), MaskedLanguageModel(bert)):
        before, after = (model.states(_packed(*first)).numpy() for first in ((), ([20, 21, 22, 23],)))
        assert np.abs(after[0, :4] - before[0, :4]).max() > 1e-3
        np.testing.assert_array_equal(after[0, 4:7], before[0, 4:7])
        np.testing.assert_array_equal(after[1], before[1])


def test_llama_packed_is_llama_alone():
    sizes = {"layers": 2, "heads": 4, "key_heads": 2, "hidden": 16, "intermediate": 24, "max_tokens": 16}
    llama = LLAMA.new(tiny_byte_pair(), **sizes)
    _spread(llama.backbone)
    packed = CausalLanguageModel(llama).states(_packed())
    for text, states in zip(TEXTS, _of_each_text(packed), strict=True):
        inputs = {"token_ids": np.asarray([text]), "padding_mask": np.ones((1, len(text)), np.int32)}
        np.testing.assert_allclose(states, llama.backbone(inputs)[0], atol=2e-5)


def test_half_precision_comes_close_and_keeps_float32_weights(gpt2):
    batch = _packed()
    whole = CausalLanguageModel(gpt2)(batch)
    half = CausalLanguageModel(gpt2, "mixed_bfloat16")
    found = half(batch)
    CausalLanguageModel(gpt2)  # back to float32, for the other tests
    assert found.dtype == tf.float32 and {weight.dtype for weight in half.weights} == {"float32"}
    assert 1e-4 < np.abs(found - whole).max() < 0.05 * np.abs(whole).max()
