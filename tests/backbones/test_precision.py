"""Mixed precision of the trained layers: close to float32, float32 weights and outputs, loss scaling."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.layers import split_layers
from genre_tf.backbones.trainable import PRECISIONS, parse_trainable, wants_loss_scaling
from genre_tf.config import OptimizerConfig
from genre_tf.errors import InputError
from genre_tf.training.optimizers import make_optimizer

IDS = np.array([[2, 40, 41, 42, 3], [2, 50, 3, 0, 0]], np.int32)
TOLERANCE = {"float32": 2e-6, "mixed_bfloat16": 0.05, "mixed_float16": 0.01}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", ["all", "lora 4", "adapters 3", "prefix 5 last 1"])
def test_states_are_float32_and_near_those_in_full_precision(mode: str, precision: str) -> None:
    backbone = load_bert("tiny").backbone
    whole = backbone({"token_ids": IDS, "segment_ids": np.zeros_like(IDS), "padding_mask": IDS != 0})
    lower, upper = split_layers(backbone, parse_trainable(mode), precision=precision)
    states = upper(lower(IDS) if lower else IDS, IDS != 0)
    assert states.dtype == tf.float32
    assert {weight.dtype for weight in upper.trainable_weights} == {"float32"}
    difference = np.abs(states - whole["sequence_output"]).max()
    assert difference <= TOLERANCE[precision]
    assert (difference > 1e-5) == (precision != "float32"), "it does compute in 16 bits"


def test_the_next_cut_of_the_same_backbone_is_in_its_own_precision() -> None:
    backbone = load_bert("tiny").backbone
    split_layers(backbone, parse_trainable("all"), precision="mixed_bfloat16")
    lower, upper = split_layers(backbone, parse_trainable("last 1"))
    assert {layer.compute_dtype for part in (lower, upper) for layer in part._flatten_layers()} == {"float32"}


def test_the_loss_is_scaled_where_gradients_pass_through_float16_alone() -> None:
    backbone = load_bert("tiny").backbone
    for precision in PRECISIONS:
        _, upper = split_layers(backbone, parse_trainable("lora 4"), precision=precision)
        scaled = precision == "mixed_float16"
        assert wants_loss_scaling(upper.trainable_weights) == scaled
        optimizer = make_optimizer(OptimizerConfig(), 10, upper.trainable_weights)
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer) == scaled


def test_refuses_unknown_precisions_whatever_is_trained() -> None:
    with pytest.raises(InputError, match="mixed_bfloat16, mixed_float16; got 'float16'"):
        split_layers(load_bert("tiny").backbone, parse_trainable("none"), precision="float16")
