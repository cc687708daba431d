"""A BERT split in two: lower layers that stay frozen, and upper layers that are trained."""

from typing import Any

import keras
import keras_hub
import tensorflow as tf

from genre_tf.backbones.encoder_block import TransformerEncoder
from genre_tf.backbones.precision import check_precision, compute_in
from genre_tf.backbones.token_layout import Packed, Padded, layout_of
from genre_tf.backbones.trainable import Trainable, check_fits
from genre_tf.backbones.tuned_blocks import TunedBlock, set_trainable, tuned
from genre_tf.errors import InputError


def split_layers(
    backbone: keras_hub.models.BertBackbone,
    trainable: Trainable,
    pad_id: int = 0,
    *,
    precision: str = "float32",
) -> tuple["LowerLayers | None", "UpperLayers"]:
    """Split a BERT below its trained layers; both parts share the backbone's weights.

    Args:
        backbone: the complete BERT.
        trainable: what to train.
        pad_id: the token id of padding.
        precision: policy that the upper layers compute in; their weights stay float32.

    Returns:
        The frozen part (None if every layer is trained or modified), and the trained part (without layers
        for `none`).

    Raises:
        InputError: there are fewer layers than should be trained, an addition is too large, or the precision
            is unknown.
    """
    layers = list(backbone.transformer_layers)
    check_precision(precision)
    check_fits(trainable, len(layers), backbone.hidden_dim, backbone.max_sequence_length)
    cut = 0 if trainable.last is None else len(layers) - trainable.last
    embeddings = Embeddings(backbone)
    blocks = [tuned(layer, trainable) for layer in layers[cut:]]
    for block in blocks:
        compute_in(precision, block)
    if trainable.last is None:
        # Token ids take four bytes, states of the frozen embeddings hundreds: looking up is cheaper than
        # storing.
        return None, UpperLayers(blocks, embeddings, pad_id)
    lower = LowerLayers(embeddings, layers[:cut], pad_id)
    return lower, UpperLayers(blocks, None, pad_id)


class Embeddings(keras.layers.Layer):
    """Sum of token, position and segment embeddings, normalized: int32 [N, T] -> float [N, T, hidden].

    Instead of token ids, their embeddings can be given, float [N, T, hidden], to measure how the result
    depends on them.
    """

    def __init__(self, backbone: keras_hub.models.BertBackbone) -> None:
        super().__init__(name="embeddings")
        self.token = backbone.get_layer("token_embedding")
        self.position = backbone.get_layer("position_embedding")
        self.segment = backbone.get_layer("segment_embedding")
        self.norm = backbone.get_layer("embeddings_layer_norm")
        self.dropout = backbone.get_layer("embeddings_dropout")
        self.max_tokens = backbone.max_sequence_length
        self.built = True

    def call(self, token_ids: tf.Tensor, layout: Padded | Packed, training: bool | None = None) -> tf.Tensor:
        """Embeds the tokens of padded texts: int32 [N, T] -> float [tokens, hidden]."""
        length = token_ids.shape[1]
        if length is not None and length > self.max_tokens:
            raise InputError(f"This BERT reads at most {self.max_tokens} tokens; got {length}.")
        given = layout.flat(token_ids)
        states = given if given.dtype.is_floating else self.token(given)
        states += tf.gather(tf.convert_to_tensor(self.position.position_embeddings), layout.positions())
        states += tf.convert_to_tensor(self.segment.embeddings)[0]
        return self.dropout(self.norm(states), training=training)


class LowerLayers(keras.Model):
    """The frozen part of a BERT: embeddings and first layers, without dropout.

    Call it with token ids, int32 [N, T] padded on the right (or with their embeddings, float [N, T, hidden],
    and a mask of real tokens, bool [N, T]); returns states, float [N, T, hidden].
    """

    def __init__(self, embeddings: Embeddings, blocks: list[Any], pad_id: int = 0) -> None:
        super().__init__(name="lower_layers")
        self.embeddings = embeddings
        self.blocks = blocks
        self.pad_id = pad_id
        for block in blocks:
            compute_in("float32", block)  # an earlier split of this backbone may have set another precision
        set_trainable(self, False)
        self.built = True

    def call(
        self, token_ids: tf.Tensor, real: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """States of the frozen part: int32 [N, T] -> float [N, T, hidden]."""
        mask = token_ids != self.pad_id if real is None else real
        return _encoded(token_ids, mask, self.embeddings, self.blocks, training=False)


class UpperLayers(keras.Model):
    """The trained part of a BERT: its last layers or all of it, either trained themselves or with additions.

    Call it with states, float [N, T, hidden] (token ids, int32 [N, T], if it has the embeddings), and a mask
    of the real tokens, bool [N, T]; returns states, float32 [N, T, hidden] in every precision.
    """

    def __init__(
        self,
        blocks: list[Any],
        embeddings: Embeddings | None = None,
        pad_id: int = 0,
    ) -> None:
        super().__init__(name="upper_layers")
        self.embeddings = embeddings
        self.blocks = blocks
        self.pad_id = pad_id
        self._freeze()
        self.supports_masking = True  # otherwise Keras warns at each call with a mask
        self.built = True

    def _freeze(self) -> None:
        set_trainable(self, True)  # an earlier split of this backbone may have frozen these layers
        added_to = [block for block in self.blocks if isinstance(block, TunedBlock)]
        for block in added_to:
            block.freeze()
        if added_to and self.embeddings is not None:
            set_trainable(self.embeddings, False)

    def compute_mask(self, inputs: tf.Tensor, previous_mask: tf.Tensor | None) -> None:
        """Attach no mask to the states; their readers receive it separately."""

    def call(
        self, states: tf.Tensor, mask: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """States of the last layer: float32 [N, T, hidden]."""
        if mask is None:
            real = states != self.pad_id if self.embeddings is not None else tf.ones_like(states[..., 0])
            mask = tf.cast(real, tf.bool)
        return tf.cast(_encoded(states, mask, self.embeddings, self.blocks, training), tf.float32)


def _encoded(
    given: tf.Tensor,
    mask: tf.Tensor,
    embeddings: Embeddings | None,
    blocks: list[Any],
    training: bool | None,
) -> tf.Tensor:
    """Token ids (states, without embeddings) through layers: [N, T] or [N, T, hidden] -> [N, T, hidden]."""
    layout = layout_of(mask)
    whole = all(isinstance(block, TransformerEncoder) and block.is_plain() for block in blocks)
    if embeddings is None and not (whole and blocks):
        states = given
    else:
        flat = (
            layout.flat(given) if embeddings is None else embeddings(given, layout=layout, training=training)
        )
        for block in blocks if whole else ():
            flat = block.encode(flat, layout, training)
        states = layout.padded(flat, training)
    for block in () if whole else blocks:
        states = block(states, padding_mask=mask, training=training)
    return states
