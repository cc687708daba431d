"""`genre train`: fine-tunes the stages into a run folder."""

import dataclasses
import importlib.util
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from genre_tf.cli.console import print_json, progress, results
from genre_tf.cli.train_options import (
    AccumulateOption,
    BatchArticlesOption,
    ContrastOption,
    ExecutionOption,
    FixedShapesOption,
    FromOption,
    MarginOption,
    NewsBackboneOption,
    Objective,
    ObjectiveOption,
    Optimizer,
    Precision,
    PrecisionOption,
    ProfileOption,
    RecallOption,
    ReplayOption,
    Stage,
    StepsOption,
    Strategy,
    StrategyOption,
    TeacherOption,
    TpuOption,
    TrainableOption,
    WandbOption,
    WriterBackboneOption,
    WriterTrainableOption,
)
from genre_tf.cli.training_table import quality_table, training_table
from genre_tf.config import RunConfig, read_config, with_optimizer
from genre_tf.errors import InputError

STAGES = ("retrieval", "ranking", "generation")


def train(
    stage: Annotated[Stage, typer.Argument(help="Stage to train; all: the first three in this order.")],
    data: Annotated[Path, typer.Option(help="Data set folder (MIND's files in train/); for safety a TSV.")],
    run: Annotated[Path, typer.Option(help="Run folder to write, or to add a stage to.")],
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; options override it.")] = None,
    news_backbone: NewsBackboneOption = None,
    writer_backbone: WriterBackboneOption = None,
    writer_trainable: WriterTrainableOption = None,
    contrast: ContrastOption = None,
    precision: PrecisionOption = None,
    trainable: TrainableOption = None,
    objective: ObjectiveOption = None,
    teacher: TeacherOption = None,
    recall: RecallOption = None,
    from_run: FromOption = None,
    replay: ReplayOption = None,
    margin: MarginOption = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Optimizer of the stages trained now.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="Peak learning rate.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Batch size of the stages trained now.")
    ] = None,
    accumulate: AccumulateOption = None,
    steps_per_execution: ExecutionOption = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Maximum epochs; patience may stop earlier.")
    ] = None,
    steps: StepsOption = None,
    max_bad_rows: Annotated[int | None, typer.Option(min=0, help="Faulty rows that may be skipped.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of order, draws and new weights.")] = None,
    strategy: StrategyOption = Strategy.auto,
    tpu: TpuOption = None,
    fixed_shapes: FixedShapesOption = False,
    batch_articles: BatchArticlesOption = None,
    wandb: WandbOption = None,
    profile: ProfileOption = None,
    again: Annotated[bool, typer.Option("--again", help="Train again what is already trained.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Results as JSON, for programs.")] = False,
) -> None:
    """Fine-tune on clicks: two-tower retrieval, ranker, generator; or train the safety classifier.

    After an interruption, even SIGKILL, repeat the command to continue. With --from, an earlier run and a
    later log become a new run, which is refused if it forgets more than --margin.

    Example: genre train all --data mind --run runs/mind
    """
    stages = STAGES if stage is Stage.all else (stage.value,)
    changed: dict[str, dict[str, Any]] = {
        "": {"seed": seed},
        "news": {"backbone": news_backbone, "trainable": trainable, "precision": precision},
        "data": {"max_bad_rows": max_bad_rows},
        "ranking": ranking_options(objective, teacher),
        "generation": writer_options(writer_backbone, writer_trainable, contrast, precision),
        "safety": {"recall": recall},
        "continual": continual_options(from_run, replay, margin),
    }
    of_optimizer: dict[str, Any] = {"optimizer": optimizer, "learning_rate": learning_rate}
    of_optimizer |= {"batch_size": batch_size, "accumulate": accumulate}
    of_optimizer |= {"steps_per_execution": steps_per_execution}
    if epochs is not None:  # also where an earlier command or a default has limited the steps
        of_optimizer |= {"epochs": epochs, "steps": 0, "most_steps": 0}
    settings = with_options(settings_of(run, config, from_run), changed)
    settings = with_optimizers(settings, stages, given(of_optimizer))
    for name, count in steps_by_stage(steps or (), stages).items():
        settings = with_optimizers(settings, (name,), {"steps": count})
    check_given(stage, data, settings.continual.from_run, (replay, margin))
    devices = (strategy.value, tpu, fixed_shapes, batch_articles)
    _train(stages, data, run, settings, again, json, devices, observers_of(stage, wandb, profile))


def ranking_options(objective: Objective | None, teacher: Path | None) -> dict[str, Any]:
    """Objective and teacher of the ranker; None if not given."""
    return {
        "objective": objective,
        "teacher": str(teacher.resolve()) if teacher else None,
    }


def writer_options(
    backbone: str | None, trainable: str | None, contrast: float | None, precision: Precision | None
) -> dict[str, Any]:
    """Settings of the generator; None if not given."""
    return {"backbone": backbone, "trainable": trainable, "contrast": contrast, "precision": precision}


def with_options(settings: RunConfig, changed: dict[str, dict[str, Any]]) -> RunConfig:
    """The settings with the given options of each section; "" is the top level."""
    for part, options in changed.items():
        if part:
            options = {part: dataclasses.replace(getattr(settings, part), **given(options))}
        settings = dataclasses.replace(settings, **given(options))
    return settings


def with_optimizers(settings: RunConfig, stages: Sequence[str], changed: dict[str, Any]) -> RunConfig:
    """The settings with changed optimizer settings for each of the stages."""
    for name in set(stages) - {Stage.safety.value}:
        settings = dataclasses.replace(settings, **{name: with_optimizer(getattr(settings, name), changed)})
    return settings


def steps_by_stage(texts: Sequence[str], stages: Sequence[str]) -> dict[str, int]:
    """Number of steps of each stage, from the values of `--steps`.

    Args:
        texts: each a number for all stages, or STAGE=NUMBER, or several of these with commas between.
        stages: the stages that are trained now.

    Raises:
        InputError: no such stage, a stage that is not trained now, or not a number of at least 1.
    """
    for_all: dict[str, int] = {}
    named: dict[str, int] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        stage, equals, number = part.rpartition("=")
        if not re.fullmatch(r"[0-9]{1,9}", number.strip()) or int(number) < 1:
            raise InputError(
                f"--steps must be a number of at least 1, or STAGE=NUMBER with one of {', '.join(STAGES)}; "
                f"got {part!r}"
            )
        if not equals:
            for_all = dict.fromkeys(stages, int(number))
        elif stage.strip() in stages:
            named[stage.strip()] = int(number)
        else:
            raise InputError(f"--steps {part}: this command trains {', '.join(stages)}; give one of these")
    return for_all | named


def _train(
    stages: tuple[str, ...],
    data: Path,
    run: Path,
    settings: RunConfig,
    again: bool,
    json: bool,
    devices: tuple[str, str | None, bool, int | None],
    observers: dict[str, Any],
) -> None:
    from genre_tf.cli.tensorflow_notes import load_tensorflow

    # Several workers can only be joined before TensorFlow initialises devices.
    load_tensorflow(look_for_devices=devices[0] != Strategy.multiworker.value)
    if stages == (Stage.safety.value,):
        from genre_tf.cli.train_safety import train_safety_stage

        train_safety_stage(data, run, settings, json)
        return
    from genre_tf.training.distribution import make_strategy
    from genre_tf.training.observers import Observers
    from genre_tf.training.progress import comparison
    from genre_tf.training.quality import evaluated
    from genre_tf.training.run_folder import train as train_stages

    distribution = make_strategy(*devices)
    if distribution.worker:
        # All workers end with the same weights. The chief's files are the result; the others must not write
        # to them.
        run = run / f"worker-{distribution.worker}"

    def say(line: str) -> None:
        progress.print(line, markup=False, soft_wrap=True)

    if distribution.replicas > 1:
        say(f"{distribution.replicas} replicas share each batch")
    # Only the chief logs: the other workers would log the same numbers.
    told = Observers() if distribution.worker else Observers(**observers)
    found = train_stages(stages, data, run, settings, say, distribution, again, told, estimate=True)
    if json:
        print_json({name: result.as_dict() for name, result in found.items()})
        return
    results.print(training_table(found))
    measured = [each for result in found.values() for each in result.quality]
    results.print("\non held-out data, beside the best simple rule:", markup=False)
    results.print(quality_table([*measured, *evaluated(run)]))
    for line in comparison(found):
        results.print(line, markup=False, soft_wrap=True)
    results.print(f"{run}: next: genre evaluate {run} --data {data}", markup=False)


def settings_of(run: Path, config: Path | None, from_run: Path | None = None) -> RunConfig:
    """Settings to start from: the file's, else the run's, else the earlier run's, else the defaults."""
    if config is not None:
        return read_config(config)
    for folder in (run, from_run):
        if folder is not None and (folder / "config.toml").is_file():
            return read_config(folder / "config.toml")
    if from_run is not None:
        raise InputError(f"--from {from_run} is not a run folder: give one that `genre train` wrote")
    return RunConfig()


def continual_options(from_run: Path | None, replay: float | None, margin: float | None) -> dict[str, Any]:
    """Settings of a training that continues from a run; None if not given."""
    # Absolute: the new run's settings keep it, and later commands may run in another folder.
    start = None if from_run is None else str(from_run.resolve())
    return {"from_run": start, "replay_share": replay, "margin": margin}


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, enum members by their value."""
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in options.items()
        if value is not None
    }


def check_given(stage: Stage, data: Path, from_run: str, of_from: tuple[float | None, ...]) -> None:
    """Refuse options that do not go together and wrong paths before TensorFlow is loaded."""
    if not from_run and any(value is not None for value in of_from):
        raise InputError("--replay and --margin need --from: give the run to continue from")
    if stage is not Stage.safety:
        check_data(data)
    elif not data.is_file():
        raise InputError(f"{data} is not a file: give labelled texts, with a label and a tab before each")


def observers_of(stage: Stage, wandb: str | None, profile: str | None) -> dict[str, Any]:
    """Settings of Weights & Biases and of profiling, checked before TensorFlow is loaded."""
    if stage is Stage.safety and (wandb or profile):
        raise InputError(
            "--wandb and --profile are for stages that train in steps, which safety does not: leave them out"
        )
    if wandb and importlib.util.find_spec("wandb") is None:
        raise InputError("--wandb needs the package wandb: pip install 'genre-tf[wandb]'")
    if profile is None:
        return {"wandb": wandb}
    found = re.fullmatch(r"(\d{1,9})-(\d{1,9})", profile.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--profile must be FIRST-LAST, such as 20-25; got {profile!r}")
    return {"wandb": wandb, "profile": (int(found[1]), int(found[2]))}


def check_data(data: Path) -> None:
    """Refuse a wrong path, the most common mistake, before TensorFlow is loaded."""
    if not (data / "train").is_dir():
        from genre_tf.data.mind import inner_splits

        advice = (data.is_dir() and inner_splits(data)) or "give the folder of a MIND-format data set"
        raise InputError(f"{data} holds no train folder: {advice}")
