"""Small trainings in a process of their own: `python train_in_process.py DATA RUNS CPUS STAGES STRATEGY...`.

Prints the curves (losses and validation) of each strategy as a line of JSON.
"""

import json
import sys
from pathlib import Path

import tensorflow as tf

import genre_tf  # noqa: F401  (before TensorFlow's Keras is touched)
from genre_tf.config import (
    DataConfig,
    GenerationConfig,
    NewsConfig,
    OptimizerConfig,
    RankingConfig,
    RetrievalConfig,
    RunConfig,
)
from genre_tf.training.distribution import make_strategy
from genre_tf.training.learner import Pace
from genre_tf.training.run_folder import train

# Graphs of a few steps: to optimize them takes a third of the time of the test.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
STEPS = 30  # the scalars of every tenth step are logged


def optimizer(name: str, rate: float, batch_size: int, **more: int) -> OptimizerConfig:
    # The norm is clipped at every step, since that is where replicas differ if it is done too early.
    return OptimizerConfig(
        optimizer=name,
        learning_rate=rate,
        batch_size=batch_size,
        steps=STEPS,
        clip_norm=0.05,
        validate_every=STEPS // 2,
        **more,
    )


# Batches of 7 do not fall into equal parts, and the last of an epoch is smaller still.
CONFIG = RunConfig(
    data=DataConfig(max_history=4, validation_share=0.2),
    news=NewsConfig(backbone="tiny", trainable="last 1", max_title_tokens=12, dropout=0.0),
    retrieval=RetrievalConfig(heads=2, negatives=2, optimizer=optimizer("sgd", 0.5, 7)),
    ranking=RankingConfig(optimizer=optimizer("adamw", 0.01, 7, accumulate=2, steps_per_execution=4)),
    # No dropout: two devices drop other words than one.
    generation=GenerationConfig(
        backbone="new",
        vocabulary_size=300,
        layers=1,
        heads=2,
        hidden=16,
        max_tokens=64,
        dropout=0.0,
        shown_readers=0,
        optimizer=optimizer("sgd", 0.5, 5),
    ),
)


def curves(logs: Path) -> dict[str, list[float]]:
    """Every scalar of a stage's TensorBoard logs but those of time, in the order of steps."""
    found: dict[str, list[float]] = {}
    for part in ("train", "validation"):
        for file in sorted((logs / part).glob("events.*")):
            for record in tf.data.TFRecordDataset(str(file)):
                for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
                    name = value.tag.split("/")[-1]
                    scalar = value.metadata.plugin_data.plugin_name == "scalars"
                    if scalar and name not in Pace().scalars:
                        found.setdefault(f"{part} {name}", []).append(float(tf.make_ndarray(value.tensor)))
    return found


def main(data: str, runs: str, cpus: str, stages: str, *strategies: str) -> None:
    devices = [tf.config.LogicalDeviceConfiguration()] * int(cpus)
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    for strategy in strategies:
        distribution = make_strategy(strategy)
        run = Path(runs) / strategy
        train(stages.split(","), Path(data), run, CONFIG, lambda _: None, distribution)
        found = {stage: curves(run / "logs" / stage) for stage in stages.split(",")}
        print(json.dumps({"replicas": distribution.replicas, **found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
