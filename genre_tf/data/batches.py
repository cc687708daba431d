"""Batches of impressions that hold every article once, so that an article is encoded once per step.

A batch is a function of its number: its rows are places of a permutation that is computed, not stored, so a
training goes on from any batch at once, on a log of any size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.batch_layout import (
    WHOLE,
    BatchLayout,
    articles_of,
    cut_batches,
    fewer_candidates,
    of_candidates,
    part_of,
)
from genre_tf.data.columns import Floats, ImpressionColumns, ImpressionExample, Ints
from genre_tf.data.decay import COUNTERS
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
    read = _Reading(log, columns or {}, weighted and log.has_weights)
    learned = None if negatives is None else rows_to_learn(log)
    count = len(log) if learned is None else len(learned[0])
    _check_rows(count, len(log), batch_size if layout.fixed else 1)

    def assemble(places: tf.Tensor, draw: tf.Tensor, part: tf.Tensor) -> Batch:
        if shuffle:
            places = tf.raw_ops.RandomIndexShuffle(
                index=places, seed=tf.stack([draw[0], 0, 0]), max_index=count - 1, rounds=_ROUNDS
            )
        picked, click = places, tf.zeros_like(places)
        if learned is not None:
            picked, click = tf.numpy_function(lambda some: _at(learned, some), [places], [tf.int64, tf.int64])
        chosen = choose_candidates(read(picked), click, draw, negatives, layout)
        return assemble_batch(chosen, part, max_history, layout, layout.rows(batch_size))

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

    Args:
        rows: rows of an epoch.
        assemble: (int64 [B] places in the epoch, int64 [2] random seed, int64 [] part) -> batch. The first
            number of the seed is that of the epoch.
        batch_size: rows of a batch.
        seed: random seed of these seeds.
        repeat: repeat without end.
        drop_remainder: leaves out a last batch that is not full.
        start: number of the first batch that is made.
        layout: the parts of each batch, one after another.

    Returns:
        The dataset, prefetching.
    """
    in_epoch = rows // batch_size if drop_remainder else -(-rows // batch_size)
    epochs = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
    if repeat:
        epochs = epochs.repeat()
    first = start % max(1, in_epoch)

    def of_epoch(number: tf.Tensor, key: tf.Tensor) -> tf.data.Dataset:
        begin = tf.where(number == 0, tf.constant(first, tf.int64), 0)
        return tf.data.Dataset.range(begin, in_epoch).map(lambda place: batch(place, key))

    def batch(place: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        begin = place * batch_size
        places = tf.range(begin, tf.minimum(begin + batch_size, rows))
        return places, tf.stack([key, place])

    batches = epochs.skip(start // max(1, in_epoch)).enumerate().flat_map(of_epoch)
    # AutoGraph would rewrite every called function, although there is nothing to convert.
    plain = tf.autograph.experimental.do_not_convert(assemble)
    batches = cut_batches(batches, layout).map(plain, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if repeat:  # otherwise a strategy asks all workers at each step if data is left
        batches = batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    else:
        number = max(0, in_epoch - start) * len(layout.wanted)
        batches = batches.apply(tf.data.experimental.assert_cardinality(number))
    return batches.prefetch(tf.data.AUTOTUNE)


class _Reading:
    """Reads impressions by number: int64 [k] -> ragged columns."""

    def __init__(self, log: ImpressionColumns, more: Columns, weighted: bool) -> None:
        self._log, self._more = log, more
        self._weights = ("history_weights", "label_weights") if weighted else ()
        self._inner = {name: parts[0].shape[1:] for name, parts in more.items()}

    def __call__(self, numbers: tf.Tensor) -> Log:
        names = ("history", "candidates", "labels", "counters", *self._weights, *self._more)
        kinds = [tf.int32, tf.int32] + [tf.float32] * (len(names) - 2)
        impression, read, shown, *values = tf.numpy_function(
            self._take, [numbers], [tf.int64, tf.int64, tf.int64, *kinds]
        )
        impression.set_shape([None])
        inner = {"counters": (len(COUNTERS),), **self._inner}
        log = {"impression": impression}
        for name, value in zip(names, values, strict=True):
            value.set_shape([None, *inner.get(name, ())])
            lengths = read if name.startswith("history") else shown
            lengths.set_shape([None])
            log[name] = RaggedTensor.from_row_lengths(value, lengths, validate=False)
        return log

    def _take(self, numbers: Ints) -> list[npt.NDArray[Any]]:
        block = self._log.take(numbers, "history", "candidates", "labels", "counters", *self._weights)
        more = [np.concatenate([parts[row] for row in numbers]) for parts in self._more.values()]
        return [
            block.impression,
            np.diff(block.history_ends),
            np.diff(block.candidate_ends),
            block.history,
            block.candidates,
            block.labels.astype(np.float32),
            block.counters,
            *(getattr(block, name) for name in self._weights),
            *more,
        ]


def choose_candidates(
    log: Log, click: tf.Tensor, draw: tf.Tensor, negatives: int | None, layout: BatchLayout
) -> Log:
    """Candidates of the impressions of a batch: all, as many as fit, or a click and negatives.

    Args:
        log: ragged columns of B impressions.
        click: int64 [B], the position of the row's click among its candidates; unused without `negatives`.
        draw: int64 [2], random seed of this batch.
        negatives: see `impression_batches`.
        layout: its fixed shape, if any, bounds the number of candidates.

    Returns:
        The columns, with candidates, labels, counters and weights of the chosen ones.
    """
    if negatives is None:
        return log if layout.fixed is None else fewer_candidates(log, draw, layout.fixed.candidates)
    picked = draw_negatives(log["labels"], click, draw, negatives)
    labels = tf.one_hot(tf.zeros_like(picked[:, 0]), negatives + 1)
    chosen = {name: tf.gather(log[name], picked, batch_dims=1) for name in of_candidates(log)}
    return {**log, **{name: _ragged(dense) for name, dense in {**chosen, "labels": labels}.items()}}


def assemble_batch(log: Log, part: tf.Tensor, max_history: int, layout: BatchLayout, size: int) -> Batch:
    """Makes one part of a batch.

    Args:
        log: ragged columns of the impressions of the whole batch, with their chosen candidates.
        part: int64 [], the part's number.
        max_history: the newest clicks that are kept.
        layout: number of parts, and whether shapes are fixed.
        size: rows of the part if the shape is fixed.

    Returns:
        The batch; see `impression_batches`.
    """
    log = {name: part_of(column, part, layout) for name, column in log.items()}
    for name in ("history", "history_weights"):
        if name in log:
            log[name] = log[name][:, -max_history:] if max_history else log[name][:, :0]
    candidates = log["candidates"]
    articles, shown, read, kept = articles_of(candidates.flat_values, log["history"], layout)
    wide, long = (layout.fixed.candidates, max_history) if layout.fixed else (None, None)
    batch = {
        "history": read.to_tensor(shape=(None, long)),  # [batch, longest history]
        "candidates": candidates.with_flat_values(shown).to_tensor(shape=(None, wide)),
        "labels": log["labels"].to_tensor(shape=(None, wide)),
        "mask": tf.sequence_mask(candidates.row_lengths(), wide),
        "counters": log["counters"].to_tensor(shape=(None, wide, len(COUNTERS))),
        "impression": log["impression"],
    }
    if "history_weights" in log:
        weights = log["history_weights"]
        weights = weights if kept is None else tf.ragged.boolean_mask(weights, kept)
        batch["history_weights"] = weights.to_tensor(1.0, shape=(None, long))
        batch["label_weights"] = log["label_weights"].to_tensor(1.0, shape=(None, wide))
    for name in of_candidates(log):
        if name not in batch:
            batch[name] = log[name].to_tensor(shape=(None, wide, *log[name].shape[2:]))
    if layout.fixed is not None:
        batch = {name: tf.ensure_shape(value, [size, *value.shape[1:]]) for name, value in batch.items()}
    return {"articles": articles, **batch}


def draw_negatives(labels: tf.RaggedTensor, click: tf.Tensor, draw: tf.Tensor, negatives: int) -> tf.Tensor:
    """Draws candidates that were shown and not clicked, without replacement if there are enough.

    Args:
        labels: float32 [B, None]; at least one zero in each row.
        click: int64 [B], the position of the row's click.
        draw: int64 [2], random seed.
        negatives: k.

    Returns:
        int64 [B, 1 + k], positions among the candidates: the click, then the negatives.
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


def rows_to_learn(log: ImpressionColumns) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The rows of an epoch if negatives are drawn: each click beside which something was not clicked.

    Args:
        log: n impressions.

    Returns:
        int32 [rows], number of the impression; int32 [rows], place of the click among its candidates.
    """
    rows, clicks = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    begin = 0
    for block in log.blocks("candidates", "labels"):
        row_of = block.row_of_candidate
        clicked = np.bincount(row_of, block.labels, len(block))
        at = np.flatnonzero(block.labels & (clicked < np.diff(block.candidate_ends))[row_of])
        rows.append((begin + row_of[at]).astype(np.int32))
        clicks.append((at - block.candidate_ends[row_of[at]]).astype(np.int32))
        begin += len(block)
    return np.concatenate(rows), np.concatenate(clicks)


def _at(learned: tuple[npt.NDArray[np.int32], ...], places: Ints) -> list[Ints]:
    return [each[places].astype(np.int64) for each in learned]


def _check_rows(rows: int, impressions: int, least: int) -> None:
    if not rows:
        raise InputError(
            f"{impressions} impressions hold nothing to learn from: give clicked and unclicked articles"
        )
    if rows < least:
        raise InputError(
            f"{rows} rows are less than one batch of {least}, and with fixed shapes a partial batch is left "
            "out: give a smaller --batch-size"
        )


def _ragged(dense: tf.Tensor) -> tf.RaggedTensor:
    return RaggedTensor.from_tensor(dense, ragged_rank=1)
