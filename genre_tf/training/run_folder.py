"""A run folder: made once with all settings, gone on with by later stages."""

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genre_tf.config import RunConfig, read_config, write_config
from genre_tf.data.manifest import load_manifest
from genre_tf.data.records import prepare, read_articles
from genre_tf.errors import InputError
from genre_tf.models.backbone import Categories
from genre_tf.models.checkpoint import BACKBONE_FOLDER, save_backbone
from genre_tf.training.distillation import check_teacher, teacher_identity
from genre_tf.training.distribution import Distribution
from genre_tf.training.generation import train_generation
from genre_tf.training.progress import FitResult, Report
from genre_tf.training.ranking import train_ranking
from genre_tf.training.retrieval import train_retrieval
from genre_tf.training.run_lock import run_lock
from genre_tf.training.stage_data import StageData, load_stage_data
from genre_tf.training.stage_files import StageFiles, fingerprint

STAGES = ("retrieval", "ranking", "generation")
TRAINERS = {"retrieval": train_retrieval, "ranking": train_ranking, "generation": train_generation}


def train(
    stages: Sequence[str],
    data: Path,
    run: Path,
    config: RunConfig,
    report: Report,
    distribution: Distribution | None = None,
    again: bool = False,
) -> dict[str, FitResult]:
    """Train stages into a run folder, which is prepared first where it is new.

    A stage that was trained with the same data and settings is kept, and one that was ended before its time
    is gone on with: the same command, given again, finishes what it began.

    Args:
        stages: of `STAGES`; trained in that order.
        data: a data set with a labelled `train` split.
        run: the run folder; a new one, or one made with the same data and settings.
        config: all settings.
        report: takes a line of progress.
        distribution: where; None: on one device.
        again: trains from the start what is already trained.

    Returns:
        What each training came to; also in `run/reports/training-STAGE.json`.

    Raises:
        InputError: wrong data or settings, a run folder made with others or in use, or generation before
            retrieval.
        FailureError: a file cannot be written, or a loss became no number.
        StoppedError: SIGTERM or Ctrl-C came, and the state was saved.
    """
    if "ranking" in stages:
        check_teacher(config, run)
    with run_lock(run):
        open_run(run, data, config, report)
        write_config(config, run / "config.toml")
        made_from = stage_fingerprints(run, config)
        chosen = [StageFiles(run, stage, made_from[stage]) for stage in STAGES if stage in stages]
        if again:
            for files in chosen:
                files.forget()
        return _train_stages(chosen, run, config, report, distribution)


def _train_stages(
    chosen: Sequence[StageFiles],
    run: Path,
    config: RunConfig,
    report: Report,
    distribution: Distribution | None,
) -> dict[str, FitResult]:
    results = {}
    stage_data: StageData | None = None
    for files in chosen:
        found = files.finished()
        if found is not None:
            report(f"{files.stage} is trained with this data and these settings: kept (--again trains anew)")
            results[files.stage] = found
            continue
        stage_data = stage_data or load_stage_data(run, config, report)
        report(f"training {files.stage}")
        results[files.stage] = TRAINERS[files.stage](stage_data, config, files, report, distribution)
        files.finish(results[files.stage])
    return results


def stage_fingerprints(run: Path, config: RunConfig) -> dict[str, str]:
    """Fingerprint of all that decides what each stage becomes; the writer reads the vectors of retrieval."""
    shared = (
        load_manifest(run / "prepared")["outputs"],
        config.seed,
        asdict(config.data),
        asdict(config.news),
    )
    # A teacher is what it knows and not where it lies.
    ranking = dataclasses.replace(config.ranking, teacher=teacher_identity(config.ranking.teacher))
    known = dataclasses.replace(config, ranking=ranking)
    own = {stage: fingerprint(shared, asdict(getattr(known, stage))) for stage in STAGES}
    return {**own, "generation": fingerprint(own["generation"], own["retrieval"])}


def open_run(run: Path, data: Path, config: RunConfig, report: Report) -> None:
    """Make the folder, or see that it was made with the same settings where they matter to all stages.

    The settings of a folder that is there are left as they are: `train` alone writes new ones.
    """
    file = run / "config.toml"
    if file.is_file():
        earlier = read_config(file)
        if (earlier.data, earlier.news) != (config.data, config.news):
            raise InputError(
                f"{run} was made with other data or news settings (see {file}): give another --run, "
                "or the same settings"
            )
    settings = config.data
    done = prepare(
        data,
        run / "prepared",
        max_history=settings.max_history,
        validation_share=settings.validation_share,
        shards=settings.shards,
        max_bad_rows=settings.max_bad_rows,
        signals=settings.signals,
    )
    report(f"{run / 'prepared'} {'written' if done.written else 'is up to date'}")
    if not (run / BACKBONE_FOLDER).is_dir():
        table = read_articles(run / "prepared")
        save_backbone(config.news.backbone, Categories.of(table.categories, table.subcategories), run)
    if not file.is_file():
        write_config(config, file)


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """The settings with every stage limited to `steps` steps."""

    def limited(stage: Any) -> Any:
        return dataclasses.replace(stage, optimizer=dataclasses.replace(stage.optimizer, steps=steps))

    return dataclasses.replace(config, **{stage: limited(getattr(config, stage)) for stage in STAGES})
