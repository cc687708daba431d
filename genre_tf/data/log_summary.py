"""The summary of a prepared log in the manifest, added up example by example in any order."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from genre_tf.data.examples import ImpressionExample
from genre_tf.data.manifest import SPLITS
from genre_tf.errors import InputError


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split; the manifest has the fields in this order.

    Args:
        impressions: examples.
        candidates: shown articles of all of them.
        clicks: clicked ones.
        first_hours: time of the oldest impression, in hours since 1970; None if there is none.
        last_hours: time of the newest impression.
    """

    impressions: int = 0
    candidates: int = 0
    clicks: int = 0
    first_hours: float | None = None
    last_hours: float | None = None

    @classmethod
    def of(cls, example: ImpressionExample) -> Self:
        """The summary of one example."""
        time = example.time_hours
        return cls(1, len(example.candidates), int(example.labels.sum()), time, time)

    @classmethod
    def merged(cls, summaries: Iterable["SplitSummary"]) -> Self:
        """The sum of several summaries."""
        impressions = candidates = clicks = 0
        first: float | None = None
        last: float | None = None
        for one in summaries:
            impressions += one.impressions
            candidates += one.candidates
            clicks += one.clicks
            if one.first_hours is not None and one.last_hours is not None:
                first = one.first_hours if first is None else min(first, one.first_hours)
                last = one.last_hours if last is None else max(last, one.last_hours)
        return cls(impressions, candidates, clicks, first, last)


@dataclass(frozen=True)
class LogSummary:
    """Summary of a whole log.

    Args:
        splits: by name; a split without examples may be missing.
        signals: whether the log has signals.
    """

    splits: Mapping[str, SplitSummary]
    signals: bool = False

    def as_values(self) -> dict[str, dict[str, Any]]:
        """The splits as plain values for the manifest."""
        return {name: asdict(self.splits.get(name, SplitSummary())) for name in SPLITS}


def require_labels(labelled: bool, folder: Any) -> None:
    """Refuses a log without clicks.

    Args:
        labelled: whether the log has labels.
        folder: folder of the split, for the message.

    Raises:
        InputError: it has none.
    """
    if not labelled:
        raise InputError(
            f"the log of {folder} has no clicks to learn from; label its articles, as in N1-0 N2-1"
        )


def require_clicks(summary: LogSummary, folder: Any) -> None:
    """Refuses a log whose training part has no click.

    Args:
        summary: what was written.
        folder: folder of the split, for the message.

    Raises:
        InputError: nothing was clicked.
    """
    train = summary.splits.get(SPLITS[0], SplitSummary())
    if not train.clicks:
        raise InputError(
            f"none of the {train.impressions} impressions of {folder} to train on has a click (as in N1-1), "
            "so there is nothing to learn; give a log with clicks"
        )


def require_training(impressions: int, to_train_on: int, validation_share: float) -> None:
    """Refuses a log that is too small to split.

    Args:
        impressions: number of impressions of the whole log.
        to_train_on: number of impressions that are left for training.
        validation_share: the requested share.

    Raises:
        InputError: none is left for training.
    """
    if not to_train_on:
        raise InputError(
            f"a validation share of {validation_share} leaves none of the {impressions} impressions to train "
            "on; give a longer log or a smaller share"
        )
