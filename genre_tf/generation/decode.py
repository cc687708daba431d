"""The decode loop: prompts in, token ids out, entirely in the graph.

A strategy chooses each token: a frozen dataclass that turns logits into token ids. Its randomness is one
uniform number per row, given from outside, so a row's text depends only on its own seed, whatever else is in
the batch. `beam.py` searches instead.

With drafts, what followed the last words in a source is tried several tokens at a time: the draft is read in
one step, and each of its tokens is kept if it is exactly the token that would have been chosen there, with
that step's own random number. So the text is the same as without drafts, for greedy and for sampled texts
(Saxena 2023, "Prompt Lookup Decoding"; Leviathan et al. 2023 for the check).
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from genre_tf.generation.beam import Beam, BeamLoop
from genre_tf.generation.cached_decoder import CachedDecoder, PromptCache, WrittenCache
from genre_tf.generation.constraints import NOTHING, Constraints, Rules, banned, of_rows

LONGEST_MATCH = 3  # number of last tokens that a draft looks for in the source; the longest match counts


class Strategy(Protocol):
    """Chooses one token per row."""

    def choose(self, logits: Any, uniform: Any) -> Any:
        """Choose tokens: float32 [rows, vocabulary], float32 [rows] in [0, 1) -> int32 [rows]."""


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """The likeliest token; of equal ones the one with the smallest id, as in `transformers`."""

    def choose(self, logits: Any, uniform: Any) -> Any:
        """As `Strategy.choose`; `uniform` is ignored."""
        del uniform
        return tf.argmax(logits, axis=-1, output_type=tf.int32)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Samples from the model's distribution after temperature and cuts.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020 (nucleus sampling).
    """

    temperature: float = 0.8  # divides the logits; near 0 it is greedy
    top_k: int = 50  # keep only this many of the likeliest tokens; 0: all of them
    top_p: float = 0.95  # of these, keep the fewest whose probabilities reach this sum

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ValueError(f"temperature must be above 0, top_k at least 0, top_p in (0, 1]; got {self}")

    def choose(self, logits: Any, uniform: Any) -> Any:
        """As `Strategy.choose`, by the inverse of the cumulative distribution."""
        vocabulary = logits.shape[-1]
        kept = min(self.top_k or vocabulary, vocabulary)
        if kept == vocabulary and self.top_p == 1.0:  # no cut, so no need to sort
            return _draw(tf.nn.softmax(logits / self.temperature), uniform)
        best, ids = tf.math.top_k(logits / self.temperature, k=kept)  # [rows, kept], likeliest first
        probability = tf.nn.softmax(best)
        before = tf.cumsum(probability, axis=-1, exclusive=True)
        probability = tf.where(before < self.top_p, probability, 0.0)  # the likeliest always stays
        return tf.gather(ids, _draw(probability, uniform), batch_dims=1)


def _draw(weight: Any, uniform: Any) -> Any:
    cumulative = tf.cumsum(weight, axis=-1)
    threshold = uniform[:, None] * cumulative[:, -1:]  # weights need not sum to one
    index = tf.reduce_sum(tf.cast(cumulative <= threshold, tf.int32), axis=-1)
    # Rounding can move the threshold to the very end: step back to the last token with a positive weight.
    last = weight.shape[-1] - 1 - tf.argmax(tf.reverse(weight, [-1]) > 0, axis=-1, output_type=tf.int32)
    return tf.minimum(index, last)


def uniforms(seeds: Any, samples: int, steps: int) -> Any:
    """A uniform number for every row, sample and step: int64 [batch] -> float32 [batch, samples, steps].

    Equal seeds give equal numbers, on every device: Philox, and the lower 23 of its bits, as TensorFlow makes
    a float of them on CPUs; XLA's own floats have the upper ones.
    """

    def of_row(seed: Any) -> Any:
        seed = tf.stack([seed, 0])
        return tf.random.stateless_uniform([samples, steps], seed, None, None, tf.int32, alg="philox")

    numbers: Any = tf.TensorSpec([samples, steps], tf.int32)
    bits = tf.map_fn(of_row, seeds, fn_output_signature=numbers)
    return tf.cast(tf.bitwise.bitwise_and(bits, 2**23 - 1), tf.float32) * 2.0**-23


class Decoded(NamedTuple):
    """The written texts."""

    ids: Any  # int32 [batch, samples, longest], including the end token; NOTHING (-1) after it
    # float32 [batch, samples], the model's own, as the mean over a text's tokens (including its end), before
    # temperature, cuts and constraints.
    log_probability: Any


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How texts are decoded."""

    samples: int = 1  # texts per row
    strategy: Strategy | Beam = field(default_factory=Greedy)  # a `Beam` searches instead of choosing tokens
    constraints: Constraints = field(default_factory=Constraints)
    draft_tokens: int = 0  # tokens to copy ahead and check in one step; 0: none, and no such ops in the graph

    def __post_init__(self) -> None:
        if self.samples > self.rows:
            raise ValueError(f"a beam of width {self.rows} cannot return {self.samples} samples")
        if self.draft_tokens < 0 or (self.draft_tokens and isinstance(self.strategy, Beam)):
            raise ValueError("draft_tokens must be at least 0, and 0 with a beam")

    @property
    def rows(self) -> int:
        """Number of texts decoded at a time for each request row."""
        return self.strategy.width if isinstance(self.strategy, Beam) else self.samples


def decode(
    model: CachedDecoder,
    embeddings: Any,
    mask: Any,
    *,
    seeds: Any,
    end_id: int,
    max_tokens: int,
    options: DecodeOptions,
    limits: Any | None = None,
    forbidden: Any | None = None,
    required: Any | None = None,
    copy_from: Any | None = None,
) -> Decoded:
    """Write `options.samples` texts after each prompt.

    Args:
        model: the language model.
        embeddings: float32 [batch, time, hidden], prompts that end in the last column, without positions.
        mask: bool [batch, time], False for padding.
        seeds: int64 [batch]; equal seed and prompt give equal text, whatever else is in the batch.
        end_id: the token that ends a text.
        max_tokens: the longest text that any row may request, including the end; static.
        options: how to decode.
        limits: int32 [batch], maximum tokens per row, including the end; by default `max_tokens`.
        forbidden: int32 [batch, f], ids that may not be written, padded with NOTHING.
        required: int32 [batch, words, longest], words that must be written, padded with NOTHING: no text ends
            without them, and those that the model does not write by itself fill the end of the available
            tokens, in order.
        copy_from: int32 [batch, n], tokens that the texts are likely to repeat, with NOTHING among or after
            them; drafts come from them.

    Returns:
        The texts. The loop ends when every text has ended, so `longest` is often less than `max_tokens`; with
        fixed shapes it is `max_tokens`.
    """
    strategy, copies = options.strategy, options.rows
    logits, prompt = model.prefill(embeddings, mask)
    length = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)  # position of the first written token
    limits = tf.fill(tf.shape(length), max_tokens) if limits is None else tf.minimum(limits, max_tokens)
    logits = tf.repeat(logits, copies, axis=0)
    copy_from = copy_from if options.draft_tokens else None
    limits, forbidden, required, copy_from = (
        None if rows is None else tf.repeat(rows, copies, axis=0)
        for rows in (limits, forbidden, required, copy_from)
    )
    ban = None if forbidden is None else banned(forbidden, logits.shape[-1])
    rules = Rules(end_id, options.constraints, limits, ban, required)
    start = tf.ensure_shape(tf.repeat(length[:, None], copies, axis=1), [None, copies])
    if isinstance(strategy, Beam):
        return Decoded(
            *BeamLoop(model, prompt, start, max_tokens, rules, strategy).run(logits, options.samples)
        )
    uniform = None
    if not isinstance(strategy, Greedy):
        uniform = tf.reshape(uniforms(seeds, copies, max_tokens), [-1, max_tokens])
    draft_tokens = 0 if copy_from is None else options.draft_tokens
    loop = Loop(model, prompt, start, max_tokens, rules, strategy, uniform, copy_from, draft_tokens)
    ids, total = loop.run(logits)
    count = tf.reduce_sum(tf.cast(ids >= 0, tf.float32), axis=1)
    mean = total / tf.maximum(count, 1.0)
    return Decoded(tf.reshape(ids, [-1, copies, tf.shape(ids)[1]]), tf.reshape(mean, [-1, copies]))


class _Texts(NamedTuple):
    """The loop state, one row per sample (rows = batch * samples)."""

    count: Any  # int32 [rows], number of written tokens
    written: Any  # int32 [rows, filler + max_tokens], newest last
    log_probability: Any  # float32 [rows], a sum
    finished: Any  # bool [rows]
    cache: WrittenCache  # of all tokens except the last


@dataclass(frozen=True)
class Loop:
    """Writes one token after the other, or several if a draft was right."""

    model: CachedDecoder
    prompt: PromptCache
    start: Any  # int32 [batch, samples], position of the first written token
    max_tokens: int
    rules: Rules
    strategy: Strategy
    uniform: Any | None = None  # float32 [rows, max_tokens] in [0, 1); None for a strategy without chance
    source: Any | None = None  # int32 [rows, longest], tokens to copy drafts from; NOTHING for none
    draft_tokens: int = 0  # length of the longest draft; 0: no drafts

    def run(self, logits: Any) -> tuple[Any, Any]:
        """Write the texts from the logits of the first token, float32 [rows, vocabulary].

        Returns:
            int32 [rows, longest], NOTHING after the texts; float32 [rows], sums of log probabilities.
        """
        rows, (batch, samples) = tf.shape(logits)[0], (tf.shape(self.start)[0], self.start.shape[1])
        width = self.rules.filler + self.max_tokens
        nothing = _Texts(
            count=tf.zeros([rows], tf.int32),
            written=tf.fill([rows, width], NOTHING),
            log_probability=tf.zeros([rows]),
            finished=tf.zeros([rows], tf.bool),
            cache=self.model.nothing_written(batch, samples, self.max_tokens + self.draft_tokens),
        )
        first = self._accept(nothing, logits, tf.fill([rows, 0], NOTHING))
        shapes = tf.nest.map_structure(lambda tensor: tf.TensorShape([None, *tensor.shape[1:]]), first)
        state = tf.while_loop(
            lambda *texts: ~tf.reduce_all(_Texts(*texts).finished),
            lambda *texts: self._advance(_Texts(*texts)),
            first,
            shape_invariants=shapes,
        )
        last = _Texts(*state)
        # XLA needs a length that does not depend on values.
        longest = self.max_tokens if self.model.fixed_shapes else tf.reduce_max(last.count)
        place = tf.range(longest)
        at = tf.minimum(width - last.count[:, None] + place, width - 1)
        ids = tf.where(place < last.count[:, None], tf.gather(last.written, at, batch_dims=1), NOTHING)
        return ids, last.log_probability

    def _advance(self, texts: _Texts) -> _Texts:
        samples: int = self.start.shape[1]
        columns: Any = 1
        tokens, draft = texts.written[:, -1:], texts.written[:, :0]
        if self.draft_tokens:
            draft = copied(self.source, texts.written, self.draft_tokens)
            length = tf.reduce_sum(tf.cast(draft >= 0, tf.int32), axis=1)
            draft = draft[:, : tf.reduce_max(tf.where(texts.finished, 0, length))]  # [rows, columns - 1]
            tokens = tf.concat([tokens, draft], axis=1)
            columns = tf.shape(tokens)[1]
        ahead = tf.reshape(texts.count, [-1, samples, 1]) - 1 + tf.range(columns)
        # After the last position there are only tokens for which the text has no room.
        positions = tf.minimum(self.start[:, :, None] + ahead, self.model.max_positions - 1)
        embeddings = self.model.embed(tf.reshape(tf.maximum(tokens, 0), [-1, samples, columns]))
        logits, cache = self.model.read(embeddings, positions, self.prompt, texts.cache)
        return self._accept(texts._replace(cache=cache), logits, draft)

    def _accept(self, texts: _Texts, logits: Any, draft: Any) -> _Texts:
        """Choose a token after every token of the draft, and keep only what follows kept tokens."""
        rows, width = tf.shape(draft)[0], texts.written.shape[1]
        alone = draft.shape[1] == 0
        columns: Any = 1 if alone else tf.shape(draft)[1] + 1
        tried = tf.concat([texts.written, draft], axis=1)
        windows = tf.gather(tried, tf.range(columns)[:, None] + tf.range(width), axis=1)
        step = texts.count[:, None] + tf.range(columns)  # [rows, columns]
        row_of = None if alone else tf.repeat(tf.range(rows), columns)
        chosen, log_probability = (
            tf.reshape(part, [rows, columns])
            for part in self._choose(logits, tf.reshape(windows, [-1, width]), tf.reshape(step, [-1]), row_of)
        )
        ends = (chosen == self.rules.end_id) | (step + 1 >= self.rules.limits[:, None])
        goes_on = tf.cast((chosen[:, :-1] == draft) & ~ends[:, :-1], tf.int32)
        kept = tf.concat([tf.ones([rows, 1], tf.int32), tf.math.cumprod(goes_on, axis=1)], axis=1)
        kept = (kept > 0) & ~texts.finished[:, None]  # [rows, columns], the leading columns of each row
        new = tf.reduce_sum(tf.cast(kept, tf.int32), axis=1)
        moved = tf.concat([texts.written, chosen], axis=1)
        return texts._replace(
            count=texts.count + new,
            written=tf.gather(moved, new[:, None] + tf.range(width), batch_dims=1),
            log_probability=texts.log_probability + tf.reduce_sum(tf.where(kept, log_probability, 0.0), 1),
            finished=texts.finished | tf.reduce_any(kept & ends, axis=1),
        )

    def _choose(self, logits: Any, written: Any, step: Any, rows: Any | None) -> tuple[Any, Any]:
        """Token int32 [n], and the model's own log probability float32 [n]; as for `Rules.allowed`."""
        draw = None
        if self.uniform is not None:
            place = tf.minimum(step, self.max_tokens - 1)
            draw = tf.gather(of_rows(self.uniform, rows), place, batch_dims=1)
        token = self.strategy.choose(self.rules.allowed(logits, written, step, rows), draw)
        best = tf.reduce_max(logits, axis=-1, keepdims=True)
        total = tf.reduce_sum(tf.exp(logits - best), axis=-1)
        return token, tf.gather(logits, token, batch_dims=1) - best[:, 0] - tf.math.log(total)


def copied(source: Any, written: Any, length: int) -> Any:
    """What follows the longest match of the last written tokens in the source; of equal ones the first.

    int32 [rows, longest] and int32 [rows, columns], newest last -> int32 [rows, length], NOTHING after each.
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
