"""TensorBoard logs of a training: scalars grouped by stage, charts, and histograms of weights."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar

from genre_tf.training.observers import ScalarLog

PARTS = ("train", "validation")

_MOST_VALUES = 20_000
"""Values per histogram: enough to show the shape; all values of a large embedding would cost a step."""

_OF_TRAINING = {
    "learning rate": ("learning_rate",),
    "gradient norm before clipping": ("gradient_norm",),
    "examples per second": ("examples_per_second",),
    "input wait, ms per step": ("input_wait_ms",),
    "memory, GB": ("memory_gb",),
}


class StageBoard:
    """TensorBoard logs of one stage: one run for training and one for validation, with the same tags.

    Args:
        logs: folder of the stage's logs.
        stage: its name; every tag begins with it, and TensorBoard groups by it.
        beside: receives the same scalars; closed together with the logs.
    """

    def __init__(self, logs: Path, stage: str, beside: ScalarLog | None = None) -> None:
        self.stage, self.beside = stage, beside
        self.writers = {part: tf.summary.create_file_writer(str(logs / part)) for part in PARTS}
        self.charted = False

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a step; the first validation also defines the charts."""
        with self.writers[part].as_default(step=step):
            if part == "validation" and not self.charted:
                write_layout({f"Training: {self.stage}": stage_charts(self.stage, values)})
                self.charted = True
            for name, value in values.items():
                tf.summary.scalar(f"{self.stage}/{name}", value)
        self.writers[part].flush()
        if self.beside is not None:
            self.beside.scalars(part, step, values)

    def texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Write Markdown texts by name, for the validation at this step."""
        with self.writers["validation"].as_default(step=step):
            for name, text in texts.items():
                tf.summary.text(f"{self.stage}/{name}", text)

    def weights(self, step: int, weights: Iterable[Any]) -> None:
        """Write a histogram of each weight; a very large weight is sampled evenly."""
        with self.writers["train"].as_default(step=step):
            for weight in weights:
                values = keras.ops.convert_to_numpy(weight).reshape(-1)
                picked = values[:: math.ceil(len(values) / _MOST_VALUES) or 1]
                tf.summary.histogram(f"{self.stage}_weights/{weight.path}", picked)

    def close(self) -> None:
        """Close the logs."""
        for writer in self.writers.values():
            writer.close()
        if self.beside is not None:
            self.beside.close()


def stage_charts(stage: str, metrics: Iterable[str]) -> dict[str, list[str]]:
    """The charts of a stage: related tags in one chart, for training and validation.

    Args:
        stage: its name.
        metrics: names of its validation metrics.

    Returns:
        Title -> tags.
    """
    charts: dict[str, list[str]] = {"loss": ["loss"]}
    for name in metrics:
        title = next((label for part, label in (("auc", "AUC"), ("ndcg", "nDCG")) if part in name), name)
        charts.setdefault(title, []).append(name)
    charts |= {title: list(names) for title, names in _OF_TRAINING.items()}
    return {title: [f"{stage}/{name}" for name in dict.fromkeys(names)] for title, names in charts.items()}


def write_layout(categories: Mapping[str, Mapping[str, Iterable[str]]]) -> None:
    """Write charts for TensorBoard's Custom Scalars, to the default writer.

    Args:
        categories: category title -> chart title -> its tags.
    """
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=title,
                chart=[
                    layout_pb2.Chart(
                        title=chart, multiline=layout_pb2.MultilineChartContent(tag=map(_exactly, tags))
                    )
                    for chart, tags in charts.items()
                ],
            )
            for title, charts in categories.items()
        ]
    )
    tf.summary.experimental.write_raw_pb(custom_scalar.pb(layout).SerializeToString(), step=0)


def _exactly(tag: str) -> str:
    """A regular expression for exactly this tag; TensorBoard would match every tag that begins with it."""
    return "".join(sign if sign.isalnum() or sign in "_/-" else f"\\{sign}" for sign in tag) + "$"
