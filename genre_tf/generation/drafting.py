"""Decoding with drafts: what followed the last words in a source is tried several tokens at a time.

The draft is read in one step, and each of its tokens is kept if it is exactly the token that would have been
chosen there, with that step's own random number. So the text is the same as with plain decoding, for greedy
and for sampled texts (Saxena 2023, "Prompt Lookup Decoding"; Leviathan et al. 2023 for the check).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.generation.cache_attention import PromptCache, WrittenCache
from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.generation.choosing import Chooser
from genre_tf.generation.constraints import NOTHING

LONGEST_MATCH = 3  # number of last tokens to look for; the longest match counts


class _Drafted(NamedTuple):
    """The loop state, one row per sample (rows = batch * samples).

    Args:
        count: int32 [rows], number of written tokens.
        written: int32 [rows, filler + max_tokens], newest last.
        log_probability: float32 [rows], a sum.
        finished: bool [rows].
        reads: int32 [], number of model calls.
        cache: cache of all tokens except the last.
    """

    count: Any
    written: Any
    log_probability: Any
    finished: Any
    reads: Any
    cache: WrittenCache


@dataclass(frozen=True)
class DraftLoop:
    """Writes texts with drafts.

    Args:
        model: the language model.
        prompt: cache from its prefill.
        start: int32 [batch, samples], position of the first written token.
        source: int32 [rows, longest], the tokens to copy from; NOTHING for none.
        draft_tokens: length of the longest draft.
        max_tokens: length of the longest text.
        chooser: chooses tokens.
    """

    model: CachedDecoder
    prompt: PromptCache
    start: Any
    source: Any
    draft_tokens: int
    max_tokens: int
    chooser: Chooser

    def run(self, logits: Any) -> tuple[Any, Any, Any]:
        """Write the texts.

        Args:
            logits: float32 [rows, vocabulary], for the first token.

        Returns:
            int32 [rows, longest], NOTHING after the texts; float32 [rows], sums of log probabilities; int32
            [], number of model calls.
        """
        rows, (batch, samples) = tf.shape(logits)[0], (tf.shape(self.start)[0], self.start.shape[1])
        room = self.max_tokens + self.draft_tokens
        width = self.chooser.rules.filler + self.max_tokens
        first = _Drafted(
            count=tf.zeros([rows], tf.int32),
            written=tf.fill([rows, width], NOTHING),
            log_probability=tf.zeros([rows]),
            finished=tf.zeros([rows], tf.bool),
            reads=tf.constant(0),
            cache=self.model.nothing_written(batch, samples, room),
        )
        first = self._accept(first, logits, tf.fill([rows, 0], NOTHING))
        shapes = tf.nest.map_structure(lambda tensor: tensor.shape, first)
        shapes = shapes._replace(written=tf.TensorShape([None, width]))
        final = tf.while_loop(
            lambda *state: ~tf.reduce_all(_Drafted(*state).finished),
            lambda *state: self._advance(_Drafted(*state)),
            first,
            shape_invariants=shapes,
        )
        last = _Drafted(*final)
        return _left_aligned(last), last.log_probability, last.reads

    def _advance(self, state: _Drafted) -> _Drafted:
        draft = copied(self.source, state.written, self.draft_tokens)
        length = tf.reduce_sum(tf.cast(draft >= 0, tf.int32), axis=1)
        draft = draft[:, : tf.reduce_max(tf.where(state.finished, 0, length))]  # [rows, columns - 1]
        tokens = tf.maximum(tf.concat([state.written[:, -1:], draft], axis=1), 0)
        columns, samples = tf.shape(tokens)[1], self.start.shape[1]
        ahead = tf.reshape(state.count, [-1, samples, 1]) - 1 + tf.range(columns)
        # After the last position there are only tokens for which the text has no room.
        positions = tf.minimum(self.start[:, :, None] + ahead, self.model.max_positions - 1)
        embeddings = self.model.embed(tf.reshape(tokens, [-1, samples, columns]))
        logits, cache = self.model.read(embeddings, positions, self.prompt, state.cache)
        return self._accept(state._replace(cache=cache), logits, draft)

    def _accept(self, state: _Drafted, logits: Any, draft: Any) -> _Drafted:
        """Choose a token after every token of the draft, and keep only what follows kept tokens."""
        rows, columns = tf.shape(draft)[0], tf.shape(draft)[1] + 1
        width = state.written.shape[1]
        tried = tf.concat([state.written, draft], axis=1)
        windows = tf.gather(tried, tf.range(columns)[:, None] + tf.range(width), axis=1)
        step = state.count[:, None] + tf.range(columns)  # [rows, columns]
        chosen, log_probability = self.chooser.choose(
            logits,
            tf.reshape(windows, [-1, width]),
            tf.reshape(step, [-1]),
            tf.repeat(tf.range(rows), columns),
        )
        chosen = tf.reshape(chosen, [rows, columns])
        rules = self.chooser.rules
        ends = (chosen == rules.end_id) | (step + 1 >= rules.limits[:, None])
        goes_on = tf.cast((chosen[:, :-1] == draft) & ~ends[:, :-1], tf.int32)
        kept = tf.concat([tf.ones([rows, 1], tf.int32), tf.math.cumprod(goes_on, axis=1)], axis=1)
        kept = (kept > 0) & ~state.finished[:, None]  # [rows, columns], the leading columns of each row
        new = tf.reduce_sum(tf.cast(kept, tf.int32), axis=1)
        moved = tf.concat([state.written, chosen], axis=1)
        of_kept = tf.where(kept, tf.reshape(log_probability, [rows, columns]), 0.0)
        return state._replace(
            count=state.count + new,
            written=tf.gather(moved, new[:, None] + tf.range(width), batch_dims=1),
            log_probability=state.log_probability + tf.reduce_sum(of_kept, axis=1),
            finished=state.finished | tf.reduce_any(kept & ends, axis=1),
            reads=state.reads + 1,
        )


def copied(source: Any, written: Any, length: int) -> Any:
    """What follows the longest match of the last written tokens in the source.

    Args:
        source: int32 [rows, longest]; NOTHING for none.
        written: int32 [rows, columns], newest last.
        length: length of the longest draft.

    Returns:
        int32 [rows, length], NOTHING after each draft; the first of equally long matches counts.
    """
    written = tf.pad(written, [[0, 0], [LONGEST_MATCH, 0]], constant_values=NOTHING)
    matched = tf.zeros_like(source)
    so_far = tf.ones_like(source, tf.bool)
    for back in range(LONGEST_MATCH):
        token = written[:, -1 - back][:, None]
        shifted = tf.pad(source, [[0, 0], [back, 0]], constant_values=NOTHING)[:, : tf.shape(source)[1]]
        so_far &= (shifted == token) & (token >= 0)
        matched += tf.cast(so_far, tf.int32)
    behind = tf.pad(source, [[0, 0], [0, length]], constant_values=NOTHING)
    place = tf.argmax(matched, axis=1, output_type=tf.int32)
    draft = tf.gather(behind, place[:, None] + 1 + tf.range(length), batch_dims=1)
    found = (tf.reduce_max(matched, axis=1) > 0)[:, None] & (draft >= 0)
    whole = tf.math.cumprod(tf.cast(found, tf.int32), axis=1) > 0
    return tf.where(whole, draft, NOTHING)


def _left_aligned(drafted: _Drafted) -> Any:
    """The texts from their first token, int32 [rows, longest], NOTHING after them."""
    width = tf.shape(drafted.written)[1]
    place = tf.range(tf.reduce_max(drafted.count))
    at = tf.minimum(width - drafted.count[:, None] + place, width - 1)
    return tf.where(place < drafted.count[:, None], tf.gather(drafted.written, at, batch_dims=1), NOTHING)
