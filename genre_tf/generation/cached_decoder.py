"""What the decode loop asks of a language model, whatever its architecture."""

from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from genre_tf.backbones.causal_prefix import Prefix


class PromptCache(NamedTuple):
    """What later tokens see of a prompt.

    Args:
        keys: per layer float32 [batch, key heads, time, depth].
        values: per layer, the same shape.
        bias: float32 [batch, 1, 1, time]; 0 where a token stands, very low where there is padding.
        length: int32 [batch], tokens of the prompt.
    """

    keys: list[Any]
    values: list[Any]
    bias: Any
    length: Any


class WrittenCache(NamedTuple):
    """What later tokens see of the tokens written so far.

    Args:
        keys: per layer float32 [batch, key heads, samples, room, depth]; all places for tokens are there from
            the start, so that the shapes are the same at every step.
        values: per layer, the same shape.
    """

    keys: list[Any]
    values: list[Any]


class CachedDecoder(Protocol):
    """A language model that reads a prompt once and then one token, or a few, at a time.

    Attributes:
        hidden: width of the embeddings.
        max_positions: longest prompt with its text.
    """

    hidden: int
    max_positions: int

    def refresh(self) -> None:
        """Copy the trained weights as they are now."""

    def embed(self, token_ids: Any) -> Any:
        """Token embeddings, without positions: int32 [...] -> float32 [..., hidden]."""

    def prefill(self, embeddings: Any, mask: Any, prefix: Prefix | None = None) -> tuple[Any, PromptCache]:
        """Read a whole prompt.

        Args:
            embeddings: float32 [batch, time, hidden], without positions; the last column is each row's last.
            mask: bool [batch, time], false where there is padding.
            prefix: keys and values in front of it, without positions; they come first in the cache.

        Returns:
            logits of the token after the last column, float32 [batch, vocabulary], and the cache.
        """

    def read(
        self, embeddings: Any, positions: Any, prompt: PromptCache, written: WrittenCache
    ) -> tuple[Any, WrittenCache]:
        """Read the next tokens of every sample.

        Each token's place in the cache follows from its position: what stood there is replaced, and what
        stands behind it is not looked at, so that rejected tokens need not be taken away.

        Args:
            embeddings: float32 [batch, samples, columns, hidden], without positions.
            positions: int32 [batch, samples, columns], rising by one.
            prompt: of `prefill`.
            written: of the steps before; `nothing_written` at first.

        Returns:
            logits after every token, float32 [batch * samples * columns, vocabulary], and the cache.
        """

    def nothing_written(self, batch: Any, samples: int, room: int) -> WrittenCache:
        """The cache before the first token, for at most `room` tokens per sample."""


def prompt_positions(mask: Any) -> Any:
    """Positions counted from each row's first token that is no padding: bool -> int32 [batch, time]."""
    return tf.maximum(tf.cumsum(tf.cast(mask, tf.int32), axis=1) - 1, 0)
