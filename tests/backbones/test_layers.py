import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.layers import split_layers
from genre_tf.backbones.trainable import Trainable, parse_trainable
from genre_tf.errors import InputError

IDS = np.array([[2, 40, 41, 42, 3], [2, 50, 3, 0, 0]], np.int32)
WITH_EMPTY_TEXT = np.concatenate([np.zeros([1, 5], np.int32), IDS, [[2, 3, 0, 0, 0]]]).astype(np.int32)


@pytest.mark.parametrize(
    "mode",
    [
        "none",
        "last 1",
        "last 2",
        "all",
        "lora 4",
        "lora 4 last 1",
        "adapters 3",
        "adapters 3 last 1",
        "prefix 5",
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_both_parts_together_start_as_the_whole(mode: str, dropout: float) -> None:
    backbone = load_bert("tiny", dropout=dropout).backbone
    whole = backbone({"token_ids": IDS, "segment_ids": np.zeros_like(IDS), "padding_mask": IDS != 0})
    lower, upper = split_layers(backbone, parse_trainable(mode))
    states = upper(lower(IDS) if lower else IDS, IDS != 0)
    # What is added to is computed by KerasHub's own layers, in another order of sums.
    np.testing.assert_allclose(states, whole["sequence_output"], atol=2e-6)


@pytest.mark.parametrize("mode", ["last 1", "all", "lora 4"])
def test_states_and_gradients_are_the_same_without_padding(mode: str) -> None:
    _, upper = split_layers(load_bert("tiny").backbone, parse_trainable(mode))
    real = WITH_EMPTY_TEXT != 0
    given = WITH_EMPTY_TEXT if upper.embeddings else tf.random.stateless_normal([4, 5, 32], [1, 2])
    weights = [weight.value for weight in upper.trainable_weights]

    def step(given: tf.Tensor, mask: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            states = upper(given, mask, training=True)
            loss = tf.reduce_sum(tf.boolean_mask(states, mask) ** 3)
        return [states, *tape.gradient(loss, weights)]

    sizes_unknown = [
        tf.TensorSpec([None, None, *given.shape[2:]], given.dtype),
        tf.TensorSpec([None, None], bool),
    ]
    packed = tf.function(step, input_signature=sizes_unknown)(given, real)
    padded = step(tf.constant(given), tf.constant(real))
    np.testing.assert_allclose(packed[0].numpy()[real], padded[0].numpy()[real], atol=1e-5)
    for mine, theirs in zip(packed[1:], padded[1:], strict=True):
        mine, theirs = (tf.convert_to_tensor(part).numpy() for part in (mine, theirs))
        np.testing.assert_allclose(mine, theirs, atol=1e-5 * max(1.0, float(np.abs(theirs).max())))


def test_padding_is_not_computed_where_sizes_are_unknown() -> None:
    lower, _ = split_layers(load_bert("tiny").backbone, Trainable(last=0))
    graph = tf.function(lower, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    ids = tf.constant(WITH_EMPTY_TEXT)
    states = graph(ids).numpy()
    np.testing.assert_allclose(states[ids != 0], lower(ids).numpy()[ids != 0], atol=1e-5)
    assert not states[0, 1:].any() and np.abs(lower(ids).numpy()[0, 1:]).min() > 0
    assert np.isfinite(graph(tf.zeros_like(ids)).numpy()).all()
    assert graph(ids[:0]).shape == (0, 5, 32)
    held = {op.type for op in graph.get_concrete_function().graph.get_operations()}
    assert "IdentityN" not in held, "an export holds plain operations alone"


def test_trains_the_upper_part_alone_however_often_it_was_cut() -> None:
    backbone = load_bert("tiny").backbone
    counts = []
    for mode in ("none", "last 1", "all", "lora 4", "none", "adapters 3", "last 2", "prefix 5 last 1"):
        lower, upper = split_layers(backbone, parse_trainable(mode))
        assert lower is None or not lower.trainable_weights
        counts.append(len(upper.trainable_weights))
    assert counts == [0, 16, 37, 8, 0, 24, 32, 3]


def test_padding_does_not_change_the_states_of_real_tokens() -> None:
    backbone = load_bert("tiny").backbone
    lower, upper = split_layers(backbone, Trainable(last=1))
    assert lower is not None
    padded = upper(lower(IDS[1:]), IDS[1:] != 0).numpy()[:, :3]
    alone = upper(lower(IDS[1:, :3]), np.ones([1, 3], bool)).numpy()
    np.testing.assert_allclose(padded, alone, atol=1e-6)


def test_drops_in_the_trained_part_alone() -> None:
    keras.utils.set_random_seed(1)
    backbone = load_bert("tiny", dropout=0.5).backbone
    lower, upper = split_layers(backbone, Trainable(last=1))
    assert lower is not None
    states = lower(IDS, training=True)
    np.testing.assert_array_equal(states, lower(IDS))
    dropped = upper(states, IDS != 0, training=True).numpy()
    assert np.abs(dropped - upper(states, IDS != 0).numpy()).max() > 0.01


def test_refuses_texts_longer_than_the_position_embeddings() -> None:
    lower, _ = split_layers(load_bert("tiny").backbone, Trainable(last=0))
    assert lower is not None
    with pytest.raises(InputError, match="at most 512"):
        lower(np.ones([1, 513], np.int32))
