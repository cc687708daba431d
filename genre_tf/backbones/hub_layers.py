"""The parts of KerasHub's backbones: the one file that names what KerasHub keeps private.

Its backbones hold the weights; `genre_tf.layers` computes with them. A test says when KerasHub has moved.
"""

from typing import Any

import keras_hub

from genre_tf.layers.block import Block, Parts
from genre_tf.layers.elementwise import Norm

_DENSE = {
    "query": "_self_attention_layer._query_dense",
    "key": "_self_attention_layer._key_dense",
    "value": "_self_attention_layer._value_dense",
    "project": "_self_attention_layer._output_dense",
    "expand": "_feedforward_intermediate_dense",
    "contract": "_feedforward_output_dense",
}
_DROPOUT = {
    "attention_dropout": "_self_attention_layer._dropout_layer",
    "project_dropout": "_self_attention_dropout",
    "contract_dropout": "_feedforward_dropout",
}
_NORMS = {"attention_norm": "_self_attention_layer_norm", "feed_forward_norm": "_feedforward_layer_norm"}
# Layers of BERT (`TransformerEncoder`) and GPT-2 (`TransformerDecoder`), and of Llama.
_PARTS = _DENSE | _DROPOUT | _NORMS
_LLAMA_PARTS = _DENSE | {
    "gate": "_feedforward_gate_dense",
    "attention_norm": "_self_attention_layernorm",
    "feed_forward_norm": "_feedforward_layernorm",
}


def hub_blocks(backbone: keras_hub.models.Backbone, **options: Any) -> list[Block]:
    """The transformer layers of a KerasHub backbone for training, first to last; they share its weights.

    Args:
        backbone: a BERT, GPT-2 or Llama.
        options: see `Block`.
    """
    norm_first = not isinstance(backbone, keras_hub.models.BertBackbone)
    return [
        Block(layer, _parts(layer, norm_first), number, **options)
        for number, layer in enumerate(backbone.transformer_layers)
    ]


def norm_of(norm: Any) -> Norm:
    """The weights of a Keras or KerasHub normalization."""
    if hasattr(norm, "gamma"):
        return Norm(norm.gamma, norm.beta, norm.epsilon)
    return Norm(norm.scale, None, norm.epsilon)


def _parts(layer: Any, norm_first: bool) -> Parts:
    places = _PARTS if hasattr(layer, _NORMS["attention_norm"]) else _LLAMA_PARTS
    found = {part: _at(layer, place) for part, place in places.items()}
    found |= {part: norm_of(found[part]) for part in _NORMS}
    return Parts(
        heads=found["query"].kernel.shape[1],
        key_heads=found["key"].kernel.shape[1],
        norm_first=norm_first,
        **found,
    )


def _at(layer: Any, place: str) -> Any:
    for attribute in place.split("."):
        layer = getattr(layer, attribute)
    return layer
