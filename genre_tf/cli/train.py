"""`genre train` and `genre tune`: fine-tune the stages into a run folder, and search hyper-parameters."""

import dataclasses
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from genre_tf.cli.console import load_tensorflow, print_json, results, say
from genre_tf.cli.options import (
    TRAIN,
    TUNE,
    Again,
    FixedShapesOption,
    Json,
    Settings,
    StrategyOption,
    TpuOption,
    TrainingData,
    changed,
    takes,
    with_optimizers,
)
from genre_tf.config import RunConfig, read_config
from genre_tf.errors import InputError

if TYPE_CHECKING:
    from genre_tf.training.progress import FitResult
    from genre_tf.training.quality import Quality

STAGES = ("retrieval", "ranking", "generation")
Stage = Literal["retrieval", "ranking", "generation", "preference", "all", "safety"]
TunedStage = Literal["retrieval", "ranking", "generation"]
StepsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--steps",
        metavar="[STAGE=]N",
        help="Number of steps, instead of epochs; or by stage: retrieval=200,generation=1000 (repeatable).",
    ),
]
WandbOption = Annotated[
    str | None,
    typer.Option(
        "--wandb",
        metavar="PROJECT",
        help="Also log scalars to this Weights & Biases project; WANDB_MODE=offline keeps them here.",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="FIRST-LAST",
        help="Trace these steps of each stage, such as 20-25, for TensorBoard's Profile tab.",
    ),
]


@takes(given=TRAIN)
def train(
    stage: Annotated[Stage, typer.Argument(help="Stage to train; all: the first three in this order.")],
    data: Annotated[Path, typer.Option(help="Data set folder (MIND's files in train/); for safety a TSV.")],
    run: Annotated[Path, typer.Option(help="Run folder to write, or to add a stage to.")],
    config: Settings = None,
    *,
    given: dict[str, Any],
    steps: StepsOption = None,
    strategy: StrategyOption = "auto",
    tpu: TpuOption = None,
    fixed_shapes: FixedShapesOption = False,
    batch_articles: Annotated[
        int | None,
        typer.Option(min=1, help="Articles per batch of fixed shape; oldest clicks beyond are left out."),
    ] = None,
    wandb: WandbOption = None,
    profile: ProfileOption = None,
    again: Again = False,
    json: Json = False,
) -> None:
    """Fine-tune on clicks: two-tower retrieval, ranker, generator; or train the safety classifier.

    After generation, preference teaches the writer which of its own texts interest a reader more than others.

    After an interruption, even SIGKILL, repeat the command to continue. With --from, an earlier run and a
    later log become a new run, which is refused if it forgets more than --margin.

    Example: genre train all --data mind --run runs/mind
    """
    stages = STAGES if stage == "all" else (stage,)
    settings = changed(settings_of(run, config, given["from_run"]), TRAIN, given, stages)
    for name, count in steps_by_stage(steps or (), stages).items():
        settings = with_optimizers(settings, (name,), {"steps": count})
    if not settings.continual.from_run and (given["replay"], given["margin"]) != (None, None):
        raise InputError("--replay and --margin need --from: give the run to continue from")
    if stage != "safety":
        check_data(data)
    elif not data.is_file():
        raise InputError(f"{data} is not a file: give labelled texts, with a label and a tab before each")
    observers = observers_of(stage, wandb, profile)
    # Several workers can only be joined before TensorFlow initialises devices.
    load_tensorflow(look_for_devices=strategy != "multiworker")
    if stage == "safety":
        _train_safety(data, run, settings, json)
        return
    from genre_tf.training.distribution import make_strategy
    from genre_tf.training.observers import Observers
    from genre_tf.training.quality import evaluated
    from genre_tf.training.run_folder import train as train_stages

    distribution = make_strategy(strategy, tpu, fixed_shapes, batch_articles)
    if distribution.worker:
        # All workers end with the same weights. The chief's files are the result; the others must not write
        # to them, and need not log the same numbers.
        run, observers = run / f"worker-{distribution.worker}", {}
    if distribution.replicas > 1:
        say(f"{distribution.replicas} replicas share each batch")
    told = Observers(**observers)
    found = train_stages(stages, data, run, settings, say, distribution, again, told, estimate=True)
    if {"generation", "preference"} & found.keys() and not distribution.worker:
        _say_quality(run)
    if json:
        print_json({name: dataclasses.asdict(result) for name, result in found.items()})
        return
    results.print(training_table(found))
    measured = [each for result in found.values() for each in result.quality]
    results.print("\non held-out data, beside the best simple rule:")
    results.print(quality_table([*measured, *evaluated(run)]))
    results.print(f"{run}: next: genre evaluate {run} --data {data}")


def _say_quality(run: Path) -> None:
    """Report the quality of the run's writer, which an export would refuse below the floor."""
    from genre_tf.evaluation.writer_gate import checked_writer
    from genre_tf.models.checkpoint import WEIGHTS_FILE, load_generator, load_two_tower

    if not (run / "retrieval" / WEIGHTS_FILE).is_file():
        return  # whose news encoder tells the topic: the export measures the writer
    settings = read_config(run / "config.toml")
    checked = checked_writer(run, settings, load_generator(run), lambda: load_two_tower(run).news, say)
    for line in checked.lines() if checked else ():
        say(line)
    if checked and checked.failed:
        say("genre export refuses this writer, unless --allow-poor-writer is given")


def steps_by_stage(texts: Sequence[str], stages: Sequence[str]) -> dict[str, int]:
    """Number of steps of each of the stages, from the values of `--steps`, which may hold commas."""
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


def observers_of(stage: Stage, wandb: str | None, profile: str | None) -> dict[str, Any]:
    """Settings of Weights & Biases and of profiling, checked before TensorFlow is loaded."""
    if stage == "safety" and (wandb or profile):
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


def _train_safety(file: Path, run: Path, settings: RunConfig, json: bool) -> None:
    from genre_tf.training.safety import train_safety

    found = train_safety(
        file,
        run,
        recall=settings.safety.recall,
        seed=settings.seed,
        max_bad_rows=settings.data.max_bad_rows,
        report=say,
    )
    if json:
        print_json(found)
        return
    precision = "undefined" if found["precision"] is None else f"{found['precision']:.3f}"
    results.print(
        f"safety: AUC {found['auc']:.3f}, precision {precision}, recall {found['recall']:.3f} (target "
        f"{found['asked_recall']}) on {found['measured']} texts, {found['unsafe_measured']} of them unsafe"
    )
    results.print(f"next: genre export {run} MODELS")


@takes(given=TUNE)
def tune(
    stage: Annotated[TunedStage, typer.Argument(help="What to tune: retrieval, ranking or generation.")],
    data: TrainingData,
    run: Annotated[Path, typer.Option(help="Run folder; its tuning/ keeps the trials.")],
    search: Annotated[
        str, typer.Option(help="Comma-separated hyper-parameters; an unknown name lists the known ones.")
    ] = "learning_rate,batch_size",
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, earlier ones included.")] = 10,
    config: Settings = None,
    *,
    given: dict[str, Any],
    json: Json = False,
) -> None:
    """Search hyper-parameters by Bayesian optimisation, judged on the newest training days.

    After an interruption, repeat the command to continue. TensorBoard shows the trials under HParams.

    Example: genre tune ranking --data mind --run runs/mind --search learning_rate,dropout --trials 20
    """
    settings = changed(settings_of(run, config), TUNE, given, (stage,))
    check_data(data)
    load_tensorflow()
    from genre_tf.training.tuning import tune as search_settings

    names = [name.strip() for name in search.split(",") if name.strip()]
    found = search_settings(stage, data, run, settings, names, trials, say)
    if json:
        print_json({**dataclasses.asdict(found), "file": str(found.file)})
        return
    for trial in found.trials:
        shown = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in trial["settings"].items()
        )
        results.print(f"{found.metric} {trial['value']:.4f}  trial {trial['trial']}: {shown}")
    results.print(f"best settings: {found.file}; train with --config and another --run")


_NAMES = {"auc": "AUC", "pool_ndcg": "pool nDCG", "recall@10": "pool recall@10"}


def training_table(found: "Mapping[str, FitResult]") -> Table:
    """A row for each stage, and below it what weights that continue a run do on that run's held-out log."""
    table = Table("stage", "validation", box=None, pad_edge=False)
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
        if result.older_before is not None:
            numbers = (f"{result.older_before:.4f}", f"{result.older_after:.4f}")
            table.add_row("earlier log", result.metric, *numbers)
    return table


def quality_table(found: "Iterable[Quality]") -> Table:
    """A row for each metric of a model and each data set; those of a metric stand together."""
    rows = list(found)
    kinds = list(dict.fromkeys((each.model, each.metric) for each in rows))
    rows.sort(key=lambda each: kinds.index((each.model, each.metric)))
    columns = ("model", "metric", "measured on", "value [95 %]", "best baseline", "gain [95 %]", "")
    table = Table(*columns, box=None, pad_edge=False)
    for each in rows:
        is_perplexity = each.metric == "perplexity"
        form, of_gain = ("{:.1f}", "{:+.1%}") if is_perplexity else ("{:.3f}", "{:+.3f}")
        value = form.format(each.value)
        if each.low is not None and each.high is not None:
            value += f" [{form.format(each.low)}, {form.format(each.high)}]"
        best = "" if each.baseline_value is None else form.format(each.baseline_value)
        ends = (each.gain, each.gain_low, each.gain_high)
        gain = "" if None in ends else "{} [{}, {}]".format(*map(of_gain.format, ends))
        table.add_row(
            each.model,
            _NAMES.get(each.metric, each.metric),
            each.measured_on,
            value,
            f"{each.baseline or ''} {best}".strip(),
            gain,
            each.verdict,
        )
    return table
