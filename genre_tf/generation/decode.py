"""The decode loop: prompts in, token ids out, entirely in the graph."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.generation.beam import Beam, BeamLoop
from genre_tf.generation.cache_attention import PromptCache, WrittenCache
from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.generation.choosing import Chooser, Rules, draws
from genre_tf.generation.constraints import NOTHING, Constraints, banned
from genre_tf.generation.drafting import DraftLoop
from genre_tf.generation.sampling import Greedy, Strategy
from genre_tf.layers.attention import Prefix


class Decoded(NamedTuple):
    """The written texts.

    Attributes:
        ids: int32 [batch, samples, longest], including the end token; NOTHING (-1) after it.
        log_probability: float32 [batch, samples], the model's own log probability as the mean over a text's
            tokens (including its end), before temperature, cuts and constraints.
    """

    ids: Any
    log_probability: Any


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How texts are decoded.

    Args:
        end_id: the token that ends a text.
        max_tokens: the longest text that any row may request, including the end; static.
        samples: number of texts per row.
        strategy: how to choose a token; a `Beam` searches instead.
        constraints: which tokens are not allowed.
        draft_tokens: number of tokens to copy ahead from `copy_from` and check in one step; the texts stay
            the same. 0: none, and no such ops in the graph.
    """

    end_id: int
    max_tokens: int
    samples: int = 1
    strategy: Strategy | Beam = field(default_factory=Greedy)
    constraints: Constraints = field(default_factory=Constraints)
    draft_tokens: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.strategy, Beam) and not self.samples <= self.strategy.width:
            raise ValueError(f"a beam of width {self.strategy.width} cannot return {self.samples} samples")
        if self.draft_tokens < 0 or (self.draft_tokens and isinstance(self.strategy, Beam)):
            raise ValueError("draft_tokens must be at least 0, and 0 with a beam")


class _Row(NamedTuple):
    """The loop state, one row per sample (rows = batch * samples)."""

    step: Any  # int32 [], number of written tokens
    token: Any  # int32 [rows], the last one
    written: Any  # int32 [rows, filler + step]
    log_probability: Any  # float32 [rows], a sum
    finished: Any  # bool [rows]
    cache: WrittenCache  # of all tokens except the last


@dataclass(frozen=True)
class _Loop:
    """Values that do not change during the loop."""

    model: CachedDecoder
    prompt: PromptCache
    start: Any  # int32 [batch, samples], position of the first written token
    chooser: Chooser
    max_tokens: int

    def run(self, logits: Any) -> _Row:
        rows, (batch, samples) = tf.shape(logits)[0], (tf.shape(self.start)[0], self.start.shape[1])
        nothing = _Row(
            step=tf.constant(0),
            token=tf.zeros([rows], tf.int32),
            written=tf.fill([rows, self.chooser.rules.filler], NOTHING),
            log_probability=tf.zeros([rows]),
            finished=tf.zeros([rows], tf.bool),
            cache=self.model.nothing_written(batch, samples, self.max_tokens),
        )
        return _repeat(self, self.write(logits, nothing))

    def go_on(self, row: _Row) -> Any:
        return (row.step < self.max_tokens) & ~tf.reduce_all(row.finished)

    def advance(self, row: _Row) -> _Row:
        positions = (self.start + row.step - 1)[:, :, None]  # [batch, samples, 1]
        embeddings = self.model.embed(tf.reshape(row.token, [-1, self.start.shape[1], 1]))
        logits, cache = self.model.read(embeddings, positions, self.prompt, row.cache)
        return self.write(logits, row._replace(cache=cache))

    def write(self, logits: Any, row: _Row) -> _Row:
        token, of_token = self.chooser.choose(logits, row.written, row.step)
        rules = self.chooser.rules
        return row._replace(
            step=row.step + 1,
            token=token,
            written=tf.concat([row.written, tf.where(row.finished, NOTHING, token)[:, None]], axis=1),
            log_probability=row.log_probability + tf.where(row.finished, 0.0, of_token),
            finished=row.finished | (token == rules.end_id) | (row.step + 1 >= rules.limits),
        )


def decode(
    model: CachedDecoder,
    embeddings: Any,
    mask: Any,
    *,
    seeds: Any,
    options: DecodeOptions,
    limits: Any | None = None,
    forbidden: Any | None = None,
    required: Any | None = None,
    copy_from: Any | None = None,
    prefix: Prefix | None = None,
) -> Decoded:
    """Write `options.samples` texts after each prompt.

    Args:
        model: the language model.
        embeddings: float32 [batch, time, hidden], prompts that end in the last column, without positions.
        mask: bool [batch, time], False for padding.
        seeds: int64 [batch]; equal seed and prompt give equal text, whatever else is in the batch.
        options: how to decode.
        limits: int32 [batch], maximum tokens per row, including the end; by default `options.max_tokens`.
        forbidden: int32 [batch, f], ids that may not be written, padded with NOTHING.
        required: int32 [batch, words, longest], words that must be written, padded with NOTHING: no text ends
            without them, and those that the model does not write by itself fill the end of the available
            tokens, in order.
        copy_from: int32 [batch, n], tokens that the texts are likely to repeat, with NOTHING among or after
            them.
        prefix: keys and values before the prompts.

    Returns:
        The texts. The loop ends when every text has ended, so `longest` is often less than `max_tokens`.
    """
    strategy = options.strategy
    copies = strategy.width if isinstance(strategy, Beam) else options.samples
    logits, prompt = model.prefill(embeddings, mask, prefix)
    length = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)  # position of the first written token
    limits = tf.fill(tf.shape(length), options.max_tokens) if limits is None else limits
    logits = tf.repeat(logits, copies, axis=0)
    limits, forbidden, required, copy_from = (
        None if rows is None else tf.repeat(rows, copies, axis=0)
        for rows in (limits, forbidden, required, copy_from)
    )
    ban = None if forbidden is None else banned(forbidden, logits.shape[-1])
    rules = Rules(options.end_id, options.constraints, limits, ban, required)
    start = tf.ensure_shape(tf.repeat(length[:, None], copies, axis=1), [None, copies])
    if isinstance(strategy, Beam):
        search = BeamLoop(model, prompt, start, options.max_tokens, rules, strategy)
        return Decoded(*search.run(logits, options.samples))
    chooser = Chooser(rules, strategy, draws(strategy, seeds, copies, options.max_tokens))
    if options.draft_tokens and copy_from is not None:
        drafts = DraftLoop(model, prompt, start, copy_from, options.draft_tokens, options.max_tokens, chooser)
        return _shaped(*drafts.run(logits)[:2], copies)
    last = _Loop(model, prompt, start, chooser, options.max_tokens).run(logits)
    return _shaped(last.written[:, rules.filler :], last.log_probability, copies)


def _shaped(ids: Any, total: Any, samples: int) -> Decoded:
    """Written rows: int32 [rows, longest], and float32 [rows], the sum of a text's log probabilities."""
    count = tf.reduce_sum(tf.cast(ids >= 0, tf.float32), axis=1)
    mean = total / tf.maximum(count, 1.0)
    return Decoded(tf.reshape(ids, [-1, samples, tf.shape(ids)[1]]), tf.reshape(mean, [-1, samples]))


def _repeat(loop: _Loop, first: _Row) -> _Row:
    shapes = tf.nest.map_structure(lambda tensor: tensor.shape, first)
    shapes = shapes._replace(written=tf.TensorShape([None, None]))
    rows = tf.while_loop(
        lambda *row: loop.go_on(_Row(*row)),
        lambda *row: loop.advance(_Row(*row)),
        first,
        shape_invariants=shapes,
    )
    return _Row(*rows)
