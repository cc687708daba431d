"""A run folder: created once with all settings, extended by later stages."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.trainable import check_precision, parse_trainable
from genre_tf.config import RunConfig, read_config, with_optimizer, write_config
from genre_tf.data.manifest import MANIFEST_FILE, load_manifest
from genre_tf.data.records import prepare, read_articles
from genre_tf.data.replay import write_older
from genre_tf.errors import FailureError, InputError
from genre_tf.models.checkpoint import BACKBONE_FOLDER, copy_backbone, reads_towers_of, save_backbone
from genre_tf.models.news_encoder import Categories, check_encoder
from genre_tf.training.continual import (
    check_start,
    counters_of_start,
    judge,
    start_fingerprint,
    start_run,
)
from genre_tf.training.distribution import Distribution
from genre_tf.training.generation import check_generation, train_generation
from genre_tf.training.observers import Observers
from genre_tf.training.progress import FitResult, Report, comparison
from genre_tf.training.ranking import check_teacher, teacher_identity, train_ranking
from genre_tf.training.rehearsal import foretell
from genre_tf.training.retrieval import train_retrieval
from genre_tf.training.stage_data import StageData, load_stage_data
from genre_tf.training.stage_files import StageFiles, fingerprint, learned_settings, run_lock

STAGES = ("retrieval", "ranking", "generation")
_AGAIN = "again.json"  # exists while a training with --again is unfinished
TRAINERS = {"retrieval": train_retrieval, "ranking": train_ranking, "generation": train_generation}


def train(
    stages: Sequence[str],
    data: Path,
    run: Path,
    config: RunConfig,
    report: Report,
    distribution: Distribution | None = None,
    again: bool = False,
    observers: Observers = Observers(),  # noqa: B008  (frozen)
    *,
    estimate: bool = False,
) -> dict[str, FitResult]:
    """Train stages into a run folder; a new run folder is prepared first.

    A stage that was already trained with the same data and settings is kept, and an interrupted one is
    resumed: repeating the same command finishes its work.

    Args:
        stages: some of `STAGES`, trained in that order.
        data: a data set with a labelled `train` split.
        run: the run folder; a new one, or one made with the same data, settings and earlier run.
        config: all settings.
        report: takes a line of progress.
        distribution: where to train; None: on one device.
        again: train again from the start, even if already trained.
        observers: further observers of the trainings.
        estimate: first time a few steps of each stage, and report what the training will take.

    Returns:
        The result of each training; also in `run/reports/training-STAGE.json`.

    Raises:
        InputError: wrong data or settings; the run folder was made with others or is in use; generation
            before retrieval; the earlier run does not match, or the log is not later than its own.
        FailureError: a file cannot be written, a loss became NaN, or weights that continue from an earlier
            run have forgotten too much.
        StoppedError: SIGTERM or Ctrl-C was received, and the state was saved.
    """
    check_stages(stages, run, config)
    with run_lock(run):
        open_run(run, data, config, report)
        config = with_trained(run, stages, config, report)
        write_config(config, run / "config.toml")
        made_from = stage_fingerprints(run, config)
        start = start_run(config)
        chosen = [
            StageFiles(run, stage, made_from[stage], start, observers) for stage in STAGES if stage in stages
        ]
        if again:
            _begin_anew(run, chosen)
        results = _train_stages(chosen, run, config, report, distribution, estimate)
        (run / _AGAIN).unlink(missing_ok=True)
        return results


def with_trained(run: Path, stages: Sequence[str], config: RunConfig, report: Report) -> RunConfig:
    """The settings, except that trained stages which are not trained now keep theirs.

    Settings for one stage say nothing about the others, whose weights fit their own settings.

    Args:
        run: an existing run folder.
        stages: the stages to train.
        config: the requested settings.
        report: takes a line for each stage that does not get the requested settings.
    """
    earlier, kept = read_config(run / "config.toml"), {}
    for stage in STAGES:
        settings = getattr(earlier, stage)
        trained = StageFiles(run, stage, "").trained.is_file()
        if stage not in stages and trained and settings != getattr(config, stage):
            report(f"{stage} is already trained and not part of this command; it keeps its settings")
            kept[stage] = settings
    return dataclasses.replace(config, **kept)


def _begin_anew(run: Path, chosen: Sequence[StageFiles]) -> None:
    """Forget the trained stages once; after an interruption the same command resumes the new training."""
    marker, begun = run / _AGAIN, json.dumps({files.stage: files.made_from for files in chosen})
    if marker.is_file() and marker.read_text("utf-8") == begun:
        return
    for files in chosen:
        files.forget()
    marker.write_text(begun, "utf-8")


def check_stages(stages: Sequence[str], run: Path, config: RunConfig) -> None:
    """Read all that the stages name, such as a teacher or a writer's backbone, before any work.

    Raises:
        InputError: one of them cannot be used.
    """
    check_start(stages, run, config)
    if "ranking" in stages:
        check_teacher(config, run)
    if "generation" in stages:
        _check_writer(stages, run, config)


def _check_writer(stages: Sequence[str], run: Path, config: RunConfig) -> None:
    """Checked before the stages that come first, which may take an hour."""
    if "retrieval" not in stages and not StageFiles(run, "retrieval", "").trained.is_file():
        raise InputError(
            f"{run} has no trained retrieval stage, which the generator needs; run "
            f"'genre train retrieval --run {run}' or 'genre train all'"
        )
    check_generation(config.generation, start_run(config))


def _train_stages(
    chosen: Sequence[StageFiles],
    run: Path,
    config: RunConfig,
    report: Report,
    distribution: Distribution | None,
    estimate: bool,
) -> dict[str, FitResult]:
    results = {}
    stage_data: StageData | None = None
    for place, files in enumerate(chosen):
        found = files.finished()
        if found is not None and files.stage == "generation" and not reads_towers_of(run, files.folder):
            report("generation was trained with other towers than the run has now; it is trained again")
            files.forget()
        elif found is not None:
            report(f"{files.stage} is trained with this data and these settings; kept (--again trains again)")
            results[files.stage] = found
            continue
        if stage_data is None:
            stage_data = load_stage_data(run, config, report)
            if estimate:
                to_train = [each for each in chosen[place:] if each.finished() is None]
                foretell(to_train, stage_data, config, report, distribution)
        report(f"training {files.stage}")
        result = TRAINERS[files.stage](stage_data, config, files, report, distribution)
        _accept(result, files, config, report)
        results[files.stage] = result
    return results


def _accept(result: FitResult, files: StageFiles, config: RunConfig, report: Report) -> None:
    if files.start is not None:
        try:
            judge(files.stage, result, config)
        except FailureError:
            files.refuse(result)
            for line in comparison({files.stage: result}):
                report(line)
            raise
    files.finish(result)


def stage_fingerprints(run: Path, config: RunConfig) -> dict[str, str]:
    """Fingerprint of everything that determines each stage; the writer also depends on retrieval."""
    shared = (
        load_manifest(run / "prepared")["outputs"],
        config.seed,
        asdict(config.data),
        asdict(config.news),
    )
    # A teacher is identified by its content, not its path.
    ranking = dataclasses.replace(config.ranking, teacher=teacher_identity(config.ranking.teacher))
    known = dataclasses.replace(config, ranking=ranking)
    own = {
        stage: fingerprint(
            shared, learned_settings(getattr(known, stage)), *start_fingerprint(run, config, stage)
        )
        for stage in STAGES
    }
    # The ranker's pool head depends on what the towers retrieve, and a writer reads their vectors.
    return own | {stage: fingerprint(own[stage], own["retrieval"]) for stage in ("ranking", "generation")}


def open_run(run: Path, data: Path, config: RunConfig, report: Report) -> None:
    """Create the folder, or check that an existing one has the same settings where all stages depend on them.

    The settings of an existing folder do not change here: only `train` writes new ones. They are written
    last: a folder without settings belongs to a failed attempt, and is created again.
    """
    file, start = run / "config.toml", start_run(config)
    new = not file.is_file()
    if not new:
        _require_same(run, config)
    parse_trainable(config.news.trainable)
    check_precision(config.news.precision)
    bert = None
    if start is None and (new or not (run / BACKBONE_FOLDER).is_dir()):
        # Read before anything is written, so that wrong settings never enter the run.
        bert = load_bert(config.news.backbone)
        check_encoder(bert, config.news.trainable, config.news.max_title_tokens, config.news.precision)
    _prepare(run, data, config, report, overwrite=new)
    if start is not None:
        write_older(run, start, config.continual.replay_share, config.seed)
    if bert is not None:
        table = read_articles(run / "prepared")
        save_backbone(bert, Categories.of(table.categories, table.subcategories), run)
    elif start is not None and (new or not (run / BACKBONE_FOLDER).is_dir()):
        copy_backbone(start, run)
    if new:
        write_config(config, file)


def _require_same(run: Path, config: RunConfig) -> None:
    file = run / "config.toml"
    earlier, start = read_config(file), start_run(config)
    if (earlier.data, earlier.news) != (config.data, config.news):
        raise InputError(
            f"{run} was made with other data or news settings (see {file}); give another --run or "
            "the same settings"
        )
    if start_run(earlier) != start:
        raise InputError(
            f"{run} continues from {start_run(earlier) or 'no other run'}, but --from is "
            f"{start or 'not given'}; give another --run"
        )


def _prepare(run: Path, data: Path, config: RunConfig, report: Report, *, overwrite: bool) -> None:
    settings = config.data
    done = prepare(
        data,
        run / "prepared",
        max_history=settings.max_history,
        validation_share=settings.validation_share,
        max_bad_rows=settings.max_bad_rows,
        overwrite=overwrite,
        signals=settings.signals,
        counters_from=counters_of_start(config),
    )
    report(f"{run / 'prepared'} {'written' if done.written else 'is up to date'}")
    if skipped := done.manifest["bad_rows"]:
        first = done.manifest["faults"][0]
        place = f"{first['file']}:{first['line']}: {first['field']}"
        report(
            f"bad rows skipped: {skipped}; first: {place}: {first['message']} "
            f"(listed in {run / 'prepared' / MANIFEST_FILE})"
        )


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """The settings with every stage limited to `steps` steps."""
    limited = {stage: with_optimizer(getattr(config, stage), {"steps": steps}) for stage in STAGES}
    return dataclasses.replace(config, **limited)
