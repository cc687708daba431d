"""The merge loop of byte-pair encoding, over all words of a batch at once."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# The value of a pair that no rule merges: larger than every rank.
_NEVER = np.iinfo(np.int64).max


class PairMerger(tf.Module):
    """Merges neighbouring tokens by rank until no rule applies.

    Args:
        pairs: (left id, right id, merged id) of each rule, best first.

    Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units".
    """

    def __init__(self, pairs: Sequence[tuple[int, int, int]]) -> None:
        super().__init__(name="pair_merger")
        rules = np.array(pairs or [(-1, -1, -1)], np.int64).reshape(-1, 3)
        # Rank and merged id are one number, so that one look-up finds both and the smallest is the best.
        values = (np.arange(len(rules), dtype=np.int64) << 32) | (rules[:, 2] & 0xFFFFFFFF)
        keys = (rules[:, 0] << 32) | (rules[:, 1] & 0xFFFFFFFF)
        self._rules = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), _NEVER)

    def __call__(self, ids: tf.Tensor, word: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Apply the rules.

        Args:
            ids: int32 [M], the tokens of all words, one after another.
            word: int32 [M], the word that each token belongs to, ascending.

        Returns:
            ids and word after merging, both shorter.
        """
        values = self._values(ids, word, tf.range(tf.size(ids)))
        ids, word, _ = tf.while_loop(
            lambda ids, word, values: tf.reduce_any(values < _NEVER),
            self._merge_once,
            (ids, word, values),
            shape_invariants=(tf.TensorShape([None]),) * 3,
        )
        return ids, word

    def _merge_once(
        self, ids: tf.Tensor, word: tf.Tensor, values: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Merge the best pair of each word, wherever it occurs in the word."""
        best = tf.gather(tf.math.segment_min(values, word), word)
        merges = _without_overlaps((values == best) & (values < _NEVER))
        ids = tf.where(merges, tf.cast(tf.bitwise.bitwise_and(values, 0xFFFFFFFF), tf.int32), ids)
        kept = tf.where(tf.logical_not(tf.concat([[False], merges[:-1]], 0)))[:, 0]
        ids, word, values, merged = (tf.gather(x, kept) for x in (ids, word, values, merges))
        # Only the pairs on either side of a merged token are new; the others keep their values.
        changed = tf.where(merged | tf.concat([merged[1:], [False]], 0))
        new = self._values(ids, word, tf.cast(changed[:, 0], tf.int32))
        return ids, word, tf.tensor_scatter_nd_update(values, changed, new)

    def _values(self, ids: tf.Tensor, word: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """Rank and merged id of the pair that begins at each position: int64 [places]."""
        after = tf.minimum(places + 1, tf.size(ids) - 1)
        left = tf.cast(tf.gather(ids, places), tf.int64)
        right = tf.cast(tf.gather(ids, after), tf.int64)
        pair = tf.bitwise.bitwise_or(tf.bitwise.left_shift(left, 32), right)
        together = (tf.gather(word, places) == tf.gather(word, after)) & (places != after)
        return tf.where(together, self._rules.lookup(pair), _NEVER)


def _without_overlaps(hits: tf.Tensor) -> tf.Tensor:
    """Of consecutive hits (`aaa` contains the pair `aa` twice), every other one from the left: bool [M]."""
    place = tf.range(tf.size(hits))
    begins = hits & tf.logical_not(tf.concat([[False], hits[:-1]], 0))
    run = tf.maximum(tf.cumsum(tf.cast(begins, tf.int32)) - 1, 0)
    begin = tf.gather(tf.boolean_mask(place, begins), run)
    return hits & ((place - begin) % 2 == 0)
