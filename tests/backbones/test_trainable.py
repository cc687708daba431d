"""How much of a backbone is trained, as read from a setting."""

import pytest

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.layers import split_layers
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
        ("adalora 8 last 2", Trainable("adalora", 8, 2)),
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
