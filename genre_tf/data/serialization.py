"""Articles and examples as records of TFRecord files, and back.

The records depend only on the object, so every runner writes the same bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.data.articles import TEXT_FIELDS, Article
from genre_tf.data.counters import COUNTERS, epoch_seconds, epoch_time
from genre_tf.data.examples import WEIGHTS, ImpressionExample
from genre_tf.data.manifest import damaged

READ_TOGETHER = 1024
"""Records handed from TensorFlow to Python at once; one by one takes many times as long."""

_FLOATS = ("labels", "counters", *WEIGHTS)


def article_record(article: Article) -> bytes:
    """Serializes an article; equal articles give equal bytes."""
    features: dict[str, list[Any]] = {name: [getattr(article, name).encode()] for name in TEXT_FIELDS}
    # Left out if unknown: articles without them give the same bytes as in older versions.
    if article.published is not None:
        features["published_seconds"] = [epoch_seconds(article.published)]
    if article.withdrawn:
        features["withdrawn"] = [1]
    return _serialized(features)


def parse_article(record: bytes) -> Article:
    """Reads what `article_record` wrote."""
    feature = tf.train.Example.FromString(record).features.feature
    texts: dict[str, Any] = {name: feature[name].bytes_list.value[0].decode() for name in TEXT_FIELDS}
    published = None
    if "published_seconds" in feature:
        published = epoch_time(feature["published_seconds"].int64_list.value[0])
    return Article(**texts, published=published, withdrawn="withdrawn" in feature)


def example_record(example: ImpressionExample) -> bytes:
    """Serializes an example; equal examples give equal bytes."""
    features = {
        "impression": [example.impression],
        "user_id": [example.user_id.encode()],
        # Seconds: a 32-bit float of hours since 1970 would be off by minutes.
        "time_seconds": [round(example.time_hours * 3600)],
        "history": example.history.tolist(),
        "candidates": example.candidates.tolist(),
        "labels": example.labels.tolist(),
        "counters": example.counters.ravel().tolist(),  # [candidates * 9]
    }
    for name in WEIGHTS:
        weights = getattr(example, name)
        if weights is not None:
            features[name] = weights.tolist()
    return _serialized(features)


def parse_example(record: bytes) -> ImpressionExample:
    """Reads what `example_record` wrote."""
    feature = tf.train.Example.FromString(record).features.feature
    return ImpressionExample(
        impression=feature["impression"].int64_list.value[0],
        user_id=feature["user_id"].bytes_list.value[0].decode(),
        time_hours=feature["time_seconds"].int64_list.value[0] / 3600,
        history=np.asarray(feature["history"].int64_list.value, np.int32),
        candidates=np.asarray(feature["candidates"].int64_list.value, np.int32),
        labels=np.asarray(feature["labels"].float_list.value, np.float32),
        counters=np.asarray(feature["counters"].float_list.value, np.float32).reshape(
            -1, len(COUNTERS)
        ),  # [candidates, 9]
        **{
            name: np.asarray(feature[name].float_list.value, np.float32)
            for name in WEIGHTS
            if name in feature
        },
    )


def parse_columns(records: tf.Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Reads columns of many examples inside the graph.

    Args:
        records: string [n], as `example_record` wrote them.
        names: some of `impression`, `history`, `candidates`, `labels`, `counters` (needs `candidates`) and,
            if the log has signals, `history_weights`, `label_weights`.

    Returns:
        impression int64 [n]; history, candidates int32 [n, None]; labels float32 [n, None];
        counters float32 [n, None, 9]; weights float32 [n, None].
    """
    kinds = {name: tf.float32 if name in _FLOATS else tf.int64 for name in names}
    columns: dict[str, Any] = tf.io.parse_example(
        records, {name: tf.io.RaggedFeature(kind, row_splits_dtype=tf.int64) for name, kind in kinds.items()}
    )
    for name in {"history", "candidates"} & columns.keys():
        columns[name] = tf.cast(columns[name], tf.int32)
    if "impression" in columns:
        columns["impression"] = columns["impression"].flat_values
    if "counters" in columns:
        values = tf.reshape(columns["counters"].flat_values, (-1, len(COUNTERS)))  # [candidates of all, 9]
        columns["counters"] = columns["candidates"].with_flat_values(values)
    return columns


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Writes a TFRecord file.

    Args:
        path: the file.
        records: written in this order.

    Raises:
        OSError: the file cannot be written.
    """
    with record_writer(path) as write:
        for record in records:
            write(record)


@contextmanager
def record_writer(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Opens a TFRecord file for writing; gives a function that takes a record.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            yield writer.write
    except tf.errors.OpError as error:
        raise OSError(error.message) from None


def read_records(path: Path) -> Iterator[bytes]:
    """Reads the records of a TFRecord file.

    Args:
        path: the file.

    Raises:
        InputError: it is missing or damaged.
    """
    dataset: Any = tf.data.TFRecordDataset(str(path)).batch(READ_TOGETHER)
    try:
        for records in dataset.as_numpy_iterator():
            yield from records
    except (tf.errors.DataLossError, tf.errors.NotFoundError):
        raise damaged(path) from None


def _serialized(features: dict[str, list[Any]]) -> bytes:
    example = tf.train.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        if name in _FLOATS:
            feature.float_list.value.extend(values)
        elif values and isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    # The order of a protobuf map is otherwise free to differ from run to run.
    record: bytes = example.SerializeToString(deterministic=True)
    return record
