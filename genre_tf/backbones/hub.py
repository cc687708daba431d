"""KerasHub's backbones: their parts, and presets. The one file that names what KerasHub keeps private.

Its backbones hold the weights; `genre_tf.layers` computes with them. A test says when KerasHub has moved.
"""

from operator import attrgetter
from typing import Any

import keras_hub

from genre_tf.errors import InputError
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


def hub_parts(layer: Any) -> dict[str, Any]:
    """The layers inside a KerasHub layer, by the names of `Parts`."""
    places = _PARTS if hasattr(layer, _NORMS["attention_norm"]) else _LLAMA_PARTS
    return {part: attrgetter(place)(layer) for part, place in places.items()}


def hub_blocks(backbone: keras_hub.models.Backbone, **options: Any) -> list[Block]:
    """The transformer layers of a KerasHub backbone for training, first to last; they share its weights."""
    norm_first = not isinstance(backbone, keras_hub.models.BertBackbone)
    blocks = []
    for number, layer in enumerate(backbone.transformer_layers):
        found = hub_parts(layer)
        found |= {part: norm_of(found[part]) for part in _NORMS}
        heads, key_heads = (found[part].kernel.shape[1] for part in ("query", "key"))
        parts = Parts(heads=heads, key_heads=key_heads, norm_first=norm_first, **found)
        blocks.append(Block(layer, parts, number, **options))
    return blocks


def head_parts(head: keras_hub.layers.MaskedLMHead) -> tuple[Any, Any, Any]:
    """The dense layer and the norm of a head for masked words, and its bias of each token."""
    return head._intermediate_dense, head._intermediate_layer_norm, head._bias


def norm_of(norm: Any) -> Norm:
    """The weights of a Keras or KerasHub normalization."""
    if hasattr(norm, "gamma"):
        return Norm(norm.gamma, norm.beta, norm.epsilon)
    return Norm(norm.scale, None, norm.epsilon)


def set_arithmetic(backbone: keras_hub.models.Backbone, activation: Any, epsilon: float) -> None:
    """Set what KerasHub fixes for a BERT or GPT-2: the activation, and the constant of all norms."""
    outer = ("embeddings_layer_norm", "layer_norm")
    norms = [getattr(backbone, name) for name in outer if hasattr(backbone, name)]
    for parts in map(hub_parts, backbone.transformer_layers):
        parts["expand"].activation = activation
        norms += [parts[name] for name in _NORMS]
    for norm in norms:
        norm.epsilon = epsilon


def read_preset(name: str, family: str, dropout: float | None) -> tuple[Any, Any]:
    """The backbone and the tokenizer of a Keras preset, or of a folder that holds one.

    The family is "Bert" or "GPT2"; another one is an `InputError`, and so is a preset that cannot be fetched.
    `dropout` is the rate in training; None: the preset's own.
    """
    options = {} if dropout is None else {"dropout": dropout}
    backbone, tokenizer = (getattr(keras_hub.models, family + part) for part in ("Backbone", "Tokenizer"))
    try:
        return backbone.from_preset(name, **options), tokenizer.from_preset(name)
    # KerasHub passes on errors of the hub that it used, and these change with its version.
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:200] if lines else type(error).__name__
        raise InputError(
            f"Keras preset {name} could not be read ({reason}). "
            "Check the name and the network, or give a local folder."
        ) from error


def preset_names() -> set[str]:
    """The presets of BERT and GPT-2 that KerasHub knows."""
    return set(keras_hub.models.BertBackbone.presets) | set(keras_hub.models.GPT2Backbone.presets)
