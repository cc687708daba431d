"""How much of a backbone is trained: read from a setting, and counted."""

import pytest

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.layers import split_layers
from genre_tf.backbones.parameter_counts import COMMON, trained_parameter_counts, trained_parameters
from genre_tf.backbones.trainable import Trainable, parse_trainable
from genre_tf.errors import InputError


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("none", Trainable(last=0)),
        ("all", Trainable()),
        ("ALL", Trainable()),
        ("last 2", Trainable(last=2)),
        (" Last  12 ", Trainable(last=12)),
        ("lora 8", Trainable("lora", 8)),
        ("LoRA 8 last 2", Trainable("lora", 8, 2)),
        ("adapters 16", Trainable("adapters", 16)),
        ("prefix 4  last 1", Trainable("prefix", 4, 1)),
    ],
)
def test_reads_how_much_is_trained(text: str, meant: Trainable) -> None:
    assert parse_trainable(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "last",
        "last 0",
        "last -1",
        "first 2",
        "2",
        "last two",
        "lora",
        "lora 0",
        "lora 8 first 2",
        "last 2 lora",
    ],
)
def test_refuses_anything_else(text: str) -> None:
    with pytest.raises(InputError, match="none, last N"):
        parse_trainable(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("last 3", "has 2 layers; got last 3"),
        ("lora 4 last 3", "has 2 layers; got last 3"),
        ("lora 33", "at most 32"),
        ("adapters 100000", "at most 32"),
        ("prefix 513", "at most 512"),
    ],
)
def test_refuses_more_than_the_backbone_has_room_for(text: str, said: str) -> None:
    backbone = load_bert("tiny").backbone
    with pytest.raises(InputError, match=said):
        split_layers(backbone, parse_trainable(text))
    with pytest.raises(InputError, match=said):
        trained_parameters(backbone, parse_trainable(text))


def test_counts_what_is_trained_in_each_mode() -> None:
    backbone = load_bert("tiny").backbone
    modes = (*COMMON, "lora 1 last 1", "adapters 3 last 1", "prefix 5 last 1")
    trained = {}
    for mode in modes:
        _, upper = split_layers(backbone, parse_trainable(mode))
        trained[mode] = sum(weight.value.numpy().size for weight in upper.trainable_weights)
    assert trained_parameter_counts(backbone, modes) == trained
    assert trained["none"] == 0 < trained["lora 1 last 1"] < trained["last 1"] < trained["all"]
