"""Many texts are encoded in batches of similar length, and come back in their order."""

import numpy as np
import tensorflow as tf

from genre_tf.models.by_length import by_length


def test_rows_come_back_in_their_order_and_a_batch_has_similar_lengths():
    texts = ["x" * (37 * row % 301) for row in range(300)]
    batches, done = [], []

    def measure(texts, rows):
        lengths = tf.strings.length(texts)
        batches.append(np.ptp(lengths.numpy()))
        return lengths, tf.stack([rows, lengths], axis=1)

    columns = [texts, np.arange(300, dtype=np.int32)]
    lengths, pairs = by_length(measure, columns, on_progress=lambda *counts: done.append(counts))
    assert lengths.tolist() == pairs[:, 1].tolist() == [len(text) for text in texts]
    assert pairs[:, 0].tolist() == list(range(300))
    assert done == [(128, 300), (256, 300), (300, 300)] and max(batches) < 140
