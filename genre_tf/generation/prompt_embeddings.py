"""From a prompt and a reader to what the decode loop begins with."""

from typing import Any

import tensorflow as tf

from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.models.prompts import Prompt
from genre_tf.models.reader_prefix import ReaderPrefix


def prompt_embeddings(
    model: CachedDecoder, reader_prefix: ReaderPrefix, prompt: Prompt, user_vector: Any
) -> tuple[Any, Any]:
    """Put the reader's prefix in front of the prompt.

    The prefix takes the first positions and each row's tokens go on from there, wherever its padding ends.

    Args:
        model: made from the generator's backbone.
        reader_prefix: the generator's.
        prompt: padded on the left.
        user_vector: float32 [batch, user_dimension].

    Returns:
        Embeddings float32 [batch, prefix + time, hidden] and their mask, bool [batch, prefix + time].
    """
    size = reader_prefix.prefix_tokens
    prefix = reader_prefix(user_vector, prompt.has_reader)
    tokens = model.embed(prompt.token_ids)
    mask = tf.pad(prompt.mask, [[0, 0], [size, 0]], constant_values=True)
    return tf.concat([prefix, tokens], axis=1), mask
