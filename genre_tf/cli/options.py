"""Groups of options that verbs share; those that change settings are made from the config classes."""

import dataclasses
import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import typer

from genre_tf.config import OptimizerConfig, RunConfig, Strategy, with_optimizer
from genre_tf.errors import InputError
from genre_tf.settings import range_of

if TYPE_CHECKING:
    from genre_tf.data.beam.runners import Runner

Run = Annotated[Path, typer.Argument(help="Run folder that `genre train` wrote.")]
Models = Annotated[Path, typer.Argument(help="Folder that `genre export` wrote.")]
DataSet = Annotated[Path, typer.Option("--data", help="Folder of a MIND-format data set.")]
TrainingData = Annotated[
    Path, typer.Option("--data", help="Data set folder, with MIND's two files in its train/.")
]
Settings = Annotated[
    Path | None, typer.Option("--config", help="TOML file of settings; options override it.")
]
MaxBadRows = Annotated[int, typer.Option(help="Faulty rows that may be skipped in each file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Again = Annotated[bool, typer.Option("--again", help="Train again what is already trained.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")]
StrategyOption = Annotated[
    Strategy,
    typer.Option(
        help="one (device), mirrored (all GPUs), multiworker (TF_CONFIG) or tpu; auto: what is available."
    ),
]
TpuOption = Annotated[
    str | None, typer.Option(help="Name or grpc:// address of the TPU; default: TPU_NAME, or this machine's.")
]
FixedShapesOption = Annotated[
    bool, typer.Option("--fixed-shapes", help="Use fixed (TPU-style) batch shapes and XLA on any device.")
]
RunnerName = Annotated[
    str | None,
    typer.Option(
        "--runner",
        help="Beam runner: DirectRunner (this machine), DataflowRunner, FlinkRunner or SparkRunner; needs "
        "genre-tf\\[beam]. If not given, this process does the work.",
    ),
]
RunnerOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--runner-option",
        metavar="NAME=VALUE",
        help="Option for Beam's PipelineOptions; repeatable. Give temp_location=URL if the workers cannot "
        "read this machine's files.",
    ),
]


def beam_runner(name: str | None, options: list[str] | None) -> "Runner | None":
    """The chosen runner; None: this process does the work."""
    from genre_tf.data.beam.runners import Runner

    if name is not None:
        return Runner(name, tuple(options or ()))
    if options:
        raise InputError(f"--runner-option {options[0]} was given without --runner; name a runner too")
    return None


class Option(NamedTuple):
    """An option of a group: what Typer reads, and the default."""

    annotation: Any
    default: Any = None

    @classmethod
    def may_be(cls, kind: Any, help: str) -> "Option":
        """One that is None if it is not given."""
        return cls(Annotated[kind | None, typer.Option(help=help)])


@dataclass(frozen=True)
class Setting:
    """Fields of the settings that are offered as one option.

    Attributes:
        places: SECTION.NAME of each, with spaces between; "optimizer.NAME" belongs to the stages trained now,
            NAME alone to the whole run. The first gives type, choices and range of the option.
        help: what the option does.
        flag: its name, if it is not that of the verb's parameter.
        least: least value, if it is not that of the settings.
        is_path: a folder; made absolute, because later commands may run in another one.
    """

    places: str
    help: str
    flag: str = ""
    least: float | None = None
    is_path: bool = False
    default: ClassVar[None] = None

    @property
    def annotation(self) -> Any:
        """What Typer reads: the type of the field, or None for an option that is not given."""
        section, _, name = self.places.split()[0].rpartition(".")
        of_run = typing.get_type_hints(RunConfig)
        settings = of_run.get(section, OptimizerConfig) if section else RunConfig
        kind: Any = Path if self.is_path else typing.get_type_hints(settings)[name]
        least, most = range_of(settings, name)
        option = typer.Option(
            *filter(None, [self.flag]),
            help=self.help,
            min=self.least if self.least is not None else least if math.isfinite(least) else None,
            max=most if math.isfinite(most) else None,
        )
        return Annotated[kind | None, option]


_TRAINABLE = (
    "none, 'last N' layers or all; or small additions, 'lora RANK', 'adalora RANK', 'adapters WIDTH' or "
    "'prefix VECTORS', also in the last layers only: 'lora 8 last 2'"
)
_NEWS_BACKBONE = Setting(
    "news.backbone", "BERT of the news tower: hf://ORG/NAME, preset, folder, package:NAME/SUB."
)
_PACE = {
    "accumulate": Setting("optimizer.accumulate", "Batches averaged into one step."),
    "steps_per_execution": Setting(
        "optimizer.steps_per_execution", "Steps per call of the compiled function, for TPU and GPU."
    ),
    "epochs": Setting("optimizer.epochs", "Maximum epochs; patience may stop earlier."),
}
_RUN = {
    "max_bad_rows": Setting("data.max_bad_rows", "Faulty rows that may be skipped."),
    "seed": Setting("seed", "Seed of order, draws and new weights."),
}
TRAIN: Mapping[str, Setting] = {
    "news_backbone": _NEWS_BACKBONE,
    "writer_backbone": Setting(
        "generation.backbone",
        "GPT-2 or Llama of the generator, named likewise or a GGUF file; new: a small GPT-2 from scratch. "
        "Default: auto, SmolLM2 if it is installed, else new.",
    ),
    "writer_trainable": Setting(
        "generation.trainable",
        f"Trained part of the generator's backbone: {_TRAINABLE}. Default: 'lora 16', of a new GPT-2 all.",
    ),
    "precision": Setting(
        "news.precision generation.precision",
        "Precision of the trained backbone layers; weights and later layers stay float32.",
    ),
    "trainable": Setting(
        "news.trainable",
        f"Trained part of the news backbone: {_TRAINABLE}.",
    ),
    "objective": Setting(
        "ranking.objective",
        "Objective of the ranker: each click independently, a softmax over the shown articles, or both.",
    ),
    "teacher": Setting(
        "ranking.teacher",
        "Run folder whose ranker is a teacher; the new ranker learns from it and from clicks.",
        is_path=True,
    ),
    "recall": Setting("safety.recall", "Safety only: share of unsafe texts to catch (default: 0.9)."),
    "from_run": Setting(
        "continual.from_run",
        "Run to continue from with a later log; it is not changed.",
        flag="--from",
        is_path=True,
    ),
    "replay": Setting(
        "continual.replay_share", "With --from: share of training examples drawn from the earlier run."
    ),
    "margin": Setting(
        "continual.margin", "With --from: allowed loss on older days, in AUC (0.01) or perplexity (1 %)."
    ),
    "optimizer": Setting("optimizer.optimizer", "Optimizer of the stages trained now."),
    "learning_rate": Setting("optimizer.learning_rate", "Peak learning rate."),
    "batch_size": Setting("optimizer.batch_size", "Batch size of the stages trained now."),
    **_PACE,
    **_RUN,
}
PRETRAIN: Mapping[str, Setting] = {
    "backbone": Setting(
        "pretrain.backbone",
        "Checkpoint to adapt: hf://ORG/NAME, preset, folder or package:NAME/SUB; or new, with a vocabulary "
        "learned from the data. Default: new for gpt2, the default BERT for bert.",
    ),
    "vocabulary_size": Setting("pretrain.vocabulary_size", "Vocabulary size (new models only).", least=257),
    "layers": Setting("pretrain.layers", "Number of layers (new models only)."),
    "hidden": Setting("pretrain.hidden", "Hidden width (new models only)."),
    "heads": Setting("pretrain.heads", "Attention heads (new models only)."),
    "max_tokens": Setting("pretrain.max_tokens", "Tokens of a packed row; positions of a new model."),
    "dropout": Setting("pretrain.dropout", "Dropout rate."),
    "precision": Setting("pretrain.precision", "Precision of matrix products."),
    "optimizer": Setting("optimizer.optimizer", "Optimizer."),
    "learning_rate": Setting("optimizer.learning_rate pretrain.checkpoint_rate", "Peak learning rate."),
    "batch_size": Setting("optimizer.batch_size", "Packed rows per batch."),
    **_PACE,
    "steps": Setting("optimizer.steps", "Number of steps, instead of epochs.", least=1),
    **_RUN,
}
TUNE: Mapping[str, Setting] = {
    "news_backbone": _NEWS_BACKBONE,
    "steps": Setting("optimizer.steps", "Steps of each trial.", least=1),
}


def offered(settings: type) -> dict[str, Option]:
    """The fields of a settings class, whose annotations are those of options, as a group."""
    hints = typing.get_type_hints(settings, include_extras=True)
    return {each.name: Option(hints[each.name], each.default) for each in dataclasses.fields(settings)}


def takes(**groups: Mapping[str, Setting | Option]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb groups of options, each in the place of the parameter with its name.

    The verb gets a dictionary of the values of a group.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
        for each in inspect.signature(verb).parameters.values():
            options = groups.get(each.name)
            if options is None:
                parameters.append(each.replace(kind=plain))
                continue
            parameters += [
                inspect.Parameter(name, plain, default=option.default, annotation=option.annotation)
                for name, option in options.items()
            ]
        signature = inspect.Signature(parameters)

        @functools.wraps(verb)
        def run(*arguments: Any, **named: Any) -> None:
            given = signature.bind(*arguments, **named)
            given.apply_defaults()
            values = given.arguments
            values |= {
                name: {option: values.pop(option) for option in group} for name, group in groups.items()
            }
            verb(**values)

        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def changed(
    settings: RunConfig, offered: Mapping[str, Setting], given: Mapping[str, Any], stages: Sequence[str]
) -> RunConfig:
    """The settings with the options that were given (not None), for the optimizers of these stages."""
    of_optimizer: dict[str, Any] = {}
    for option, value in given.items():
        if value is None:
            continue
        for place in offered[option].places.split():
            section, _, name = place.rpartition(".")
            change: dict[str, Any] = {name: str(value.resolve()) if isinstance(value, Path) else value}
            if section == "optimizer":
                of_optimizer |= change
                continue
            if section:
                change = {section: dataclasses.replace(getattr(settings, section), **change)}
            settings = dataclasses.replace(settings, **change)
    if "epochs" in of_optimizer:  # also where an earlier command or a default has limited the steps
        of_optimizer = {"steps": 0, "most_steps": 0} | of_optimizer
    return with_optimizers(settings, stages, of_optimizer)


def with_optimizers(settings: RunConfig, stages: Sequence[str], change: Mapping[str, Any]) -> RunConfig:
    """The settings with changed optimizer settings for each of the stages that has any."""
    for name in stages:
        if name != "safety":
            settings = dataclasses.replace(
                settings, **{name: with_optimizer(getattr(settings, name), change)}
            )
    return settings
