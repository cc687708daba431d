"""Initial embeddings of new control tokens, taken from the words in their names."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.text.byte_pair import BytePair

END_OF_TEXT = "<|endoftext|>"
_END = "<|end|>"


def control_embeddings(
    tokenizer: BytePair, embeddings: npt.NDArray[np.float32], tokens: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Initial embeddings of tokens that a pretrained model does not have.

    Args:
        tokenizer: the model's tokenizer.
        embeddings: float32 [vocabulary, hidden], the model's embeddings.
        tokens: n control tokens, such as `<|title|>`.

    Returns:
        float32 [n, hidden]: for `<|title|>` the mean over the tokens of " title"; `<|end|>` starts as the
        model's end-of-text token, if it has one. So a model that knows the words reacts to the tokens at
        once.
    """
    rows = [embeddings[_meaning(tokenizer, token)].mean(0) for token in tokens]
    return np.reshape(rows, (len(tokens), embeddings.shape[1])).astype(np.float32)


def _meaning(tokenizer: BytePair, token: str) -> list[int]:
    if token == _END and END_OF_TEXT in tokenizer.special_tokens:
        return [tokenizer.token_id(END_OF_TEXT)]
    ids: list[int] = tokenizer.encode(tf.constant([" " + token.strip("<|>")])).flat_values.numpy().tolist()
    return ids
