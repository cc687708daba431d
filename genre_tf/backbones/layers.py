"""Backbones for training: a BERT in frozen and trained layers, a language model, and passes in chunks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import keras_hub
import tensorflow as tf

from genre_tf.backbones.hub import hub_blocks, norm_of
from genre_tf.backbones.trainable import WHOLE, Trainable, check_fits, check_precision, compute_in
from genre_tf.errors import InputError
from genre_tf.layers.attention import (
    Attention,
    Padded,
    causal_bias,
    layout_of,
    padding_bias,
    side_by_side_bias,
)
from genre_tf.layers.block import (
    Block,
    TokenRows,
    additions_to,
    merged,
    set_trainable,
    transformed,
)
from genre_tf.layers.elementwise import normalized, rotary_turns


def split_layers(
    backbone: keras_hub.models.BertBackbone,
    trainable: Trainable,
    pad_id: int = 0,
    *,
    precision: str = "float32",
) -> tuple["EncoderLayers | None", "EncoderLayers"]:
    """Split a BERT below its trained layers into a frozen and a trained part, which share its weights.

    The frozen part is None if every layer is trained or modified; the trained one has no layers for `none`.
    Its layers compute in `precision`, but their weights stay float32.

    Raises:
        InputError: there are fewer layers than should be trained, an addition is too large, or the
            precision is unknown.
    """
    blocks = hub_blocks(backbone)
    check_precision(precision)
    check_fits(trainable, len(blocks), backbone.hidden_dim, backbone.max_sequence_length)
    cut = 0 if trainable.last is None else len(blocks) - trainable.last
    embeddings = Embeddings(backbone)
    for block in blocks:
        set_trainable(block, True)  # an earlier split of this backbone may have frozen it
    for block in blocks[cut:]:
        if trainable.method != "layers":  # LoRA updates queries and values, as in its paper
            block.add(additions_to(block, trainable.method, trainable.size, ("query", "value")))
        compute_in(precision, block)
    if trainable.last is None:
        # Token ids take four bytes, states of the frozen embeddings hundreds: looked up, not stored.
        set_trainable(embeddings, trainable.method == "layers")
        return None, EncoderLayers(blocks, embeddings, pad_id)
    for block in blocks[:cut]:
        compute_in("float32", block)  # an earlier split of this backbone may have set another precision
    lower = EncoderLayers(blocks[:cut], embeddings, pad_id, frozen=True)
    return lower, EncoderLayers(blocks[cut:], None, pad_id)


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
        """Embed tokens at their positions in their texts, both int32 [tokens]: float32 [tokens, hidden].

        Tokens may be embeddings instead of ids, float [tokens, hidden], to measure how a result depends on
        them.
        """
        states = tokens if tokens.dtype.is_floating else self.token(tokens)
        states += tf.gather(tf.convert_to_tensor(self.position.position_embeddings), positions)
        states += tf.convert_to_tensor(self.segment.embeddings)[0]
        return self.dropout(normalized(states, norm_of(self.norm), training), training=training)


class EncoderLayers(keras.Model):
    """Layers of a BERT: the frozen ones with its embeddings, or the trained ones.

    Call it with states, float [N, T, hidden] (with embeddings: token ids, int32 [N, T] padded on the right,
    or what they are embedded as), and a mask of the real tokens, bool [N, T]; returns states, float32 [N, T,
    hidden] in every precision. If `frozen`, nothing is trained and nothing dropped.
    """

    def __init__(
        self, blocks: list[Block], embeddings: Embeddings | None = None, pad_id: int = 0, frozen: bool = False
    ) -> None:
        super().__init__(name="lower_layers" if frozen else "upper_layers")
        self.embeddings = embeddings
        self.blocks = blocks
        self.pad_id = pad_id
        self.frozen = frozen
        if frozen:
            set_trainable(self, False)
        self.supports_masking = True  # otherwise Keras warns at each call with a mask
        self.built = True

    def compute_mask(self, inputs: tf.Tensor, previous_mask: tf.Tensor | None) -> None:
        """Attach no mask to the states; their readers receive it separately."""

    def call(
        self, states: tf.Tensor, mask: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """States of the last layer: float32 [N, T, hidden]."""
        if self.embeddings is None and not self.blocks:
            return tf.cast(states, tf.float32)
        training = training and not self.frozen
        if mask is None:
            real = states != self.pad_id if self.embeddings is not None else tf.ones_like(states[..., 0])
            mask = tf.cast(real, tf.bool)
        layout = layout_of(mask)
        flat = layout.flat(states)
        if self.embeddings is not None:
            length = states.shape[1]
            if length is not None and length > self.embeddings.max_tokens:
                raise InputError(
                    f"This BERT reads at most {self.embeddings.max_tokens} tokens; got {length}."
                )
            flat = self.embeddings(flat, layout.positions(), training=training)
        attention = Attention(layout, padding_bias(mask))
        for block in self.blocks:
            flat = transformed(block, flat, attention, training)
        return tf.cast(layout.padded(flat, training), tf.float32)

    def rounded(self, token_ids: tf.Tensor) -> tf.Tensor:
        """States of frozen layers as float32 [N, T, hidden], computed in bfloat16.

        For graphs only: the layers' precision is another while they are traced.
        """
        try:
            for block in self.blocks:
                compute_in("mixed_bfloat16", block)
            return self(token_ids)
        finally:
            for block in self.blocks:
                compute_in("float32", block)


class LanguageLayers(keras.layers.Layer):
    """A GPT-2 or Llama over flat tokens, trained completely, by small additions, or not at all.

    If only the last layers are trained, the states below them depend on the tokens alone, so they may be
    computed once for each row (`frozen_states`).

    Args:
        backbone: as KerasHub built it; its weights are shared, not copied.
        trainable: what `parse_trainable` allows.
        control_ids: tokens whose embeddings are trained even if the others are not; only if no layer is
            below the trained ones.
        attention_drops: see `Block`.

    Raises:
        InputError: there are fewer layers than should be trained, or an addition is too large.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; Touvron et al.,
    "LLaMA", 2023.
    """

    def __init__(
        self,
        backbone: Any,
        trainable: Trainable = WHOLE,
        control_ids: Sequence[int] = (),
        attention_drops: bool = True,
    ) -> None:
        super().__init__(name="language_layers")
        self.backbone = backbone
        self.blocks = hub_blocks(backbone, attention_drops=attention_drops)
        self.layers = len(self.blocks)
        self.heads, self.key_heads = self.blocks[0].heads, self.blocks[0].key_heads
        self.depth = self.blocks[0].depth
        self.hidden: int = backbone.hidden_dim
        self.vocabulary: int = backbone.vocabulary_size
        self.max_positions: int = backbone.max_sequence_length
        self.rotary_base: float | None = getattr(backbone, "rope_max_wavelength", None)
        check_fits(trainable, self.layers, min(self.hidden, backbone.intermediate_dim), self.max_positions)
        whole = trainable == WHOLE
        self.first = self.layers - trainable.last if trainable.last else 0
        """Number of layers below those that training changes."""
        set_trainable(backbone, whole)
        self.token_rows = (
            None if whole or self.first else TokenRows(control_ids, self.vocabulary, self.hidden)
        )
        for block in self.blocks[self.first :] if trainable.last != 0 else ():
            if trainable.method == "layers":
                set_trainable(block.layer, True)
            else:
                block.add(additions_to(block, trainable.method, trainable.size, list(block.parts.dense)))
        self.built = True

    def embed(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Token embeddings, without positions: int32 [batch, time] -> float32 [batch, time, hidden]."""
        embeddings = tf.gather(tf.convert_to_tensor(self.backbone.token_embedding.embeddings), token_ids)
        return embeddings if self.token_rows is None else embeddings + self.token_rows.embed(token_ids)

    def states(self, embeddings: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Last hidden states; each token sees itself and those before it.

        From embeddings float32 [batch, time, hidden], without positions, padded on the right, to the same,
        normalized. With `training` dropout is active.
        """
        return self.trained_states(self.frozen_states(embeddings), training)

    def frozen_states(self, embeddings: tf.Tensor) -> tf.Tensor:
        """States below the trained layers, from embeddings as in `states`; themselves if there are none."""
        if not self.first:
            return embeddings
        time = tf.shape(embeddings)[1]
        positions = tf.range(time)[None]
        states = self._entered(embeddings, positions, training=False)
        below = self._through(self.blocks[: self.first], states, positions, causal_bias(time))
        return tf.stop_gradient(below)

    def trained_states(self, states: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Last hidden states, from what `frozen_states` returns."""
        time = tf.shape(states)[1]
        return self._last_states(states, tf.range(time)[None], causal_bias(time), training)

    def packed_states(
        self, token_ids: tf.Tensor, text: tf.Tensor, position: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        """Last hidden states of rows that hold several texts, each computed as if it were alone.

        All three are int32 [rows, time]: token ids, the number of each token's text in its row (from 1; 0 for
        padding), and the position of each token in its own text, from 0. No layer may be frozen.
        """
        bias = side_by_side_bias(text, causal=True)
        return self._last_states(self.embed(token_ids), position, bias, training)

    def _last_states(
        self, states: tf.Tensor, positions: tf.Tensor, bias: tf.Tensor, training: bool | None
    ) -> tf.Tensor:
        if not self.first:
            states = self._entered(states, positions, training)
        states = self._through(self.blocks[self.first :], states, positions, bias, training)
        flat = normalized(tf.reshape(states, [-1, self.hidden]), norm_of(self.backbone.layer_norm), training)
        return tf.reshape(flat, tf.shape(states))

    def _entered(self, embeddings: tf.Tensor, positions: tf.Tensor, training: bool | None) -> tf.Tensor:
        """What the first layer reads: embeddings [batch, time, hidden], with GPT-2's positions."""
        if self.rotary_base is None:
            table = tf.convert_to_tensor(self.backbone.position_embedding.position_embeddings)
            embeddings += tf.cast(tf.gather(table, positions), embeddings.dtype)
            if training:  # not called otherwise, because a layer in 16 bits rounds what it is given
                embeddings = self.backbone.embeddings_dropout(embeddings, training=True)
                embeddings = tf.cast(embeddings, tf.float32)
        return embeddings

    def _through(
        self,
        blocks: Sequence[Block],
        states: tf.Tensor,
        positions: tf.Tensor,
        bias: tf.Tensor,
        training: bool | None = None,
    ) -> tf.Tensor:
        """States after some layers: [batch, time, hidden] -> the same."""
        turns = None
        if self.rotary_base is not None:
            cosine, sine = rotary_turns(positions, self.depth, self.rotary_base)
            turns = cosine[:, None], sine[:, None]  # [batch or 1, 1, time, depth]
        layout = Padded(states)
        attention = Attention(layout, bias, turns)
        flat = layout.flat(states)
        for block in blocks:
            flat = transformed(block, flat, attention, training)
        return layout.padded(flat, training)

    def logits(self, states: tf.Tensor) -> tf.Tensor:
        """Logits of the next token: float32 [..., hidden] -> float32 [..., vocabulary]."""
        flat = tf.cast(tf.reshape(states, [-1, self.hidden]), self.compute_dtype)
        table = tf.cast(tf.convert_to_tensor(self.backbone.token_embedding.embeddings), flat.dtype)
        logits = tf.matmul(flat, table, transpose_b=True)
        if self.token_rows is not None:
            logits += self.token_rows.logits(flat)
        return tf.reshape(tf.cast(logits, tf.float32), tf.concat([tf.shape(states)[:-1], [-1]], 0))

    def merged_embeddings(self) -> tf.Tensor:
        """The embeddings with their trained additions: float32 [vocabulary, hidden]."""
        table = tf.convert_to_tensor(self.backbone.token_embedding.embeddings)
        return table if self.token_rows is None else self.token_rows.added_to(table)

    @contextmanager
    def merged(self) -> Iterator[Any]:
        """The backbone with all trained additions merged into its weights, while the context lasts."""
        with merged(self.blocks, [(self.backbone.token_embedding.embeddings, self.merged_embeddings())]):
            yield self.backbone


def in_chunks(
    function: Callable[..., tf.Tensor],
    layers: Sequence[keras.layers.Layer],
    rows: Sequence[tf.Tensor],
    size: int,
) -> tf.Tensor:
    """Gradient checkpointing by rows: some texts at a time, recomputed for the gradient, never all in memory.

    Values and gradients equal those of one call per chunk, including dropout: the recomputation of a chunk
    starts from the random states of its first computation. (`tf.recompute_grad` does not support loops, and
    `keras.remat` draws different dropout the second time.) Gradients flow to the trained weights of the
    layers, not to the rows.

    Args:
        function: calls the layers; must treat each row separately. Returns float32 [n, ...] for n rows.
        layers: all layers that `function` uses, already built.
        rows: tensors of N rows each, [N, ...].
        size: rows in a chunk; the last chunk is padded with zeros.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016; Gao et al., "Scaling Deep
    Contrastive Learning Batch Size under Memory Limited Setup", 2021 (chunks of a batch).
    """
    count = tf.shape(rows[0])[0] if rows[0].shape[0] is None else rows[0].shape[0]
    chunks = -(-count // size)
    parts = []
    for column in rows:  # [N, ...] -> [chunks, size, ...]
        filled = tf.pad(column, [[0, chunks * size - count], *[[0, 0]] * (len(column.shape) - 1)])
        cut = tf.reshape(filled, tf.concat([[chunks, size], tf.shape(column)[1:]], 0))
        parts.append(tf.ensure_shape(cut, [None, size, *column.shape[1:]]))
    trained = [weight for layer in layers for weight in layer.trainable_variables]
    others = [weight for layer in layers for weight in layer.non_trainable_variables]
    states = [weight for weight in others if "int" in weight.dtype]  # random states of dropout
    frozen = [(each, tf.convert_to_tensor(each.value)) for each in others if "int" not in each.dtype]
    start = [tf.convert_to_tensor(state.value) for state in states]

    def apply(number: Any, weights: Sequence[tf.Tensor], before: Sequence[tf.Tensor]) -> Any:
        """Outputs of a chunk, and the random states after it."""
        given = [*zip(trained, weights, strict=True), *zip(states, before, strict=True), *frozen]
        with keras.StatelessScope(given) as scope:
            outputs = function(*(tf.gather(part, number) for part in parts))
        return outputs, [scope.get_current_value(state) for state in states]

    def loop(body: Callable[..., Any], begun: Any) -> Any:
        """`begun` after `body(number, random states, begun)` for each chunk, and the random states then."""
        _, after, done = tf.while_loop(
            lambda number, *_: number < chunks, body, (0, start, begun), parallel_iterations=1
        )
        return done, after

    @tf.custom_gradient
    def run(*weights: tf.Tensor) -> Any:
        def forward(number: Any, random: list[tf.Tensor], done: tf.TensorArray) -> Any:
            outputs, random = apply(number, weights, random)
            return number + 1, random, done.write(number, outputs)

        def gradient(*of_outputs: tf.Tensor) -> list[tf.Tensor]:
            def backward(number: Any, random: list[tf.Tensor], sums: list[tf.Tensor]) -> Any:
                here = [tf.identity(weight) for weight in weights]
                with tf.GradientTape() as tape:
                    tape.watch(here)
                    outputs, random = apply(number, here, random)
                zero = tf.UnconnectedGradients.ZERO
                upstream = tf.gather(of_outputs[0], number)
                found = tape.gradient(outputs, here, upstream, unconnected_gradients=zero)
                return number + 1, random, [total + part for total, part in zip(sums, found, strict=True)]

            return loop(backward, [tf.zeros_like(weight) for weight in weights])[0]  # type: ignore[no-any-return]

        outputs, after = loop(forward, tf.TensorArray(tf.float32, chunks))
        return [outputs.stack(), *after], gradient

    outputs, *after = run(*(tf.convert_to_tensor(weight.value) for weight in trained))
    for state, value in zip(states, after, strict=True):
        state.assign(value)
    rows_of_all = tf.concat([[chunks * size], tf.shape(outputs)[2:]], 0)
    return tf.reshape(outputs, rows_of_all)[:count]
