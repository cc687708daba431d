"""The results of a training as tables: what it took, and how much of what it achieved may be chance."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from genre_tf.training.progress import FitResult
    from genre_tf.training.quality import Quality

_NAMES = {"auc": "AUC", "pool_ndcg": "pool nDCG", "recall@10": "pool recall@10"}


def training_table(found: "Mapping[str, FitResult]") -> Table:
    """A row for each stage.

    Args:
        found: results by stage.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("validation")
    for column in ("before", "best", "at step", "of", "trained", "seconds", "peak GB"):
        table.add_column(column, justify="right")
    for stage, result in found.items():
        table.add_row(
            stage,
            result.metric,
            f"{result.before:.4f}",
            f"{result.best:.4f}",
            f"{result.best_step:,}",
            f"{result.steps:,}" + (" (stopped early)" if result.stopped_early else ""),
            f"{result.trainable_parameters:,}",
            f"{result.seconds:.0f}",
            f"{result.peak_memory_gb:.1f}",
        )
    return table


def quality_table(found: "Iterable[Quality]") -> Table:
    """A row for each metric of a model and each data set that it was measured on, those of a metric together.

    Args:
        found: the measurements.
    """
    rows = list(found)
    kinds = list(dict.fromkeys((each.model, each.metric) for each in rows))
    rows.sort(key=lambda each: kinds.index((each.model, each.metric)))
    table = Table(box=None, pad_edge=False)
    for column in ("model", "metric", "measured on", "value [95 %]", "best baseline", "gain [95 %]", ""):
        table.add_column(column)
    for each in rows:
        percents = each.metric == "perplexity"
        value = _number(each.value, percents)
        if each.low is not None and each.high is not None:
            value += f" [{_number(each.low, percents)}, {_number(each.high, percents)}]"
        best = "" if each.baseline is None else f"{each.baseline} {_number(each.baseline_value, percents)}"
        table.add_row(
            each.model,
            _NAMES.get(each.metric, each.metric),
            each.measured_on,
            value,
            best,
            _gain(each, percents),
            each.verdict,
        )
    return table


def _number(value: float | None, perplexity: bool) -> str:
    return "" if value is None else f"{value:.1f}" if perplexity else f"{value:.3f}"


def _gain(each: "Quality", perplexity: bool) -> str:
    ends = [each.gain, each.gain_low, each.gain_high]
    shown = [] if None in ends else [f"{end:+.1%}" if perplexity else f"{end:+.3f}" for end in ends]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if shown else ""
