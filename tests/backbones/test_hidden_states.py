"""Frozen states: ragged, kept on disk under a key that knows what they were made from."""

import numpy as np
import tensorflow as tf

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.hidden_states import hidden_states
from genre_tf.backbones.layers import split_layers
from genre_tf.backbones.trainable import Trainable

TEXTS = ["", "one short title", "cheese", "a much longer title about a great many things and more of them"]


def test_gathered_states_are_those_of_the_layers():
    bert = load_bert("tiny")
    lower, _ = split_layers(bert.backbone, Trainable(last=1))
    kept = hidden_states(TEXTS, bert.tokenizer, lower, 12)
    found, mask = kept.gather(np.array([3, 0, 1]))
    ids = bert.tokenizer(tf.constant([TEXTS[3], "", TEXTS[1]]), 12)
    np.testing.assert_array_equal(mask[[0, 2]], (ids.numpy() != bert.tokenizer.pad_id)[[0, 2]])
    expected = lower(ids).numpy()
    np.testing.assert_allclose(found[mask], expected[mask], atol=2e-3)
    assert not mask[1].any(), "an empty text has no token"


def test_states_are_computed_once_and_again_only_for_other_texts_or_weights(tmp_path):
    bert = load_bert("tiny")
    lower, _ = split_layers(bert.backbone, Trainable(last=0))
    calls = []

    def made(texts, identity):
        before = len(calls)
        states = hidden_states(
            texts, bert.tokenizer, lower, 12, tmp_path, identity, lambda *n: calls.append(n)
        )
        return states, len(calls) > before

    first, computed = made(TEXTS, "a")
    assert computed
    again, computed = made(TEXTS, "a")
    assert not computed
    np.testing.assert_array_equal(first.values, again.values)
    assert made(TEXTS, "b")[1]
    assert made([*TEXTS[:3], "other"], "a")[1]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
