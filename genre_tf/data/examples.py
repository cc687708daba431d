"""Impressions of a log as columns of article rows, and their split by time."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from genre_tf.config import SignalsConfig
from genre_tf.data.articles import ArticleTable, Impression, Split
from genre_tf.data.columns import Block, Floats, ImpressionColumns, ImpressionExample, Ints, Rows, ends_of
from genre_tf.data.counters import COUNTERS, Counters, epoch_seconds, impression_counters
from genre_tf.data.signals import DEFAULTS, click_weights


def block_of(
    impressions: Sequence[Impression],
    table: ArticleTable,
    max_history: int,
    counters: Floats | None = None,
    *,
    first: int = 0,
    signals: SignalsConfig = DEFAULTS,
) -> Block:
    """Turns impressions into columns; depends on nothing but its arguments.

    Args:
        impressions: consecutive rows of a log; all with signals or all without.
        table: gives the articles' rows.
        max_history: the newest known clicks that are kept of each history.
        counters: float32 [candidates of all, 9], as of just before each impression; None: zeros.
        first: row number of the first impression.
        signals: how dwell time, comments and shares become weights.
    """
    reads, shows = [row.history for row in impressions], [row.candidates for row in impressions]
    history_ends, candidate_ends = (ends_of([len(ids) for ids in each]) for each in (reads, shows))
    history = table.rows(list(chain.from_iterable(reads)))
    kept, kept_ends = newest_known(history, history_ends, max_history)
    clicked = [row.clicked or (False,) * len(row.candidates) for row in impressions]
    labels = np.fromiter(chain.from_iterable(clicked), np.uint8, int(candidate_ends[-1]))
    of_history = of_labels = None
    if impressions and impressions[0].signals is not None:
        of_history, of_labels = (_weights(impressions, ids, signals) for ids in (reads, shows))
        of_history, of_labels = of_history[kept], np.where(labels > 0, of_labels, np.float32(1))
    return Block(
        impression=np.arange(first, first + len(impressions)),
        seconds=np.array([epoch_seconds(row.time) for row in impressions], np.int64),
        user_id=[row.user_id for row in impressions],
        history_ends=kept_ends,
        history=history[kept],
        candidate_ends=candidate_ends,
        candidates=table.rows(list(chain.from_iterable(shows))),
        labels=labels,
        counters=np.zeros((len(labels), len(COUNTERS)), np.float32) if counters is None else counters,
        history_weights=of_history,
        label_weights=of_labels,
    )


def newest_known(rows: Rows, ends: Ints, most: int) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Which clicks of some histories are kept: the newest `most` whose article is known.

    Args:
        rows: int32 [h], article rows, 0 if unknown, oldest first in each history.
        ends: int64 [n + 1], where each history begins, and where the last one ends.
        most: clicks of each history.

    Returns:
        bool [h]; and the ends of what is kept, int64 [n + 1].
    """
    known = np.concatenate([[0], np.cumsum(rows > 0)])  # before each click
    newer = np.repeat(known[ends[1:]], np.diff(ends)) - known[1:]
    kept = (rows > 0) & (newer < most)
    return kept, np.concatenate([[0], np.cumsum(kept)])[ends]


def build_examples(
    split: Split, table: ArticleTable, counters: Counters, max_history: int = 50
) -> ImpressionColumns:
    """Turns a split's log into examples.

    Args:
        split: the log.
        table: gives the articles' rows; usually built from this split and others.
        counters: counters before the log; afterwards they include the whole log, and the publishing times of
            the table's articles.
        max_history: the newest clicks that are kept of each history.

    Returns:
        One example per impression, in the order of the log, readers without history included.

    Raises:
        InputError: the counters include events that are not earlier than the log.
    """
    counters.publish(table.articles)
    known = np.concatenate(
        [np.zeros((0, len(COUNTERS)), np.float32), *impression_counters(split.impressions, counters)]
    )
    return ImpressionColumns([block_of(split.impressions, table, max_history, known)])


def split_by_time(
    examples: Sequence[ImpressionExample], validation_share: float
) -> tuple[ImpressionColumns, ImpressionColumns]:
    """Sets the newest examples aside for validation.

    Args:
        examples: in any order.
        validation_share: share of the examples, newest by time; at least 0 and below 1.

    Returns:
        Training and validation examples, each in the given order. Examples of one moment stay together
        (on the validation side), so that no validation example is as old as a training example.
    """
    columns = ImpressionColumns.of(examples)
    first = first_of_validation(columns.seconds, validation_share)
    older = np.full(len(columns), True) if first is None else columns.seconds < first
    return columns[older], columns[~older]


def first_of_validation(
    seconds: Sequence[int] | npt.NDArray[np.int64], validation_share: float
) -> int | None:
    """The moment at which validation begins.

    Args:
        seconds: times of all impressions, in any order.
        validation_share: share of them, newest by time.

    Returns:
        Time of the oldest impression of validation, in seconds; None if nothing is held out.
    """
    held_out = validation_size(len(seconds), validation_share)
    rank = len(seconds) - held_out
    return int(np.partition(np.asarray(seconds, np.int64), rank)[rank]) if held_out else None


def validation_size(impressions: int, validation_share: float) -> int:
    """Number of impressions to hold out, without others at the same time as the oldest of them."""
    return round(impressions * validation_share)


def _weights(
    impressions: Sequence[Impression], ids: Sequence[Sequence[str]], signals: SignalsConfig
) -> Floats:
    found = [
        click_weights(of_row, row.signals or (), signals)
        for row, of_row in zip(impressions, ids, strict=True)
    ]
    return np.concatenate(found)
