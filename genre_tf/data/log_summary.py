"""What the manifest says of a prepared log, added up example by example in any order."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from genre_tf.data.examples import ImpressionExample
from genre_tf.data.manifest import SPLITS
from genre_tf.errors import InputError


@dataclass(frozen=True)
class SplitSummary:
    """What is in one split; the fields stand in the manifest in this order.

    Args:
        impressions: examples.
        candidates: shown articles of all of them.
        clicks: clicked ones.
        first_hours: time of the oldest, in hours since 1970; None without any.
        last_hours: time of the newest.
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
        """The summary of everything that several summaries know."""
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
    """What is in a whole log.

    Args:
        splits: by name; a split without examples may be missing.
        signals: whether it tells what readers did beyond clicking.
    """

    splits: Mapping[str, SplitSummary]
    signals: bool = False

    def as_values(self) -> dict[str, dict[str, Any]]:
        """The splits as plain values for the manifest."""
        return {name: asdict(self.splits.get(name, SplitSummary())) for name in SPLITS}


def require_labels(labelled: bool, folder: Any) -> None:
    """Refuses a log without clicks.

    Args:
        labelled: whether the log tells what was clicked.
        folder: of the split, for the message.

    Raises:
        InputError: it does not.
    """
    if not labelled:
        raise InputError(f"the log of {folder} has no clicks to learn from; give N1-0 N2-1 labels")


def require_training(impressions: int, to_train_on: int, validation_share: float) -> None:
    """Refuses a log that is too small to split.

    Args:
        impressions: of the whole log.
        to_train_on: those that validation leaves.
        validation_share: what was asked for.

    Raises:
        InputError: validation leaves none.
    """
    if not to_train_on:
        raise InputError(
            f"{impressions} impressions leave none to train on beside a validation share of "
            f"{validation_share}; give a longer log or a smaller share"
        )
