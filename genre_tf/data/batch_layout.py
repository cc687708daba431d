"""Layout of batches for the training devices: parts for replicas, and fixed shapes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from genre_tf.errors import InputError

# types-tensorflow does not know its class methods.
RaggedTensor: Any = tf.RaggedTensor


@dataclass(frozen=True, kw_only=True)
class FixedShape:
    """Fixed sizes of every batch, as a TPU compiler needs them, instead of padding to the longest row.

    Args:
        candidates: C. If an impression has more, its clicked ones are kept first, then others at random.
        articles: U of each replica. Clicks on articles that do not fit are left out, oldest first (by their
            place in the history, over all rows), so a batch whose articles fit is complete.
    """

    candidates: int
    articles: int

    @classmethod
    def of(
        cls, rows: int, max_history: int, candidates: int, table: int, articles: int | None = None
    ) -> "FixedShape":
        """The shape in which nothing is left out, or one with fewer articles.

        Args:
            rows: rows of one replica's batch.
            max_history: H.
            candidates: C.
            table: number of articles, the padding article included.
            articles: U; None: the most that a batch can hold, `rows * (H + C) + 1` or all of them.

        Raises:
            InputError: too few articles for the candidates alone.
        """
        least, most = (min(rows * width + 1, table) for width in (candidates, max_history + candidates))
        if articles is not None and articles < least:
            raise InputError(
                f"{articles} articles per batch cannot hold its {rows} x {candidates} candidates: "
                f"give at least {least}"
            )
        return cls(candidates=candidates, articles=min(articles or most, most))


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """Which parts of every batch are made, and whether their shape is fixed.

    Each part is a separate batch with its own articles. The rows of a batch and the random draws for them do
    not depend on the number of parts: together the parts are the batch that one device would get.

    Args:
        parts: number of replicas that share each batch.
        wanted: numbers of the parts that this input pipeline makes, one after another.
        fixed: None: batches are as large as their longest row.
    """

    parts: int = 1
    wanted: tuple[int, ...] = (0,)
    fixed: FixedShape | None = None

    def rows(self, batch_size: int) -> int:
        """Rows of one part of a full batch.

        Raises:
            InputError: the shape is fixed and the parts would differ.
        """
        if self.fixed and batch_size % self.parts:
            raise InputError(
                f"a batch of {batch_size} rows cannot be cut into {self.parts} equal parts: give a "
                f"--batch-size divisible by {self.parts}"
            )
        return batch_size // self.parts


WHOLE = BatchLayout()


def for_replicas(strategy: Any, make: Callable[[BatchLayout], Any], fixed: FixedShape | None = None) -> Any:
    """The input of all replicas of a strategy: each gets its part of every batch.

    TensorFlow's own ways do not work here: they distribute whole batches, or cut every tensor along its first
    axis, but the articles of a batch are not rows. Drawing for all replicas is cheap, because only row
    numbers are drawn; texts are gathered for the own rows only.

    Args:
        strategy: a `tf.distribute` strategy.
        make: returns the dataset that holds the given parts of every batch, one after another.
        fixed: passed on to `make`.

    Returns:
        A `tf.data.Dataset`, or a `tf.distribute.DistributedDataset`.
    """
    replicas = int(strategy.num_replicas_in_sync)

    def own_parts(context: Any) -> tf.data.Dataset:
        here = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * here
        return make(BatchLayout(parts=replicas, wanted=tuple(range(first, first + here)), fixed=fixed))

    return strategy.distribute_datasets_from_function(own_parts)


def part_of(rows: Any, part: tf.Tensor, layout: BatchLayout) -> Any:
    """The rows of one part of a batch.

    Args:
        rows: [B, ...], dense or ragged.
        part: int64 [], its number.
        layout: into how many parts the batch is cut.

    Returns:
        [about B / parts, ...]; sizes of parts differ by at most one row.
    """
    if layout.parts == 1:
        return rows
    count = rows.nrows() if isinstance(rows, tf.RaggedTensor) else tf.size(rows, tf.int64)
    return rows[part * count // layout.parts : (part + 1) * count // layout.parts]


def cut_batches(batches: tf.data.Dataset, layout: BatchLayout) -> tf.data.Dataset:
    """Repeats each element once for every wanted part: (...) -> (..., int64 [] number of the part)."""
    if layout.parts == 1:
        return batches.map(lambda *batch: (*batch, tf.constant(0, tf.int64)))

    def each_part(*batch: Any) -> tf.data.Dataset:
        parts = tf.data.Dataset.from_tensor_slices(tf.constant(layout.wanted, tf.int64))
        return parts.map(lambda part: (*batch, part))

    return batches.flat_map(each_part)


def fewer_candidates(log: dict[str, Any], draw: tf.Tensor, most: int) -> dict[str, Any]:
    """Leaves out candidates of impressions that have too many: keeps clicked ones and random others.

    Args:
        log: ragged columns of B impressions, among them labels float32 [B, None].
        draw: int64 [2], random seed of this batch.
        most: most candidates to keep.

    Returns:
        The columns; those of the candidates have at most `most` values per row, in their original order.
    """
    labels = log["labels"]
    dense = labels.to_tensor(default_value=-2.0)  # [batch, candidates]; padding comes last
    chance = tf.random.stateless_uniform(tf.shape(dense), draw + 2)
    order = tf.argsort(dense + 0.5 * chance, axis=1, direction="DESCENDING")
    kept = tf.argsort(order, axis=1) < most
    keep = labels.with_flat_values(tf.boolean_mask(kept, dense > -2.0))
    fewer = {name: tf.ragged.boolean_mask(log[name], keep) for name in of_candidates(log)}
    return {**log, **fewer}


def of_candidates(log: dict[str, Any]) -> list[str]:
    """Names of the columns that have a value for each candidate."""
    return [name for name in log if name not in ("history", "history_weights", "impression")]


def articles_of(
    shown: tf.Tensor, history: tf.RaggedTensor, layout: BatchLayout
) -> tuple[tf.Tensor, tf.Tensor, tf.RaggedTensor, tf.RaggedTensor | None]:
    """The articles of a batch, each once, and the positions of candidates and clicks among them.

    Args:
        shown: int32 [n], rows of all candidates.
        history: ragged int32 [B, None], rows of the clicks, oldest first.
        layout: says how many articles there may be.

    Returns:
        articles int32 [U], first the padding article 0; positions of `shown` in it, int32 [n]; positions of
        the clicks in it, ragged int32 [B, None]; whether each click fits, ragged bool [B, None], or None if
        all fit.
    """
    read, end = history.flat_values, tf.size(shown) + 1
    if layout.fixed is None:
        articles, positions = tf.unique(tf.concat([[0], shown, read], 0))
        return articles, positions[1:end], history.with_flat_values(positions[end:]), None
    room = layout.fixed.articles
    lengths = history.row_lengths()
    place: Any = tf.ragged.range(lengths).flat_values
    newest_first = tf.argsort(tf.repeat(lengths, lengths) - place, stable=True)
    articles, positions = tf.unique(tf.concat([[0], shown, tf.gather(read, newest_first)], 0))
    clicks = history.with_flat_values(tf.gather(positions[end:], tf.argsort(newest_first)))
    fits = clicks < room
    clicks = tf.ragged.boolean_mask(clicks, fits)
    articles = tf.pad(articles[:room], [[0, tf.maximum(room - tf.size(articles), 0)]])
    return tf.ensure_shape(articles, [room]), positions[1:end], clicks, fits
