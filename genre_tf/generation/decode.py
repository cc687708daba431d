"""The decode loop: prompts in, token ids out, wholly in the graph."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.backbones.causal_prefix import Prefix
from genre_tf.generation.cached_decoder import CachedDecoder, PromptCache, WrittenCache
from genre_tf.generation.constraints import NOTHING, Constraints
from genre_tf.generation.sampling import Greedy, Strategy, uniforms


class Decoded(NamedTuple):
    """What was written.

    Args:
        ids: int32 [batch, samples, longest], the end token included; NOTHING (-1) behind it.
        log_probability: float32 [batch, samples], the mean over a text's tokens (its end included) of the log
            probability that the model itself gives, before temperature, cuts and constraints.
    """

    ids: Any
    log_probability: Any


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How texts are decoded.

    Args:
        end_id: the token that ends a text.
        max_tokens: the longest text that any row may ask for, the end included; static.
        samples: texts per row.
        strategy: how a token is chosen.
        constraints: what may not come.
    """

    end_id: int
    max_tokens: int
    samples: int = 1
    strategy: Strategy = field(default_factory=Greedy)
    constraints: Constraints = field(default_factory=Constraints)


class _Row(NamedTuple):
    """What the loop carries, one row per sample (rows = batch * samples)."""

    step: Any  # int32 [], tokens written
    token: Any  # int32 [rows], the last one
    written: Any  # int32 [rows, filler + step]
    log_probability: Any  # float32 [rows], a sum
    finished: Any  # bool [rows]
    cache: WrittenCache  # of all tokens but the last


@dataclass(frozen=True)
class _Loop:
    """What stays the same while the loop runs."""

    model: CachedDecoder
    prompt: PromptCache
    start: Any  # int32 [batch, samples], position of the first written token
    limits: Any  # int32 [rows]
    forbidden: Any  # int32 [rows, f]
    uniform: Any  # float32 [rows, max_tokens]
    options: DecodeOptions

    def go_on(self, row: _Row) -> Any:
        return (row.step < self.options.max_tokens) & ~tf.reduce_all(row.finished)

    def advance(self, row: _Row) -> _Row:
        positions = self.start + row.step - 1  # [batch, samples]
        embeddings = self.model.embed(tf.reshape(row.token, tf.shape(positions)))
        logits, cache = self.model.step(embeddings, positions, self.prompt, row.cache)
        return self.write(logits, row._replace(cache=cache))

    def write(self, logits: Any, row: _Row) -> _Row:
        end_id = self.options.end_id
        allowed = self.options.constraints.apply(logits, row.written, row.step, end_id, self.forbidden)
        token = self.options.strategy.choose(allowed, self.uniform[:, row.step])  # [rows]
        of_token = tf.gather(logits, token, batch_dims=1) - tf.reduce_logsumexp(logits, axis=-1)
        return row._replace(
            step=row.step + 1,
            token=token,
            written=tf.concat([row.written, tf.where(row.finished, NOTHING, token)[:, None]], axis=1),
            log_probability=row.log_probability + tf.where(row.finished, 0.0, of_token),
            finished=row.finished | (token == end_id) | (row.step + 1 >= self.limits),
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
    prefix: Prefix | None = None,
) -> Decoded:
    """Write `options.samples` texts after each prompt.

    Args:
        model: the weights.
        embeddings: float32 [batch, time, hidden], of prompts that end in the last column, without positions.
        mask: bool [batch, time], false where there is padding.
        seeds: int64 [batch]; equal seed and equal prompt give equal text, whatever else is in the batch.
        options: how.
        limits: int32 [batch], most tokens per row, the end included; `options.max_tokens` if left out.
        forbidden: int32 [batch, f], ids that may not be written; NOTHING fills up a row.
        prefix: keys and values in front of the prompts.

    Returns:
        The texts. The loop ends when every text has ended, so `longest` is often below `max_tokens`.
    """
    batch, samples = tf.shape(mask)[0], options.samples
    logits, prompt = model.prefill(embeddings, mask, prefix)
    length = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)  # the position of the first written token
    limits = tf.fill([batch], options.max_tokens) if limits is None else limits
    forbidden = tf.fill([batch, 1], NOTHING) if forbidden is None else forbidden
    loop = _Loop(
        model=model,
        prompt=prompt,
        start=tf.repeat(length[:, None], samples, axis=1),
        limits=tf.repeat(limits, samples),
        forbidden=tf.repeat(forbidden, samples, axis=0),
        uniform=tf.reshape(uniforms(seeds, samples, options.max_tokens), [-1, options.max_tokens]),
        options=options,
    )
    filler = options.constraints.no_repeat_ngram + 1
    rows = batch * samples
    nothing = _Row(
        step=tf.constant(0),
        token=tf.zeros([rows], tf.int32),
        written=tf.fill([rows, filler], NOTHING),
        log_probability=tf.zeros([rows]),
        finished=tf.zeros([rows], tf.bool),
        cache=model.nothing_written(batch, samples),
    )
    last = _repeat(loop, loop.write(tf.repeat(logits, samples, axis=0), nothing))
    ids = last.written[:, filler:]
    count = tf.reduce_sum(tf.cast(ids >= 0, tf.float32), axis=1)
    log_probability = last.log_probability / tf.maximum(count, 1.0)
    return Decoded(
        tf.reshape(ids, [batch, samples, last.step]), tf.reshape(log_probability, [batch, samples])
    )


def _repeat(loop: _Loop, first: _Row) -> _Row:
    def grows(tensor: Any) -> Any:  # [batch, heads, samples, written, depth]
        return tf.TensorShape([*tensor.shape[:3], None, *tensor.shape[4:]])

    shapes = tf.nest.map_structure(lambda tensor: tensor.shape, first)
    shapes = shapes._replace(
        written=tf.TensorShape([None, None]), cache=tf.nest.map_structure(grows, first.cache)
    )
    rows = tf.while_loop(
        lambda *row: loop.go_on(_Row(*row)),
        lambda *row: loop.advance(_Row(*row)),
        first,
        shape_invariants=shapes,
    )
    return _Row(*rows)
