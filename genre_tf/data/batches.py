"""Batches of impressions that hold every article once, so that an article is encoded once per step.

A batch is a function of its number: its rows are places of a permutation that is computed, not stored, so a
training goes on from any batch at once, on a log of any size. Replicas share a batch in parts, whose shapes
may be fixed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.contract import COUNTERS
from genre_tf.data.columns import Block, Floats, ImpressionColumns, ImpressionExample, Ints, Rows
from genre_tf.errors import InputError

Batch = dict[str, tf.Tensor]
Log = dict[str, Any]
"""Ragged columns of impressions: history int32 [n, None], candidates int32 [n, None],
labels float32 [n, None], counters float32 [n, None, 9], impression int64 [n]; for a log with signals also
history_weights float32 [n, None], label_weights float32 [n, None]."""

Columns = Mapping[str, Sequence[Floats]]
"""Further columns of the candidates, by name: for every example float32 [c, ...]."""

_ROUNDS = 16  # of the cipher that permutes rows: with TensorFlow's usual 4, neighbours stay neighbours

# types-tensorflow does not know its class methods.
RaggedTensor: Any = tf.RaggedTensor


@dataclass(frozen=True, kw_only=True)
class FixedShape:
    """Fixed sizes of every batch, as a TPU compiler needs them, instead of padding to the longest row.

    If an impression has more candidates, its clicked ones are kept first, then others at random. Clicks on
    articles that do not fit are left out, oldest first (by their place in the history, over all rows), so a
    batch whose articles fit is complete.
    """

    candidates: int  # C
    articles: int  # U of each replica

    @classmethod
    def of(
        cls, rows: int, max_history: int, candidates: int, table: int, articles: int | None = None
    ) -> "FixedShape":
        """The shape for `rows` rows of one replica and a table of so many articles.

        By default nothing is left out: a batch can hold `rows * (H + C) + 1` articles or all of them.

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
    """

    parts: int = 1  # number of replicas that share each batch
    wanted: tuple[int, ...] = (0,)  # the parts that this input pipeline makes, one after another
    fixed: FixedShape | None = None  # None: batches are as large as their longest row

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
    """The input of all replicas of a `tf.distribute` strategy: each gets its part of every batch.

    TensorFlow's own ways do not work here: they distribute whole batches, or cut every tensor along its first
    axis, but the articles of a batch are not rows. Drawing for all replicas is cheap, because only row
    numbers are drawn; texts are gathered for the own rows only.

    Args:
        strategy: the strategy.
        make: returns the dataset that holds the given parts of every batch, one after another.
        fixed: passed on to `make`.
    """
    replicas = int(strategy.num_replicas_in_sync)

    def own_parts(context: Any) -> tf.data.Dataset:
        here = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * here
        return make(BatchLayout(parts=replicas, wanted=tuple(range(first, first + here)), fixed=fixed))

    return strategy.distribute_datasets_from_function(own_parts)


def impression_batches(
    examples: Sequence[ImpressionExample],
    *,
    batch_size: int,
    max_history: int = 50,
    negatives: int | None = None,
    seed: int | None = None,
    shuffle: bool = False,
    repeat: bool = False,
    drop_remainder: bool = False,
    start: int = 0,
    layout: BatchLayout = WHOLE,
    weighted: bool = True,
    columns: Columns | None = None,
) -> tf.data.Dataset:
    """Batches of examples, in files or in memory, shuffled over all of them.

    Args:
        examples: impressions with at least one candidate; columns are read when a batch needs them.
        batch_size: B, rows of a batch: impressions, or clicks if `negatives` is given.
        max_history: the newest clicks that are kept.
        negatives: None keeps every candidate of an impression. A number k makes one row per click: the
            click, then k articles of the same impression that were shown and not clicked, drawn again each
            epoch (with repetition only if there are fewer than k); impressions without such an article or
            without a click are left out.
        seed: random seed of order and draw; the same seed gives the same batches, epoch by epoch.
        shuffle: another order each epoch; otherwise the order of `examples`.
        repeat: repeat without end; otherwise each iteration over the dataset is one epoch.
        drop_remainder: leaves out a last batch that is not full.
        start: number of batches to skip at the beginning, at no cost; used to resume training.
        layout: parts of each batch for replicas, and fixed shapes, with which a partial last batch is left
            out.
        weighted: False leaves out the weights of signals, as a served model does.
        columns: further columns of the candidates for the batch, float32 [B, C, ...].

    Returns:
        A dataset of dicts; U articles of the batch, longest history H, most candidates C:
            articles: int32 [U], article rows, each once; articles[0] is 0, the padding article.
            history: int32 [B, H], positions in `articles`, oldest first, 0 where padded (on the right).
            candidates: int32 [B, C], positions in `articles`.
            labels: float32 [B, C], 1 for a click.
            mask: bool [B, C], False where padded.
            counters: float32 [B, C, 9], in the order of `COUNTERS`.
            impression: int64 [B], row number of the impression in its split.
            history_weights, label_weights: float32 [B, H], [B, C], 1 for clicks without signals; absent in a
                batch without signals.

    Raises:
        InputError: there are no examples to learn from, or fewer than one full batch of a fixed shape, or the
            parts of such a batch would differ.
    """
    log = ImpressionColumns.of(examples)
    read = _reader(log, columns or {}, weighted and log.has_weights)
    learned = None if negatives is None else rows_to_learn(log)
    count = len(log) if learned is None else len(learned[0])
    if not count:
        raise InputError(
            f"{len(log)} impressions hold nothing to learn from: give clicked and unclicked articles"
        )
    if layout.fixed is not None and count < batch_size:
        raise InputError(
            f"{count} rows are less than one batch of {batch_size}, and with fixed shapes a partial batch is "
            "left out: give a smaller --batch-size"
        )

    def assemble(places: tf.Tensor, draw: tf.Tensor, part: tf.Tensor) -> Batch:
        if shuffle:
            places = tf.raw_ops.RandomIndexShuffle(
                index=places, seed=tf.stack([draw[0], 0, 0]), max_index=count - 1, rounds=_ROUNDS
            )
        picked, click = places, tf.zeros_like(places)
        if learned is not None:
            picked, click = tf.numpy_function(
                lambda some: [each[some].astype(np.int64) for each in learned], [places], [tf.int64, tf.int64]
            )
        chosen = _choose_candidates(read(picked), click, draw, negatives, layout)
        return _assemble_batch(chosen, part, max_history, layout, layout.rows(batch_size))

    drop_remainder = drop_remainder or layout.fixed is not None
    return _numbered(count, assemble, batch_size, seed, repeat, drop_remainder, start, layout)


def _numbered(
    rows: int,
    assemble: Any,
    batch_size: int,
    seed: int | None,
    repeat: bool,
    drop_remainder: bool,
    start: int,
    layout: BatchLayout,
) -> tf.data.Dataset:
    """Batches by their number, each with a random seed of its own.

    `assemble` gets places in the epoch, int64 [B]; a random seed, int64 [2], whose first number is that of
    the epoch; and the number of the part, int64 [].
    """
    in_epoch = rows // batch_size if drop_remainder else -(-rows // batch_size)
    epochs = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
    if repeat:
        epochs = epochs.repeat()
    first = start % max(1, in_epoch)

    wanted, parts = tf.constant(layout.wanted, tf.int64), len(layout.wanted)

    def of_epoch(number: tf.Tensor, key: tf.Tensor) -> tf.data.Dataset:
        begin = tf.where(number == 0, tf.constant(first * parts, tf.int64), 0)
        return tf.data.Dataset.range(begin, in_epoch * parts).map(lambda each: one_part(each, key))

    def one_part(each: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        place = each // parts
        places = tf.range(place * batch_size, tf.minimum((place + 1) * batch_size, rows))
        return places, tf.stack([key, place]), wanted[each % parts]

    batches = epochs.skip(start // max(1, in_epoch)).enumerate().flat_map(of_epoch)
    # AutoGraph would rewrite every called function, although there is nothing to convert.
    plain = tf.autograph.experimental.do_not_convert(assemble)
    batches = batches.map(plain, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # A strategy would ask all workers at each step of an endless dataset of unknown size if data is left.
    left = tf.data.INFINITE_CARDINALITY if repeat else max(0, in_epoch - start) * parts
    return batches.apply(tf.data.experimental.assert_cardinality(left)).prefetch(tf.data.AUTOTUNE)


def _reader(log: ImpressionColumns, more: Columns, weighted: bool) -> Callable[[tf.Tensor], Log]:
    """Reads impressions by number: int64 [k] -> ragged columns."""
    of_log = ["history", "candidates", "labels", "counters"]
    of_log += ["history_weights", "label_weights"] if weighted else []
    names = [*of_log, *more]
    kinds = [tf.int32, tf.int32] + [tf.float32] * (len(names) - 2)
    inner = {"counters": (len(COUNTERS),), **{name: parts[0].shape[1:] for name, parts in more.items()}}

    def take(numbers: Ints) -> list[npt.NDArray[Any]]:
        block = log.take(numbers, *of_log)
        ends = [np.diff(block.history_ends), np.diff(block.candidate_ends)]
        values = [getattr(block, name) for name in of_log]
        values[2] = values[2].astype(np.float32)  # labels
        further = [np.concatenate([parts[row] for row in numbers]) for parts in more.values()]
        return [block.impression, *ends, *values, *further]

    def read(numbers: tf.Tensor) -> Log:
        found = tf.numpy_function(take, [numbers], [tf.int64] * 3 + kinds)
        for value in found[:3]:
            value.set_shape([None])
        columns = {"impression": found[0]}
        for name, value in zip(names, found[3:], strict=True):
            value.set_shape([None, *inner.get(name, ())])
            lengths = found[1 if name.startswith("history") else 2]
            columns[name] = RaggedTensor.from_row_lengths(value, lengths, validate=False)
        return columns

    return read


def _choose_candidates(
    log: Log, click: tf.Tensor, draw: tf.Tensor, negatives: int | None, layout: BatchLayout
) -> Log:
    """Candidates of the impressions of a batch: all, as many as fit, or a click and negatives.

    `click` is the position of each row's click among its candidates, int64 [B], unused without `negatives`;
    `draw` is the random seed of this batch, int64 [2].
    """
    if negatives is not None:
        picked = _draw_negatives(log["labels"], click, draw, negatives)
        chosen = {name: tf.gather(log[name], picked, batch_dims=1) for name in _of_candidates(log)}
        chosen["labels"] = tf.one_hot(tf.zeros_like(picked[:, 0]), negatives + 1)
        ragged = {name: RaggedTensor.from_tensor(dense, ragged_rank=1) for name, dense in chosen.items()}
        return {**log, **ragged}
    if layout.fixed is None:
        return log
    labels = log["labels"]
    dense = labels.to_tensor(default_value=-2.0)  # [batch, candidates]; padding comes last
    chance = tf.random.stateless_uniform(tf.shape(dense), draw + 2)
    order = tf.argsort(dense + 0.5 * chance, axis=1, direction="DESCENDING")
    kept = tf.argsort(order, axis=1) < layout.fixed.candidates
    keep = labels.with_flat_values(tf.boolean_mask(kept, dense > -2.0))
    return {**log, **{name: tf.ragged.boolean_mask(log[name], keep) for name in _of_candidates(log)}}


def _draw_negatives(labels: tf.RaggedTensor, click: tf.Tensor, draw: tf.Tensor, negatives: int) -> tf.Tensor:
    """Draws candidates that were shown and not clicked, without replacement if there are enough.

    There is at least one in each row of labels, float32 [B, None].

    Returns:
        int64 [B, 1 + k], positions among the candidates: the click, then k negatives.
    """
    is_negative = labels.to_tensor(default_value=1.0) == 0.0  # [batch, most candidates]
    there = tf.reduce_sum(tf.cast(is_negative, tf.int64), 1, keepdims=True)
    chance = tf.random.stateless_uniform(tf.shape(is_negative), draw)
    in_random_order = tf.argsort(tf.where(is_negative, chance, 2.0), axis=1)  # negatives come first
    place = tf.range(negatives, dtype=tf.int64)[tf.newaxis]
    again = tf.random.stateless_uniform([tf.size(click), negatives], draw + 1)
    repeated = tf.minimum(tf.cast(again * tf.cast(there, tf.float32), tf.int64), there - 1)
    place = tf.where(place < there, place, repeated)  # [batch, negatives]
    drawn = tf.gather(in_random_order, place, batch_dims=1)
    return tf.concat([click[:, tf.newaxis], tf.cast(drawn, tf.int64)], 1)


def _of_candidates(log: Log) -> list[str]:
    """Names of the columns that have a value for each candidate."""
    return [name for name in log if name not in ("history", "history_weights", "impression")]


def _assemble_batch(log: Log, part: tf.Tensor, max_history: int, layout: BatchLayout, size: int) -> Batch:
    """Makes the part of a batch with this number, int64 [], of `size` rows if the shape is fixed."""
    if layout.parts > 1:  # sizes of parts differ by at most one row
        count = tf.size(log["impression"], tf.int64)
        own = slice(part * count // layout.parts, (part + 1) * count // layout.parts)
        log = {name: column[own] for name, column in log.items()}
    for name in ("history", "history_weights"):
        if name in log:
            log[name] = log[name][:, -max_history:] if max_history else log[name][:, :0]
    candidates = log["candidates"]
    articles, shown, read, kept = _articles_of(candidates.flat_values, log["history"], layout)
    wide, long = (layout.fixed.candidates, max_history) if layout.fixed else (None, None)
    batch = {
        "history": read.to_tensor(shape=(None, long)),  # [batch, longest history]
        "candidates": candidates.with_flat_values(shown).to_tensor(shape=(None, wide)),
        "mask": tf.sequence_mask(candidates.row_lengths(), wide),
        "impression": log["impression"],
    }
    if "history_weights" in log:
        weights = log["history_weights"]
        weights = weights if kept is None else tf.ragged.boolean_mask(weights, kept)
        batch["history_weights"] = weights.to_tensor(1.0, shape=(None, long))
    for name in _of_candidates(log):
        if name not in batch:
            padding = 1.0 if name == "label_weights" else 0.0
            batch[name] = log[name].to_tensor(padding, shape=(None, wide, *log[name].shape[2:]))
    if layout.fixed is not None:
        batch = {name: tf.ensure_shape(value, [size, *value.shape[1:]]) for name, value in batch.items()}
    return {"articles": articles, **batch}


def _articles_of(
    shown: tf.Tensor, history: tf.RaggedTensor, layout: BatchLayout
) -> tuple[tf.Tensor, tf.Tensor, tf.RaggedTensor, tf.RaggedTensor | None]:
    """The articles of a batch, each once, and the positions of candidates and clicks among them.

    Clicks, ragged int32 [B, None], are oldest first; the layout says how many articles there may be.

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


def rows_to_learn(log: ImpressionColumns) -> tuple[Rows, Rows]:
    """The rows of an epoch if negatives are drawn: each click beside which something was not clicked.

    Returns:
        int32 [rows], number of the impression; int32 [rows], place of the click among its candidates.
    """

    def beside_others(block: Block) -> npt.NDArray[np.bool_]:
        clicked = np.bincount(block.row_of_candidate, block.labels, len(block))
        return (clicked < np.diff(block.candidate_ends))[block.row_of_candidate]

    return log.clicks(beside_others)
