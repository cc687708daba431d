"""GPT-2 and BERT as language models over packed rows."""

import dataclasses

import keras
import keras_hub
import tensorflow as tf

from genre_tf.backbones.bert import Bert
from genre_tf.backbones.checkpoints import layer_weights
from genre_tf.backbones.hub import head_parts, hub_blocks
from genre_tf.backbones.language_models import LanguageModel
from genre_tf.backbones.layers import Embeddings, LanguageLayers
from genre_tf.backbones.precision import check_precision, compute_in
from genre_tf.backbones.weights import Weight, read_weights
from genre_tf.layers.attention import Attention, Padded, side_by_side_bias
from genre_tf.layers.block import transformed
from genre_tf.layers.elementwise import ACTIVATIONS

Batch = dict[str, tf.Tensor]


class CausalLanguageModel(keras.Model):
    """GPT-2 that predicts the next token at every position.

    Args:
        gpt2: the GPT-2 to train.
        precision: precision of the matrix products; everything else is float32.

    Raises:
        InputError: the precision is unknown.
    """

    def __init__(self, gpt2: LanguageModel, precision: str = "float32") -> None:
        super().__init__(name="causal_language_model")
        check_precision(precision)
        self.backbone = gpt2.backbone
        self.language_layers = LanguageLayers(gpt2.backbone, attention_drops=False)
        compute_in(precision, self.language_layers)
        self.built = True

    def call(self, batch: Batch, training: bool | None = None) -> tf.Tensor:
        """Logits of the token after each.

        Args:
            batch: `token_ids`, `text` and `position`, int32 [rows, time] each.
            training: whether dropout is active.

        Returns:
            float32 [rows * time, vocabulary].
        """
        states = self.states(batch, training)
        return self.language_layers.logits(tf.reshape(states, [-1, self.backbone.hidden_dim]))

    def states(self, batch: Batch, training: bool | None = None) -> tf.Tensor:
        """Last hidden states, each text computed as if it were alone: float32 [rows, time, hidden]."""
        token_ids, text, position = (batch[name] for name in ("token_ids", "text", "position"))
        return self.language_layers.packed_states(token_ids, text, position, training)


class MaskedLanguageModel(keras.Model):
    """BERT that predicts masked tokens, with a head tied to its token embeddings.

    Args:
        bert: the BERT to train.
        precision: precision of the layers' matrix products; everything else is float32.

    Raises:
        InputError: the precision is unknown, or the checkpoint is damaged.

    Source: Devlin et al. 2019; the head is theirs: dense layer, activation, normalization, embeddings, bias.
    """

    def __init__(self, bert: Bert, precision: str = "float32") -> None:
        super().__init__(name="masked_language_model")
        check_precision(precision)
        self.backbone = bert.backbone
        self.embeddings = Embeddings(bert.backbone)
        self.blocks = hub_blocks(bert.backbone, attention_drops=False)
        for block in self.blocks:
            compute_in(precision, block)
        bert.backbone.get_layer("pooled_dense").trainable = False  # no prediction uses it
        self.head = keras_hub.layers.MaskedLMHead(
            token_embedding=bert.backbone.get_layer("token_embedding"),
            intermediate_activation=ACTIVATIONS[bert.config.get("hidden_act", "gelu")],
            layer_norm_epsilon=bert.config.get("layer_norm_eps", 1e-12),
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02, seed=0),
            dtype="float32",
            name="head",
        )
        self.head.build((None, None, bert.backbone.hidden_dim), (None, None))
        if bert.folder is not None:  # initialized if the checkpoint has none
            read_weights(bert.folder, head_weights(self.head), ("",))
        self.built = True

    def call(self, batch: Batch, training: bool | None = None) -> tf.Tensor:
        """Logits of the masked tokens.

        Args:
            batch: `token_ids`, `text` and `position`, int32 [rows, time] each, and `places`, int32
                [rows, masked tokens], the position of each masked token in its row.
            training: whether dropout is active.

        Returns:
            float32 [rows * masked tokens, vocabulary].
        """
        logits = self.head(self.states(batch, training), batch["places"])
        return tf.reshape(logits, [-1, self.backbone.vocabulary_size])

    def states(self, batch: Batch, training: bool | None = None) -> tf.Tensor:
        """Last hidden states, each text computed as if it were alone: float32 [rows, time, hidden]."""
        ids, positions = (tf.reshape(batch[name], [-1]) for name in ("token_ids", "position"))
        flat = self.embeddings(ids, positions, training=training)
        layout = Padded(batch["text"])
        attention = Attention(layout, side_by_side_bias(batch["text"], causal=False))
        for block in self.blocks:
            flat = transformed(block, flat, attention, training)
        return layout.padded(flat, training)


def head_weights(head: keras_hub.layers.MaskedLMHead) -> list[Weight]:
    """The weights of a masked-language-model head under their Hugging Face names."""
    dense, norm, bias = head_parts(head)
    transform = "cls.predictions.transform."
    weights = [
        Weight("cls.predictions.bias", (bias,), tuple(bias.shape), of_tokens=True),
        *layer_weights(transform + "dense", [dense], transposed=True),
        *layer_weights(transform + "LayerNorm", [norm], transposed=True),
    ]
    return [dataclasses.replace(weight, optional=True) for weight in weights]
