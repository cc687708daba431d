"""The generator: GPT-2 that writes for one reader."""

from typing import Any

import keras
from keras import ops

from genre_tf.models.reader_prefix import ReaderPrefix


class Generator(keras.Model):
    """GPT-2 behind a prefix made from the reader's vector.

    Args:
        backbone: a `keras_hub.models.GPT2Backbone`.
        user_dimension: of the two-tower's user vector.
        prefix_tokens: how many vectors stand in front.
    """

    def __init__(self, backbone: Any, *, user_dimension: int, prefix_tokens: int = 4) -> None:
        super().__init__(name="generator")
        self.backbone = backbone
        self.reader_prefix = ReaderPrefix(
            user_dimension=user_dimension, prefix_tokens=prefix_tokens, hidden=backbone.hidden_dim
        )
        self.built = True

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Predict the next token everywhere.

        Args:
            inputs: token_ids int32 [batch, time], padded on the right; user_vector float32
                [batch, user_dimension]; has_reader bool [batch].
            training: whether dropout is on.

        Returns:
            float32 [batch, time, vocabulary]: logits of the token after each.
        """
        return self.logits(self.states(inputs, training=training))

    def states(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Last hidden states of the tokens, float32 [batch, time, hidden]; arguments as in `call`."""
        tokens = self.backbone.token_embedding(inputs["token_ids"])
        prefix = self.reader_prefix(inputs["user_vector"], inputs["has_reader"])
        states = ops.concatenate([prefix, tokens], axis=1)  # [batch, prefix + time, hidden]
        states = self.backbone.embeddings_add((states, self.backbone.position_embedding(states)))
        states = self.backbone.embeddings_dropout(states, training=training)
        for layer in self.backbone.transformer_layers:
            states = layer(states, training=training)
        return self.backbone.layer_norm(states)[:, self.reader_prefix.prefix_tokens :]

    def logits(self, states: Any) -> Any:
        """Logits of the next token: float32 [..., hidden] -> float32 [..., vocabulary]."""
        return self.backbone.token_embedding(states, reverse=True)
