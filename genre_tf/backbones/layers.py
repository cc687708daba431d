"""A BERT split in two: lower layers that stay frozen, and upper layers that are trained."""

from typing import Any

import keras
import keras_hub
import tensorflow as tf

from genre_tf.backbones.hub_layers import hub_blocks, norm_of
from genre_tf.backbones.precision import check_precision, compute_in
from genre_tf.backbones.trainable import Trainable, check_fits
from genre_tf.errors import InputError
from genre_tf.layers.additions import Adapter, GatedPrefix
from genre_tf.layers.attention import Attention, layout_of, padding_bias
from genre_tf.layers.block import Block, low_rank_updates, set_trainable, transformed
from genre_tf.layers.elementwise import normalized


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
    blocks = hub_blocks(backbone)
    check_precision(precision)
    check_fits(trainable, len(blocks), backbone.hidden_dim, backbone.max_sequence_length)
    cut = 0 if trainable.last is None else len(blocks) - trainable.last
    embeddings = Embeddings(backbone)
    for block in blocks:
        set_trainable(block, True)  # an earlier split of this backbone may have frozen it
    for block in blocks[cut:]:
        if trainable.method != "layers":
            block.add(_additions(block, trainable))
        compute_in(precision, block)
    if trainable.last is None:
        # Token ids take four bytes, states of the frozen embeddings hundreds: looking up is cheaper than
        # storing.
        set_trainable(embeddings, trainable.method == "layers")
        return None, UpperLayers(blocks, embeddings, pad_id)
    lower = LowerLayers(embeddings, blocks[:cut], pad_id)
    return lower, UpperLayers(blocks[cut:], None, pad_id)


def _additions(block: Block, trainable: Trainable) -> dict[str, Any]:
    hidden = block.heads * block.depth
    if trainable.method == "lora":
        return low_rank_updates(block, ("query", "value"), trainable.size)  # as in the paper
    if trainable.method == "adapters":
        return {part: Adapter(hidden, trainable.size, f"{part}_adapter") for part in ("project", "contract")}
    dropout = block.parts.attention_dropout.rate
    return {"attention": GatedPrefix(trainable.size, block.heads, block.depth, dropout, "prefix")}


class Embeddings(keras.layers.Layer):
    """Sum of token, position and segment embeddings, normalized."""

    def __init__(self, backbone: keras_hub.models.BertBackbone) -> None:
        super().__init__(name="embeddings")
        self.token = backbone.get_layer("token_embedding")
        self.position = backbone.get_layer("position_embedding")
        self.segment = backbone.get_layer("segment_embedding")
        self.norm = backbone.get_layer("embeddings_layer_norm")
        self.dropout = backbone.get_layer("embeddings_dropout")
        self.max_tokens = backbone.max_sequence_length
        self.built = True

    def call(self, tokens: tf.Tensor, positions: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Embed tokens.

        Args:
            tokens: ids, int32 [tokens]; or their embeddings, float [tokens, hidden], to measure how a result
                depends on them.
            positions: each token's position in its text, int32 [tokens].
            training: whether dropout is active.

        Returns:
            float32 [tokens, hidden].
        """
        states = tokens if tokens.dtype.is_floating else self.token(tokens)
        states += tf.gather(tf.convert_to_tensor(self.position.position_embeddings), positions)
        states += tf.convert_to_tensor(self.segment.embeddings)[0]
        return self.dropout(normalized(states, norm_of(self.norm), training), training=training)


class LowerLayers(keras.Model):
    """The frozen part of a BERT: embeddings and first layers, without dropout.

    Call it with token ids, int32 [N, T] padded on the right (or with their embeddings, float [N, T, hidden],
    and a mask of real tokens, bool [N, T]); returns states, float [N, T, hidden].
    """

    def __init__(self, embeddings: Embeddings, blocks: list[Block], pad_id: int = 0) -> None:
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
        blocks: list[Block],
        embeddings: Embeddings | None = None,
        pad_id: int = 0,
    ) -> None:
        super().__init__(name="upper_layers")
        self.embeddings = embeddings
        self.blocks = blocks
        self.pad_id = pad_id
        self.supports_masking = True  # otherwise Keras warns at each call with a mask
        self.built = True

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
    blocks: list[Block],
    training: bool | None,
) -> tf.Tensor:
    """Token ids (states, without embeddings) through layers: [N, T] or [N, T, hidden] -> [N, T, hidden]."""
    if embeddings is None and not blocks:
        return given
    length = given.shape[1]
    if embeddings is not None and length is not None and length > embeddings.max_tokens:
        raise InputError(f"This BERT reads at most {embeddings.max_tokens} tokens; got {length}.")
    layout = layout_of(mask)
    flat = layout.flat(given)
    if embeddings is not None:
        flat = embeddings(flat, layout.positions(), training=training)
    attention = Attention(layout, padding_bias(mask))
    for block in blocks:
        flat = transformed(block, tf.cast(flat, block.compute_dtype), attention, training)
    return layout.padded(flat, training)
