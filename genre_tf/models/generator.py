"""The generator: a language model that writes for one reader."""

from typing import Any

import keras

from genre_tf.models.reader_prefix import ReaderPrefix


class Generator(keras.Model):
    """A language model with keys and values before the text, made from the reader's vector.

    Args:
        language_model: its layers for training, from `backbones.language_models.layers_of`.
        user_dimension: dimension of the two-tower model's user vector.
        prefix_tokens: number of columns of keys and values before every layer's own.
        prefix_bias: how visible they are at first; see `ReaderPrefix`.
    """

    def __init__(
        self,
        language_model: Any,
        *,
        user_dimension: int,
        prefix_tokens: int = 4,
        prefix_bias: float = 0.0,
    ) -> None:
        super().__init__(name="generator")
        self.language_model = language_model
        self.reader_prefix = ReaderPrefix(
            user_dimension=user_dimension,
            prefix_tokens=prefix_tokens,
            layers=language_model.layers,
            key_heads=language_model.key_heads,
            depth=language_model.depth,
            bias=prefix_bias,
        )
        self.built = True

    @property
    def backbone(self) -> Any:
        """The KerasHub backbone of the language model."""
        return self.language_model.backbone

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Predict the next token at every position.

        Args:
            inputs: token_ids int32 [batch, time], padded on the right; user_vector float32
                [batch, user_dimension]; has_reader bool [batch].
            training: whether dropout is active.

        Returns:
            float32 [batch, time, vocabulary]: logits of the token after each.
        """
        return self.logits(self.states(inputs, training=training))

    def states(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Last hidden states of the tokens, float32 [batch, time, hidden]; arguments as in `call`."""
        prefix = self.reader_prefix(inputs["user_vector"], inputs["has_reader"])
        embeddings = self.language_model.embed(inputs["token_ids"])
        return self.language_model.states(embeddings, prefix, training)

    def logits(self, states: Any) -> Any:
        """Logits of the next token: float32 [..., hidden] -> float32 [..., vocabulary]."""
        return self.language_model.logits(states)
