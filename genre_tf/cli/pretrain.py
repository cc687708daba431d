"""`genre pretrain`: a language model adapted to unlabelled article text."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from genre_tf.cli.console import load_tensorflow, print_json, results, say
from genre_tf.cli.options import (
    PRETRAIN,
    Again,
    FixedShapesOption,
    Json,
    Settings,
    StrategyOption,
    TpuOption,
    changed,
    takes,
)
from genre_tf.config import RunConfig, read_config
from genre_tf.environment import prefer_onednn
from genre_tf.errors import InputError

Model = Literal["gpt2", "bert"]
_SIZES = ("vocabulary_size", "layers", "hidden", "heads")
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


@takes(given=PRETRAIN)
def pretrain(
    model: Annotated[
        Model, typer.Argument(help="gpt2 learns to predict the next token; bert, masked words.")
    ],
    data: Annotated[Path, typer.Option(help="Data set folder in MIND's format.")],
    out: Annotated[Path, typer.Option(help="Hugging Face folder to write.")],
    config: Settings = None,
    *,
    given: dict[str, Any],
    split: SplitOption = None,
    evaluate: EvaluateOption = None,
    strategy: StrategyOption = "auto",
    tpu: TpuOption = None,
    fixed_shapes: FixedShapesOption = False,
    again: Again = False,
    json: Json = False,
) -> None:
    """Train a language model on article text alone: GPT-2 (causal) or BERT (masked words).

    The model learns titles and abstracts; articles that only the newest part of the log shows are held out.
    After an interruption, even SIGKILL, repeat the command to continue. The folder is a backbone for `genre
    train --news-backbone` or `--writer-backbone`, and loads in transformers.

    Example: genre pretrain gpt2 --data mind --out models/gpt2-news --evaluate mind:dev
    """
    settings = changed(read_config(config) if config else RunConfig(), PRETRAIN, given, ("pretrain",))
    named = settings.pretrain.backbone or ("" if model == "gpt2" else "its default")
    if named not in ("", "new"):
        for name in (each for each in _SIZES if given[each] is not None):
            option = "--" + name.replace("_", "-")
            raise InputError(
                f"{option} is for new models only, and a checkpoint has its own sizes: leave it out, or give "
                "--backbone new"
            )
    if not data.is_dir():
        raise InputError(f"{data} is not a folder: give a data set in MIND's format")
    sets = []
    for text in evaluate or ():
        folder, separator, name = text.rpartition(":")
        if not (separator and folder and name):
            raise InputError(f"--evaluate must be DIR:SPLIT, such as mind:dev; got {text!r}")
        sets.append((Path(folder), name))
    prefer_onednn()
    # Several workers can only be joined before TensorFlow initialises devices.
    load_tensorflow(look_for_devices=strategy != "multiworker")
    from genre_tf.pretraining.pretrain import pretrain as pretrain_model
    from genre_tf.training.distribution import make_strategy

    distribution = make_strategy(strategy, tpu, fixed_shapes)
    if distribution.worker:  # the chief's files are the result; other workers must not write to them
        out = out / f"worker-{distribution.worker}"
    found = pretrain_model(
        model,
        data,
        out,
        settings,
        say,
        splits=tuple(split or ("train",)),
        evaluate=sets,
        distribution=distribution,
        again=again,
    )
    if json:
        print_json(found)
        return
    for line in summary(found):
        results.print(line)
    used_as = "--news-backbone" if model == "bert" else "--writer-backbone"
    results.print(f"{out}: next: genre train … {used_as} {out}")


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
