"""Beam search: the likeliest texts instead of random samples; with groups, different texts."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.generation.cached_decoder import CachedDecoder, PromptCache, WrittenCache
from genre_tf.generation.constraints import NOTHING, Rules

_NEVER = -1e9  # as in `transformers`


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Keeps the `width` best partial texts at every step.

    The rules and the resulting texts are those of `transformers`' beam search (`early_stopping=False`). A row
    stops when its best partial text is worse than its worst finished text, independently of the rest of the
    batch.

    Source: groups: Vijayakumar et al. 2018, "Diverse Beam Search", with Hamming diversity.
    """

    width: int = 4  # partial texts in all groups together; at least the number of samples
    length_penalty: float = (
        1.0  # scores are divided by the length to this power; above 0 favours longer texts
    )
    groups: int = 1  # of equal size, searched one after another at every step
    diversity: float = 0.0  # subtracted for each earlier group that chose the same token at this step

    def __post_init__(self) -> None:
        if self.width < 1 or self.groups < 1 or self.width % self.groups or self.diversity < 0:
            raise ValueError(f"width must be a multiple of groups, and diversity at least 0; got {self}")


class _Finished(NamedTuple):
    """The best finished texts, best first within each group."""

    ids: Any  # int32 [batch, width, max_tokens], NOTHING after the end
    score: Any  # float32 [batch, width]
    log_probability: Any  # float32 [batch, width], the model's mean over a text's tokens


class _Beams(NamedTuple):
    """The state of a search, or the columns of one group in it, then without a cache."""

    step: Any  # int32 []
    written: Any  # int32 [batch, width, filler + max_tokens], newest last
    score: Any  # float32 [batch, width], under all rules
    of_model: Any  # float32 [batch, width], log probability under the model alone
    open: Any  # bool [batch, groups]
    finished: _Finished
    cache: WrittenCache


@dataclass(frozen=True)
class BeamLoop:
    """Runs a beam search."""

    model: CachedDecoder
    prompt: PromptCache
    start: Any  # int32 [batch, width], position of the first written token
    max_tokens: int
    rules: Rules  # for rows = batch * width
    beam: Beam

    def run(self, logits: Any, samples: int) -> tuple[Any, Any]:
        """Run the search from the logits of the first token, float32 [batch * width, vocabulary].

        Returns:
            int32 [batch, samples, longest], NOTHING after the texts; the best text of each group comes before
            any group's second best. float32 [batch, samples], the model's own log probability, as the mean
            over a text's tokens.
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
            finished=_Finished(tf.fill([batch, width, self.max_tokens], NOTHING), never, never),
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
        size = width // self.beam.groups
        of_model = tf.nn.log_softmax(logits)
        written = tf.reshape(beams.written, [-1, self.rules.filler + self.max_tokens])
        gain = self.rules.allowed(of_model, written, beams.step)
        gain, of_model = (tf.reshape(part, [-1, width, vocabulary]) for part in (gain, of_model))
        groups: list[_Beams] = []
        origins = []
        for number in range(self.beam.groups):
            own = slice(number * size, (number + 1) * size)
            group = _Beams(
                step=beams.step,
                written=beams.written[:, own],
                score=beams.score[:, own],
                of_model=beams.of_model[:, own],
                open=beams.open[:, number : number + 1],
                finished=_Finished(*(part[:, own] for part in beams.finished)),
                cache=WrittenCache((), ()),
            )
            taken = [earlier.written[:, :, -1] for earlier in groups]
            group, origin = self._choose_in_group(group, gain[:, own], of_model[:, own], taken)
            groups.append(group._replace(step=()))
            origins.append(origin + number * size)
        joined = tf.nest.map_structure(lambda *each: tf.concat(each, axis=1), *groups)
        origin = tf.concat(origins, axis=1)

        def in_order(cache: Any) -> Any:  # [layers, batch, key heads, width, room, depth]
            origins = tf.repeat(origin[None], tf.shape(cache)[0], axis=0)
            return tf.ensure_shape(tf.gather(cache, origins, axis=3, batch_dims=2), cache.shape)

        cache = tf.nest.map_structure(in_order, beams.cache)
        return joined._replace(step=beams.step + 1, cache=cache)

    def _choose_in_group(
        self, beams: _Beams, gain: Any, of_model: Any, taken: list[Any]
    ) -> tuple[_Beams, Any]:
        """One step of one group: its new state, and int32 [batch, size], what each text continues.

        `gain` and `of_model`, float32 [batch, size, vocabulary], are log probabilities under all rules and
        under the model alone; `taken` has int32 [batch, size] for each earlier group, the tokens it chose.
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

    def _finish(self, beams: _Beams, written: Any, score: Any, model_total: Any, ends: Any) -> _Finished:
        """The finished texts, including those that end now; only the best `size` candidates may end."""
        size = beams.score.shape[1]
        length = beams.step + 1
        counts = ends & (tf.range(2 * size) < size) & beams.open & (score > _NEVER / 2)
        texts = written[:, :, tf.shape(written)[2] - length :]  # from their first token
        behind = [[0, 0], [0, 0], [0, self.max_tokens - length]]
        new = _Finished(
            ids=tf.ensure_shape(
                tf.pad(texts, behind, constant_values=NOTHING), [None, None, self.max_tokens]
            ),
            score=tf.where(counts, score / self._penalty(beams.step), _NEVER),
            log_probability=model_total / tf.cast(length, tf.float32),
        )
        merged = _Finished(*(tf.concat(pair, axis=1) for pair in zip(beams.finished, new, strict=True)))
        _, order = tf.math.top_k(merged.score, size)
        return _Finished(*(tf.gather(part, order, batch_dims=1) for part in merged))

    def _penalty(self, step: Any) -> Any:
        return tf.cast(step + 1, tf.float32) ** self.beam.length_penalty
