"""`genre tune`: searches hyper-parameters of a stage."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from genre_tf.cli.console import load_tensorflow, print_json, results, say
from genre_tf.cli.options import TUNE, changed, takes
from genre_tf.cli.train import check_data, settings_of

Stage = Literal["retrieval", "ranking", "generation"]


@takes(given=TUNE)
def tune(
    stage: Annotated[Stage, typer.Argument(help="What to tune: retrieval, ranking or generation.")],
    data: Annotated[Path, typer.Option(help="Data set folder, with MIND's two files in its train/.")],
    run: Annotated[Path, typer.Option(help="Run folder; its tuning/ keeps the trials.")],
    search: Annotated[
        str, typer.Option(help="Comma-separated hyper-parameters; an unknown name lists the known ones.")
    ] = "learning_rate,batch_size",
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, earlier ones included.")] = 10,
    config: Annotated[Path | None, typer.Option(help="TOML file of the settings not searched.")] = None,
    *,
    given: dict[str, Any],
    json: Annotated[bool, typer.Option("--json", help="Trials as JSON, for programs.")] = False,
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
