"""WordPiece's search: the longest known piece first, then the longest that continues it.

It uses core TensorFlow operations. TensorFlow Text has one operation for it, but `saved_model_cli run` and
servers built without TensorFlow Text reject a graph that contains it.
"""

from collections.abc import Sequence

import tensorflow as tf

CONTINUATION = "##"
_NONE, _DEAD_END = -1, -2


class LongestMatch(tf.Module):
    """Splits words into the pieces of a vocabulary, with a read-only table.

    Args:
        vocabulary: the tokens, in the order of their ids; continuations begin with `##`.
        unknown_id: id for a word that cannot be split.

    Source: Devlin et al. 2018 (greedy, longest match first).
    """

    def __init__(self, vocabulary: Sequence[str], unknown_id: int) -> None:
        super().__init__(name="longest_match")
        self._unknown_id = unknown_id
        self._longest = max(len(token.removeprefix(CONTINUATION)) for token in vocabulary)
        ids = tf.range(len(vocabulary), dtype=tf.int32)
        tokens = tf.lookup.KeyValueTensorInitializer(tf.constant(list(vocabulary)), ids)
        self._ids = tf.lookup.StaticHashTable(tokens, default_value=_NONE)

    def __call__(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Split words.

        Args:
            words: string [M], UTF-8, none empty.

        Returns:
            ragged int32 [M, None], at least one id per word.
        """
        whole = self._ids.lookup(words)
        # Most words are tokens themselves; only the others need a search.
        known, searched = tf.where(whole != _NONE)[:, 0], tf.where(whole == _NONE)[:, 0]
        pieces = self._search(tf.gather(words, searched))  # [searched, steps]
        place = tf.where(pieces != _NONE)  # [pieces, 2]
        owner = tf.concat([known, tf.gather(searched, place[:, 0])], axis=0)
        ids = tf.concat([tf.gather(whole, known), tf.gather_nd(pieces, place)], axis=0)
        order = tf.argsort(owner, stable=True)
        return tf.RaggedTensor.from_value_rowids(
            tf.gather(ids, order), tf.gather(owner, order), nrows=tf.size(words, tf.int64), validate=False
        )

    def _search(self, words: tf.Tensor) -> tf.Tensor:
        """Ids of the pieces of each word: string [K] -> int32 [K, steps], -1 after the last."""
        lengths = tf.strings.length(words, unit="UTF8_CHAR")

        def unfinished(position: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
            return tf.reduce_any(position < lengths)

        def advance(position: tf.Tensor, pieces: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.where(position < lengths)  # [open, 1]
            start, end = tf.gather_nd(position, rows), tf.gather_nd(lengths, rows)
            ids, taken = self._longest_at(tf.gather_nd(words, rows), start)
            reached = tf.where(ids == _DEAD_END, end, tf.minimum(start + taken, end))
            column = tf.tensor_scatter_nd_update(tf.fill(tf.shape(position), _NONE), rows, ids)
            position = tf.tensor_scatter_nd_update(position, rows, reached)
            return position, tf.concat([pieces, column[:, None]], axis=1)

        _, pieces = tf.while_loop(
            unfinished,
            advance,
            (tf.zeros_like(lengths), tf.fill([tf.size(words), 1], _NONE)),
            shape_invariants=(lengths.shape, tf.TensorShape([None, None])),
        )
        # One dead end makes the whole word unknown.
        lost = tf.reduce_any(pieces == _DEAD_END, axis=1, keepdims=True)  # [K, 1]
        unknown = tf.where(tf.range(tf.shape(pieces)[1]) == 0, self._unknown_id, _NONE)
        return tf.where(lost, unknown[None, :], pieces)

    def _longest_at(self, words: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The longest piece at a position of each word.

        Args:
            words: string [K].
            start: int32 [K], number of characters before the position.

        Returns:
            Its id, int32 [K] (`_DEAD_END` if no piece fits), and its length in characters, int32 [K], which
            may extend beyond the word's end.
        """
        lengths = tf.range(self._longest, 0, -1)  # longest first
        rest = tf.strings.substr(words, start, tf.fill(tf.shape(start), self._longest), unit="UTF8_CHAR")
        inside = start > 0
        rest = tf.strings.join([tf.where(inside, CONTINUATION, ""), rest])
        ends = lengths[None, :] + tf.where(inside, len(CONTINUATION), 0)[:, None]  # [K, lengths]
        whole = tf.broadcast_to(rest[:, None], tf.shape(ends))
        ids = self._ids.lookup(tf.strings.substr(whole, tf.zeros_like(ends), ends, unit="UTF8_CHAR"))
        best = tf.argmax(ids != _NONE, axis=1, output_type=tf.int32)  # the first known one
        found = tf.gather(ids, best, batch_dims=1)
        return tf.where(found == _NONE, _DEAD_END, found), tf.gather(lengths, best)
