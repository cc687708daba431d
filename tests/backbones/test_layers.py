import keras
import numpy as np
import pytest

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.layers import Trainable, parse_trainable, split_layers
from genre_tf.errors import InputError

IDS = np.array([[2, 40, 41, 42, 3], [2, 50, 3, 0, 0]], np.int32)


@pytest.mark.parametrize(
    ("text", "meant"), [("none", 0), ("all", "all"), ("last 2", 2), (" Last  12 ", 12), ("ALL", "all")]
)
def test_reads_how_much_is_trained(text: str, meant: Trainable) -> None:
    assert parse_trainable(text) == meant


@pytest.mark.parametrize("text", ["", "last", "last 0", "last -1", "first 2", "2", "last two"])
def test_refuses_anything_else(text: str) -> None:
    with pytest.raises(InputError, match="none, last N"):
        parse_trainable(text)


@pytest.mark.parametrize("trainable", [0, 1, 2, "all"])
def test_both_parts_together_equal_the_whole(trainable: Trainable) -> None:
    backbone = load_bert("tiny").backbone
    whole = backbone({"token_ids": IDS, "segment_ids": np.zeros_like(IDS), "padding_mask": IDS != 0})
    lower, upper = split_layers(backbone, trainable)
    states = upper(lower(IDS) if lower else IDS, IDS != 0)
    np.testing.assert_array_equal(states, whole["sequence_output"])


def test_trains_the_upper_part_alone_however_often_it_was_cut() -> None:
    backbone = load_bert("tiny").backbone
    counts = []
    for trainable in (0, 1, "all", 0, 2):
        lower, upper = split_layers(backbone, trainable)
        assert lower is None or not lower.trainable_weights
        counts.append(len(upper.trainable_weights))
    assert counts == [0, 16, 37, 0, 32]


def test_padding_does_not_change_the_states_of_real_tokens() -> None:
    backbone = load_bert("tiny").backbone
    lower, upper = split_layers(backbone, 1)
    assert lower is not None
    padded = upper(lower(IDS[1:]), IDS[1:] != 0).numpy()[:, :3]
    alone = upper(lower(IDS[1:, :3]), np.ones([1, 3], bool)).numpy()
    np.testing.assert_allclose(padded, alone, atol=1e-6)


def test_drops_in_the_trained_part_alone() -> None:
    keras.utils.set_random_seed(1)
    backbone = load_bert("tiny", dropout=0.5).backbone
    lower, upper = split_layers(backbone, 1)
    assert lower is not None
    states = lower(IDS, training=True)
    np.testing.assert_array_equal(states, lower(IDS))
    dropped = upper(states, IDS != 0, training=True).numpy()
    assert np.abs(dropped - upper(states, IDS != 0).numpy()).max() > 0.01


def test_refuses_more_layers_than_there_are() -> None:
    with pytest.raises(InputError, match="has 2 layers; received last 3"):
        split_layers(load_bert("tiny").backbone, 3)


def test_refuses_texts_longer_than_the_position_embeddings() -> None:
    lower, _ = split_layers(load_bert("tiny").backbone, 0)
    assert lower is not None
    with pytest.raises(InputError, match="at most 512"):
        lower(np.ones([1, 513], np.int32))
