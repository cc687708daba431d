"""The results of a training as a table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from genre_tf.training.progress import FitResult


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
