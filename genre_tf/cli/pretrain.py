"""`genre pretrain`: a language model adapted to unlabelled article text."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from genre_tf.cli.console import print_json, progress, results
from genre_tf.cli.train import given, with_optimizers, with_options
from genre_tf.cli.train_options import (
    AccumulateOption,
    ExecutionOption,
    FixedShapesOption,
    Optimizer,
    Precision,
    Strategy,
    StrategyOption,
    TpuOption,
)
from genre_tf.config import RunConfig, read_config
from genre_tf.environment import prefer_onednn
from genre_tf.errors import InputError


class Model(str, Enum):  # noqa: UP042  (typer shows the value of a plain string enum)
    """What to pretrain."""

    gpt2 = "gpt2"
    bert = "bert"


BackboneOption = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint to adapt: hf://ORG/NAME, preset, folder or package:NAME/SUB; or new, with a "
        "vocabulary learned from the data. Default: new for gpt2, the default BERT for bert."
    ),
]
SplitOption = Annotated[
    list[str] | None,
    typer.Option("--split", help="Split whose articles are learned (default: train); repeatable."),
]
EvaluateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--evaluate", metavar="DIR:SPLIT", help="Also measure the unseen articles of this split; repeatable."
    ),
]


def pretrain(
    model: Annotated[
        Model, typer.Argument(help="gpt2 learns to predict the next token; bert, masked words.")
    ],
    data: Annotated[Path, typer.Option(help="Data set folder in MIND's format.")],
    out: Annotated[Path, typer.Option(help="Hugging Face folder to write.")],
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; options override it.")] = None,
    split: SplitOption = None,
    evaluate: EvaluateOption = None,
    backbone: BackboneOption = None,
    vocabulary_size: Annotated[
        int | None, typer.Option(min=257, help="Vocabulary size (new models only).")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Number of layers (new models only).")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Hidden width (new models only).")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads (new models only).")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=8, help="Tokens of a packed row; positions of a new model.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(min=0.0, max=0.9, help="Dropout rate.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="Precision of matrix products.")] = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Optimizer.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="Peak learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Packed rows per batch.")] = None,
    accumulate: AccumulateOption = None,
    steps_per_execution: ExecutionOption = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Maximum epochs; patience may stop earlier.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps, instead of epochs.")] = None,
    max_bad_rows: Annotated[int | None, typer.Option(min=0, help="Faulty rows that may be skipped.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of order, draws and new weights.")] = None,
    strategy: StrategyOption = Strategy.auto,
    tpu: TpuOption = None,
    fixed_shapes: FixedShapesOption = False,
    again: Annotated[bool, typer.Option("--again", help="Train again what is already trained.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The report as JSON, for programs.")] = False,
) -> None:
    """Train a language model on article text alone: GPT-2 (causal) or BERT (masked words).

    The model learns titles and abstracts; articles that only the newest part of the log shows are held out.
    After an interruption, even SIGKILL, repeat the command to continue. The folder is a backbone for `genre
    train --news-backbone` or `--writer-backbone`, and loads in transformers.

    Example: genre pretrain gpt2 --data mind --out models/gpt2-news --evaluate mind:dev
    """
    sizes = {"vocabulary_size": vocabulary_size, "layers": layers, "hidden": hidden, "heads": heads}
    kind = {"precision": precision, "checkpoint_rate": learning_rate, "dropout": dropout}
    changed: dict[str, dict[str, Any]] = {
        "": {"seed": seed},
        "data": {"max_bad_rows": max_bad_rows},
        "pretrain": {"backbone": backbone, "max_tokens": max_tokens, **sizes, **kind},
    }
    pace = {"batch_size": batch_size, "accumulate": accumulate, "steps_per_execution": steps_per_execution}
    length = {"learning_rate": learning_rate, "epochs": epochs, "steps": steps}
    of_optimizer = given({"optimizer": optimizer, **pace, **length})
    settings = with_options(read_config(config) if config else RunConfig(), changed)
    settings = with_optimizers(settings, ("pretrain",), of_optimizer)
    named = settings.pretrain.backbone or ("" if model is Model.gpt2 else "its default")
    _check_sizes(given(sizes), named not in ("", "new"))
    if not data.is_dir():
        raise InputError(f"{data} is not a folder: give a data set in MIND's format")
    sets = [_data_and_split(each) for each in evaluate or ()]
    splits = tuple(split or ("train",))
    _pretrain(
        model.value, data, out, settings, splits, sets, (strategy.value, tpu, fixed_shapes), again, json
    )


def _check_sizes(sizes: dict[str, Any], checkpoint: bool) -> None:
    if sizes and checkpoint:
        option = "--" + next(iter(sizes)).replace("_", "-")
        raise InputError(
            f"{option} is for new models only, and a checkpoint has its own sizes: leave it out, or give "
            "--backbone new"
        )


def _data_and_split(text: str) -> tuple[Path, str]:
    folder, separator, split = text.rpartition(":")
    if not (separator and folder and split):
        raise InputError(f"--evaluate must be DIR:SPLIT, such as mind:dev; got {text!r}")
    return Path(folder), split


def _pretrain(
    model: str,
    data: Path,
    out: Path,
    settings: RunConfig,
    splits: tuple[str, ...],
    evaluate: list[tuple[Path, str]],
    devices: tuple[str, str | None, bool],
    again: bool,
    json: bool,
) -> None:
    from genre_tf.cli.tensorflow_notes import load_tensorflow

    prefer_onednn()
    # Several workers can only be joined before TensorFlow initialises devices.
    load_tensorflow(look_for_devices=devices[0] != Strategy.multiworker.value)
    from genre_tf.pretraining.pretrain import pretrain as pretrain_model
    from genre_tf.training.distribution import make_strategy

    distribution = make_strategy(*devices)
    if distribution.worker:  # the chief's files are the result; other workers must not write to them
        out = out / f"worker-{distribution.worker}"

    def say(line: str) -> None:
        progress.print(line, markup=False, soft_wrap=True)

    found = pretrain_model(
        model,
        data,
        out,
        settings,
        say,
        splits=splits,
        evaluate=evaluate,
        distribution=distribution,
        again=again,
    )
    if json:
        print_json(found)
        return
    for line in summary(found):
        results.print(line, markup=False, soft_wrap=True)
    used_as = "--news-backbone" if model == Model.bert.value else "--writer-backbone"
    results.print(f"{out}: next: genre train … {used_as} {out}", markup=False, soft_wrap=True)


def summary(report: dict[str, Any]) -> list[str]:
    """Perplexities of a report, one line for each kind of text."""
    lines = []
    for name, kinds in report["perplexity"].items():
        for kind, row in kinds.items():
            line = f"{name} {kind} ({row['texts']}): perplexity "
            if "per_word" in row:
                line += f"per word {row['per_word_before']:.4g} before, {row['per_word']:.1f} after"
                line += f" (unigram {row['unigram_per_word']:.1f}); "
            lines.append(
                line + f"per token {row['per_token_before']:.4g} before, {row['per_token']:.2f} after"
            )
    training = report["training"]
    done = f"best at step {training['best_step']} of {training['steps']}, {training['seconds']:.0f} s"
    return [*lines, f"{report['parameters']:,} parameters, {done}"]
