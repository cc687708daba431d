"""Vectors of raw texts, computed as a server does but without a server."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.models.news_encoder import NewsEncoder

_BATCH_TEXTS = 128  # with 32 tokens each, what two cores can process at once


def text_vectors(encoder: NewsEncoder, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Encode texts without categories.

    Args:
        encoder: encoder of a stage.
        texts: n texts.

    Returns:
        float32 [n, D]; zeros for an empty text.
    """
    encode = tf.function(encoder, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    vectors = np.zeros((len(texts), encoder.dimension), np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")  # a batch is padded to its longest
    for start in range(0, len(order), _BATCH_TEXTS):
        rows = order[start : start + _BATCH_TEXTS]
        vectors[rows] = encode(tf.constant([texts[row] for row in rows])).numpy()
    return vectors
