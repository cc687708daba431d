import keras
import numpy as np
import pytest

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.layers import split_layers
from genre_tf.backbones.trainable import Trainable, parse_trainable
from genre_tf.errors import InputError

IDS = np.array([[2, 40, 41, 42, 3], [2, 50, 3, 0, 0]], np.int32)


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
