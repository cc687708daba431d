"""Titles as vectors of a backbone without click training: the strongest simple baseline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.bert import Bert
from genre_tf.backbones.layers import split_layers
from genre_tf.backbones.trainable import Trainable

_BATCH_TITLES = 128  # of similar length; larger batches gain nothing on a few cores


def title_vectors(bert: Bert, titles: Sequence[str], max_tokens: int = 32) -> npt.NDArray[np.float32]:
    """Mean of a title's token states ([CLS] and [SEP] included), normalised to length one.

    This is how sentence-transformers pool MiniLM: Reimers and Gurevych, "Sentence-BERT", 2019.

    Args:
        bert: the backbone and its tokenizer.
        titles: N titles.
        max_tokens: maximum number of tokens of a title; the rest is cut off.

    Returns:
        float32 [N, hidden]; zeros for an empty title.
    """
    encoder: Any = split_layers(bert.backbone, Trainable(last=0), bert.tokenizer.pad_id)[0]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def encode(batch: tf.Tensor) -> tf.Tensor:
        token_ids = bert.tokenizer(batch, max_tokens)  # [batch, tokens]
        real = tf.not_equal(token_ids, bert.tokenizer.pad_id)
        states = encoder(token_ids)  # [batch, tokens, hidden]
        weights = tf.cast(real, states.dtype)[:, :, tf.newaxis]
        # The length of the sum does not matter, because it is normalised.
        return tf.math.l2_normalize(tf.reduce_sum(states * weights, axis=1), axis=1)  # [batch, hidden]

    vectors = np.zeros((len(titles), bert.backbone.hidden_dim), np.float32)
    order = [at for at in np.argsort([len(title) for title in titles], kind="stable") if titles[at]]
    for start in range(0, len(order), _BATCH_TITLES):
        rows = order[start : start + _BATCH_TITLES]
        vectors[rows] = encode(tf.constant([titles[at] for at in rows])).numpy()
    return vectors
