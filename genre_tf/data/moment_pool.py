"""The articles that could be shown at a moment of a log: those of its day, with counters of that moment."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from genre_tf.data.columns import Floats, ImpressionColumns, ImpressionExample, Ints, Rows
from genre_tf.data.log_counters import LogCounters

_DAY_HOURS = 24


class MomentPool(LogCounters):
    """The pool of any moment of a log: every article that the log shows to anyone on that day.

    A log rarely says which articles a site had published at a moment, but it says which ones it showed on
    that day, and the two differ little. Counters (`before`) know only what happened before the moment.
    """

    @cached_property
    def _rows_of_day(self) -> dict[int, Rows]:
        days, rows = self.hours.hours // _DAY_HOURS, self.hours.rows
        return {day: np.unique(rows[days == day]).astype(np.int32) for day in np.unique(days).tolist()}

    def rows(self, seconds: int) -> Rows:
        """The articles that could be shown at a moment, int32 [N]; none on a day without impressions."""
        return self._rows_of_day.get(seconds // 86_400, np.zeros(0, np.int32))

    def sizes(self, seconds: Ints) -> Ints:
        """How many articles could be shown at some moments: int64 [k] -> int64 [k]."""
        days, places = np.unique(seconds // 86_400, return_inverse=True)
        found = [len(self._rows_of_day.get(day, ())) for day in days.tolist()]
        return np.array(found, np.int64)[places]


def moment(example: ImpressionExample) -> int:
    """When an impression was shown, in whole seconds since 1970."""
    return round(example.time_hours * 3600)


def draw_from_pool(
    examples: Sequence[ImpressionExample],
    pool: MomentPool,
    *,
    shown: int,
    drawn: int,
    seed: int,
    most: int,
) -> tuple[ImpressionColumns, list[Floats]]:
    """Make an example from each click: the click, some articles shown but not clicked, some of the pool.

    Shown articles are few and hard, the rest of the pool is large and easy, so each part is sampled
    separately (stratified sampling). Each draw comes with its probability, to correct for it. Articles that
    were clicked in the impression or read before are not drawn.

    Args:
        examples: impressions.
        pool: articles that could be shown at their moments.
        shown: negatives from the impression for each click.
        drawn: negatives from the rest of the pool for each click.
        seed: random seed of the draws.
        most: most clicks; if there are more, this many are drawn.

    Returns:
        The examples, the click first among the candidates, and for each float32 [C], the probabilities.
    """
    generator = np.random.default_rng(seed)
    columns = ImpressionColumns.of(examples)
    numbers, places = columns.clicks(lambda block: block.candidates > 0)
    chosen = np.sort(generator.permutation(len(numbers))[:most])
    made, probabilities = [], []
    for number, place in zip(numbers[chosen].tolist(), places[chosen].tolist(), strict=True):
        example, probability = _with_pool(columns[number], place, pool, shown, drawn, generator)
        if len(probability) > 1:
            made.append(example)
            probabilities.append(probability)
    return ImpressionColumns.of(made), probabilities


def _with_pool(
    example: ImpressionExample,
    click: int,
    pool: MomentPool,
    shown: int,
    drawn: int,
    generator: np.random.Generator,
) -> tuple[ImpressionExample, npt.NDArray[np.float32]]:
    seconds = moment(example)
    never = np.concatenate([example.history, example.candidates[example.labels > 0]])
    passed = np.flatnonzero((example.candidates > 0) & ~np.isin(example.candidates, never))
    beside = generator.permutation(passed)[:shown]
    rest = pool.rows(seconds)
    if shown:  # this part is sampled separately
        rest = rest[~np.isin(rest, example.candidates)]
    rest = rest[~np.isin(rest, never)]
    others = generator.permutation(rest)[:drawn]
    candidates = np.concatenate([example.candidates[[click]], example.candidates[beside], others])
    counters = [example.counters[[click]], example.counters[beside], pool.before(others, seconds)]
    shares = (len(beside) / max(1, len(passed)), len(others) / max(1, len(rest)))
    probability = np.repeat([1.0, *shares], [1, len(beside), len(others)]).astype(np.float32)
    labels = np.zeros(len(candidates), np.float32)
    labels[0] = 1
    weights = example.label_weights
    if weights is not None:
        weights = np.ones(len(candidates), np.float32)
        weights[0] = example.label_weights[click]  # type: ignore[index]
    one = dataclasses.replace(
        example,
        candidates=candidates.astype(np.int32),
        labels=labels,
        counters=np.concatenate(counters).astype(np.float32),
        label_weights=weights,
    )
    return one, probability
