"""Beam search: the likeliest texts instead of random samples; with groups, different texts."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.generation.cache_attention import PromptCache, WrittenCache
from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.generation.choosing import Rules
from genre_tf.generation.constraints import NOTHING

_NEVER = -1e9  # as in `transformers`


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Keeps the `width` best partial texts at every step.

    The rules and the resulting texts are those of `transformers`' beam search (`early_stopping=False`). A row
    stops when its best partial text is worse than its worst finished text, independently of the rest of the
    batch.

    Args:
        width: partial texts in all groups together; at least the number of samples.
        length_penalty: scores are divided by the length to this power; above 0 favours longer texts.
        groups: number of groups of equal size, searched one after another at every step; the best text of
            each comes first.
        diversity: subtracted from a token's log probability for each earlier group that chose it at this
            step.

    Source: groups: Vijayakumar et al. 2018, "Diverse Beam Search", with Hamming diversity.
    """

    width: int = 4
    length_penalty: float = 1.0
    groups: int = 1
    diversity: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.groups < 1 or self.width % self.groups or self.diversity < 0:
            raise ValueError(f"width must be a multiple of groups, and diversity at least 0; got {self}")


class Finished(NamedTuple):
    """The best finished texts, best first within each group.

    Args:
        ids: int32 [batch, width, max_tokens], NOTHING after the end.
        score: float32 [batch, width].
        log_probability: float32 [batch, width], the model's mean over a text's tokens.
    """

    ids: Any
    score: Any
    log_probability: Any


class _Beams(NamedTuple):
    step: Any  # int32 []
    written: Any  # int32 [batch, width, filler + max_tokens], newest last
    score: Any  # float32 [batch, width], under all rules
    of_model: Any  # float32 [batch, width], log probability under the model alone
    open: Any  # bool [batch, groups]
    finished: Finished
    cache: WrittenCache


@dataclass(frozen=True)
class BeamLoop:
    """Runs a beam search.

    Args:
        model: the language model.
        prompt: cache from its prefill.
        start: int32 [batch, width], position of the first written token.
        max_tokens: length of the longest text.
        rules: which tokens are allowed, for rows = batch * width.
        beam: how to search.
    """

    model: CachedDecoder
    prompt: PromptCache
    start: Any
    max_tokens: int
    rules: Rules
    beam: Beam

    def run(self, logits: Any, samples: int) -> tuple[Any, Any]:
        """Run the search.

        Args:
            logits: float32 [batch * width, vocabulary], for the first token.
            samples: number of texts; the best of each group come before any group's second best.

        Returns:
            int32 [batch, samples, longest], NOTHING after the texts; float32 [batch, samples], the model's
            own log probability, as the mean over a text's tokens.
        """
        batch, width, size = tf.shape(self.start)[0], self.beam.width, self.beam.width // self.beam.groups
        first_of_group = tf.constant([[0.0 if n % size == 0 else _NEVER for n in range(width)]])
        never = tf.fill([batch, width], _NEVER)
        beams = _Beams(
            step=tf.constant(0),
            written=tf.fill([batch, width, self.rules.filler + self.max_tokens], NOTHING),
            score=tf.repeat(first_of_group, batch, axis=0),
            of_model=tf.zeros([batch, width]),
            open=tf.fill([batch, self.beam.groups], True),
            finished=Finished(tf.fill([batch, width, self.max_tokens], NOTHING), never, never),
            cache=self.model.nothing_written(batch, width, self.max_tokens),
        )
        first = self._choose(beams, logits)
        shapes = tf.nest.map_structure(lambda tensor: tensor.shape, beams)
        state = tf.while_loop(
            lambda *beams: tf.reduce_any(_Beams(*beams).open),
            lambda *beams: self._advance(_Beams(*beams)),
            first,
            shape_invariants=shapes,
        )
        last = _Beams(*state)
        each = range(width // size)
        order = [group * size + place for place in range(size) for group in each][:samples]
        ids, _, log_probability = (tf.gather(part, order, axis=1) for part in last.finished)
        return ids[:, :, : last.step], log_probability

    def _advance(self, beams: _Beams) -> _Beams:
        embeddings = self.model.embed(tf.maximum(beams.written[:, :, -1:], 0))
        positions = (self.start + beams.step - 1)[:, :, None]  # [batch, width, 1]
        logits, cache = self.model.read(embeddings, positions, self.prompt, beams.cache)
        return self._choose(beams._replace(cache=cache), logits)

    def _choose(self, beams: _Beams, logits: Any) -> _Beams:
        """The best continuations of every group, and the cache in the same order."""
        width, vocabulary = self.beam.width, logits.shape[-1]
        of_model = tf.nn.log_softmax(logits)
        written = tf.reshape(beams.written, [-1, self.rules.filler + self.max_tokens])
        gain = self.rules.allowed(of_model, written, beams.step)
        gain, of_model = (tf.reshape(part, [-1, width, vocabulary]) for part in (gain, of_model))
        chosen: list[tuple[_Beams, Any]] = []
        for number in range(self.beam.groups):
            mine = self._group(beams, number)
            taken = [group.written[:, :, -1] for group, _ in chosen]
            own_gain, own_of_model = self._of_group([gain, of_model], number)
            chosen.append(self._choose_in_group(mine, own_gain, own_of_model, taken))
        size = width // self.beam.groups
        origin = tf.concat([origin + n * size for n, (_, origin) in enumerate(chosen)], axis=1)
        parts = [group._replace(step=(), cache=WrittenCache([], [])) for group, _ in chosen]
        joined = tf.nest.map_structure(lambda *each: tf.concat(each, axis=1), *parts)
        in_order = tf.nest.map_structure(
            lambda cached: tf.ensure_shape(tf.gather(cached, origin, axis=2, batch_dims=1), cached.shape),
            beams.cache,
        )
        return joined._replace(step=beams.step + 1, cache=in_order)

    def _of_group(self, values: list[Any], number: int) -> list[Any]:
        size = self.beam.width // self.beam.groups
        return [value[:, number * size : (number + 1) * size] for value in values]

    def _group(self, beams: _Beams, number: int) -> _Beams:
        written, score, of_model = self._of_group([beams.written, beams.score, beams.of_model], number)
        finished = Finished(*self._of_group(list(beams.finished), number))
        still_open = beams.open[:, number : number + 1]
        return _Beams(beams.step, written, score, of_model, still_open, finished, WrittenCache([], []))

    def _choose_in_group(
        self, beams: _Beams, gain: Any, of_model: Any, taken: list[Any]
    ) -> tuple[_Beams, Any]:
        """One step of one group.

        Args:
            beams: the state of the group.
            gain: float32 [batch, size, vocabulary], log probabilities under all rules.
            of_model: the same under the model alone.
            taken: for each earlier group int32 [batch, size], the tokens it chose.

        Returns:
            The group's state after this step, and int32 [batch, size], which partial text each one continues.
        """
        size, vocabulary = gain.shape[1], gain.shape[2]
        if taken and self.beam.diversity:
            others = tf.concat(taken, axis=1)
            gain -= self.beam.diversity * tf.reduce_sum(tf.one_hot(others, vocabulary), axis=1, keepdims=True)
        total = tf.reshape(beams.score[:, :, None] + gain, [-1, size * vocabulary])
        # Twice as many, so that enough remain if all of the best end.
        score, index = tf.math.top_k(total, 2 * size)
        origin, token = index // vocabulary, index % vocabulary  # [batch, 2 * size]
        model_total = tf.gather(beams.of_model, origin, batch_dims=1) + tf.gather(
            tf.reshape(of_model, [-1, size * vocabulary]), index, batch_dims=1
        )
        written = tf.gather(beams.written, origin, batch_dims=1)
        written = tf.concat([written[:, :, 1:], token[:, :, None]], axis=2)
        limits = tf.reshape(self.rules.limits, [-1, self.beam.width])[:, :1]
        ends = (token == self.rules.end_id) | (beams.step + 1 >= limits)
        finished = self._finish(beams, written, score, model_total, ends)
        running, order = tf.math.top_k(score + tf.where(ends, _NEVER, 0.0), size)
        best_possible = running[:, :1] / self._penalty(beams.step)
        worst = tf.where(finished.score > _NEVER / 2, tf.reduce_min(finished.score, 1, keepdims=True), _NEVER)
        better = tf.reduce_any(best_possible > worst, axis=1, keepdims=True)
        after = beams._replace(
            written=tf.gather(written, order, batch_dims=1),
            score=running,
            of_model=tf.gather(model_total, order, batch_dims=1),
            open=beams.open & better & ~tf.reduce_all(ends, axis=1, keepdims=True),
            finished=finished,
        )
        return after, tf.gather(origin, order, batch_dims=1)

    def _finish(self, beams: _Beams, written: Any, score: Any, model_total: Any, ends: Any) -> Finished:
        """The finished texts, including those that end now; only the best `size` candidates may end."""
        size = beams.score.shape[1]
        length = beams.step + 1
        counts = ends & (tf.range(2 * size) < size) & beams.open & (score > _NEVER / 2)
        new = Finished(
            ids=_left_aligned(written, length, self.max_tokens),
            score=tf.where(counts, score / self._penalty(beams.step), _NEVER),
            log_probability=model_total / tf.cast(length, tf.float32),
        )
        merged = Finished(*(tf.concat(pair, axis=1) for pair in zip(beams.finished, new, strict=True)))
        _, order = tf.math.top_k(merged.score, size)
        return Finished(*(tf.gather(part, order, batch_dims=1) for part in merged))

    def _penalty(self, step: Any) -> Any:
        return tf.cast(step + 1, tf.float32) ** self.beam.length_penalty


def _left_aligned(written: Any, length: Any, longest: int) -> Any:
    """Move the last `length` columns to the front: int32 [batch, n, columns] -> [batch, n, longest]."""
    text = written[:, :, tf.shape(written)[2] - length :]
    text = tf.pad(text, [[0, 0], [0, 0], [0, longest - length]], constant_values=NOTHING)
    return tf.ensure_shape(text, [None, None, longest])
