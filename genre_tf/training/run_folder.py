"""A run folder: made once with all settings, gone on with by later stages."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genre_tf.config import RunConfig, read_config, write_config
from genre_tf.data.records import prepare, read_articles
from genre_tf.errors import InputError
from genre_tf.models.backbone import Categories
from genre_tf.models.checkpoint import BACKBONE_FOLDER, save_backbone
from genre_tf.training.fit import FitResult, Report
from genre_tf.training.generation import train_generation
from genre_tf.training.ranking import train_ranking
from genre_tf.training.retrieval import train_retrieval
from genre_tf.training.stage_data import load_stage_data

STAGES = ("retrieval", "ranking", "generation")
_TRAINERS = {"retrieval": train_retrieval, "ranking": train_ranking, "generation": train_generation}


def train(
    stages: Sequence[str], data: Path, run: Path, config: RunConfig, report: Report
) -> dict[str, FitResult]:
    """Train stages into a run folder, which is prepared first where it is new.

    Args:
        stages: of `STAGES`; trained in that order.
        data: a data set with a labelled `train` split.
        run: the run folder; a new one, or one made with the same data and settings.
        config: all settings.
        report: takes a line of progress.

    Returns:
        What each training came to; also in `run/reports/training-STAGE.json`.

    Raises:
        InputError: wrong data or settings, a run folder made with others, or generation before retrieval.
    """
    _open(run, data, config, report)
    stage_data = load_stage_data(run, config, report)
    results = {}
    for stage in (stage for stage in STAGES if stage in stages):
        report(f"training {stage}")
        results[stage] = _TRAINERS[stage](stage_data, config, run, report)
        _write_report(run / "reports" / f"training-{stage}.json", results[stage].as_dict())
    return results


def _open(run: Path, data: Path, config: RunConfig, report: Report) -> None:
    """Make the folder, or see that it was made with the same settings where they matter to all stages."""
    file = run / "config.toml"
    if file.is_file():
        earlier = read_config(file)
        if (earlier.data, earlier.news) != (config.data, config.news):
            raise InputError(
                f"{run} was made with other data or news settings (see {file}): give another --run, "
                "or the same settings"
            )
    run.mkdir(parents=True, exist_ok=True)
    settings = config.data
    done = prepare(
        data,
        run / "prepared",
        max_history=settings.max_history,
        validation_share=settings.validation_share,
        shards=settings.shards,
        max_bad_rows=settings.max_bad_rows,
    )
    report(f"{run / 'prepared'} {'written' if done.written else 'is up to date'}")
    if not (run / BACKBONE_FOLDER).is_dir():
        table = read_articles(run / "prepared")
        save_backbone(config.news.backbone, Categories.of(table.categories, table.subcategories), run)
    write_config(config, file)


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """The settings with every stage limited to `steps` steps."""

    def limited(stage: Any) -> Any:
        return dataclasses.replace(stage, optimizer=dataclasses.replace(stage.optimizer, steps=steps))

    return dataclasses.replace(config, **{stage: limited(getattr(config, stage)) for stage in STAGES})


def _write_report(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
