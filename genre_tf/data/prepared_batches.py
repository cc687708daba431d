"""Batches straight from the shards of a prepared folder, for logs that do not fit into memory."""

from pathlib import Path

import tensorflow as tf

from genre_tf.data.batch_layout import WHOLE, BatchLayout
from genre_tf.data.batches import (
    Batch,
    assemble_batch,
    check_full_batch,
    choose_candidates,
    numbered_batches,
)
from genre_tf.data.manifest import shard_paths
from genre_tf.data.serialization import parse_columns
from genre_tf.errors import InputError

SHUFFLED_ROWS = 20_000
"""Rows among which the next is drawn; at about 1 kB each this costs 20 MB."""

READ_TOGETHER = 256
"""Records parsed in one op: enough to make the cost per record small."""


def prepared_batches(
    folder: Path,
    split: str,
    *,
    batch_size: int,
    max_history: int = 50,
    negatives: int | None = None,
    seed: int | None = None,
    shuffle: bool = False,
    repeat: bool = False,
    drop_remainder: bool = False,
    layout: BatchLayout = WHOLE,
) -> tf.data.Dataset:
    """As `impression_batches`, but read from disk while training goes on.

    Args:
        folder: what `genre prepare` wrote.
        split: `train` or `validation`.
        batch_size: B; see `impression_batches`, as for the arguments below.
        max_history: the newest clicks that are kept; no more than the folder was prepared with.
        negatives: None, or how many per click.
        seed: of the order and of the draw.
        shuffle: shards in another order each epoch, and each row drawn from the next 20,000; otherwise shard
            by shard.
        repeat: without end.
        drop_remainder: leaves out a last batch that is not full.
        layout: parts of each batch and fixed shapes.

    Returns:
        A dataset of the same dicts as `impression_batches`.

    Raises:
        InputError: not a prepared folder, no such split in it, nothing in it to make a batch of, or not one
            full batch of a fixed shape.
    """
    paths = [str(path) for path in shard_paths(folder, split)]
    files = tf.data.Dataset.from_tensor_slices(paths)
    if shuffle:
        files = files.shuffle(len(paths), seed=seed)
    records = files.flat_map(tf.data.TFRecordDataset)
    to_rows = _one_row_per_impression if negatives is None else _one_row_per_click
    rows = records.batch(READ_TOGETHER).map(to_rows).unbatch()
    _check_rows(rows, batch_size if layout.fixed else 1, f"{folder} ({split})")
    if shuffle:
        rows = rows.shuffle(SHUFFLED_ROWS, seed=seed)

    size = layout.rows(batch_size)

    def assemble(row: tuple[tf.Tensor, tf.Tensor], draw: tf.Tensor, part: tf.Tensor) -> Batch:
        picked, clicks = row
        log = parse_columns(picked, ("impression", "history", "candidates", "labels", "counters"))
        log = choose_candidates(log, clicks, draw, negatives, layout)
        return assemble_batch(log, part, max_history, layout, size)

    return numbered_batches(rows, assemble, batch_size, seed, repeat, drop_remainder, layout=layout)


def _check_rows(rows: tf.data.Dataset, least: int, where: str) -> None:
    """Reads on until there are enough: repeated without end, no batch is an obscure error of TensorFlow's."""
    found = int(rows.take(least).reduce(0, lambda count, *_: count + 1))
    if not found:
        raise InputError(f"{where} holds nothing to learn from: clicked and not clicked articles needed")
    check_full_batch(found, least)


def _one_row_per_impression(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return records, tf.fill(tf.shape(records), tf.constant(-1, tf.int64))


def _one_row_per_click(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    labels = parse_columns(records, ("labels",))["labels"].to_tensor(
        default_value=-1.0
    )  # [records, candidates]
    usable = tf.reduce_any(labels == 0.0, axis=1, keepdims=True)
    places = tf.where((labels == 1.0) & usable)  # [clicks, 2]: record, candidate
    return tf.gather(records, places[:, 0]), places[:, 1]
