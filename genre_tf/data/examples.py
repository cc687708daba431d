"""Training and evaluation examples: impressions as article rows, with the counters of their moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from genre_tf.config import SignalsConfig
from genre_tf.data.articles import ArticleTable, Impression, Split
from genre_tf.data.counters import Counters, impression_counters
from genre_tf.data.signals import DEFAULTS, click_weights

WEIGHTS = {"history_weights": "history", "label_weights": "labels"}
"""Further columns of examples of a log with signals, and the column that each one weights."""

_EPOCH = datetime(1970, 1, 1)


@dataclass(eq=False, slots=True)
class ImpressionExample:
    """One impression, ready for a batch.

    Args:
        impression: row number of the impression in its split.
        user_id: the reader.
        time_hours: hours since 1970 on the log's own clock.
        history: int32 [h], rows of the newest known clicks, oldest first; empty for a new reader.
        candidates: int32 [c], rows; 0 if the table does not know the article.
        labels: float32 [c], 1 for a click; zeros for a log without labels.
        counters: float32 [c, 9], in the order of `COUNTERS`.
        history_weights: float32 [h], how much each click of the history counts, 1 if no signals are known;
            None: 1 everywhere, as in a log without signals.
        label_weights: float32 [c], the same for the clicked candidates, 1 for all others; None likewise.
    """

    impression: int
    user_id: str
    time_hours: float
    history: npt.NDArray[np.int32]
    candidates: npt.NDArray[np.int32]
    labels: npt.NDArray[np.float32]
    counters: npt.NDArray[np.float32]
    history_weights: npt.NDArray[np.float32] | None = None
    label_weights: npt.NDArray[np.float32] | None = None


def build_example(
    number: int,
    impression: Impression,
    table: ArticleTable,
    counters: npt.NDArray[np.float32],
    max_history: int,
    signals: SignalsConfig = DEFAULTS,
) -> ImpressionExample:
    """Turns one impression into an example; depends on nothing but its arguments.

    Args:
        number: row number of the impression in its split.
        impression: the impression.
        table: gives the articles' rows.
        counters: float32 [c, 9], as of just before the impression.
        max_history: the newest clicks that are kept.
        signals: how dwell time, comments and shares become weights.

    Returns:
        The example.
    """
    history = table.rows(impression.history)
    known = np.flatnonzero(history > 0)
    # Never a plain [-max_history:], which for 0 would keep everything.
    kept = known[max(0, len(known) - max_history) :]
    labels = np.asarray(impression.clicked or [False] * len(impression.candidates), np.float32)
    of_history = of_labels = None
    if impression.signals is not None:
        of_history = click_weights(impression.history, impression.signals, signals)[kept]
        of_candidates = click_weights(impression.candidates, impression.signals, signals)
        of_labels = np.where(labels > 0, of_candidates, np.float32(1))
    return ImpressionExample(
        impression=number,
        user_id=impression.user_id,
        time_hours=(impression.time - _EPOCH).total_seconds() / 3600,
        history=history[kept],
        candidates=table.rows(impression.candidates),
        labels=labels,
        counters=counters,
        history_weights=of_history,
        label_weights=of_labels,
    )


def build_examples(
    split: Split, table: ArticleTable, counters: Counters, max_history: int = 50
) -> list[ImpressionExample]:
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
    known = impression_counters(split.impressions, counters)
    return [
        build_example(number, impression, table, known[number], max_history)
        for number, impression in enumerate(split.impressions)
    ]


def split_by_time(
    examples: Sequence[ImpressionExample], validation_share: float
) -> tuple[list[ImpressionExample], list[ImpressionExample]]:
    """Sets the newest examples aside for validation.

    Args:
        examples: in any order.
        validation_share: share of the examples, newest by time; at least 0 and below 1.

    Returns:
        Training and validation examples, each in the given order. Examples of one moment stay together
        (on the validation side), so that no validation example is as old as a training example.
    """
    first = first_of_validation([round(example.time_hours * 3600) for example in examples], validation_share)
    if first is None:
        return list(examples), []
    return (
        [example for example in examples if round(example.time_hours * 3600) < first],
        [example for example in examples if round(example.time_hours * 3600) >= first],
    )


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
