"""A BERT cut in two: lower layers that stay as they are, upper layers that are trained."""

import re
from typing import Any, Literal

import keras
import keras_hub
import tensorflow as tf

from genre_tf.errors import InputError

# Number of upper layers that are trained, or everything.
Trainable = int | Literal["all"]


def parse_trainable(text: str) -> Trainable:
    """Reads `none`, `last N` or `all`.

    Returns:
        0 for `none`, N for `last N`, "all" for `all`.

    Raises:
        InputError: for anything else.
    """
    cleaned = text.strip().lower()
    if cleaned == "all":
        return "all"
    if cleaned == "none":
        return 0
    found = re.fullmatch(r"last\s+([1-9]\d*)", cleaned)
    if not found:
        raise InputError(f"Trainable layers are none, last N (such as last 2) or all; received {text!r}.")
    return int(found[1])


def split_layers(
    backbone: keras_hub.models.BertBackbone, trainable: Trainable, pad_id: int = 0
) -> tuple["LowerLayers | None", "UpperLayers"]:
    """Cuts a BERT below its trained layers; both parts share the backbone's weights.

    Args:
        backbone: the whole.
        trainable: how many of its last layers are trained, or "all" (the embeddings with them).
        pad_id: the token id that stands for no token.

    Returns:
        The frozen part (None for "all"), and the trained part (without any layer for 0).

    Raises:
        InputError: when more layers are to be trained than there are.
    """
    layers = list(backbone.transformer_layers)
    if trainable == "all":
        return None, UpperLayers(layers, Embeddings(backbone), pad_id)
    if trainable > len(layers):
        raise InputError(f"The backbone has {len(layers)} layers; received last {trainable}. Use all.")
    cut = len(layers) - trainable
    return LowerLayers(Embeddings(backbone), layers[:cut], pad_id), UpperLayers(layers[cut:], None, pad_id)


class Embeddings(keras.layers.Layer):
    """Sum of token, position and segment embeddings, normalized: int32 [N, T] -> float [N, T, hidden]."""

    def __init__(self, backbone: keras_hub.models.BertBackbone) -> None:
        super().__init__(name="embeddings")
        self.token = backbone.get_layer("token_embedding")
        self.position = backbone.get_layer("position_embedding")
        self.segment = backbone.get_layer("segment_embedding")
        self.norm = backbone.get_layer("embeddings_layer_norm")
        self.dropout = backbone.get_layer("embeddings_dropout")
        self.max_tokens = backbone.max_sequence_length
        self.built = True

    def call(self, token_ids: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Embeds token ids: int32 [N, T] -> float [N, T, hidden]."""
        length = token_ids.shape[1]
        if length is not None and length > self.max_tokens:
            raise InputError(f"This BERT reads at most {self.max_tokens} tokens; received {length}.")
        tokens = self.token(token_ids)
        states = tokens + self.position(tokens) + self.segment(tf.zeros_like(token_ids))
        return self.dropout(self.norm(states), training=training)


class LowerLayers(keras.Model):
    """The frozen part of a BERT: embeddings and first layers, without dropout.

    Call with token ids, int32 [N, T] right padded; gives states, float [N, T, hidden].
    """

    def __init__(self, embeddings: Embeddings, blocks: list[Any], pad_id: int = 0) -> None:
        super().__init__(name="lower_layers")
        self.embeddings = embeddings
        self.blocks = blocks
        self.pad_id = pad_id
        _set_trainable(self, False)
        self.built = True

    def call(self, token_ids: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """States of the frozen part: int32 [N, T] -> float [N, T, hidden]."""
        mask = token_ids != self.pad_id
        states = self.embeddings(token_ids, training=False)
        for block in self.blocks:
            states = block(states, padding_mask=mask, training=False)
        return states


class UpperLayers(keras.Model):
    """The trained part of a BERT: its last layers, or all of it.

    Call with states, float [N, T, hidden] (token ids, int32 [N, T], when it has the embeddings), and a mask,
    bool [N, T], of the real tokens; gives states, float [N, T, hidden].
    """

    def __init__(self, blocks: list[Any], embeddings: Embeddings | None = None, pad_id: int = 0) -> None:
        super().__init__(name="upper_layers")
        self.embeddings = embeddings
        self.blocks = blocks
        self.pad_id = pad_id
        _set_trainable(self, True)  # an earlier cut of the same backbone may have frozen these layers
        self.supports_masking = True  # else Keras warns at each call that a mask was given
        self.built = True

    def compute_mask(self, inputs: tf.Tensor, previous_mask: tf.Tensor | None) -> None:
        """Attach no mask to the states: whoever reads them is given it."""

    def call(
        self, states: tf.Tensor, mask: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """States of the last layer: float [N, T, hidden]."""
        if self.embeddings is not None:
            mask = states != self.pad_id if mask is None else mask
            states = self.embeddings(states, training=training)
        for block in self.blocks:
            states = block(states, padding_mask=mask, training=training)
        return states


def _set_trainable(layer: keras.layers.Layer, value: bool) -> None:
    # Keras ignores an assignment of the value that is already there, without looking at the layers inside.
    layer.trainable = not value
    layer.trainable = value
