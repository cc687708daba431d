"""What observes a training: TensorBoard, Weights & Biases, a trace of some steps. Nothing here changes it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar

from genre_tf.config import read_config

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

    Every tag begins with the stage's name; TensorBoard groups by it. Weights & Biases get the same scalars.
    """

    def __init__(self, logs: Path, stage: str, beside: "WeightsAndBiases | None" = None) -> None:
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
    """The charts of a stage with these validation metrics: title -> related tags."""
    charts: dict[str, list[str]] = {"loss": ["loss"]}
    for name in metrics:
        title = next((label for part, label in (("auc", "AUC"), ("ndcg", "nDCG")) if part in name), name)
        charts.setdefault(title, []).append(name)
    charts |= {title: list(names) for title, names in _OF_TRAINING.items()}
    return {title: [f"{stage}/{name}" for name in dict.fromkeys(names)] for title, names in charts.items()}


def write_layout(categories: Mapping[str, Mapping[str, Iterable[str]]]) -> None:
    """Write charts for TensorBoard's Custom Scalars (category -> chart -> its tags) to the default writer."""

    def exactly(tag: str) -> str:
        """A regular expression for this tag alone; TensorBoard would match all that begin with it."""
        return "".join(sign if sign.isalnum() or sign in "_/-" else f"\\{sign}" for sign in tag) + "$"

    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=title,
                chart=[
                    layout_pb2.Chart(
                        title=chart, multiline=layout_pb2.MultilineChartContent(tag=map(exactly, tags))
                    )
                    for chart, tags in charts.items()
                ],
            )
            for title, charts in categories.items()
        ]
    )
    tf.summary.experimental.write_raw_pb(custom_scalar.pb(layout).SerializeToString(), step=0)


class WeightsAndBiases:
    """One stage as one run, in a group named after the run folder.

    With `WANDB_MODE=offline` it stays on this machine, in `RUN/logs/wandb`; `wandb sync` uploads it later.

    A resumed stage continues the run that an earlier process began.
    """

    def __init__(self, project: str, run: Path, stage: str, resumed: bool) -> None:
        import wandb  # optional, and takes a second

        name, id_file = run.resolve().name, run / stage / "wandb.txt"
        known = id_file.read_text("utf-8").strip() if resumed and id_file.is_file() else None
        settings = run / "config.toml"
        (run / "logs").mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project,
            group=name,
            name=f"{name} {stage}",
            job_type=stage,
            id=known,
            resume="allow" if known else None,
            dir=str(run / "logs"),
            config=asdict(read_config(settings)) if settings.is_file() else {},
            reinit="finish_previous",
            settings=wandb.Settings(console="off"),
        )
        id_file.write_text(f"{self._run.id}\n", "utf-8")

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """Log scalars of a step, under `train/` or `validation/`."""
        self._run.log({f"{part}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Send or write what is left."""
        self._run.finish()


@dataclass(frozen=True, kw_only=True)
class Observers:
    """The observers of a training."""

    wandb: str | None = None  # Weights & Biases project, in which each stage becomes one run; None: not used
    profile: tuple[int, int] | None = None  # first and last step to trace for TensorBoard's Profile tab


class StepTrace:
    """Traces the steps of a range; a call of several steps that overlaps the range is traced whole.

    Steps are counted from 1; None: no trace. The first steps of a process also build its graph: later ones
    are more informative.
    """

    def __init__(self, logs: Path, steps: tuple[int, int] | None) -> None:
        self.logs, self.steps, self.running = logs, steps, False

    def before(self, first: int, last: int) -> None:
        """Start the trace if the next steps overlap the range."""
        if self.steps is None or self.running or first > self.steps[1] or last < self.steps[0]:
            return
        tf.profiler.experimental.start(str(self.logs))
        self.running = True

    def after(self, step: int) -> None:
        """Stop and write the trace after the last step of the range."""
        if self.steps is not None and step >= self.steps[1]:
            self.close()

    def close(self) -> None:
        """Stop and write a trace that is still running."""
        if self.running:
            self.running = False
            tf.profiler.experimental.stop()
