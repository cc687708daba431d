"""`genre tune`: searches hyper-parameters of a stage."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.console import print_json, progress, results
from genre_tf.cli.tensorflow_notes import load_tensorflow
from genre_tf.cli.train import check_data, given, settings_of, with_optimizers, with_options
from genre_tf.cli.train_options import Stage
from genre_tf.errors import InputError


def tune(
    stage: Annotated[Stage, typer.Argument(help="What to tune: retrieval, ranking or generation.")],
    data: Annotated[Path, typer.Option(help="Data set folder, with MIND's two files in its train/.")],
    run: Annotated[Path, typer.Option(help="Run folder; its tuning/ keeps the trials.")],
    search: Annotated[
        str, typer.Option(help="Comma-separated hyper-parameters; an unknown name lists the known ones.")
    ] = "learning_rate,batch_size",
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, earlier ones included.")] = 10,
    config: Annotated[Path | None, typer.Option(help="TOML file of the settings not searched.")] = None,
    news_backbone: Annotated[str | None, typer.Option(help="BERT of the news tower.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each trial.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Trials as JSON, for programs.")] = False,
) -> None:
    """Search hyper-parameters by Bayesian optimisation, judged on the newest training days.

    After an interruption, repeat the command to continue. TensorBoard shows the trials under HParams.

    Example: genre tune ranking --data mind --run runs/mind --search learning_rate,dropout --trials 20
    """
    if stage in (Stage.all, Stage.safety):
        raise InputError("only one stage can be tuned at a time: give retrieval, ranking or generation")
    settings = settings_of(run, config)
    settings = with_options(settings, {"news": {"backbone": news_backbone}})
    settings = with_optimizers(settings, (stage.value,), given({"steps": steps}))
    check_data(data)
    load_tensorflow()
    from genre_tf.training.tuning import tune as search_settings

    def say(line: str) -> None:
        progress.print(line, markup=False, soft_wrap=True)

    names = [name.strip() for name in search.split(",") if name.strip()]
    found = search_settings(stage.value, data, run, settings, names, trials, say)
    if json:
        print_json({**dataclasses.asdict(found), "file": str(found.file)})
        return
    for trial in found.trials:
        shown = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in trial["settings"].items()
        )
        results.print(f"{found.metric} {trial['value']:.4f}  trial {trial['trial']}: {shown}", markup=False)
    results.print(f"best settings: {found.file}; train with --config and another --run", markup=False)
