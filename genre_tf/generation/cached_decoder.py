"""The interface between the decode loop and a language model of any architecture."""

from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from genre_tf.backbones.causal_prefix import Prefix


class PromptCache(NamedTuple):
    """What later tokens see of a prompt.

    Args:
        keys: for each layer float32 [batch, key heads, time, depth].
        values: for each layer, the same shape.
        bias: float32 [batch, 1, 1, time]; 0 for a token, very low for padding.
        length: int32 [batch], number of tokens in the prompt.
    """

    keys: list[Any]
    values: list[Any]
    bias: Any
    length: Any


class WrittenCache(NamedTuple):
    """What later tokens see of the tokens written so far.

    Args:
        keys: for each layer float32 [batch, key heads, samples, room, depth]; it has room for all tokens from
            the start, so that the shapes are the same at every step.
        values: for each layer, the same shape.
    """

    keys: list[Any]
    values: list[Any]


class CachedDecoder(Protocol):
    """A language model that reads a prompt once and then one or a few tokens at a time.

    Attributes:
        hidden: width of the embeddings.
        max_positions: longest prompt including its text.
    """

    hidden: int
    max_positions: int

    def refresh(self) -> None:
        """Copy the current trained weights."""

    def embed(self, token_ids: Any) -> Any:
        """Token embeddings, without positions: int32 [...] -> float32 [..., hidden]."""

    def prefill(self, embeddings: Any, mask: Any, prefix: Prefix | None = None) -> tuple[Any, PromptCache]:
        """Read a whole prompt.

        Args:
            embeddings: float32 [batch, time, hidden], without positions; each row's last token is in the last
                column.
            mask: bool [batch, time], False for padding.
            prefix: keys and values before the prompt, without positions; they come first in the cache.

        Returns:
            Logits of the token after the last column, float32 [batch, vocabulary], and the cache.
        """

    def read(
        self, embeddings: Any, positions: Any, prompt: PromptCache, written: WrittenCache
    ) -> tuple[Any, WrittenCache]:
        """Read the next tokens of every sample.

        Each token's place in the cache follows from its position: the previous content is overwritten, and
        later places are ignored, so that rejected tokens need not be removed.

        Args:
            embeddings: float32 [batch, samples, columns, hidden], without positions.
            positions: int32 [batch, samples, columns], consecutive.
            prompt: result of `prefill`.
            written: result of the previous step; `nothing_written` at first.

        Returns:
            Logits after every token, float32 [batch * samples * columns, vocabulary], and the cache.
        """

    def nothing_written(self, batch: Any, samples: int, room: int) -> WrittenCache:
        """The cache before the first token, for at most `room` tokens per sample."""


def prompt_positions(mask: Any) -> Any:
    """Positions counted from each row's first real token: bool -> int32 [batch, time]."""
    return tf.maximum(tf.cumsum(tf.cast(mask, tf.int32), axis=1) - 1, 0)
