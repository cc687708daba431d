"""Batches of impressions that hold every article once, so that an article is encoded once per step.

After reading, all work is done by TensorFlow (no Python per batch), so that it runs in parallel with
training.
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
from genre_tf.data.counters import COUNTERS
from genre_tf.data.examples import WEIGHTS, ImpressionExample
from genre_tf.errors import InputError

Batch = dict[str, tf.Tensor]
Log = dict[str, Any]
"""Ragged columns of impressions: history int32 [n, None], candidates int32 [n, None],
labels float32 [n, None], counters float32 [n, None, 9], impression int64 [n]; for a log with signals also
history_weights float32 [n, None], label_weights float32 [n, None]."""

Columns = Mapping[str, Sequence[npt.NDArray[np.float32]]]
"""Further columns of the candidates, by name: for every example float32 [c, ...]."""

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
    """Batches of examples held in memory, shuffled over all of them.

    Args:
        examples: impressions with at least one candidate.
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
        start: number of batches to skip at the beginning, at almost no cost; used to resume training.
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
    log = _columns(examples, columns or {}, weighted)
    rows, clicks = map(tf.constant, _rows_of(examples, negatives, batch_size if layout.fixed else 1))
    order = tf.data.Dataset.range(len(rows))
    order = order.shuffle(len(rows), seed=seed) if shuffle else order

    def assemble(picked: tf.Tensor, draw: tf.Tensor, part: tf.Tensor) -> Batch:
        chosen = {name: tf.gather(column, tf.gather(rows, picked)) for name, column in log.items()}
        chosen = choose_candidates(chosen, tf.gather(clicks, picked), draw, negatives, layout)
        return assemble_batch(chosen, part, max_history, layout, layout.rows(batch_size))

    return numbered_batches(order, assemble, batch_size, seed, repeat, drop_remainder, start, layout)


def numbered_batches(
    rows: tf.data.Dataset,
    assemble: Any,
    batch_size: int,
    seed: int | None,
    repeat: bool,
    drop_remainder: bool,
    start: int = 0,
    layout: BatchLayout = WHOLE,
) -> tf.data.Dataset:
    """Groups rows into batches, and gives each batch its own random seed to draw negatives with.

    Args:
        rows: the rows in the order of one epoch.
        assemble: (columns of the rows..., int64 [2] random seed, int64 [] part) -> batch.
        batch_size: rows of a batch.
        seed: random seed of these seeds.
        repeat: repeat without end.
        drop_remainder: leaves out a last batch that is not full.
        start: number of the first batch that is made.
        layout: the parts of each batch, one after another; a fixed shape drops the remainder.

    Returns:
        The dataset, prefetching.
    """
    rows = rows.batch(batch_size, drop_remainder=drop_remainder or layout.fixed is not None)
    draws = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2, drop_remainder=True)
    batches = tf.data.Dataset.zip(rows, draws)
    if repeat:
        batches = batches.repeat()
    # AutoGraph would rewrite every called function, although there is nothing to convert.
    plain = tf.autograph.experimental.do_not_convert(assemble)
    batches = cut_batches(batches.skip(start), layout).map(
        plain, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    if repeat:  # `cut_batches` hides it; otherwise a strategy asks all workers at each step if data is left
        batches = batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return batches.prefetch(tf.data.AUTOTUNE)


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


def _columns(examples: Sequence[ImpressionExample], more: Columns, weighted: bool) -> Log:
    def ragged(name: str, kind: type, inner: tuple[int, ...] = ()) -> tf.RaggedTensor:
        parts = more[name] if name in more else [_values(example, name) for example in examples]
        lengths = np.asarray([len(part) for part in parts], np.int64)
        values = np.concatenate([np.zeros((0, *inner), kind), *parts])
        return RaggedTensor.from_row_lengths(values, lengths, validate=False)

    signals = weighted and any(example.label_weights is not None for example in examples)
    return {
        "history": ragged("history", np.int32),
        "candidates": ragged("candidates", np.int32),
        "labels": ragged("labels", np.float32),
        "counters": ragged("counters", np.float32, (len(COUNTERS),)),
        "impression": tf.constant([example.impression for example in examples], tf.int64),
        **{name: ragged(name, np.float32) for name in (WEIGHTS if signals else ())},
        **{name: ragged(name, np.float32, parts[0].shape[1:]) for name, parts in more.items()},
    }


def _values(example: ImpressionExample, name: str) -> Any:
    values = getattr(example, name)
    if values is None:  # an example without signals, in a batch with others that have them
        return np.ones(len(getattr(example, WEIGHTS[name])), np.float32)
    return values


def _rows_of(
    examples: Sequence[ImpressionExample], negatives: int | None, least: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """The example of each row, and the position of its click (-1 if all candidates are kept)."""
    pairs = [
        (number, click)
        for number, example in enumerate(examples)
        if negatives is None or not example.labels.all()
        for click in ([-1] if negatives is None else np.flatnonzero(example.labels))
    ]
    if not pairs:
        raise InputError(
            f"{len(examples)} impressions hold nothing to learn from: give clicked and unclicked articles"
        )
    check_full_batch(len(pairs), least)
    rows, clicks = np.asarray(pairs, np.int64).reshape(-1, 2).T
    return rows, clicks


def check_full_batch(rows: int, least: int) -> None:
    """Check that the rows fill one batch, as a partial batch is left out.

    Raises:
        InputError: they are too few.
    """
    if rows < least:
        raise InputError(
            f"{rows} rows are less than one batch of {least}, and with fixed shapes a partial batch is left "
            "out: give a smaller --batch-size"
        )


def _ragged(dense: tf.Tensor) -> tf.RaggedTensor:
    return RaggedTensor.from_tensor(dense, ragged_rank=1)
